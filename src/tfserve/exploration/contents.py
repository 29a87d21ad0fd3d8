"""What labels, entities and boxes a table holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfserve.arrays import Array
from tfserve.tables import Table
from tfserve.tasks.ner import mentioned

CELLS = 50
"""Of a page, across and down."""


@dataclass(frozen=True)
class Mentions:
    """The entities of a type.

    Attributes
    ----------
    count, distinct : entities, and how many differ in their texts
    words : mean length
    common : the commonest texts
    known : share of those of another split whose text occurs in this one, by split
    """

    count: int
    distinct: int
    words: float
    common: list[str]
    known: dict[str, float]


def mentions(tables: Mapping[str, Table]) -> dict[str, Mentions]:
    """Of train, by type."""
    found = {name: _texts(table) for name, table in tables.items()}
    train = found.get("train", {})
    seen = {kind: set(texts) for kind, texts in train.items()}
    return {
        kind: Mentions(
            count=len(texts),
            distinct=len(seen[kind]),
            words=float(np.mean([len(text.split()) for text in texts])),
            common=[text for text, _ in Counter(texts).most_common(3)],
            known={
                name: float(np.mean([text in seen[kind] for text in other[kind]]))
                for name, other in found.items()
                if name != "train" and other.get(kind)
            },
        )
        for kind, texts in sorted(train.items())
    }


def _texts(table: Table) -> dict[str, list[str]]:
    found = defaultdict(list)
    for row in table.rows:
        for kind, text in mentioned(row.label, row.record):
            found[kind].append(text)
    return found


def together(labels: Sequence[Sequence[str]], names: Sequence[str]) -> Array:
    """The share of each label's rows (down) that have another label too (across)."""
    places = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)))
    for row in labels:
        some = [places[name] for name in row if name in places]
        counts[np.ix_(some, some)] += 1
    return np.asarray(counts / np.maximum(1, counts.diagonal())[:, None])


def box_density(table: Table) -> Array:
    """Words at each cell of a page, ``(CELLS, CELLS)``, from its upper left corner."""
    centres = np.concatenate([_centres(row.record.bbox) for row in table.rows])
    bounds = [[0, 1000], [0, 1000]]
    return np.asarray(np.histogram2d(centres[:, 1], centres[:, 0], bins=CELLS, range=bounds)[0])


def out_of_order(table: Table) -> Array:
    """The share of each row's words that are not read after the word before: their box ends above
    where that one begins, or beside it on the side that most lines of the table begin from."""
    steps = [_steps(np.asarray(row.record.bbox, np.float64)) for row in table.rows]
    rightwards = sum(int(right.sum()) - int(left.sum()) for _, left, right in steps) >= 0
    back = [up | (left if rightwards else right) for up, left, right in steps]
    return np.array([float(some.mean()) if len(some) else 0.0 for some in back])


def _steps(boxes: Array) -> tuple[Array, Array, Array]:
    """Whether a word stands above the one before; on its line at the left of it; at the right."""
    one, other = boxes[:-1], boxes[1:]
    up = (other[:, 3] <= one[:, 1]) & (other[:, 1] < one[:, 1])
    shared = np.minimum(one[:, 3], other[:, 3]) - np.maximum(one[:, 1], other[:, 1])
    line = shared > 0.5 * np.minimum(one[:, 3] - one[:, 1], other[:, 3] - other[:, 1])
    return up, line & (other[:, 2] <= one[:, 0]), line & (other[:, 0] >= one[:, 2])


def alike(table: Table) -> list[int]:
    """Rows of several words whose boxes are all the same: that there is nothing to be learned from
    them is mostly an accident."""
    rows = ((i, np.asarray(row.record.bbox)) for i, row in enumerate(table.rows))
    return [i for i, boxes in rows if len(boxes) > 1 and (boxes == boxes[0]).all()]


def _centres(boxes: Any) -> Array:
    return np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2)
