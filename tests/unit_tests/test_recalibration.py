"""Temperatures and thresholds that are fitted to a trained model anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click.testing
import pytest
import ready
import tiny

import tfserve
from tfserve import artifact
from tfserve.artifact import TOLERANCE
from tfserve.cli import cli
from tfserve.errors import DataError, HParamsError
from tfserve.predictor import golden_distance
from tfserve.tables import read_table
from tfserve.training.recalibration import calibrate


def copied(kind: str, folder: Path) -> Path:
    """The directory of a model, to be changed."""
    return shutil.copytree(ready.ready(kind).model, folder / "model")


def state(model: Path) -> dict[str, Any]:
    """What its manifest holds of its task."""
    return artifact.load(model).manifest.task_state


@pytest.mark.parametrize("kind", ["classif", "multilabel-classif", "ner", "boxed ner"])
def test_on_the_dev_of_its_training_a_model_stays_what_it_is(kind: str, tmp_path: Path) -> None:
    model, made = copied(kind, tmp_path), ready.ready(kind)
    before = artifact.load(model).manifest
    found = calibrate(model, made.data / "dev.csv")
    after = artifact.load(model).manifest
    assert after.task_state == ready.about(before.task_state)
    assert after.files == before.files and after.history == before.history
    assert after.data == before.data and after.hparams == before.hparams
    assert after.metrics["dev"] == ready.about(before.metrics["dev"])
    assert golden_distance(tfserve.load(model, precision="fp32")) <= TOLERANCE["fp32"]
    assert found.known_as == "dev"


def test_a_model_is_given_another_aim(tmp_path: Path) -> None:
    model = copied("multilabel-classif", tmp_path)
    dev = ready.ready("multilabel-classif").data / "dev.csv"
    before = state(model)["thresholds"]
    found = calibrate(model, dev, threshold_for="recall>=0.95")
    manifest = artifact.load(model).manifest
    assert manifest.task_state["thresholds"] != before
    assert manifest.hparams["threshold_for"] == "recall>=0.95"
    table = read_table(dev, type(found.task))
    answers = tfserve.load(model, precision="fp32").predict(table.records)
    assert answers == ready.about(found.answers)
    hits = sum(
        len(set(a["pred"]) & set(gold)) for a, gold in zip(answers, table.labels, strict=True)
    )
    assert hits >= 0.95 * sum(map(len, table.labels))


def test_what_was_chosen_can_be_taken_back(tmp_path: Path) -> None:
    model, dev = copied("classif", tmp_path), ready.ready("classif").data / "dev.csv"
    calibrate(model, dev, abstain=0.99999)
    assert state(model)["abstain"] == 0.99999
    texts = read_table(dev, tfserve.tasks.get("classif")).records
    assert any(a["pred"] is None for a in tfserve.load(model, precision="fp32").predict(texts))
    calibrate(model, dev, abstain="none")
    assert state(model)["abstain"] is None


def test_card_and_reports_are_those_of_the_new_thresholds(tmp_path: Path) -> None:
    model, dev = copied("classif", tmp_path), ready.ready("classif").data / "dev.csv"
    file = model / artifact.MANIFEST
    told = json.loads(file.read_text("utf-8"))
    told["hparams"] |= {"report": True, "of_an_older_version": 3}
    file.write_text(json.dumps(told), "utf-8")
    (model / "report").mkdir()
    (model / "report" / "test.html").write_text("of other thresholds", "utf-8")
    calibrate(model, dev, abstain=0.6)
    assert [path.name for path in (model / "report").iterdir()] == ["dev.html"]
    assert "It gives no label where it is too unsure" in (model / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("kind", "split", "chosen", "code"),
    [
        ("classif", "train", {}, "data.problems"),
        ("classif", "dev", {"abstain": 2}, "hparams.invalid"),
        ("classif", "dev", {"max_length": 8}, "hparams.value"),
        ("classif", "dev", {"threshold_for": "f1"}, "hparams.value"),  # there are four labels
        ("regression", "dev", {}, "hparams.value"),
        ("ner", "dev", {"threshold_for": "f1"}, "hparams.value"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    kind: str, split: str, chosen: dict[str, Any], code: str, tmp_path: Path
) -> None:
    model = copied(kind, tmp_path)
    before = {file: file.read_bytes() for file in model.rglob("*") if file.is_file()}
    with pytest.raises((DataError, HParamsError)) as raised:
        calibrate(model, ready.ready(kind).data / f"{split}.csv", **chosen)
    assert raised.value.code == code
    assert {file: file.read_bytes() for file in model.rglob("*") if file.is_file()} == before


def test_the_command_says_how_good_the_model_is_now(tmp_path: Path) -> None:
    model = copied("classif", tmp_path)
    rows = tiny.rows("classif", 12)
    file = tiny.table(tmp_path / "later.csv", rows, ("text", "labels"))
    arguments = ["calibrate", str(model), str(file), "--abstain", "0.6"]
    done = click.testing.CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "dev: accuracy" in done.output and "coverage" in done.output
    manifest = json.loads((model / "tfserve.json").read_text("utf-8"))
    assert manifest["data"]["dev"]["rows"] == 12 and manifest["hparams"]["abstain"] == 0.6
