"""tfserve: fine-tune a Transformer encoder on your table of texts, and serve it anywhere.

    tfserve.train({"task_name": "classif", "model_name": "…"}, train_dir="data", model_dir="model")
    tfserve.load("model").predict(["a text"])

Importing this package costs milliseconds; torch and transformers are imported by what needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tfserve.hparams import HParams
    from tfserve.predictor import Predictor, load
    from tfserve.training import train

_HOMES = {
    "HParams": "tfserve.hparams",
    "Predictor": "tfserve.predictor",
    "TfserveError": "tfserve.errors",
    "load": "tfserve.predictor",
    "train": "tfserve.training",
}

__all__ = ["HParams", "Predictor", "TfserveError", "__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
