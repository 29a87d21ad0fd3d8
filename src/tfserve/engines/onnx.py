"""The ONNX Runtime engine: the model as one graph, in the format that most runtimes read."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfserve import engines
from tfserve.batching import Batch, arguments
from tfserve.errors import ModelError, missing_extra, one_line

try:
    import onnxruntime
except ImportError as error:
    raise missing_extra(error.name or "onnxruntime", "onnx") from None

GRAPH = "model.onnx"


class OnnxEngine:
    """Runs batches through a graph; one session has all cores, the other one for each batch."""

    name, budget, precision = "onnx", engines.CPU_BUDGET, "fp32"

    def __init__(self, graph: Path) -> None:
        self.lanes = engines.cores()
        content = graph.read_bytes()
        self._alone = _session(content, self.lanes)
        self._content = content if self.lanes > 1 else b""
        self._beside: Any = None
        self._making = threading.Lock()

    def rounded(self, length: int) -> int:
        return length

    def run(self, batch: Batch, *, alone: bool = True) -> npt.NDArray[Any]:
        session = self._alone if alone or self.lanes == 1 else self._lane()
        return np.asarray(session.run(None, arguments(batch))[0])

    def _lane(self) -> Any:
        """Made when there is more than one batch first: it holds the weights once more."""
        with self._making:
            if self._beside is None:
                self._beside = _session(self._content, 1)
                self._content = b""
            return self._beside


def load(folder: Path, precision: str = "auto") -> OnnxEngine:
    """Load the graph in ``folder``."""
    if precision not in ("auto", "fp32"):
        raise ModelError(
            "model.precision", f"found {precision} for onnx; expected auto or fp32, or openvino"
        )
    try:
        return OnnxEngine(folder / GRAPH)
    except Exception as error:  # of kinds of its own
        raise ModelError(
            "model.graph",
            f"onnxruntime cannot load {folder / GRAPH}: {one_line(error)}; export it again",
        ) from None


def convert(model: Any, example: Mapping[str, Any], target: Path) -> None:
    """Write the graph of ``model``, exported with the tensors of ``example``, into ``target``."""
    import torch

    try:
        import onnxscript  # noqa: F401 the exporter's own
    except ImportError as error:
        raise missing_extra(error.name or "onnxscript", "export") from None
    sizes = {0: torch.export.Dim("rows", min=1), 1: torch.export.Dim("length", min=2)}
    torch.onnx.export(
        model, (), str(target / GRAPH), kwargs=dict(example), dynamo=True, verbose=False,
        external_data=False, dynamic_shapes=dict.fromkeys(example, sizes), output_names=["logits"],
    )  # fmt: skip


def _session(graph: bytes, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
