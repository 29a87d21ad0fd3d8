"""Weights to the graph of another engine, in a process of its own and checked against torch.

torch and transformers, which are large, are gone when it ends. A trace holds what the model did
with one input: whether the graph does the same with others is seen by asking both, with batches of
many shapes.

    python -m tfserve.conversion ENGINE MODEL_DIR TARGET
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np

from tfserve import artifact, engines
from tfserve.arrays import Array
from tfserve.artifact import Artifact
from tfserve.batching import Batch
from tfserve.errors import InstallError, ModelError, TfserveError, last_line, one_line

SHAPES = ((1, 3), (2, 8), (1, 17), (5, 33), (7, 12), (2, 200))
"""Rows and tokens of the batches that are compared, besides one as long as the model sees; longer
ones are left out."""

CLOSE = 1e-4
"""The largest difference of a logit, absolute or in shares of the largest."""

TIME_LIMIT = 300
"""Seconds."""


def convert(engine: str, folder: Path, target: Path) -> None:
    """Write the graph for ``engine`` of the model directory ``folder`` into ``target``.

    Raises
    ------
    ModelError
        ``model.convert``: the engine cannot run this model, or computes something else.
    InstallError
        Something that converting needs is not installed.
    """
    command = [sys.executable, "-m", __name__, engine, str(folder), str(target)]
    # Where this one found its modules: in a container they may lie beside the model.
    modules = os.pathsep.join(filter(None, sys.path))
    failed: dict[str, str] | None
    environment = {**os.environ, "PYTHONPATH": modules, "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=TIME_LIMIT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        failed = {"message": f"it took longer than {TIME_LIMIT} s"}
    else:
        failed = _failure(done) if done.returncode else None
    if failed is None:
        return
    if failed.get("code", "").startswith("install."):
        raise InstallError(failed["code"], failed["message"])
    raise ModelError(
        "model.convert",
        f"{engine} cannot run {folder}: {failed['message']}; expected a model that it can: "
        "use the engine torch, which runs all of them",
    )


def _failure(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What the process said when it ended."""
    try:
        said: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = one_line(last_line(done.stderr))
        return {"message": f"its process ended with {done.returncode}: {last}"}
    return said


def main(name: str, folder: Path, target: Path) -> None:
    """Convert and compare. Raises TfserveError."""
    module = engines.find(name)
    from tfserve.engines.torch import load, quiet, tensors  # says what to install

    import torch  # isort: skip

    class Logits(torch.nn.Module):
        """The model with its logits as its one output."""

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            bbox: torch.Tensor | None = None,
        ) -> torch.Tensor:
            boxes = {} if bbox is None else {"bbox": bbox}
            answer = self.model(input_ids=input_ids, attention_mask=attention_mask, **boxes)
            logits: torch.Tensor = answer.logits
            return logits

    found = artifact.load(folder)
    reference = load(folder, "fp32")
    rng = np.random.default_rng(0)
    example = tensors(
        random_batch(found, 2, min(12, found.manifest.max_length), rng), reference.device
    )
    try:
        with quiet(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, for those who develop them
            module.convert(Logits(reference.model).eval(), example, target)
        converted = module.load(target, "fp32")
        reference = load(folder, "fp32")  # the other may have been changed by its example
        longest = found.manifest.max_length
        for rows, length in (*SHAPES, (1, longest)):
            if length <= longest:
                batch = random_batch(found, rows, length, rng)
                compare(reference.run(batch), converted.run(batch), batch)
    except TfserveError:
        raise
    except Exception as error:
        raise ModelError("model.convert", f"{type(error).__name__}: {one_line(error)}") from None


def random_batch(found: Artifact, rows: int, length: int, rng: np.random.Generator) -> Batch:
    """Any tokens, the rows but the first of any length."""
    pad, vocabulary = found.manifest.pad_token_id, found.encoder().tokenizer.get_vocab_size()
    ids = rng.integers(0, vocabulary, (rows, length))
    ids[ids == pad] = (pad + 1) % vocabulary
    mask = np.ones((rows, length), np.int64)
    for row in range(1, rows):
        mask[row, rng.integers(1, length + 1) :] = 0
    ids[mask == 0] = pad
    boxes = None
    if found.manifest.use_bbox:
        corners = rng.integers(0, 1001, (rows, length, 2, 2))
        boxes = np.sort(corners, axis=2).reshape(rows, length, 4) * mask[:, :, None]
    return Batch(ids, mask, boxes)


def compare(expected: Array, computed: Array, batch: Batch) -> None:
    """Raise ModelError where the logits differ; those of padding mean nothing."""
    if expected.shape == computed.shape:
        kept = batch.attention_mask.astype(bool) if expected.ndim == 3 else slice(None)
        off = float(np.abs(expected[kept] - computed[kept]).max())
        if off <= CLOSE * max(1.0, float(np.abs(expected[kept]).max())):
            return
        found = f"differ from torch's by {off:.2g}"
    else:
        found = f"are {computed.shape}, and torch's {expected.shape}"
    shape = "x".join(map(str, batch.input_ids.shape))
    raise ModelError("model.convert", f"the logits of a batch of {shape} tokens {found}")


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except TfserveError as error:
        print(json.dumps(error.as_dict()))
        sys.exit(1)
