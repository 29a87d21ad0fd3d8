"""Rows of a table as training needs them: windows to run and targets to compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfserve.batching import Batch, collate
from tfserve.encoding import Encoded, Encoder, Window
from tfserve.records import Record
from tfserve.tables import Table
from tfserve.tasks import Task
from tfserve.tasks.base import Array
from tfserve.tasks.classif import IGNORED


@dataclass(frozen=True)
class Examples:
    """An encoded table.

    Attributes
    ----------
    table, encoded : the rows, and the same rows as windows
    windows : all windows of all rows, the unit of training
    targets : the target of each window: a row's, or those of the words that begin in it
    row_targets : the target of each row
    """

    table: Table
    encoded: tuple[Encoded, ...]
    windows: tuple[Window, ...]
    targets: tuple[Array, ...]
    row_targets: tuple[Array, ...]

    @classmethod
    def make(cls, table: Table, task: Task, encoder: Encoder) -> Examples:
        encoded = encoder.encode(table.records)
        row_targets = tuple(task.target(label) for label in table.labels)
        windows, targets = [], []
        for record, target in zip(encoded, row_targets, strict=True):
            for window in record.windows:
                windows.append(window)
                targets.append(target[window.words] if task.per_word else target)
        return cls(table, tuple(encoded), tuple(windows), tuple(targets), row_targets)

    @property
    def records(self) -> list[Record]:
        return self.table.records

    @property
    def lengths(self) -> list[int]:
        return [len(window) for window in self.windows]

    def batch(
        self, rows: Sequence[int] | Array, pad_id: int, per_word: bool
    ) -> tuple[Batch, Array]:
        """The padded batch of these windows and its targets.

        Targets have shape ``(rows, …)``, or ``(rows, length)`` with -100 wherever no word begins.
        """
        batch = collate([self.windows[i] for i in rows], pad_id)
        if not per_word:
            return batch, np.stack([self.targets[i] for i in rows])
        targets = np.full(batch.input_ids.shape, IGNORED, np.int64)
        for row, i in enumerate(rows):
            targets[row, self.windows[i].places] = self.targets[i]
        return batch, targets
