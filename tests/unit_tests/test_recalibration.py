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
from tfserve.errors import TfserveError
from tfserve.evaluation.notes import notes
from tfserve.predictor import golden_distance
from tfserve.tables import read_table
from tfserve.training.recalibration import calibrate


def state(model: Path) -> dict[str, Any]:
    """What its manifest holds of its task."""
    return artifact.load(model).manifest.task_state


def changed(model: Path, folder: Path, **told: Any) -> Path:
    """A copy of a model directory with other things in its manifest."""
    copy = shutil.copytree(model, folder / "changed")
    content = json.loads((copy / artifact.MANIFEST).read_text("utf-8"))
    for name, value in told.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    (copy / artifact.MANIFEST).write_text(json.dumps(content), "utf-8")
    return copy


@pytest.mark.parametrize("kind", ["classif", "multilabel-classif", "ner", "boxed ner"])
def test_on_the_dev_of_its_training_a_model_stays_what_it_is(kind: str, tmp_path: Path) -> None:
    made, output = ready.ready(kind), tmp_path / "new"
    found = calibrate(made.model, made.data / "dev.csv", output)
    before, after = (artifact.load(model).manifest for model in (made.model, output))
    assert after.task_state == ready.about(before.task_state)
    assert after.golden == ready.about(before.golden)
    assert after.files == before.files and after.history == before.history
    assert after.hparams == before.hparams
    told = after.data.pop("calibration")
    assert after.data == before.data and told == before.data["dev"]
    assert after.metrics["calibration"] == ready.about(before.metrics["dev"])
    assert golden_distance(tfserve.load(output, precision="fp32")) <= TOLERANCE["fp32"]
    assert found.known_as == "dev"  # of the training, which chose more by it


def test_a_model_is_given_another_aim(tmp_path: Path) -> None:
    made, output = ready.ready("multilabel-classif"), tmp_path / "new"
    found = calibrate(made.model, made.data / "test.csv", output, threshold_for="recall>=0.95")
    manifest = artifact.load(output).manifest
    assert manifest.task_state["thresholds"] != state(made.model)["thresholds"]
    assert manifest.hparams["threshold_for"] == "recall>=0.95"
    table = found.table
    answers = tfserve.load(output, precision="fp32").predict(table.records)
    assert answers == ready.about(found.answers)
    pairs = zip(answers, table.labels, strict=True)
    hits = sum(len(set(answer["pred"]) & set(gold)) for answer, gold in pairs)
    assert hits >= 0.95 * sum(map(len, table.labels))
    assert "fitted to these very rows" in next(notes(found))


def test_an_aim_can_be_taken_back(tmp_path: Path) -> None:
    made = ready.ready("classif")
    one, other = tmp_path / "one", tmp_path / "other"
    calibrate(made.model, made.data / "test.csv", one, abstain=0.99999)
    assert state(one)["abstain"] == 0.99999
    texts = read_table(made.data / "test.csv", tfserve.tasks.get("classif")).records
    assert any(a["pred"] is None for a in tfserve.load(one, precision="fp32").predict(texts))
    calibrate(one, made.data / "test.csv", other, abstain="none")
    assert state(other)["abstain"] is None


def test_card_and_report_are_those_of_the_new_thresholds(tmp_path: Path) -> None:
    made, output = ready.ready("classif"), tmp_path / "new"
    old = {"report": True, "of_an_older_version": 3}
    model = changed(made.model, tmp_path, hparams=old)
    calibrate(model, made.data / "test.csv", output, abstain=0.6)
    assert [path.name for path in (output / "report").iterdir()] == ["calibration.html"]
    assert artifact.load(output).manifest.hparams["of_an_older_version"] == 3
    card = (output / "README.md").read_text("utf-8")
    assert "It gives no label where it is too unsure" in card
    assert "fitted to the rows of `calibration`" in card
    assert "texts of calibration with their" in card
    assert (output / "code" / "inference.py").is_file()


@pytest.mark.parametrize(
    ("kind", "rows", "chosen", "code"),
    [
        ("classif", "train.csv", {}, "data.problems"),
        ("classif", [("a text", "Delivery"), ("more", "Billing")], {}, "data.problems"),
        ("ner", [("nobody left", "O O")], {}, "data.problems"),
        ("classif", "dev.csv", {"abstain": 2}, "hparams.invalid"),
        ("classif", "dev.csv", {"max_length": 8}, "hparams.value"),
        ("classif", "dev.csv", {"threshold_for": "f1"}, "hparams.value"),  # there are four labels
        ("regression", "dev.csv", {}, "hparams.value"),
        ("ner", "dev.csv", {"threshold_for": "f1"}, "hparams.value"),
    ],
)
def test_what_cannot_be_done_leaves_nothing(
    kind: str, rows: Any, chosen: dict[str, Any], code: str, tmp_path: Path
) -> None:
    made, output = ready.ready(kind), tmp_path / "new"
    file = made.data / rows if isinstance(rows, str) else tmp_path / "rows.csv"
    if not isinstance(rows, str):
        tiny.table(file, rows, ("text", "labels"))
    with pytest.raises(TfserveError) as raised:
        calibrate(made.model, file, output, **chosen)
    assert raised.value.code == code
    assert not [path for path in tmp_path.iterdir() if path != file]


def test_a_model_that_computes_something_else_is_not_fitted(tmp_path: Path) -> None:
    made = ready.ready("classif")
    [first, *others] = artifact.load(made.model).manifest.golden
    scores = dict.fromkeys(first["answer"]["scores"], 0.25)
    wrong = [{**first, "answer": {**first["answer"], "scores": scores}}, *others]
    model = changed(made.model, tmp_path, golden=wrong)
    with pytest.raises(TfserveError, match="does not answer as it did") as raised:
        calibrate(model, made.data / "dev.csv", tmp_path / "new")
    assert raised.value.code == "model.golden"


def test_the_command_says_how_good_the_model_is_now(tmp_path: Path) -> None:
    file = tiny.table(tmp_path / "later.csv", tiny.rows("classif", 12), ("text", "labels"))
    arguments = ["calibrate", str(ready.ready("classif").model), str(file), "--abstain", "0.6"]
    done = click.testing.CliRunner().invoke(cli, [*arguments, "--output", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert "accuracy" in done.output and "coverage" in done.output
    manifest = artifact.load(tmp_path / "new").manifest
    assert manifest.data["calibration"]["rows"] == 12 and manifest.hparams["abstain"] == 0.6
    again = click.testing.CliRunner().invoke(cli, [*arguments, "--output", str(tmp_path / "new")])
    assert again.exit_code == 1 and "expected the name of a new folder" in str(again.exception)
