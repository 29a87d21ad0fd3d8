"""Two processes train one model: as torchrun starts them, on CPUs, through gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors.numpy import load_file

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
PLAIN = {"hidden_dropout_prob": 0.0, "initializer_range": 0.2}


def start(processes: int, folder: Path, hparams: dict[str, Any]) -> subprocess.Popen[str]:
    """``tfserve train`` by so many processes into ``folder``."""
    folder.mkdir(exist_ok=True)
    flags = {
        **hparams,
        "train_dir": folder.parent / "data",
        "model_dir": folder / "model",
        "checkpoint_dir": folder / "checkpoints",
    }
    command = [*TORCHRUN, f"--nproc_per_node={processes}", "-m", "tfserve", "train"]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=err, text=True)


def run(processes: int, folder: Path, hparams: dict[str, Any]) -> Path:
    """The same to its end; ``folder`` is returned."""
    assert start(processes, folder, hparams).wait(300) == 0, (folder / "err").read_text("utf-8")
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


@pytest.mark.parametrize("task", ["classif", "ner"])
def test_two_processes_give_the_weights_of_one_with_twice_the_batch(
    task: str, tmp_path: Path
) -> None:
    pretrained = tiny.model(tmp_path / "pretrained", **PLAIN)
    tiny.data(tmp_path / "data", task)
    # 24 rows in batches of 10: the last one has 4, so that each epoch ends ragged; the head alone
    # is trained first, so that parameters without gradient occur.
    settings = {"max_steps": 8, "eval_steps": 4, "freeze_encoder_steps": 2, "learning_rate": 1e-3}
    one, two = (
        run(
            processes,
            tmp_path / str(processes),
            tiny.hparams(
                task,
                pretrained,
                **{**settings, "per_device_train_batch_size": 10 // processes},
            ),
        )
        for processes in (1, 2)
    )
    start = load_file(pretrained / "model.safetensors")
    trained = load_file(one / "model" / "model.safetensors")
    moved = max(
        float(abs(value - start[name.removeprefix("bert.")]).max())
        for name, value in trained.items()
        if name.removeprefix("bert.") in start
    )
    assert moved > 1e-3
    assert largest_difference(one, two) < 1e-5

    logs = [(folder / "out").read_text("utf-8").splitlines() for folder in (one, two)]
    assert len(logs[0]) == len(logs[1]) == 5  # two evaluations, dev, test, model: said once
    results = [
        json.loads((folder / "model-output" / "metrics.json").read_text("utf-8"))
        for folder in (one, two)
    ]
    for a, b in zip(*(result["history"] for result in results), strict=True):
        assert a["eval_loss"] == pytest.approx(b["eval_loss"], abs=1e-5)
        assert a["step"] == b["step"]


def test_a_batch_with_fewer_rows_than_processes_counts_each_row_once(tmp_path: Path) -> None:
    pretrained = tiny.model(tmp_path / "pretrained", **PLAIN)
    columns = ("text", "labels")
    rows = tiny.rows("regression", 9)
    tiny.table(tmp_path / "data" / "train.csv", rows, columns)
    tiny.table(tmp_path / "data" / "dev.csv", rows[:3], columns)
    # 9 rows in batches of 2: the last batch has one row and leaves one process without any.
    hp = {"max_steps": 10, "eval_steps": 10}
    one, two = (
        run(
            processes,
            tmp_path / str(processes),
            tiny.hparams(
                "regression", pretrained, **{**hp, "per_device_train_batch_size": 2 // processes}
            ),
        )
        for processes in (1, 2)
    )
    assert largest_difference(one, two) < 1e-5


def test_two_processes_that_are_stopped_go_on_to_the_same_weights(tmp_path: Path) -> None:
    pretrained = tiny.model(tmp_path / "pretrained")
    tiny.data(tmp_path / "data", "classif")
    hp = tiny.hparams("classif", pretrained, max_steps=300, eval_steps=10)
    whole = run(2, tmp_path / "whole", hp)

    stopped = start(2, tmp_path / "stopped", hp)
    wait_for(tmp_path / "stopped" / "checkpoints", "checkpoint-*")
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(120) != 0
    errors = (tmp_path / "stopped" / "err").read_text("utf-8")
    assert "stopped by SIGTERM" in errors
    assert "the same command goes on" in errors
    assert not (tmp_path / "stopped" / "model" / "tfserve.json").exists()

    run(2, tmp_path / "stopped", hp)
    lines = (tmp_path / "stopped" / "out").read_text("utf-8").splitlines()
    assert 0 < len([line for line in lines if line.startswith("{")]) < 30  # it did go on
    assert largest_difference(whole, tmp_path / "stopped") == 0.0


def wait_for(folder: Path, pattern: str, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in {folder}"
        time.sleep(0.02)
