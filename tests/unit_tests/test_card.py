"""The model card: what it says of a model, and that it says it only where it is so."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import Trained
from test_report import evaluated, made_up, numbered

import tfserve
from tfserve import tasks
from tfserve.artifact import Manifest
from tfserve.errors import InstallError
from tfserve.evaluation import Evaluation, evaluate
from tfserve.hparams import HParams
from tfserve.records import Record
from tfserve.tables import Row, Table, find_files, read_tables
from tfserve.training import card, results

MANIFEST = Manifest(
    task="classif",
    task_state={"labels": ["a", "b"]},
    model_type="bert",
    pad_token_id=0,
    max_length=48,
    stride=12,
    golden=[{"record": {"text": "late"}, "answer": {"pred": "a"}}] * 7,
    data={
        "train": {"rows": 1234, "fingerprint": "0123456789abcdef" * 4, "labels": {"a": 1000, "": 2}}
    },
    versions={"tfserve": "1.2.3"},
    hparams={"model_name": "/a/folder/of/mine"},
)


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return made_up(2, 20)


def told(manifest: Manifest, reported: bool = True, **splits: Evaluation) -> str:
    """The card's text, without what stands before it for the hub."""
    return card.text(manifest, splits, reported=reported).split("---\n", 2)[2]


def test_a_card_says_what_the_model_is_and_was_made_of(found: Evaluation) -> None:
    text = told(MANIFEST, dev=found)
    assert text.startswith("\n# A model for classif\n\n")
    assert "An encoder of the family `bert` fine-tuned for `classif` with tfserve 1.2.3." in text
    assert "\n| train | 1,234 | `0123456789abcdef` |\n" in text
    assert "\n- `a`: 1,000\n- `(no type)`: 2\n" in text


def test_a_card_says_how_much_the_model_reads(found: Evaluation) -> None:
    limits = "Limits: it reads 48 tokens at a time; a longer text is {}.\n".format
    truncated = limits("truncated, and the answer says so")
    windows = limits("read in overlapping windows")
    assert truncated in told(MANIFEST, dev=found)
    text = told(replace(MANIFEST, long_text="window"), dev=found)
    assert windows in text and truncated not in text
    words: Any = tasks.get("ner").fit([("B-X", "O")])
    tagged = evaluated(words, [("Ann left", ("B-X", "O"))], [{"pred": ["B-X", "O"]}])
    tagged = replace(tagged, intervals=dict.fromkeys(words.metric_names, (0.0, 1.0)))
    assert windows in told(replace(MANIFEST, task="ner"), dev=tagged)


def test_a_card_says_which_figures_to_go_by(found: Evaluation) -> None:
    alone, both = told(MANIFEST, dev=found), told(MANIFEST, dev=found, test=found)
    accuracy, (low, high) = found.metrics["accuracy"], found.intervals["accuracy"]
    value = f"{accuracy:.3f} ({low:.3f} to {high:.3f})"
    assert f"| metric | dev |\n| --- | --- |\n| accuracy | {value} |\n" in alone
    head = "| metric | dev | test |\n| --- | --- | --- |\n"
    assert f"{head}| accuracy | {value} | {value} |\n" in both
    assert card.CAVEAT in alone and card.CAVEAT in both
    assert "Test is what to go by." in both and "Test is what to go by." not in alone


@pytest.mark.parametrize(
    ("count", "more"), [(100, None), (101, "- … 1 more"), (130, "- … 30 more")]
)
def test_a_card_lists_a_hundred_labels(count: int, more: str | None, found: Evaluation) -> None:
    train = {**MANIFEST.data["train"], "labels": {f"l{i:03d}": 5 for i in range(count)}}
    text = told(replace(MANIFEST, data={"train": train}), dev=found)
    listed = [line for line in text.splitlines() if line.startswith("- ")]
    assert listed == [*(f"- `l{i:03d}`: 5" for i in range(100)), *([more] if more else [])]


def test_a_card_shows_how_the_model_is_called(found: Evaluation) -> None:
    plain, boxed = 'predictor.predict(["A text."])', '"bbox": [[70, 80, 160, 95]'
    text = told(MANIFEST, dev=found)
    assert plain in text and "bbox" not in text
    text = told(replace(MANIFEST, use_bbox=True), dev=found)
    assert boxed in text and plain not in text


def test_a_card_says_which_texts_of_others_it_is_shared_with(found: Evaluation) -> None:
    golden = "`tfserve.json` holds 7 texts of dev with their answers"
    report = "and `report/` shows texts of dev and test"
    text = " ".join(told(MANIFEST, dev=found, test=found).split())
    assert golden in text and f"itself, {report}." in text
    assert "shows texts of dev." in told(MANIFEST, dev=found)
    text = " ".join(told(MANIFEST, reported=False, dev=found, test=found).split())
    assert golden in text and "checks itself." in text and "report/" not in text


def test_a_card_says_how_true_the_probabilities_are(found: Evaluation) -> None:
    said = "Expected calibration error of its probabilities: "
    error, chance = found.metrics["ece"], found.metrics["ece_chance"]
    figures = f"{error:.3f} on {{}} ({chance:.3f} would be chance)".format
    dev, test = figures("dev"), figures("test")
    assert f"{said}{dev}.\n" in told(MANIFEST, dev=found)
    assert f"{said}{dev}, {test}.\n" in told(MANIFEST, dev=found, test=found)
    numbers = numbered([1, 2, 3], [1, 2, 4])
    numbers = replace(numbers, intervals=dict.fromkeys(numbers.task.metric_names, (0.0, 1.0)))
    assert "alibration" not in told(replace(MANIFEST, task="regression"), dev=numbers)


def test_a_card_says_how_often_the_model_gives_no_label(found: Evaluation) -> None:
    unsure = made_up(3, 300, abstain=0.95)
    share, right = unsure.metrics["coverage"], unsure.metrics["accuracy_answered"]
    said = f"{share:.1%} of dev answered, of these {right:.1%} right.\n"
    assert f"It gives no label where it is too unsure: {said}" in told(MANIFEST, dev=unsure)
    assert "too unsure" not in told(MANIFEST, dev=found)


def test_a_card_is_in_the_hub_s_format(trained: Trained) -> None:
    from huggingface_hub import ModelCard

    loaded = ModelCard.load(trained("ner") / "README.md")
    assert loaded.data.pipeline_tag == "token-classification"
    assert {result.metric_type for result in loaded.data.eval_results} >= {"f1", "word_accuracy"}
    assert "tfserve" in loaded.data.tags and "base_model" not in loaded.data.to_dict()


@pytest.mark.parametrize("fails", [False, True])
def test_a_card_names_reports_that_were_written(
    fails: bool, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: Any) -> None:
        raise InstallError("install.missing_extra", "matplotlib is not installed")

    model = shutil.copytree(trained("classif"), tmp_path / "model")
    folder = tiny.data(tmp_path / "data", "classif")
    data = read_tables(find_files({"train": folder}), tasks.get("classif"))
    hp = HParams.parse({"task_name": "classif", "model_name": "x", "precision": "fp32"})
    if fails:
        monkeypatch.setattr(results, "_reports", absent)
    (model / "README.md").unlink()
    (tmp_path / "output").mkdir()
    results.write(model, tmp_path / "output", data, hp)
    assert ("`report/`" in (model / "README.md").read_text("utf-8")) is not fails
    assert (tmp_path / "output" / "report").is_dir() is not fails


@pytest.mark.parametrize("name", ["bert-base-uncased", "answerdotai/ModernBERT-base"])
def test_a_card_names_a_public_encoder(name: str, trained: Trained) -> None:
    predictor = tfserve.load(trained("classif"))
    assert predictor.artifact is not None
    manifest = predictor.artifact.manifest
    assert manifest.base_model is None  # it was made from a folder
    table = Table("dev.csv", (Row(Record("a text"), predictor.task.labels[0], 2),))
    found = {"dev": evaluate(predictor, table)}
    public = replace(manifest, base_model=name)
    text = card.text(public, found, reported=False)
    assert f"base_model: {name}" in text.split("---")[1]
    assert f"`{name}` fine-tuned for" in text
    folder = replace(manifest, hparams={**manifest.hparams, "model_name": name})
    assert name not in card.text(folder, found, reported=False)


def test_a_card_shows_labels_as_they_are(found: Evaluation) -> None:
    labels = {"a`b": 1_234_567, "c\n# d": 2, "``": 0.25}
    text = told(
        replace(MANIFEST, data={"train": {**MANIFEST.data["train"], "labels": labels}}), dev=found
    )
    assert "\n- `` a`b ``: 1,234,567\n- `c # d`: 2\n- ``` `` ```: 0.25\n" in text
