from __future__ import annotations

import ast
import json
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import ready
import tiny
import torch
from conftest import PretrainedFolder
from safetensors.numpy import load_file

import tfserve
from tfserve.artifact import TOKENIZER_FILES
from tfserve.calibration import NEVER
from tfserve.errors import DataError, HParamsError, ModelError, StorageError, TfserveError
from tfserve.hparams import HParams
from tfserve.tasks import get
from tfserve.tasks.base import CALIBRATION
from tfserve.training import loop, train
from tfserve.training import pretrained as pretrained_module
from tfserve.training.logs import numbers
from tfserve.training.plan import Plan
from tfserve.training.pretrained import Pretrained
from tfserve.training.processes import Processes

LOGGED = {"loss", "learning_rate", "samples_per_second", "eval_loss", "epoch", "step"}
TASKS = ("classif", "multilabel-classif", "ner", "regression")
Weights = dict[str, "np.ndarray[Any, Any]"]


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    with ready.one_core():
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder."""
    return tiny.model(tmp_path_factory.mktemp("encoder") / "encoder", initializer_range=0.1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.data(tmp_path_factory.mktemp("data"), "classif")


@pytest.fixture(scope="module")
def contrary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of which dev says the opposite of train: what is learned makes dev's loss worse."""
    folder = tmp_path_factory.mktemp("contrary")
    rows = tiny.rows("classif", 24)
    other = {"delivery": "billing", "billing": "order", "order": "praise", "praise": "delivery"}
    tiny.table(folder / "train.csv", rows, ("text", "labels"))
    turned = [(text, other[label]) for text, label in rows]
    tiny.table(folder / "dev.csv", turned, ("text", "labels"))
    return folder


def weights(folder: Path) -> Weights:
    return load_file(folder / "model.safetensors")


def same(one: Weights, other: Weights) -> bool:
    """Whether two models are equal bit for bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def results(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "metrics.json").read_text("utf-8"))
    return found


def jsonl(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


# --- what a run learns, says and writes ---------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    task: str
    data: Path
    model: Path
    output: Path
    metrics: dict[str, Any]
    lines: list[dict[str, Any]]
    best: dict[str, Any]


@pytest.fixture(scope="module", params=TASKS)
def learned(
    request: pytest.FixtureRequest, encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Learned:
    """A run long enough to learn train, whose rows are also its test table."""
    folder = tmp_path_factory.mktemp("learned")
    data = tiny.data(folder / "data", request.param)
    shutil.copyfile(data / "train.csv", data / "test.csv")
    hp = tiny.hparams(
        request.param, encoder, max_steps=130, eval_steps=60, learning_rate=4e-3,
        per_device_train_batch_size=8,
    )  # fmt: skip
    status, process = _train_in_process(hp, data, folder)
    assert status == 0, process.err
    lines = process.out.splitlines()
    printed = [line for line in lines if line.startswith("{'loss'")]
    best = [ast.literal_eval(line) for line in lines if line.startswith("{'best_eval_")]
    assert len(best) == 1
    return Learned(
        request.param,
        data,
        folder / "model",
        folder / "output",
        {split: results(folder / "output")[split] for split in ("dev", "test")},
        [ast.literal_eval(line) for line in printed],
        best[0],
    )


def _train_in_process(
    hp: dict[str, Any], data: Path, folder: Path, **limits: Any
) -> tuple[int, processes.Process]:
    flags = [part for name, value in hp.items() for part in (f"--{name}", str(value))]
    folders = ["--train_dir", str(data), "--model_dir", str(folder / "model"),
               "--output_dir", str(folder / "output")]  # fmt: skip
    return processes.run(["train", *folders, *flags], folder / "log", **limits)


def test_the_loss_falls(learned: Learned) -> None:
    losses = [line["loss"] for line in learned.lines]
    assert losses[-1] < losses[0] / 2
    assert learned.lines[-1]["eval_loss"] < learned.lines[0]["loss"] / 2


def test_the_rows_of_train_are_learned(learned: Learned) -> None:
    assert learned.metrics["test"][ready.METRIC[learned.task]] >= 0.9


def evaluated_names(task: str) -> tuple[str, ...]:
    calibration = () if task == "regression" else CALIBRATION
    return (*get(task).metric_names, *calibration)


def test_one_line_is_printed_per_evaluation(learned: Learned) -> None:
    metrics = {f"eval_{name}" for name in evaluated_names(learned.task)}
    assert [line["step"] for line in learned.lines] == [60, 120, 130]
    assert [line["epoch"] for line in learned.lines] == [
        pytest.approx(step / 3, abs=1e-6) for step in (60, 120, 130)
    ]
    for line in learned.lines:
        assert set(line) == LOGGED | metrics
        assert all(isinstance(value, (int, float)) for value in line.values())
        assert line["samples_per_second"] > 0
        assert 0 < line["learning_rate"] <= 4e-3


def test_the_metrics_of_the_model_that_is_kept_are_printed_once(learned: Learned) -> None:
    step = learned.best["best_step"]
    chosen = next(line for line in learned.lines if line["step"] == step)
    evaluated = {name: value for name, value in chosen.items() if name.startswith("eval_")}
    assert learned.best == {"best_step": step} | {
        f"best_{name}": value for name, value in evaluated.items()
    }
    for name, value in evaluated.items():
        assert learned.metrics["dev"][name.removeprefix("eval_")] == pytest.approx(value, abs=1e-6)


def test_metrics_json_has_metrics_history_rows_and_hyperparameters(learned: Learned) -> None:
    found = results(learned.output)
    assert found["history"] == learned.lines
    assert found["rows"] == {"train": 24, "dev": 8, "test": 24}
    assert found["hparams"]["max_steps"] == 130
    assert found["hparams"]["task_name"] == learned.task
    metric = get(learned.task).metric
    best = min if metric == "rmse" else max
    assert found["dev"][metric] == pytest.approx(
        best(line[f"eval_{metric}"] for line in learned.lines), abs=1e-6
    )


def test_test_predictions_are_the_predictors_answers_to_each_row(learned: Learned) -> None:
    written = jsonl(learned.output / "test_predictions.jsonl")
    table = tfserve.tables.read_table(learned.data / "test.csv", get(learned.task))
    assert [line["text"] for line in written] == [row.record.text for row in table.rows]
    answers = tfserve.load(learned.model, precision="fp32").predict(
        [row.record.text for row in table.rows]
    )
    kept = [{k: v for k, v in line.items() if k not in ("text", "labels")} for line in written]
    assert kept == answers


def test_test_predictions_hold_the_label_as_it_was_read(learned: Learned) -> None:
    written = jsonl(learned.output / "test_predictions.jsonl")
    table = tfserve.tables.read_table(learned.data / "test.csv", get(learned.task))
    as_json = json.loads(json.dumps(table.labels))
    assert [line["labels"] for line in written] == as_json


def test_tensorboard_events_draw_what_was_printed(learned: Learned) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorBoard's own dependencies
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(learned.output / "tensorboard"))
        events.Reload()
    names = {"train/loss", "train/learning_rate", "train/samples_per_second", "train/epoch"}
    names |= {f"eval/{name}" for name in ("loss", *evaluated_names(learned.task))}
    assert set(events.Tags()["scalars"]) == names
    for tag in names:
        name = tag.removeprefix("train/").replace("eval/", "eval_")
        drawn = [(event.step, event.value) for event in events.Scalars(tag)]
        printed = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in learned.lines]
        assert drawn == printed


def test_the_model_directory_holds_the_model_and_nothing_else(learned: Learned) -> None:
    found = {path.name for path in learned.model.iterdir()}
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tfserve.json", "code",
              "README.md"}  # fmt: skip
    assert needed <= found <= needed | set(TOKENIZER_FILES)


def test_other_users_can_read_the_model(learned: Learned) -> None:
    modes = {file.name: file.stat().st_mode & 0o777 for file in learned.model.glob("*.*")}
    assert modes["model.safetensors"] == 0o644


def test_checkpoints_of_its_own_are_removed_when_training_has_finished(learned: Learned) -> None:
    found = {path.name for path in learned.output.iterdir()}
    assert found == {"metrics.json", "test_predictions.jsonl", "tensorboard"}


def test_the_manifest_keeps_the_dev_metrics_of_the_model(learned: Learned) -> None:
    manifest = json.loads((learned.model / "tfserve.json").read_text("utf-8"))
    for name in ("loss", *evaluated_names(learned.task)):
        assert manifest["metrics"]["dev"][name] == pytest.approx(
            learned.metrics["dev"][name], rel=1e-3, abs=1e-6
        )
    assert manifest["data"]["train"]["rows"] == 24
    assert manifest["data"]["dev"].keys() == {"rows", "fingerprint"}
    assert manifest["hparams"]["learning_rate"] == 4e-3
    assert len(manifest["golden"]) == 4


# --- evaluations, the best model, stopping ------------------------------------------------------


def run(
    model: Path, data: Path, folder: Path, task: str = "classif", **hp: Any
) -> tuple[dict[str, Any], Path, Path]:
    """Results, model directory and checkpoints of a run."""
    train(
        tiny.hparams(task, model, **hp),
        train_dir=data,
        model_dir=folder / "model",
        output_dir=folder / "output",
        checkpoint_dir=folder / "checkpoints",
    )
    return results(folder / "output"), folder / "model", folder / "checkpoints"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
GETS_WORSE = {"per_device_train_batch_size": 24, "learning_rate": 5e-3, "warmup_ratio": 0,
              "eval_steps": 1,
              "metric_for_best_model": "loss"}  # fmt: skip
"""On contrary tables: the loss of dev falls in the first steps and then rises."""


def test_the_model_of_the_best_evaluation_is_kept(
    encoder: Path, contrary: Path, tmp_path: Path
) -> None:
    found, model, checkpoints = run(encoder, contrary, tmp_path, max_steps=10, **GETS_WORSE)
    losses = {entry["step"]: entry["eval_loss"] for entry in found["history"]}
    best = min(losses, key=lambda step: losses[step])
    assert losses[best] < losses[10] - 0.02  # it did get worse
    assert names(checkpoints) == sorted(f"checkpoint-{step}" for step in (best, 9, 10))
    kept, other = (weights(checkpoints / f"checkpoint-{step}") for step in (best, 10))
    final = {name: array for name, array in weights(model).items() if name != EMBEDDINGS}
    # A checkpoint holds the embeddings of the tokens that occur.
    assert len(kept.pop(EMBEDDINGS)) < len(weights(model)[EMBEDDINGS])
    del other[EMBEDDINGS]
    assert same(final, kept)
    assert not same(final, other)
    assert found["dev"]["loss"] == pytest.approx(losses[best], abs=1e-6)


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_early_stopping_waits_for_as_many_evaluations_as_asked(
    patience: int, encoder: Path, contrary: Path, tmp_path: Path
) -> None:
    found, _, _ = run(
        encoder, contrary, tmp_path, max_steps=50, early_stopping_patience=patience, **GETS_WORSE
    )
    losses = [entry["eval_loss"] for entry in found["history"]]
    assert losses.index(min(losses)) == len(losses) - 1 - patience
    assert len(losses) < 10


def test_early_stopping_lets_a_run_that_gets_better_finish(
    encoder: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.copyfile(data / "train.csv", tmp_path / "data" / "dev.csv")
    settings = {**GETS_WORSE, "learning_rate": 3e-4, "eval_steps": 2}
    found, _, _ = run(
        encoder, tmp_path / "data", tmp_path, max_steps=8, early_stopping_patience=1, **settings
    )
    assert [entry["step"] for entry in found["history"]] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("hp", "evaluated", "kept"),
    [
        ({"eval_steps": 3}, [3, 6, 8], ["checkpoint-6", "checkpoint-8"]),
        (
            {"eval_steps": 3, "save_steps": 1},
            [3, 6, 8],
            [f"checkpoint-{step}" for step in (6, 7, 8)],
        ),
        ({"eval_steps": 100, "save_steps": 3}, [8], ["checkpoint-6", "checkpoint-8"]),
        ({"eval_steps": None}, [6, 8], ["checkpoint-6", "checkpoint-8"]),  # an epoch
    ],
)
def test_evaluations_and_checkpoints_come_when_asked(
    hp: dict[str, Any], evaluated: list[int], kept: list[str], encoder: Path, data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    found, _, checkpoints = run(
        encoder, data, tmp_path, max_steps=8, metric_for_best_model="loss", **hp
    )
    assert [entry["step"] for entry in found["history"]] == evaluated
    assert names(checkpoints) == kept


@pytest.mark.parametrize(
    ("hp", "steps"),
    [
        ({"num_train_epochs": 1}, 6),
        ({"num_train_epochs": 1.5}, 9),
        ({"num_train_epochs": 0.1}, 1),
        ({"num_train_epochs": 2, "gradient_accumulation_steps": 4}, 4),  # 6 batches: 4 and 2
        ({"num_train_epochs": 9, "max_steps": 5}, 5),
    ],
)
def test_a_run_is_as_long_as_asked(
    hp: dict[str, Any], steps: int, encoder: Path, data: Path, tmp_path: Path
) -> None:
    found, _, _ = run(encoder, data, tmp_path, **{"max_steps": -1, "eval_steps": 50, **hp})
    assert [entry["step"] for entry in found["history"]] == [steps]


def test_small_numbers_keep_their_digits_in_a_log() -> None:
    said = numbers({"eval_mse": 1.23456789e-9, "eval_rmse": 35.1364183, "step": 12_345_678})
    assert said == {"eval_mse": 1.23457e-9, "eval_rmse": 35.136418, "step": 12_345_678}


@pytest.mark.parametrize(("rows", "epochs"), [(16, 20), (1600, 6), (3200, 3), (16_000, 3)])
def test_a_small_table_gets_more_epochs_by_default(rows: int, epochs: int) -> None:
    hp = HParams(task_name="classif", model_name="x")
    found = Plan.of(hp, [20] * rows, 20, world_size=1)
    assert (found.steps_per_epoch, found.steps) == (rows // 16, rows // 16 * epochs)
    assert found.eval_steps == min(rows // 16, 500)
    longer = Plan.of(replace(hp, num_train_epochs=1.5), [20] * rows, 20, world_size=2)
    assert (longer.batch_size, longer.steps) == (32, math.ceil(1.5 * math.ceil(rows / 32)))


def test_the_learning_rate_rises_and_falls_as_scheduled(
    encoder: Path, data: Path, tmp_path: Path
) -> None:
    found, _, _ = run(
        encoder, data, tmp_path, max_steps=10, eval_steps=1, warmup_ratio=0.4, learning_rate=1e-3
    )
    rates = [entry["learning_rate"] for entry in found["history"]]
    rising, falling = [0.0, 2.5e-4, 5e-4, 7.5e-4], [1e-3 * left / 6 for left in range(6, 0, -1)]
    assert rates == pytest.approx([*rising, *falling], abs=1e-6)


# --- steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classif", "ner"])
@pytest.mark.parametrize("rows", [8, 7])
def test_two_batches_of_four_make_the_step_of_one_batch_of_eight(
    task: str, rows: int, encoder: Path, tmp_path: Path
) -> None:
    # One batch of eight is an epoch here, so that the steps see the same rows either way.
    tiny.table(tmp_path / "data" / "train.csv", tiny.rows(task, rows), ("text", "labels"))
    shutil.copyfile(tmp_path / "data" / "train.csv", tmp_path / "data" / "dev.csv")
    found = []
    for size, batches in ((8, 1), (4, 2)):
        _, model, _ = run(
            encoder, tmp_path / "data", tmp_path / str(size), task, max_steps=3, eval_steps=3,
            per_device_train_batch_size=size, gradient_accumulation_steps=batches,
        )  # fmt: skip
        found.append(weights(model))
    whole, halves = found
    before = weights(encoder)
    far = total = 0
    for name, array in whole.items():
        if not name.endswith("key.bias"):  # attention does not depend on it
            far += int((np.abs(halves[name] - array) > 1e-5).sum())
            total += array.size
    # AdamW makes a step of the rounding noise where there is next to no gradient.
    assert far <= total / 1000
    name = "encoder.layer.1.output.dense.weight"
    assert np.median(np.abs(whole[f"bert.{name}"] - before[name])) > 5e-4  # these were steps


def test_balanced_weights_change_nothing_where_labels_are_balanced(
    encoder: Path, data: Path, tmp_path: Path
) -> None:
    _, plain, _ = run(encoder, data, tmp_path / "plain")
    _, balanced, _ = run(encoder, data, tmp_path / "balanced", class_weights="balanced")
    assert same(weights(plain), weights(balanced))


@pytest.mark.parametrize(
    ("given", "expected"), [({"praise": 1000.0}, {"praise"}), ({"order": 1000.0}, {"order"})]
)
def test_a_given_weight_draws_the_model_to_its_label(
    given: dict[str, float], expected: set[str], encoder: Path, data: Path, tmp_path: Path
) -> None:
    run(
        encoder,
        data,
        tmp_path,
        max_steps=12,
        eval_steps=12,
        learning_rate=5e-3,
        class_weights=given,
    )
    written = jsonl(tmp_path / "output" / "test_predictions.jsonl")
    assert {line["pred"] for line in written} == expected


def test_balanced_weights_are_the_inverse_of_how_often_a_label_comes(
    encoder: Path, tmp_path: Path
) -> None:
    rows = tiny.rows("classif", 22)  # 6 of each but 4 of praise
    tiny.table(tmp_path / "data" / "train.csv", rows, ("text", "labels"))
    given = {"billing": 22 / 24, "delivery": 22 / 24, "order": 22 / 24, "praise": 22 / 16}
    models = []
    for name, spec in (("none", None), ("balanced", "balanced"), ("given", given)):
        shutil.copyfile(tmp_path / "data" / "train.csv", tmp_path / "data" / "dev.csv")
        _, model, _ = run(
            encoder, tmp_path / "data", tmp_path / name, class_weights=spec,
            per_device_train_batch_size=8,
        )  # fmt: skip
        models.append(weights(model))
    assert same(models[1], models[2])
    assert not same(models[0], models[1])


def test_gradients_are_clipped_unless_that_is_switched_off(
    encoder: Path, data: Path, tmp_path: Path
) -> None:
    name = "encoder.layer.1.output.dense.weight"
    moved = {}
    for most in (0, 1e-9):
        _, model, _ = run(
            encoder, data, tmp_path / str(most), max_grad_norm=most, layer_decay=1, weight_decay=0
        )
        moved[most] = np.abs(weights(model)[f"bert.{name}"] - weights(encoder)[name]).max()
    # Four steps at rates that sum to 2.5e-3. AdamW goes g / (|g| + 1e-8) of a rate far: nearly all
    # of it, but no tenth where no gradient is over 1e-9.
    assert 0 < moved[1e-9] < 2.5e-4
    assert moved[0] > 1e-3


def test_a_step_in_bf16_is_another_step_of_the_same_fp32_weights(
    encoder: Path, data: Path, tmp_path: Path
) -> None:
    models = []
    for precision in ("fp32", "bf16"):
        _, model, _ = run(
            encoder, data, tmp_path / precision, precision=precision, max_steps=1, eval_steps=1
        )
        models.append(weights(model))
    exact, rounded = models
    assert {str(array.dtype) for array in rounded.values()} == {"float32"}
    assert not same(exact, rounded)
    # AdamW's first step depends on the sign of a gradient, which rounding seldom changes.
    name = "bert.encoder.layer.1.output.dense.weight"
    assert (np.abs(rounded[name] - exact[name]) < 1e-4).mean() > 0.9


def test_one_seed_gives_the_same_weights_bit_for_bit_and_another_gives_others(
    encoder: Path, data: Path, tmp_path: Path
) -> None:
    models = []
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        _, model, _ = run(encoder, data, tmp_path / name, seed=seed)
        models.append((model / "model.safetensors").read_bytes())
    assert models[0] == models[1]
    assert models[0] != models[2]


@pytest.mark.parametrize("task", TASKS)
def test_long_texts_train_by_their_windows(task: str, encoder: Path, tmp_path: Path) -> None:
    long = [
        (" ".join([text] * 9), " ".join([label] * 9) if task == "ner" else label)
        for text, label in tiny.rows(task, 16)
    ]
    tiny.table(tmp_path / "data" / "train.csv", long, ("text", "labels"))
    tiny.table(tmp_path / "data" / "test.csv", long, ("text", "labels"))
    run(
        encoder, tmp_path / "data", tmp_path, task, max_steps=120, eval_steps=60,
        long_text="window", max_length=32, learning_rate=4e-3, per_device_train_batch_size=16,
    )  # fmt: skip
    written = jsonl(tmp_path / "output" / "test_predictions.jsonl")
    assert len(written) == 16
    assert not any("truncated" in line for line in written)
    if task == "ner":
        assert [len(line["pred"]) for line in written] == [len(t.split()) for t, _ in long]
    metric = ready.METRIC[task]
    assert results(tmp_path / "output")["test"][metric] > 0.9


# --- thresholds ---------------------------------------------------------------------------------


def two_labels() -> list[tuple[str, ...]]:
    """Rows that are three quarters ``plain``, the rest ``praise``."""
    rows = tiny.rows("classif", 40)
    return [(text, label if label == "praise" else "plain") for text, label in rows]


def test_a_threshold_keeps_its_promise_on_dev(encoder: Path, tmp_path: Path) -> None:
    rows, columns = two_labels(), ("text", "labels")
    tiny.table(tmp_path / "data" / "train.csv", rows[:24], columns)
    tiny.table(tmp_path / "data" / "dev.csv", rows[24:], columns)
    # The weight draws the model to the rarer label, so that the likelier one would not do.
    found, model, _ = run(
        encoder, tmp_path / "data", tmp_path, threshold_for="recall>=0.9", positive_label="plain",
        class_weights={"praise": 30.0}, max_steps=20, eval_steps=20, learning_rate=2e-3,
        per_device_train_batch_size=8,
    )  # fmt: skip
    state = json.loads((model / "tfserve.json").read_text("utf-8"))["task_state"]
    assert state["positive"] == "plain"
    assert 0 < state["threshold"] < 0.5
    texts = [text for text, label in rows[24:] if label == "plain"]
    predictor = tfserve.load(model, precision="fp32")
    recall, without = (
        np.mean([answer["pred"] == "plain" for answer in predictor.predict(texts, asked)])
        for asked in ({}, {"threshold": 0.5})
    )
    assert without < 0.9 <= recall
    per_label = found["dev"]["per_label"]
    assert per_label["plain"]["recall"] == pytest.approx(recall)
    assert per_label["praise"]["recall"] >= 0.5  # it does not give its label to all


def test_a_precision_that_is_out_of_reach_gives_no_label_and_is_told(
    encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = ("text", "labels")
    tiny.table(tmp_path / "data" / "train.csv", two_labels()[:24], columns)
    # Half of them, at any threshold.
    alike: list[tuple[str, ...]] = [("great coffee", label) for label in ("plain", "praise") * 4]
    tiny.table(tmp_path / "data" / "dev.csv", alike, columns)
    with caplog.at_level(logging.WARNING, "tfserve"):
        _, model, _ = run(
            encoder, tmp_path / "data", tmp_path, threshold_for="precision>=0.9",
            positive_label="plain",
        )  # fmt: skip
    state = json.loads((model / "tfserve.json").read_text("utf-8"))["task_state"]
    assert (state["positive"], state["threshold"]) == ("plain", NEVER)
    assert (
        "no threshold reached on dev what threshold_for asks of ['plain']: never given"
        in [record.getMessage() for record in caplog.records]
    )  # fmt: skip
    answers = tfserve.load(model, precision="fp32").predict([text for text, _ in two_labels()])
    assert {answer["pred"] for answer in answers} == {"praise"}


# --- labels that train lacks --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("classif", ("great coffee", "brandnew")),
        ("multilabel-classif", ("great coffee", '"brandnew","praise"')),
        ("ner", ("great coffee", "O B-brandnew")),
    ],
)
@pytest.mark.parametrize("all_rows", [False, True])
def test_a_label_that_train_lacks_is_an_error_in_the_metrics(
    all_rows: bool, task: str, row: tuple[str, str], encoder: Path, tmp_path: Path
) -> None:
    tiny.data(tmp_path / "data", task)
    rows = [row] if all_rows else [*tiny.rows(task, 8), row]
    for split in ("dev", "test"):
        tiny.table(tmp_path / "data" / f"{split}.csv", rows, ("text", "labels"))
    found, model, _ = run(encoder, tmp_path / "data", tmp_path, task, max_steps=2)
    for split in ("dev", "test"):
        scores = found[split]["per_label"]["brandnew"]
        assert scores["recall"] == 0.0
        assert scores["support"] == 1.0
        assert found[split][ready.METRIC[task]] < 1.0
    assert np.isfinite(found["dev"]["loss"])
    labels = json.loads((model / "tfserve.json").read_text("utf-8"))["task_state"]["labels"]
    assert not any("brandnew" in label for label in labels)


# --- what is refused, and what it leaves behind -------------------------------------------------


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def _garbled(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"these are no weights")


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")

    return change


def _no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[]", "utf-8")


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type":', "utf-8")


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", "utf-8")


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (_without("config.json"), "model.no_config", "config.json"),
        (_without("model.safetensors"), "model.no_weights", "no weights"),
        (_pickled, "model.no_weights", "pytorch_model.bin"),
        (_without("tokenizer.json"), "model.tokenizer", "tokenizer.json"),
        (_no_tokenizer, "model.tokenizer", "tokenizer.json"),
        (_no_json, "model.no_config", "config.json"),
        (_no_object, "model.no_config", "config.json"),
        (_config(model_type="nonesuch"), "model.load", "nonesuch"),
        (_cut_short, "model.load", "safetensors"),
        (_garbled, "model.load", "safetensors"),
        (_config(vocab_size=20), "model.tokenizer", "20"),
    ],
    ids=[
        "no config",
        "no weights",
        "pickled",
        "no tokenizer",
        "empty tokenizer",
        "cut config",
        "config no object",
        "unknown family",
        "cut weights",
        "garbled weights",
        "small vocabulary",
    ],
)
def test_a_model_folder_that_cannot_be_used_is_refused(
    spoil: Callable[[Path], None], code: str, says: str, encoder: Path, data: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(encoder, tmp_path / "spoiled"))
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        run(folder, data, tmp_path)
    assert caught.value.code == code
    assert says in caught.value.message
    assert "spoiled" in caught.value.message
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("hp", "kind", "code", "says"),
    [
        ({"max_length": 65}, ModelError, "model.max_length", "at most 64"),
        ({"max_length": 16, "stride": 14}, ModelError, "model.stride", "below 14"),
        ({"metric_for_best_model": "f2"}, HParamsError, "hparams.value", "f1_macro"),
        ({"class_weights": {"no such": 2}}, HParamsError, "hparams.value", "'no such'"),
        ({"task_name": "clasif"}, HParamsError, "hparams.value", "classif"),
        ({"precision": "fp16"}, HParamsError, "hparams.value", "fp16"),
        ({"model_name": "/no/such/folder"}, ModelError, "model.not_found", "/no/such/folder"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_training(
    hp: dict[str, Any], kind: type[TfserveError], code: str, says: str, encoder: Path, data: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hp = tiny.hparams("classif", encoder) | hp
    with pytest.raises(kind) as caught:
        train(hp, train_dir=data, model_dir=tmp_path / "model")
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert says in caught.value.message
    assert "eval_loss" not in capsys.readouterr().out
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_batch_that_is_too_large_for_the_device_says_what_to_do(
    device: str, encoder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        if device == "cuda":
            raise torch.OutOfMemoryError("out of memory")
        torch.empty(2**55)  # more than any machine has

    monkeypatch.setattr(loop.Loop, "_step", full)
    with pytest.raises(
        ModelError, match=r"a batch of 4 rows .*per_device_train_batch_size"
    ) as said:
        run(encoder, data, tmp_path, per_device_train_batch_size=4)
    assert said.value.code == "model.memory"


def test_weights_have_no_meaning_for_a_regression(encoder: Path, tmp_path: Path) -> None:
    data = tiny.data(tmp_path / "data", "regression")
    with pytest.raises(HParamsError, match="class_weights") as caught:
        run(encoder, data, tmp_path, "regression", class_weights="balanced")
    assert caught.value.code == "hparams.value"
    assert not (tmp_path / "model").exists()


def test_boxes_are_refused_by_a_model_that_takes_none(encoder: Path, tmp_path: Path) -> None:
    data = tiny.data(tmp_path / "data", "ner", boxed=True)
    with pytest.raises(ModelError, match="takes no bbox") as caught:
        run(encoder, data, tmp_path, "ner", use_bbox=True)
    assert caught.value.code == "model.no_bbox"
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("task", "label", "code"),
    [
        ("classif", "same", "label.one_only"),
        ("regression", "2.5", "label.constant"),
        ("multilabel-classif", "", "label.none"),
        ("ner", "O O", "label.none"),
        ("regression", "many", "label.not_number"),
        ("ner", "O", "label.count"),
    ],
)
def test_tables_that_teach_nothing_are_refused_before_the_model_is_looked_for(
    task: str, label: str, code: str, tmp_path: Path
) -> None:
    rows = [(f"text {i}", label) for i in range(8)]
    tiny.table(tmp_path / "data" / "train.csv", rows, ("text", "labels"))
    with pytest.raises(DataError) as caught:
        run(tmp_path / "no such model", tmp_path / "data", tmp_path, task)
    assert {problem.code for problem in caught.value.problems} == {code}
    assert str(tmp_path / "data" / "train.csv") in caught.value.message
    assert names(tmp_path) == ["data"]


# --- disks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocked", ["model", "output", "checkpoints"])
def test_a_folder_that_cannot_be_made_is_a_storage_error(
    blocked: str, encoder: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / blocked).write_text("a file, no folder", "utf-8")
    with pytest.raises(StorageError) as caught:
        run(encoder, data, tmp_path)
    assert caught.value.code == "storage.write"
    assert str(tmp_path / blocked) in caught.value.message
    assert not (tmp_path / "model" / "tfserve.json").exists()


def test_a_file_that_cannot_grow_is_one_line_and_nothing_half_written(
    encoder: Path, data: Path, tmp_path: Path
) -> None:
    size = (encoder / "model.safetensors").stat().st_size
    hp = tiny.hparams("classif", encoder, max_steps=2)
    status, process = _train_in_process(hp, data, tmp_path, file_limit=size // 2)
    assert status == 1
    assert len(process.err.splitlines()) == 1
    assert process.err.startswith("tfserve: cannot write ")
    assert "[storage.write]" in process.err
    assert "File too large" in process.err
    assert not (tmp_path / "model").exists()
    assert not list((tmp_path / "output").rglob("*.safetensors"))
    assert not list((tmp_path / "output").rglob(".partial*"))


@pytest.mark.parametrize(
    ("full", "size"),
    [("model", 64 * 1024), ("output", 256 * 1024), ("output", 4 * 1024)],
    ids=["model", "output, at a checkpoint", "output, at once"],
)
def test_a_full_disk_is_one_line_and_nothing_half_written(
    full: str, size: int, encoder: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / full).mkdir()
    hp = tiny.hparams("classif", encoder, max_steps=2)
    status, process = _train_in_process(hp, data, tmp_path, disk=(tmp_path / full, size))
    if status == processes.NOT_ALLOWED:
        pytest.skip("mounting a file system needs root or user namespaces on Linux")
    assert status == 1
    assert len(process.err.splitlines()) == 1
    assert process.err.startswith("tfserve: cannot write ")
    assert "No space left on device" in process.err
    assert "free some space or choose another disk [storage.write]" in process.err
    left = [name for name in process.left if not name.startswith("tensorboard/")]
    assert left == []


def test_a_model_that_cannot_be_replaced_stays_as_it_was(
    encoder: Path, data: Path, tmp_path: Path
) -> None:
    run(encoder, data, tmp_path, max_steps=2)
    before = {
        path.relative_to(tmp_path / "model"): path.read_bytes()
        for path in (tmp_path / "model").rglob("*")
        if path.is_file()
    }
    largest = max((len(content), name) for name, content in before.items())
    assert largest[1] == Path("model.safetensors")
    hp = tiny.hparams("classif", encoder, max_steps=2, seed=3)
    status, process = _train_in_process(hp, data, tmp_path, file_limit=largest[0] - 1)
    assert status == 1
    assert "[storage.write]" in process.err
    after = {
        path.relative_to(tmp_path / "model"): path.read_bytes()
        for path in (tmp_path / "model").rglob("*")
        if path.is_file()
    }
    assert after == before
    assert len(tfserve.load(tmp_path / "model").predict(["great coffee"])) == 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("task", ["classif", "ner"])
def test_nothing_is_dropped_in_training(
    task: str, family: str, pretrained: PretrainedFolder
) -> None:
    fitted = get(task).fit([["O", "B-a"], ["B-b"]] if task == "ner" else ["a", "b"])
    model = Pretrained.find(str(pretrained(family))).model(fitted, use_bbox=False).train()
    ids = torch.arange(5, 15).reshape(1, 10)
    once, again = (model(ids).logits.detach().numpy() for _ in "ab")
    assert np.array_equal(once, again)


def test_a_model_of_the_hub_says_what_it_was(
    encoder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained_module, "_download", {"an-org/a-model": encoder}.__getitem__)
    assert Pretrained.find(str(encoder)).hub_id is None
    hp = tiny.hparams("classif", encoder, model_name="an-org/a-model", max_steps=2)
    tfserve.train(hp, train_dir=data, model_dir=tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "tfserve.json").read_text("utf-8"))
    assert manifest["base_model"] == "an-org/a-model"
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "\nbase_model: an-org/a-model\n" in card


@pytest.mark.parametrize("family", ["bert", "distilbert", "layoutlm"])
def test_nothing_is_dropped_where_a_config_leaves_the_share_out(
    family: str, tmp_path: Path
) -> None:
    folder = tiny.model(tmp_path / "encoder", family)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    left = {name: value for name, value in config.items() if "dropout" not in name}
    assert left.keys() < config.keys()
    (folder / "config.json").write_text(json.dumps(left), "utf-8")
    fitted = get("classif").fit(["a", "b"])
    model = Pretrained.find(str(folder)).model(fitted, use_bbox=False)
    dropped = {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert dropped and not any(dropped.values())


def test_nothing_is_dropped_where_a_config_has_the_share_as_an_integer(tmp_path: Path) -> None:
    source = Pretrained.find(str(tiny.model(tmp_path / "encoder", hidden_dropout_prob=1)))
    assert type(source.config["hidden_dropout_prob"]) is int
    model = source.model(get("classif").fit(["a", "b"]), use_bbox=False)
    assert model.config.hidden_dropout_prob == 0


def test_the_scale_of_losses_in_fp16_is_resumed(
    encoder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scaled(Processes):
        """As accelerate sets fp16 up on a GPU: here the scale doubles with every step."""

        def __init__(self, precision: str) -> None:
            super().__init__(precision)
            scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
            self.accelerator.scaler = scaler

    def scale(step: int) -> float:
        state = tmp_path / "checkpoints" / f"checkpoint-{step}" / "state.json"
        return float(json.loads(state.read_text("utf-8"))["content"]["loss_scale"]["scale"])

    monkeypatch.setattr(loop, "Processes", Scaled)
    hp = {"max_steps": 4, "save_steps": 1, "eval_steps": 4}
    run(encoder, data, tmp_path, **hp)
    assert (scale(3), scale(4)) == (8 * 2**3, 8 * 2**4)
    first = weights(tmp_path / "model")
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-4")
    run(encoder, data, tmp_path, **hp)
    assert scale(4) == 8 * 2**4
    assert same(weights(tmp_path / "model"), first)
