"""Windows to batches: like lengths together, a budget of padded tokens, order restored.

The unit of cost is the padded token, so batches are cut from the windows sorted by length: next
to nothing is padded, and a short text never waits for a long one's padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfserve.encoding import Ints, Window

CHUNK_BATCHES, CHUNKS = 50, 4
"""Training sorts within chunks of at most so many batches, an epoch in at least so many chunks
(transformers' ``group_by_length`` has the same rule): larger chunks save padding, but a small table
sorted as a whole would make the same batches in every epoch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What an engine runs: arrays padded on the right to the longest window.

    Attributes
    ----------
    input_ids, attention_mask : ``(rows, length)`` int64
    bbox : ``(rows, length, 4)`` int64 or None
    """

    input_ids: Ints
    attention_mask: Ints
    bbox: Ints | None = None


def plan(lengths: Sequence[int] | Ints, budget: int) -> list[Ints]:
    """Indices of the windows of each batch: longest first, at most ``budget`` padded tokens.

    A window longer than the budget runs alone. Every index is in exactly one batch.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, budget // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def plan_epoch(
    lengths: Sequence[int] | Ints, batch_size: int, rng: np.random.Generator
) -> list[Ints]:
    """One epoch of training: shuffled batches of ``batch_size`` windows of like lengths.

    Rows are shuffled, cut into chunks, sorted within each and cut into batches, which are shuffled
    again. Only the epoch's last rows may make a smaller batch.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = rng.permutation(len(lengths))
    batches = []
    size = batch_size * max(1, min(CHUNK_BATCHES, len(order) // (batch_size * CHUNKS)))
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def collate(windows: Sequence[Window], pad_id: int, least: int = 0) -> Batch:
    """Pad windows on the right to the longest of them, or to ``least`` if that is longer."""
    rows, length = len(windows), max(least, *(len(window) for window in windows))
    ids = np.full((rows, length), pad_id, np.int64)
    mask = np.zeros((rows, length), np.int64)
    boxes = np.zeros((rows, length, 4), np.int64) if windows[0].boxes is not None else None
    for row, window in enumerate(windows):
        ids[row, : len(window)] = window.ids
        mask[row, : len(window)] = 1
        if boxes is not None and window.boxes is not None:
            boxes[row, : len(window)] = window.boxes
    return Batch(ids, mask, boxes)


def arguments(batch: Batch) -> dict[str, Ints]:
    """The arrays of a batch under the names that models give them."""
    arrays = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    return arrays if batch.bbox is None else {**arrays, "bbox": batch.bbox}
