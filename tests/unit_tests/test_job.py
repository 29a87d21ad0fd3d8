"""A training job as SageMaker's containers start it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny
from processes import Process

import tfserve
from tfserve import job
from tfserve.errors import DataError, HParamsError, ModelError

VALUES = {"task_name": "classif", "max_steps": 4, "use_bbox": False, "learning_rate": 0.001}


def layout(base: Path, hparams: dict[str, Any], task: str = "classif") -> Path:
    """The tree of a container: config, one channel per split, output."""
    config = base / "input" / "config"
    config.mkdir(parents=True)
    encoded = {name: json.dumps(value) for name, value in hparams.items()}
    (config / "hyperparameters.json").write_text(json.dumps(encoded), "utf-8")
    tiny.data(base / "data", task)
    for channel, split in (("train", "train"), ("validation", "dev"), ("test", "test")):
        folder = base / "input" / "data" / channel
        folder.mkdir(parents=True)
        (base / "data" / f"{split}.csv").rename(folder / "part-0.csv")
    return base


def start(base: Path) -> Process:
    """The entry point in a process of its own."""
    log = base / f"log-{len(list(base.glob('log-*.out')))}"
    environment = {"SAGEMAKER_BASE_DIR": str(base)}
    return Process([], log, module="tfserve.job", environment=environment)


def run(base: Path) -> tuple[int, Process]:
    """The same to its end."""
    process = start(base)
    return process.wait(), process


def test_a_job_writes_everything_where_sagemaker_takes_it_from(
    tmp_path: Path, pretrained: Any
) -> None:
    hp = tiny.hparams("classif", pretrained(), sagemaker_program="train.py")
    base = layout(tmp_path / "ml", hp)
    status, process = run(base)
    assert status == 0, process.err
    assert tfserve.load(base / "model").predict("where is my parcel")[0]["pred"]
    metrics = json.loads((base / "output" / "data" / "metrics.json").read_text("utf-8"))
    assert metrics["rows"] == {"train": 24, "dev": 8, "test": 8}
    assert metrics["hparams"]["max_steps"] == 4
    assert list((base / "output" / "tensorboard").glob("events.*"))
    assert (base / "checkpoints" / "checkpoint-4" / "state.json").is_file()
    assert not (base / "output" / "failure").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_stepz": "10"}, "did you mean max_steps?"),
        ({"max_steps": "ten"}, "max_steps: found 'ten'; expected a whole number"),
        ({"task_name": "clasif"}, "classif"),
        ({"model_name": "./no-such-model"}, "found no folder ./no-such-model"),
    ],
)
def test_what_is_wrong_ends_the_job_with_its_reason(
    change: dict[str, str], reason: str, tmp_path: Path, pretrained: Any
) -> None:
    base = layout(tmp_path / "ml", tiny.hparams("classif", pretrained()) | change)
    status, process = run(base)
    assert status == 1
    assert reason in (base / "output" / "failure").read_text("utf-8")
    assert reason in process.err
    assert "Traceback" not in process.err
    assert not (base / "model" / "tfserve.json").exists()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda data: (data / "train" / "part-0.csv").unlink(),
            "found no table; expected one file",
        ),
        (lambda data: (data / "train").rename(data / "trane"), "found the channels"),
        (
            lambda data: (data / "test" / "part-0.csv").write_text("txt\tlabels\na\tb\n"),
            "part-0.csv",
        ),
    ],
)
def test_a_channel_that_is_wrong_ends_the_job_with_its_reason(
    spoil: Any, reason: str, tmp_path: Path, pretrained: Any
) -> None:
    base = layout(tmp_path / "ml", tiny.hparams("classif", pretrained()))
    spoil(base / "input" / "data")
    assert run(base)[0] == 1
    failure = (base / "output" / "failure").read_text("utf-8")
    assert reason in failure
    assert len(failure) <= 1024


def test_a_job_that_gets_sigterm_goes_on_where_it_was(tmp_path: Path, pretrained: Any) -> None:
    hp = tiny.hparams("classif", pretrained(), max_steps=400, eval_steps=10)
    base = layout(tmp_path / "ml", hp)
    process = start(base)
    process.wait_until(lambda: list((base / "checkpoints").glob("checkpoint-*")))
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    assert "the same command goes on from there" in process.err
    assert not (base / "output" / "failure").exists()

    status, again = run(base)
    assert status == 0, again.err
    evaluations = [line for line in again.out.splitlines() if line.startswith("{'loss'")]
    assert 0 < len(evaluations) < 40
    assert (base / "model" / "tfserve.json").is_file()


def test_hyperparameters_come_from_sm_hps_then_the_file_then_the_arguments(tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    file, base = config / "hyperparameters.json", {"SAGEMAKER_BASE_DIR": str(tmp_path)}
    file.write_text(json.dumps({"task_name": '"ner"', "max_steps": "7", "seed": "3"}), "utf-8")
    arguments = ["--task_name", "regression"]

    given = job.hyperparameters(arguments, {**base, "SM_HPS": json.dumps(VALUES)})
    assert given == VALUES
    from_file = job.hyperparameters(arguments, {**base, "SM_HPS": "{}"})
    assert from_file == {"task_name": "ner", "max_steps": "7", "seed": "3"}
    file.unlink()
    assert job.hyperparameters(arguments, base) == {"task_name": "regression"}


@pytest.mark.parametrize(
    "arguments",
    [
        # SDK v2: Python's repr; SDK v3: JSON.
        ["--use-bbox", "True", "--class_weights", "{'rare': 3.0}", "--eval_steps", ""],
        ["--use_bbox", "true", "--class_weights", '{"rare": 3.0}', "--eval_steps", "null"],
        ["--use_bbox=true", "--class_weights", '{"rare": 3}', "--max_steps", "-1"],
    ],
)
def test_arguments_mean_the_same_in_both_dialects(arguments: list[str]) -> None:
    required = ["--task_name", "classif", "--model_name", "a/b"]
    hp = tfserve.HParams.parse(job.hyperparameters([*required, *arguments], {}))
    assert (hp.use_bbox, hp.class_weights, hp.eval_steps) == (True, {"rare": 3.0}, None)


@pytest.mark.parametrize("arguments", [["classif"], ["--task_name"], ["--a", "--b", "1"]])
def test_arguments_that_are_no_pairs_are_refused(arguments: list[str]) -> None:
    with pytest.raises(HParamsError) as caught:
        job.hyperparameters(arguments, {})
    assert caught.value.code == "hparams.argument"


@pytest.mark.parametrize("text", ["[1]", "{", "nothing"])
def test_hyperparameters_that_are_no_object_are_refused(text: str) -> None:
    with pytest.raises(HParamsError, match="SM_HPS"):
        job.hyperparameters([], {"SM_HPS": text})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"TRAIN": "/t", "VALIDATION": "/v", "TEST": "/e"},
         {"train": "/t", "dev": "/v", "test": "/e"}),
        ({"TRAINING": "/t"}, {"train": "/t"}),
        ({"REVIEWS": "/r", "CODE": "/c", "SM_DRIVERS": "/d"}, {"train": "/r"}),
        ({"TRAIN": "/t", "DEV": "/d", "CODE": "/c", "EXTRA": "/x"}, {"train": "/t", "dev": "/d"}),
    ],
)  # fmt: skip
def test_channels_are_found_by_their_names(given: dict[str, str], expected: dict[str, str]) -> None:
    environment = {f"SM_CHANNEL_{name}": path for name, path in given.items()}
    found = job.channels({**environment, "SAGEMAKER_BASE_DIR": "/nowhere"})
    assert found == {split: Path(path) for split, path in expected.items()}


@pytest.mark.parametrize("names", [[], ["code"], ["one", "two"], ["test"]])
def test_a_job_without_a_train_channel_says_which_there_are(names: list[str]) -> None:
    environment = {f"SM_CHANNEL_{name.upper()}": "/data" for name in names}
    with pytest.raises(DataError, match=", ".join(names) or "none") as caught:
        job.channels({**environment, "SAGEMAKER_BASE_DIR": "/nowhere"})
    assert caught.value.problems[0].code == "data.no_channel"


def test_a_job_that_is_stopped_before_it_trains_ends_at_once(
    tmp_path: Path, pretrained: Any
) -> None:
    base = layout(tmp_path / "ml", tiny.hparams("classif", pretrained()))
    table = base / "input" / "data" / "train" / "part-0.csv"
    table.unlink()
    os.mkfifo(table)  # which nothing is written into: reading waits
    writing = list[int]()

    def is_read() -> bool:
        with contextlib.suppress(OSError):  # nobody reads yet
            writing.append(os.open(table, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writing)

    process = start(base)
    process.wait_until(is_read)
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    os.close(writing[0])
    assert not (base / "output" / "failure").exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_first_process_to_fail_says_why(
    rank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("RANK", rank)
    failure = tmp_path / "output" / "failure"
    failure.parent.mkdir()
    if rank == "0":
        failure.write_text("of the run before", "utf-8")

    def full(*_: Any) -> None:
        raise ModelError("model.memory", "no memory for a batch")

    def wrong(*_: Any) -> None:
        raise HParamsError("hparams.value", "wrong in every process")

    before = signal.getsignal(signal.SIGTERM)
    try:
        for run_, says in ((wrong, "wrong in every"), (full, "no memory")):
            monkeypatch.setattr(job, "run", run_)
            with pytest.raises(SystemExit) as ended:
                job.main([])
            assert ended.value.code == 1
            told = capsys.readouterr().err
            assert (says in told) == (rank == "0" or run_ is full)
            assert ("(process 1)" in told) == (rank == "1" and run_ is full)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "no memory for a batch" in failure.read_text("utf-8")


@pytest.mark.parametrize("command", ["train", "serve"])
def test_our_image_is_run_on_a_tree_of_this_machine(command: str, tmp_path: Path) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', "utf-8")
    (tmp_path / "docker").chmod(0o755)
    script = Path(__file__).parents[2] / "docker" / "local"
    ran = subprocess.run(
        [script, command, tmp_path / "my job"], capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "DOCKER_FLAGS": "--gpus all", "PORT": "81"},
    )  # fmt: skip
    folder = f"{(tmp_path / 'my job').resolve()}:/opt/ml"
    served = ["--publish", "127.0.0.1:81:8080", "--read-only", "--tmpfs", "/tmp"]
    assert ran.stdout.splitlines() == [
        "run", "--rm", "--volume", folder, *(served if command == "serve" else []),
        "--gpus", "all", "tfserve", command,
    ]  # fmt: skip
