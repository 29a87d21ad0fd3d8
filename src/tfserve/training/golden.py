"""Golden records: a few of dev, answered again wherever the model is loaded."""

from __future__ import annotations

from typing import Any

from tfserve.predictor import Predictor
from tfserve.records import Record
from tfserve.tables import Table

RECORDS, WORDS = 4, 64
"""How many there are, and of how many words at the most where dev has such."""


def golden(predictor: Predictor, dev: Table) -> list[dict[str, Any]]:
    """Records with their answers, all scores given, as the manifest keeps them."""
    short = [record for record in dev.records if len(record.spans) <= WORDS] or dev.records
    bare = [Record(record.text, record.given, record.bbox) for record in short[:RECORDS]]
    answers = predictor.predict(bare, predictor.task.all_scores)
    pairs = zip(bare, answers, strict=True)
    return [{"record": _raw(record), "answer": answer} for record, answer in pairs]


def _raw(record: Record) -> dict[str, Any]:
    raw: dict[str, Any] = {"text": record.text} if record.given is None else {"words": record.given}
    return raw if record.bbox is None else {**raw, "bbox": record.bbox.tolist()}
