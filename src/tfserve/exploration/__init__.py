"""What a table holds, before anybody pays for a GPU.

``explore`` puts together what ``tfserve check`` finds and what needs a closer look: ``twins`` finds
texts that are nearly the same, ``contents`` what labels, entities and boxes there are.
``tfserve.report`` shows all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tfserve import checks, tasks
from tfserve.arrays import Array
from tfserve.exploration.twins import Place, Twins, twins
from tfserve.tables import Row, Table

__all__ = ["Exploration", "Twins", "explore"]


@dataclass(frozen=True)
class Exploration:
    """The tables of a folder, looked at closely.

    Attributes
    ----------
    check : what ``tfserve check`` says
    tables : those that have rows, by split
    lengths : of each row, in tokens where a model was named and in words where not, by split
    twins : rows whose text is nearly that of an earlier one
    """

    check: checks.Report
    tables: dict[str, Table]
    lengths: dict[str, Array]
    twins: list[Twins]

    @property
    def unit(self) -> str:
        """Of the lengths."""
        return "words" if self.check.capacity is None else "tokens"

    def row(self, place: Place) -> Row:
        """The row at a split and number."""
        return self.tables[place[0]].rows[place[1]]

    def conflicting(self) -> list[Twins]:
        """Rows that were labelled otherwise than a twin, each with the most similar one."""
        task = tasks.get(self.check.task_name)
        spread = task.spread(next(iter(self.tables.values())).labels)
        pairs = ((twin, self.row(twin.one), self.row(twin.other)) for twin in self.twins)
        return _one_a_row(
            twin
            for twin, one, other in pairs
            if task.differ(one.label, other.label, (one.record, other.record), spread)
        )

    def leaks(self, split: str) -> list[Twins]:
        """Rows of a split that have a twin in an earlier one, each with the most similar one."""
        return _one_a_row(t for t in self.twins if t.other[0] == split != t.one[0])

    def repeats(self, split: str) -> list[Twins]:
        """Rows of a split that have a twin before them in it, each with the most similar one."""
        return _one_a_row(t for t in self.twins if t.other[0] == split == t.one[0])


def _one_a_row(pairs: Iterable[Twins]) -> list[Twins]:
    found: dict[Place, Twins] = {}
    for pair in pairs:  # the most similar first
        found.setdefault(pair.other, pair)
    return list(found.values())


def explore(
    data: Path | str | Mapping[str, Path | str | None],
    task_name: str,
    *,
    model_folder: Path | str | None = None,
    use_bbox: bool = False,
) -> Exploration:
    """Read every table and look at it closely; the arguments are those of ``checks.check``."""
    found = checks.read(data, task_name, use_bbox=use_bbox)
    tables = {name: table for name, (_, table) in found.tables.items() if table.rows}
    lengths = checks.lengths(tables, model_folder)
    texts = {name: [row.record.text for row in table.rows] for name, table in tables.items()}
    return Exploration(
        checks.described(found, model_folder, lengths), tables, lengths, twins(texts)
    )
