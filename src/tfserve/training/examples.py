"""Rows of a table as training needs them: examples of one or more windows, and their targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfserve.arrays import Array
from tfserve.batching import Batch, collate
from tfserve.encoding import Encoded, Encoder, Window
from tfserve.records import Record
from tfserve.tables import Table
from tfserve.tasks import Task
from tfserve.tasks.common import IGNORED


@dataclass(frozen=True)
class Examples:
    """An encoded table.

    Attributes
    ----------
    table, encoded : the rows, and the same rows as windows
    windows : all windows of all rows
    spans : the windows of each example, which is a window for a task per word, else a row: then a
        row's windows are answered together, in training as they will be in serving
    targets : of each example: a row's, or those of the words that begin in a window
    row_targets : of each row
    """

    table: Table
    encoded: tuple[Encoded, ...]
    windows: tuple[Window, ...]
    spans: tuple[range, ...]
    targets: tuple[Array, ...]
    row_targets: tuple[Array, ...]

    @classmethod
    def make(cls, table: Table, task: Task, encoder: Encoder) -> Examples:
        encoded = encoder.encode(table.records)
        row_targets = tuple(task.target(label) for label in table.labels)
        windows: list[Window] = []
        spans, targets = list[range](), list[Array]()
        for record, target in zip(encoded, row_targets, strict=True):
            span = range(len(windows), len(windows) + len(record.windows))
            windows += record.windows
            if task.per_word:
                spans += [range(i, i + 1) for i in span]
                targets += [target[window.words] for window in record.windows]
            else:
                spans.append(span)
                targets.append(target)
        return cls(table, tuple(encoded), tuple(windows), tuple(spans), tuple(targets), row_targets)

    @property
    def records(self) -> list[Record]:
        return self.table.records

    @property
    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return [sum(len(self.windows[i]) for i in span) for span in self.spans]

    def pieces(self, chosen: Array, most: int, world: int) -> Iterator[Array]:
        """The examples of a batch, in pieces that leave each of ``world`` processes some example,
        and at most ``most`` windows where it has several."""
        begin, held = 0, 0
        for end, example in enumerate(chosen):
            count = min(len(self.spans[example]), most)
            if end - begin >= world and held + count > most * world:
                yield chosen[begin:end]
                begin, held = end, 0
            held += count
        yield chosen[begin:]

    def batch(
        self,
        chosen: Sequence[int] | Array,
        pad_id: int,
        *,
        per_word: bool,
        most: int,
        rng: np.random.Generator,
    ) -> tuple[Batch, Array, Array | None]:
        """The padded windows of these examples, their targets, and whose each window is.

        Of an example with more than ``most`` windows so many are drawn, others each time.
        Targets have shape ``(examples, …)``, or ``(windows, length)`` with -100 wherever no word
        begins. The last is None where every example is one window.
        """
        spans = [drawn(self.spans[i], most, rng) for i in chosen]
        batch = collate([self.windows[i] for span in spans for i in span], pad_id)
        if not per_word:
            owners = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
            targets = np.stack([self.targets[i] for i in chosen])
            return batch, targets, owners if len(owners) > len(spans) else None
        targets = np.full(batch.input_ids.shape, IGNORED, np.int64)
        for row, i in enumerate(chosen):
            targets[row, self.windows[spans[row][0]].places] = self.targets[i]
        return batch, targets, None


def drawn(span: range, most: int, rng: np.random.Generator) -> Sequence[int]:
    """At most so many of a row's windows."""
    if len(span) <= most:
        return span
    return [span[i] for i in rng.choice(len(span), most, replace=False)]


def pooled(logits: Any, owners: Any) -> Any:
    """The mean of each example's windows, ``(examples, labels)``, as ``processing`` has it."""
    count = owners.bincount()
    total = logits.new_zeros(len(count), logits.shape[-1]).index_add(0, owners, logits)
    return total / count[:, None]
