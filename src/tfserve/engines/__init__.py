"""Engines: what turns a batch into logits. Adding an engine is adding one file to this folder.

A file named after the engine has a function ``load(folder, precision) -> Engine``. It is imported
only when that engine is asked for, so that serving needs nothing of the engines it does not use.

``torch`` runs the weights of a model directory as they are. An engine that runs a graph made of
them has a function ``convert(model, example, target)`` as well, which writes the graph into the
folder ``target``, from which it is loaded.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from tfserve.batching import Batch
from tfserve.errors import InstallError, ModelError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")

DEFAULT, FASTER = "torch", ("openvino", "onnx")
"""What runs every model, and what is preferred on a CPU where it can be."""


class Engine(Protocol):
    """A loaded model.

    Attributes
    ----------
    name : as users write it
    lanes : how many batches it runs fastest at a time, each from a thread of its own
    budget : padded tokens in a batch of best throughput
    precision : the number format of its matrix products: fp32, bf16, fp16 or int8
    """

    name: str
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


def find(name: str) -> Any:
    """The module of an engine. Raises ModelError for an unknown one, InstallError."""
    if name not in names():
        raise ModelError(
            "model.engine", f"found engine {name!r}; expected one of {', '.join(names())}"
        )
    return importlib.import_module(f"{__name__}.{name}")


def load(name: str, folder: Path, precision: str = "auto") -> Engine:
    """Load what the engine runs: the model directory ``folder``, or the folder of a graph.

    Raises
    ------
    ModelError
        The engine or the precision is unknown, or there is nothing that it can run.
    InstallError
        The engine is not installed.
    """
    module = find(name)
    if precision not in PRECISIONS:
        raise ModelError(
            "model.precision", f"found {precision!r}; expected one of {', '.join(PRECISIONS)}"
        )
    engine: Engine = module.load(folder, precision)
    return engine


def runs_graphs(name: str) -> bool:
    """Whether an engine runs a graph that is made of the weights, and not those themselves."""
    return hasattr(find(name), "convert")


def candidates(stored: Set[str], *, weights: bool, converting: bool) -> list[str]:
    """The engines that can run a model here, the best first; never empty.

    Parameters
    ----------
    stored : engines whose graph is at hand
    weights : whether those of torch are at hand
    converting : whether a graph may be made of them; it takes some seconds
    """
    possible = [*stored, *FASTER[:1]] if converting and weights else [*stored]
    wanted = [name for name in FASTER if name in possible]
    if weights and wanted and _gpu():
        wanted = []
    found = [name for name in wanted if _installed(name)]
    if weights:
        found.append(DEFAULT)
    return found or wanted[:1] or [DEFAULT]


@functools.cache
def cores() -> int:
    """Physical cores that this process may use: two threads of one gain nothing by products."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    found = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        found.add(siblings.read_text("utf-8") if siblings.is_file() else str(cpu))
    return len(found)


def _installed(name: str) -> bool:
    try:
        find(name)
    except InstallError:
        return False
    return True


def _gpu() -> bool:
    """Whether torch has a GPU; it is not imported to find none on a Linux without its device."""
    if sys.platform == "linux" and not Path("/dev/nvidiactl").exists():
        return False
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())
