"""Engines: what turns a batch into logits. Adding an engine is adding one file to this folder, and
to ``FASTER`` where ``auto`` shall prefer it.

A file named after the engine has a function ``load(folder, precision) -> Engine``. It is imported
only when that engine is asked for, so that serving needs nothing of the engines it does not use.

``torch`` runs the weights of a model directory as they are. An engine that runs a graph made of
them has a function ``convert(model, example, target)`` as well, which writes the graph into the
folder ``target``, from which it is loaded.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import os
import pkgutil
import sys
import timeit
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from tfserve.batching import Batch
from tfserve.errors import ModelError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")

DEFAULT = "torch"
"""What runs every model."""

FASTER = {"openvino": "openvino", "onnx": "onnxruntime"}
"""What is preferred on a CPU, the best first, and the package that it needs."""

CPU_BUDGET = 512
"""Padded tokens in a batch of best throughput on a CPU."""

GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""NVIDIA's on Linux and on Windows' Linux, and AMD's: without one torch has no GPU there."""


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

    def rounded(self, length: int) -> int:
        """The length to which it wants a batch of this length padded."""

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


def candidates(stored: Set[str], *, weights: bool) -> list[str]:
    """The engines that can run a model here, the best first; never empty.

    Parameters
    ----------
    stored : engines whose graph is at hand
    weights : whether those of torch are at hand
    """
    wanted = [name for name in FASTER if name in stored]
    if weights and wanted and may_have_gpu() and _torch_has_gpu():
        wanted = []
    found = [name for name in wanted if installed(name)]
    if weights:
        found.append(DEFAULT)
    # Where none is installed, the error of the one that is wanted says so.
    return found or wanted[:1] or sorted(stored)[:1] or [DEFAULT]


def installed(name: str) -> bool:
    """Whether an engine of ``FASTER`` is; it is not imported to see."""
    return importlib.util.find_spec(FASTER[name]) is not None


def may_have_gpu() -> bool:
    """False if there can be none, so that torch, which takes seconds to import, is not asked."""
    return sys.platform != "linux" or any(Path(device).exists() for device in GPU_DEVICES)


def _torch_has_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def gains(fp32: Callable[[], object], other: Callable[[], object]) -> bool:
    """Whether the same product is clearly faster in another precision, by a fifth.

    Measured, because a processor's flags do not tell: with AVX512-BF16 an AMD EPYC gains by bf16,
    while an Intel Xeon without AMX loses.
    """
    rounds = [(timeit.timeit(fp32, number=1), timeit.timeit(other, number=1)) for _ in range(6)]
    slow, fast = map(min, zip(*rounds, strict=True))
    return bool(slow > 1.2 * fast)


@functools.cache
def cores() -> int:
    """Physical cores that this process may use: two threads of one gain nothing by products.

    No more than a container's quota, and than OMP_NUM_THREADS, which torch obeys as well.
    """
    limits = [_physical_cores()]
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        most, _, period = quota.read_text("utf-8").partition(" ")
        if most != "max":
            limits.append(math.ceil(int(most) / int(period)))
    if (told := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        limits.append(int(told))
    return max(1, min(limits))


def _physical_cores() -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    found = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        found.add(siblings.read_text("utf-8") if siblings.is_file() else str(cpu))
    return len(found)
