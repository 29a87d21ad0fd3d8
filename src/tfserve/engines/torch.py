"""The torch engine: runs everywhere, on a GPU where there is one.

On a CPU two batches on one core each finish before the same two on two cores each, one after the
other, because much of a small batch is per-operator overhead. So there is a lane per core, and a
batch that comes alone gets all of them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfserve.batching import Batch, arguments
from tfserve.engines import CPU_BUDGET, gains
from tfserve.errors import ModelError, missing_extra, one_line

try:
    import torch
    import transformers
except ImportError as error:
    raise missing_extra(error.name or "torch", "train") from None

GPU_BUDGET = 16_384
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """Runs batches through a transformers model.

    Parameters
    ----------
    model : a model with a head, in eval mode for serving
    precision : of the matrix products, which the weights have as well unless ``autocast``
    autocast : leave the weights as they are, and cast at each product
    """

    name = "torch"

    def __init__(self, model: Any, *, precision: str = "fp32", autocast: bool = False) -> None:
        self.model, self.precision, self.autocast = model, precision, autocast
        self.device = next(model.parameters()).device
        self.cores = torch.get_num_threads()
        on_cpu = self.device.type == "cpu"
        self.lanes = self.cores if on_cpu else 1
        self.budget = CPU_BUDGET if on_cpu else GPU_BUDGET
        self._thread, self._threads = threading.local(), self.cores

    def rounded(self, length: int) -> int:
        return length

    def run(self, batch: Batch, *, alone: bool = True) -> npt.NDArray[Any]:
        threads = self.cores if alone or self.lanes == 1 else 1
        if getattr(self._thread, "threads", None) != threads or self._threads != threads:
            torch.set_num_threads(threads)  # OpenMP's of the calling thread, MKL's of all
            self._thread.threads = self._threads = threads
        with torch.inference_mode(), self._casting():
            logits = self.model(**tensors(batch, self.device)).logits
            return np.asarray(logits.float().cpu().numpy())

    def _casting(self) -> Any:
        enabled = self.autocast and self.precision != "fp32"
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=enabled)


def load(folder: Path, precision: str = "auto") -> TorchEngine:
    """Load ``folder`` on the GPU if there is one; the weights are held in ``precision``."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = resolve_precision(precision, device)
    if precision == "fp16" and device.type == "cpu":
        raise ModelError("model.precision", "found fp16 on a CPU; expected auto, bf16 or fp32")
    architecture = json.loads((folder / "config.json").read_text("utf-8"))["architectures"][0]
    model = load_pretrained(architecture, folder)
    return TorchEngine(model.to(device, DTYPES[precision]).eval(), precision=precision)


def load_pretrained(class_name: str, folder: Path | str, **options: Any) -> Any:
    """``class_name.from_pretrained(folder)``: safetensors only, no remote code, no chatter.

    Raises ModelError with the cure when the folder holds no usable model.
    """
    try:
        with quiet():
            return getattr(transformers, class_name).from_pretrained(
                str(folder), use_safetensors=True, trust_remote_code=False, **options
            )
    except Exception as error:  # of many kinds, those of safetensors' own among them
        raise ModelError(
            "model.load",
            f"cannot load {folder} as {class_name}: {one_line(error)}; expected a hub id, or a "
            "folder with config.json, model.safetensors and tokenizer files, as save_pretrained "
            "writes them",
        ) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' chatter: that a head is fresh is no news here."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` becomes bf16 where the processor or GPU computes it fast, fp32 elsewhere."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    return "bf16" if _cpu_gains_by_bf16() else "fp32"


def tensors(batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    """The arrays of a batch as a model's arguments on ``device``."""
    arrays = arguments(batch)
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


@functools.cache
def _cpu_gains_by_bf16() -> bool:
    """Whether this CPU multiplies matrices in bf16 clearly faster than in fp32."""
    tokens, weights = torch.ones(256, 384), torch.ones(384, 1536)
    rounded, small = tokens.bfloat16(), weights.bfloat16()
    return gains(lambda: tokens @ weights, lambda: rounded @ small)
