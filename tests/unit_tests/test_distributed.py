"""Two processes train one model, on CPUs, through gloo."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
import tiny
from processes import Process
from safetensors.numpy import load_file

Pair = list[Process]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def arguments(folder: Path, hparams: dict[str, Any]) -> list[str]:
    """Of ``tfserve train`` into ``folder``."""
    folder.mkdir(exist_ok=True)
    flags = {
        **hparams,
        "train_dir": folder.parent / "data",
        "model_dir": folder / "model",
        "checkpoint_dir": folder / "checkpoints",
    }
    return ["train", *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(folder: Path, hparams: dict[str, Any], until: Callable[[Pair], None]) -> Pair:
    """Two processes, in a group as torchrun would make it, of which ``until`` waits for something.

    Where another program has taken their port meanwhile, they are started again with another one.
    """
    for last in (False, False, True):
        pair = _pair(folder, hparams, free_port())
        try:
            until(pair)
            break
        except AssertionError:
            if last or "EADDRINUSE" not in pair[0].err:
                raise
            with contextlib.suppress(ProcessLookupError):
                pair[1].send(signal.SIGKILL)
            pair[1].wait()
    return pair


def _pair(folder: Path, hparams: dict[str, Any], port: int) -> Pair:
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": str(port)}  # fmt: skip
    given = arguments(folder, hparams)
    return [
        Process(given, folder / f"rank{rank}",
                environment={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]  # fmt: skip


def alone(folder: Path, hparams: dict[str, Any]) -> Path:
    """Trained by one process; ``folder`` is returned."""
    status, process = processes.run(arguments(folder, hparams), folder / "rank0")
    assert status == 0, process.err
    return folder


def together(folder: Path, hparams: dict[str, Any]) -> Path:
    """Trained by two; ``folder`` is returned."""

    def ended(pair: Pair) -> None:
        for process in pair:
            assert process.wait(300) == 0, process.err

    start(folder, hparams, ended)
    return folder


def by_torchrun(folder: Path, hparams: dict[str, Any]) -> Path:
    """Trained by two that torchrun starts; ``folder`` is returned."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, "-m", "tfserve", *arguments(folder, hparams)]
    with (folder / "rank0.out").open("w") as out, (folder / "rank0.err").open("w") as err:
        done = subprocess.run(command, env=environment, stdout=out, stderr=err, check=False)
    assert done.returncode == 0, (folder / "rank0.err").read_text("utf-8")
    return folder


def largest_difference(a: Path, b: Path) -> float:
    """Between the weights of two models, but for the biases of keys.

    Softmax does not see those, so that their gradient is rounding and Adam makes steps of it.
    """
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (a, b))
    assert one.keys() == other.keys()
    return max(
        float(abs(one[name] - other[name]).max()) for name in one if not name.endswith("key.bias")
    )


def test_rows_of_several_windows_are_spread_over_processes(tmp_path: Path) -> None:
    pretrained = tiny.model(tmp_path / "pretrained", initializer_range=0.2)
    rows = [(" ".join([text] * (1 + i % 3)), label)
            for i, (text, label) in enumerate(tiny.rows("classif", 23))]  # fmt: skip
    tiny.table(tmp_path / "data" / "train.csv", rows, ("text", "labels"))
    tiny.table(tmp_path / "data" / "dev.csv", rows[:8], ("text", "labels"))
    hp = tiny.hparams(
        "classif", pretrained, max_steps=6, eval_steps=3, learning_rate=1e-3,
        long_text="window", max_length=32, report=False,
    )  # fmt: skip
    one = alone(tmp_path / "one", {**hp, "per_device_train_batch_size": 10})
    two = together(tmp_path / "two", {**hp, "per_device_train_batch_size": 5})
    assert largest_difference(one, two) < 1e-5


@pytest.mark.parametrize(("task", "pair"), [("classif", by_torchrun), ("ner", together)])
def test_two_processes_give_the_weights_of_one_with_twice_the_batch(
    task: str, pair: Callable[[Path, dict[str, Any]], Path], tmp_path: Path
) -> None:
    pretrained = tiny.model(tmp_path / "pretrained", initializer_range=0.2)
    tiny.data(tmp_path / "data", task)
    # 24 rows in batches of 10: the last one has 4, so that each epoch ends ragged.
    hp = tiny.hparams(task, pretrained, max_steps=8, eval_steps=4, learning_rate=1e-3)
    one = alone(tmp_path / "one", {**hp, "per_device_train_batch_size": 10})
    two = pair(tmp_path / "two", {**hp, "per_device_train_batch_size": 5})
    before = load_file(pretrained / "model.safetensors")
    trained = load_file(one / "model" / "model.safetensors")
    moved = max(
        float(abs(value - before[name.removeprefix("bert.")]).max())
        for name, value in trained.items()
        if name.removeprefix("bert.") in before
    )
    assert moved > 1e-3
    assert largest_difference(one, two) < 1e-5

    logs = [(folder / "rank0.out").read_text("utf-8").splitlines() for folder in (one, two)]
    assert len(logs[0]) == len(logs[1]) == 6  # two evaluations, the best, dev, test, model: once
    results = [
        json.loads((folder / "model-output" / "metrics.json").read_text("utf-8"))
        for folder in (one, two)
    ]
    for a, b in zip(*(result["history"] for result in results), strict=True):
        assert a["eval_loss"] == pytest.approx(b["eval_loss"], abs=1e-5)
        assert a["step"] == b["step"]


def test_a_batch_with_fewer_rows_than_processes_counts_each_row_once(tmp_path: Path) -> None:
    pretrained = tiny.model(tmp_path / "pretrained", initializer_range=0.2)
    columns = ("text", "labels")
    rows = tiny.rows("regression", 9)
    tiny.table(tmp_path / "data" / "train.csv", rows, columns)
    tiny.table(tmp_path / "data" / "dev.csv", rows[:3], columns)
    # 9 rows in batches of 2: the last batch has one row and leaves one process without any.
    hp = tiny.hparams("regression", pretrained, max_steps=10, eval_steps=10)
    one = alone(tmp_path / "one", {**hp, "per_device_train_batch_size": 2})
    two = together(tmp_path / "two", {**hp, "per_device_train_batch_size": 1})
    assert largest_difference(one, two) < 1e-5


def test_two_processes_of_which_one_is_stopped_go_on_to_the_same_weights(tmp_path: Path) -> None:
    pretrained = tiny.model(tmp_path / "pretrained")
    tiny.data(tmp_path / "data", "classif")
    hp = tiny.hparams("classif", pretrained, max_steps=60, eval_steps=10)
    whole = together(tmp_path / "whole", hp)
    for told in (0, 1):
        stopped = tmp_path / f"stopped{told}"

        def saved(pair: Pair, folder: Path = stopped / "checkpoints") -> None:
            pair[0].wait_until(lambda: list(folder.glob("checkpoint-*")), 200)

        pair = start(stopped, hp, saved)
        pair[told].send(signal.SIGTERM)
        assert [process.wait(120) for process in pair] == [143, 143]
        assert "stopped by SIGTERM" in pair[told].err
        assert "the same command goes on" in pair[told].err
        assert not (stopped / "model" / "tfserve.json").exists()

        together(stopped, hp)
        lines = (stopped / "rank0.out").read_text("utf-8").splitlines()
        assert 0 < len([line for line in lines if line.startswith("{'loss'")]) < 6  # it did go on
        assert largest_difference(whole, stopped) == 0.0
