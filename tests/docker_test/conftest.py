"""The five kinds of models that every surface must serve alike, and what they are asked."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit_tests"))  # for the tiny models

import tiny  # noqa: E402
from cloud import Cloud, cloud  # noqa: E402

import tfserve  # noqa: E402
from tfserve.predictor import Predictor  # noqa: E402

KINDS = ("classif", "multilabel-classif", "ner", "regression", "boxed ner")


@dataclass(frozen=True)
class Served:
    """A model that was trained here, records for it and their answers in Python.

    Attributes
    ----------
    answers : to ``records`` without parameters
    scored : the same with all scores that the task has
    """

    kind: str
    model: Path
    predictor: Predictor
    records: list[dict[str, Any]]
    answers: list[dict[str, Any]]
    scored: list[dict[str, Any]]

    @property
    def parameters(self) -> dict[str, Any]:
        return self.predictor.task.all_scores


def difference(one: Any, other: Any) -> float:
    """The largest difference of a number in two JSON values; infinite where else they differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    return 0.0 if one == other else math.inf


def records(kind: str) -> list[dict[str, Any]]:
    """Short and long ones, with a key that comes back."""
    boxed = kind.startswith("boxed ")
    columns = ("text", "bbox") if boxed else ("text",)
    rows = tiny.rows(kind.removeprefix("boxed "), 12, boxed)
    made: list[dict[str, Any]] = [dict(zip(columns, row, strict=False)) for row in rows]
    long_text: dict[str, Any] = {"text": "parcel and invoice " * 60}
    if boxed:
        long_text["bbox"] = "1 2 3 4 " * 180
    return [{**record, "id": i} for i, record in enumerate([*made, long_text])]


def hyperparameters(kind: str, pretrained: Path | str) -> dict[str, Any]:
    """Of a short run that learns something."""
    task = kind.removeprefix("boxed ")
    return tiny.hparams(
        task, Path(pretrained), max_steps=40, eval_steps=20, learning_rate=4e-3,
        use_bbox=kind.startswith("boxed "),
    )  # fmt: skip


def sources(kind: str, folder: Path) -> tuple[Path, Path]:
    """A tiny pretrained model and tables for it."""
    boxed = kind.startswith("boxed ")
    family = "layoutlm" if boxed else "bert"
    return (
        tiny.model(folder / "pretrained", family, initializer_range=0.1),
        tiny.data(folder / "data", kind.removeprefix("boxed "), boxed),
    )


@pytest.fixture(scope="session", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    kind = request.param
    folder = tmp_path_factory.mktemp(kind.replace(" ", "-"))
    pretrained, data = sources(kind, folder)
    hparams = hyperparameters(kind, pretrained)
    tfserve.train(hparams, train_dir=data, model_dir=folder / "model")
    return answered(kind, folder / "model")


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A stand-in for AWS."""
    with cloud(tmp_path_factory.mktemp("cloud")) as found:
        yield found


def answered(kind: str, model: Path) -> Served:
    """A model directory with the answers that this Python gives."""
    predictor, asked = tfserve.load(model, precision="fp32"), records(kind)
    return Served(
        kind,
        model,
        predictor,
        asked,
        predictor.predict(asked),
        predictor.predict(asked, predictor.task.all_scores),
    )
