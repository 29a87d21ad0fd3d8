"""Smoke tests on real tables: every kind of data trains and is answered, every word tagged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny

import tfserve
from tfserve import tasks
from tfserve.tables import read_table

DATA = Path(os.environ.get("BENCHMARK_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here")

SETS = {
    "hate_vicomtech": "classif",
    "goemotions": "multilabel-classif",
    "csvquoted/goemotions": "multilabel-classif",
    "wnut17": "ner",
    "emobank_valence": "regression",
    "csvquoted/emobank_valence": "regression",
    "sroie": "ner",
}


@pytest.mark.parametrize("name", SETS)
def test_a_tiny_model_trains_on_real_tables_and_answers_every_test_row(
    name: str, tmp_path: Path
) -> None:
    task_name, boxed = SETS[name], name == "sroie"
    encoder = tiny.model(tmp_path / "encoder", "layoutlm" if boxed else "bert")
    hparams = {
        "task_name": task_name,
        "model_name": str(encoder),
        "max_steps": 3,
        "use_bbox": boxed,
        "precision": "fp32",
    }
    metrics = tfserve.train(hparams, train_dir=DATA / name, model_dir=tmp_path / "model")
    task = tasks.get(task_name)
    table = read_table(DATA / name / "test.csv", task, use_bbox=boxed)
    lines = (tmp_path / "model-output" / "test_predictions.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == len(table.rows)
    assert set(metrics["test"]) >= set(task.metric_names)


@pytest.mark.parametrize(("name", "boxed"), [("docbank_samples", True), ("litbank_long", False)])
def test_pages_far_over_the_models_capacity_get_a_tag_for_every_word(
    name: str, boxed: bool, tmp_path: Path
) -> None:
    family = "layoutlm" if boxed else "bert"
    encoder = tiny.model(tmp_path / "encoder", family, max_position_embeddings=512)
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "dev"):  # a few pages are enough to make a model
        lines = (DATA / name / "dev.csv").read_text("utf-8").splitlines(keepends=True)
        (data / f"{split}.csv").write_text("".join(lines[:6]), "utf-8")
    hparams = tiny.hparams("ner", encoder, use_bbox=boxed, max_steps=2)
    tfserve.train(hparams, train_dir=data, model_dir=tmp_path / "model")
    predictor = tfserve.load(tmp_path / "model", precision="fp32")
    longest = 0
    for split in ("train", "dev", "test"):
        table = read_table(DATA / name / f"{split}.csv", tasks.get("ner"), use_bbox=boxed)
        for record, answer in zip(table.records, predictor.stream(table.records), strict=True):
            assert len(answer["pred"]) == len(answer["proba"]) == len(record.words)
            longest = max(longest, len(record.words))
    assert longest == (1237 if boxed else 400)
