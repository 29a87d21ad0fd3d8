"""Models of every task that were trained once, for the tests of what is done with them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tfserve.predictor import Predictor, load
from tfserve.training import train

KINDS = ("classif", "multilabel-classif", "ner", "regression", "boxed ner")
METRIC = {"classif": "f1_macro", "multilabel-classif": "f1_micro", "ner": "f1", "regression": "r2"}


@dataclass(frozen=True)
class Ready:
    """A trained model, its tables and what its training returned."""

    task: str
    boxed: bool
    data: Path
    model: Path
    output: Path
    metrics: dict[str, Any]


@functools.cache
def ready(kind: str) -> Ready:
    """The model of a task, or of ``boxed ner``, that has learned its rows; it is shared."""
    boxed, task = kind.startswith("boxed "), kind.removeprefix("boxed ")
    folder = _folder() / kind.replace(" ", "-")
    family = "layoutlm" if boxed else "bert"
    pretrained = tiny.model(folder / "pretrained", family, initializer_range=0.1)
    data = tiny.data(folder / "data", task, boxed)
    settings = {
        "max_steps": 60,
        "eval_steps": 30,
        "learning_rate": 5e-3,
        "per_device_train_batch_size": 8,
        "use_bbox": boxed,
    }
    with one_core():
        metrics = train(
            tiny.hparams(task, pretrained, **settings),
            train_dir=data,
            model_dir=folder / "model",
            output_dir=folder / "output",
        )
    return Ready(task, boxed, data, folder / "model", folder / "output", metrics)


@functools.cache
def predictor(kind: str) -> Predictor:
    """The predictor of that model, in fp32 and on one core."""
    with one_core():
        return load(ready(kind).model, precision="fp32")


def about(value: Any) -> Any:
    """``value`` to compare with: numbers may differ as much as the shape of a batch makes them."""
    if isinstance(value, dict):
        return {key: about(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [about(inner) for inner in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Inside, torch uses one core: more are slower for tiny models where others run too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tfserve-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
