"""Runs that are killed, stopped or find their checkpoints damaged, most in their own processes."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ready
import tiny
from processes import Process
from safetensors.numpy import load_file, save_file

import tfserve
from tfserve.errors import StoppedError
from tfserve.predictor import Predictor

STEPS, EVAL_STEPS = 30, 5


@dataclass(frozen=True)
class Job:
    """A training job whose checkpoints outlive its processes; the same again goes on with it."""

    folder: Path
    model: Path
    data: Path
    hparams: dict[str, Any]

    def start(self, **more: Any) -> Process:
        hp = tiny.hparams("classif", self.model, **{**self.hparams, **more})
        given = {**self.folders, **hp}
        flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("log-*.out")))
        return Process(["train", *flags], self.folder / f"log-{number}")

    def finish(self, **more: Any) -> list[dict[str, Any]]:
        """Run to the end; the evaluations that this process printed."""
        process = self.start(**more)
        assert process.wait() == 0, process.err
        return evaluations(process.out)

    def run(self, out: io.StringIO) -> None:
        """The same in this process, which prints to ``out``."""
        hp = tiny.hparams("classif", self.model, **self.hparams)
        with contextlib.redirect_stdout(out), ready.one_core():
            tfserve.train(hp, **self.folders)

    @property
    def folders(self) -> dict[str, Path]:
        return {
            "train_dir": self.data,
            "model_dir": self.folder / "model",
            "output_dir": self.folder / "output",
            "checkpoint_dir": self.checkpoints,
        }

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are."""
        names = [path.name for path in self.checkpoints.glob("checkpoint-*")]
        return sorted(int(name.removeprefix("checkpoint-")) for name in names)

    def newest(self) -> int:
        return max(self.steps(), default=0)

    def state(self, step: int) -> dict[str, Any]:
        """What the checkpoint of a step says of itself."""
        file = self.checkpoints / f"checkpoint-{step}" / "state.json"
        content: dict[str, Any] = json.loads(file.read_text("utf-8"))["content"]
        return content

    def weights(self) -> bytes:
        return (self.folder / "model" / "model.safetensors").read_bytes()

    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "output" / "metrics.json").read_text())
        return {split: found[split] for split in ("dev", "test")}

    def evaluated(self) -> list[tuple[int, float]]:
        found = json.loads((self.folder / "output" / "metrics.json").read_text())
        return [(entry["step"], entry["eval_loss"]) for entry in found["history"]]

    def copy(self, folder: Path) -> Job:
        shutil.copytree(self.folder, folder)
        return Job(folder, self.model, self.data, self.hparams)


def evaluations(printed: str) -> list[dict[str, Any]]:
    """The lines of evaluations in what a run printed."""
    lines = printed.splitlines()
    return [ast.literal_eval(line) for line in lines if line.startswith("{'loss'")]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Job]:
    """A job in the folder it is given."""
    folder = tmp_path_factory.mktemp("encoder")
    model = tiny.model(folder / "encoder", initializer_range=0.1)
    data = tiny.data(folder / "data", "classif")
    hp = {
        "max_steps": STEPS,
        "eval_steps": EVAL_STEPS,
        "save_steps": 1,
        "learning_rate": 3e-3,
        "gradient_accumulation_steps": 2,
    }
    return lambda where: Job(where, model, data, hp)


@pytest.fixture(scope="module")
def uninterrupted(job: Callable[[Path], Job], tmp_path_factory: pytest.TempPathFactory) -> Job:
    done = job(tmp_path_factory.mktemp("uninterrupted"))
    printed = done.finish()
    assert [line["step"] for line in printed] == list(range(EVAL_STEPS, STEPS + 1, EVAL_STEPS))
    return done


@pytest.fixture(scope="module")
def stopped(job: Callable[[Path], Job], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that was stopped between its evaluations; tests take a copy."""
    halted = job(tmp_path_factory.mktemp("stopped"))
    process = halted.start()
    process.wait_until(lambda: halted.newest() > EVAL_STEPS + 1)
    process.send(signal.SIGTERM)
    assert process.wait() == 143, process.err
    assert EVAL_STEPS + 1 < halted.newest() < STEPS - EVAL_STEPS
    return halted


def same_end(one: Job, other: Job) -> bool:
    """Whether two jobs ended with the same weights, bit for bit, by the same evaluations."""
    assert one.metrics() == other.metrics()
    assert one.evaluated() == other.evaluated()
    return one.weights() == other.weights()


# --- killed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_that_is_killed_again_and_again_ends_as_if_it_never_was(
    seed: int, job: Callable[[Path], Job], uninterrupted: Job, tmp_path: Path
) -> None:
    rng, killed = random.Random(seed), job(tmp_path / "killed")
    for _ in range(4):
        before, further = killed.newest(), rng.randint(1, 4)
        process = killed.start()
        process.wait_until(lambda b=before, f=further: killed.newest() >= b + f)  # type: ignore[misc]
        time.sleep(rng.random() * 0.03)
        process.send(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (killed.folder / "model").exists()
    assert 4 <= killed.newest() < STEPS
    killed.finish()
    assert same_end(killed, uninterrupted)
    assert not list(killed.checkpoints.glob(".partial*"))


def test_a_job_that_is_killed_while_it_writes_the_model_leaves_nothing_of_it(
    job: Callable[[Path], Job], uninterrupted: Job, tmp_path: Path
) -> None:
    killed = job(tmp_path / "killed")
    process, folder = killed.start(), killed.folder / "model"
    process.wait_until(lambda: list(folder.glob(".*/config.json")))
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "tfserve.json").exists()
    killed.finish()
    assert same_end(killed, uninterrupted)
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in (uninterrupted.folder / "model").iterdir()
    }


# --- stopped ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_saves_a_checkpoint_says_the_step_and_is_resumed_from(
    number: signal.Signals, job: Callable[[Path], Job], uninterrupted: Job, tmp_path: Path
) -> None:
    halted = job(tmp_path / "halted")
    process = halted.start(save_steps=100)
    process.wait_until(lambda: halted.newest() >= EVAL_STEPS)
    process.send(number)
    assert process.wait() == 128 + number
    said = re.fullmatch(
        rf"tfserve: stopped by {number.name} at step (\d+) of {STEPS}; checkpoint saved in "
        rf"{halted.checkpoints}: the same command goes on from there\n",
        process.err,
    )
    assert said is not None, process.err
    step = int(said[1])
    assert step == halted.newest() >= EVAL_STEPS
    state = halted.state(step)
    assert state["step"] == step
    assert not (halted.folder / "model").exists()
    printed = halted.finish(save_steps=100)
    assert [line["step"] for line in printed] == [
        s for s in range(EVAL_STEPS, STEPS + 1, EVAL_STEPS) if s > state["evaluated"]
    ]
    assert same_end(halted, uninterrupted)


@dataclass(frozen=True)
class StoppedEvaluating:
    """A job that was stopped in its first evaluation, and what it printed until then and later."""

    error: str
    printed: str
    whole: Job
    resumed: Job
    later: list[dict[str, Any]]


@pytest.fixture(scope="module")
def stopped_evaluating(
    job: Callable[[Path], Job], tmp_path_factory: pytest.TempPathFactory
) -> StoppedEvaluating:
    folder = tmp_path_factory.mktemp("evaluating")
    given = job(folder / "none")
    hp = {**given.hparams, "max_steps": EVAL_STEPS}
    whole, halted = (
        Job(folder / name, given.model, given.data, hp) for name in ("whole", "halted")
    )
    whole.run(io.StringIO())
    evaluated = Predictor.run

    def told(self: Predictor, windows: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluated(self, windows)

    before, later = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, pytest.raises(StoppedError) as stopped:
        patched.setattr(Predictor, "run", told)
        halted.run(before)
    halted.run(later)
    return StoppedEvaluating(
        stopped.value.message, before.getvalue(), whole, halted, evaluations(later.getvalue())
    )


def test_an_evaluation_is_stopped_at_once(stopped_evaluating: StoppedEvaluating) -> None:
    assert f"by SIGTERM at step {EVAL_STEPS} of {EVAL_STEPS};" in stopped_evaluating.error
    assert stopped_evaluating.printed == ""


def test_a_stopped_evaluation_is_done_when_the_job_is_resumed(
    stopped_evaluating: StoppedEvaluating,
) -> None:
    assert [line["step"] for line in stopped_evaluating.later] == [EVAL_STEPS]
    assert same_end(stopped_evaluating.resumed, stopped_evaluating.whole)


def test_the_line_of_a_stopped_evaluation_holds_loss_and_speed_as_any_other(
    stopped_evaluating: StoppedEvaluating,
) -> None:
    line = stopped_evaluating.later[0]
    assert {"loss", "learning_rate", "samples_per_second", "eval_loss", "step"} <= set(line)


# --- damaged ------------------------------------------------------------------------------------


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink], ids=["flipped", "cut", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    name: str, damage: Callable[[Path], None], stopped: Job, uninterrupted: Job, tmp_path: Path
) -> None:
    damaged = stopped.copy(tmp_path / "copy")
    damage(damaged.checkpoints / f"checkpoint-{damaged.newest()}" / name)
    printed = damaged.finish()
    assert printed[0]["step"] > EVAL_STEPS  # not from the beginning
    assert same_end(damaged, uninterrupted)


def test_with_all_checkpoints_damaged_a_job_begins_again(
    stopped: Job, uninterrupted: Job, tmp_path: Path
) -> None:
    damaged = stopped.copy(tmp_path / "copy")
    for step in damaged.steps():
        _cut(damaged.checkpoints / f"checkpoint-{step}" / "state.json")
    assert damaged.finish()[0]["step"] == EVAL_STEPS
    assert same_end(damaged, uninterrupted)


def test_damaged_weights_of_the_best_step_never_become_the_model(
    job: Callable[[Path], Job], tmp_path: Path
) -> None:
    # Dev says the opposite of train, so that the first evaluation stays the best.
    contrary = job(tmp_path / "contrary")
    data, hp = tmp_path / "data", {**contrary.hparams, "metric_for_best_model": "loss"}
    shutil.copytree(contrary.data, data)
    other = {"delivery": "billing", "billing": "order", "order": "praise", "praise": "delivery"}
    rows = [(text, other[label]) for text, label in tiny.rows("classif", 24)]
    tiny.table(data / "dev.csv", rows, ("text", "labels"))
    hp |= {"learning_rate": 1e-2}
    whole = Job(tmp_path / "whole", contrary.model, data, hp)
    whole.finish()
    best, *_, last = whole.steps()
    assert best < last - 1
    damaged = Job(tmp_path / "damaged", contrary.model, data, hp)
    process = damaged.start()
    process.wait_until(lambda: damaged.newest() > best + 2)
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    _flip(damaged.checkpoints / f"checkpoint-{best}" / "model.safetensors")
    damaged.finish()
    assert same_end(damaged, whole)


# --- other runs, finished runs ------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"learning_rate": 2e-3}, {"seed": 7}, {"max_steps": STEPS + 1}], ids=str
)
def test_a_checkpoint_of_other_hyperparameters_is_not_used(
    change: dict[str, Any], stopped: Job, job: Callable[[Path], Job], tmp_path: Path
) -> None:
    fresh, other = job(tmp_path / "fresh"), stopped.copy(tmp_path / "other")
    fresh.finish(**change)
    assert other.finish(**change)[0]["step"] == EVAL_STEPS
    assert same_end(other, fresh)


def test_a_checkpoint_of_other_rows_is_not_used(stopped: Job, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(stopped.data, data)
    tiny.table(data / "train.csv", tiny.rows("classif", 23), ("text", "labels"))
    copy = stopped.copy(tmp_path / "other")
    other = Job(copy.folder, copy.model, data, copy.hparams)
    assert other.finish()[0]["step"] == EVAL_STEPS


def test_a_checkpoint_of_another_pretrained_model_is_not_used(stopped: Job, tmp_path: Path) -> None:
    file = stopped.model / "model.safetensors"
    before, weights = file.read_bytes(), load_file(file)
    other = stopped.copy(tmp_path / "other")
    try:  # of the same name
        save_file({n: w + (n == "pooler.dense.bias") for n, w in weights.items()}, file)
        assert other.finish()[0]["step"] == EVAL_STEPS
    finally:
        file.write_bytes(before)


def test_a_finished_job_does_no_step_when_it_is_started_again(
    uninterrupted: Job, tmp_path: Path
) -> None:
    again = uninterrupted.copy(tmp_path / "again")
    assert again.finish() == []
    assert same_end(again, uninterrupted)
    records = ["great coffee friendly staff", "where is my parcel"]
    answers = [
        tfserve.load(j.folder / "model", precision="fp32").predict(records)
        for j in (again, uninterrupted)
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 2


def test_the_newest_two_and_the_best_checkpoints_stay_in_a_folder_of_the_users(
    uninterrupted: Job,
) -> None:
    best = {uninterrupted.state(step)["best_step"] for step in (STEPS - 1, STEPS)}
    assert uninterrupted.steps() == sorted({*best, STEPS - 1, STEPS})
