"""Engines: what turns a batch into logits. Adding an engine is adding one file to this folder.

A file named after the engine has a function ``load(folder, precision) -> Engine``. It is imported
only when that engine is asked for, so that serving needs nothing of the engines it does not use.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from tfserve.batching import Batch
from tfserve.errors import ModelError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


class Engine(Protocol):
    """A loaded model.

    Attributes
    ----------
    lanes : how many batches it runs fastest at a time, each from a thread of its own
    budget : padded tokens in a batch of best throughput
    precision : the number format of its matrix products: fp32, bf16 or fp16
    """

    lanes: int
    budget: int
    precision: str

    def run(self, batch: Batch, *, alone: bool = True) -> npt.NDArray[Any]:
        """Logits in float32: ``(rows, labels)``, or ``(rows, length, labels)`` per token.

        ``alone`` says that no other lane is running, so that this batch may have all cores.
        """


def names() -> list[str]:
    """The names of the engines there are."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def load(name: str, folder: Path, precision: str = "auto") -> Engine:
    """Load the model in ``folder``. Raises ModelError for an unknown engine or precision."""
    if name not in names():
        raise ModelError(
            "model.engine", f"found engine {name!r}; expected one of {', '.join(names())}"
        )
    if precision not in PRECISIONS:
        raise ModelError(
            "model.precision", f"found {precision!r}; expected one of {', '.join(PRECISIONS)}"
        )
    engine: Engine = importlib.import_module(f"{__name__}.{name}").load(folder, precision)
    return engine
