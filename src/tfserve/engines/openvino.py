"""The OpenVINO engine: the model as one graph, its small operations fused. For CPUs.

It beats torch most where batches are small or in bf16, because torch pays for every operation that
it does not fuse. A batch that comes alone runs on one stream of all cores, others on a stream per
core (https://docs.openvino.ai, "Performance Hints and Thread Scheduling").
"""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from tfserve import engines
from tfserve.batching import Batch, arguments
from tfserve.errors import ModelError, missing_extra, one_line

# It would tell its makers of every import and conversion, and has no switch to forbid it; without
# the package it does without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
try:
    import openvino
    from openvino import opset13
except ImportError as error:
    raise missing_extra(error.name or "openvino", "openvino") from None

GRAPH = "model.xml"
STEPS = {16: 2, 32: 4, 128: 8}
"""Up to so many tokens, lengths are padded to a multiple of this, longer ones to one of 16. Each
shape that is new costs some milliseconds and memory for its code, so there must not be too many."""

HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """Runs batches through a graph.

    Parameters
    ----------
    graph : with the inputs of ``Batch`` and the logits as its one output
    precision : fp32 or bf16, of what is not quantised
    """

    name, budget = "openvino", engines.CPU_BUDGET

    def __init__(self, graph: openvino.Model, precision: str) -> None:
        self.precision = "int8" if _quantized(graph) else precision
        self.lanes = engines.cores()
        self._graph, self._hint = graph, HINTS[precision]
        self._alone = self._compile(1)  # raises where the processor lacks the precision
        self._beside: SimpleQueue[Any] | None = None
        self._compiling = threading.Lock()

    def rounded(self, length: int) -> int:
        step = next((step for most, step in STEPS.items() if length <= most), 16)
        return -(-length // step) * step

    def run(self, batch: Batch, *, alone: bool = True) -> npt.NDArray[Any]:
        idle = self._alone if alone or self.lanes == 1 else self._lanes()
        request = idle.get()
        try:
            return np.asarray(request.infer(arguments(batch), share_inputs=True)[0])
        finally:
            idle.put(request)

    def _lanes(self) -> SimpleQueue[Any]:
        """Made when there is more than one batch first: they hold the weights once more."""
        with self._compiling:
            if self._beside is None:
                self._beside = self._compile(self.lanes)
            return self._beside

    def _compile(self, streams: int) -> SimpleQueue[Any]:
        """The requests that wait for work, one a stream."""
        options = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(self.lanes),
            "ENABLE_CPU_PINNING": "NO",  # there are two sets of streams, and other processes
        }
        compiled = _core().compile_model(self._graph, "CPU", options)
        if str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()) != self._hint:
            raise ModelError(
                "model.precision", f"found {self._hint}, which this processor lacks; expected auto"
            )
        idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            idle.put(compiled.create_infer_request())
        return idle


def load(folder: Path, precision: str = "auto") -> OpenVinoEngine:
    """Load the graph in ``folder``."""
    if precision == "fp16":
        raise ModelError("model.precision", "found fp16 for openvino; expected auto, bf16 or fp32")
    try:
        graph = _core().read_model(folder / GRAPH)
        if _quantized(graph) and precision != "auto":
            raise ModelError(
                "model.precision", f"found {precision} for a graph in int8; expected auto"
            )
        if precision == "auto":
            precision = "bf16" if _gains_by_bf16() else "fp32"
        return OpenVinoEngine(graph, precision)
    except RuntimeError as error:
        raise ModelError(
            "model.graph",
            f"openvino cannot load {folder / GRAPH}: {one_line(error)}; export it again",
        ) from None


def convert(model: Any, example: Mapping[str, Any], target: Path) -> None:
    """Write the graph of ``model``, traced with the tensors of ``example``, into ``target``."""
    graph = openvino.convert_model(model, example_input=dict(example))
    save(graph, target)


def quantize(graph: Path, batches: Iterable[Batch], target: Path) -> None:
    """Write ``graph`` with products in int8, calibrated on ``batches``, into ``target``.

    After Xiao et al., "SmoothQuant" (2023), as nncf has it. Raises InstallError without nncf.
    """
    try:
        import nncf
    except ImportError as error:
        raise missing_extra(error.name or "nncf", "export") from None
    fed = [arguments(batch) for batch in batches]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = nncf.quantize(
            _core().read_model(graph / GRAPH),
            nncf.Dataset(fed),
            subset_size=len(fed),
            model_type=nncf.ModelType.TRANSFORMER,
        )
    save(quantized, target)


def save(graph: openvino.Model, target: Path) -> None:
    """Write a graph in full precision."""
    openvino.save_model(graph, target / GRAPH, compress_to_fp16=False)


def _quantized(graph: openvino.Model) -> bool:
    return bool(graph.has_rt_info(["nncf", "quantization"]))


@functools.cache
def _core() -> openvino.Core:
    return openvino.Core()


@functools.cache
def _gains_by_bf16() -> bool:
    """Whether this CPU multiplies matrices in bf16 clearly faster than in fp32."""
    if "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    tokens = opset13.parameter([256, 384], np.float32)
    weights = opset13.constant(np.ones((384, 1536), np.float32))
    graph = openvino.Model([opset13.matmul(tokens, weights, False, False)], [tokens], "product")
    options = {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
    requests = [
        _core()
        .compile_model(graph, "CPU", {**options, "INFERENCE_PRECISION_HINT": hint})
        .create_infer_request()
        for hint in (HINTS["fp32"], HINTS["bf16"])
    ]
    values = np.ones((256, 384), np.float32)
    fp32, bf16 = (functools.partial(request.infer, [values]) for request in requests)
    return engines.gains(fp32, bf16)
