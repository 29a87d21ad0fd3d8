"""What each row adds to the metrics, so that any choice of rows can be scored.

The definitions are those of scikit-learn and, for entities, of seqeval's strict mode, by which they
are tested. A metric that has no value, such as the precision of a label that is never given, is 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tfserve.arrays import Array

if TYPE_CHECKING:
    from typing_extensions import Self

Unit = tuple[Hashable, ...]
"""What is given or not: a label, and where in the row if that matters."""


class Tally(Protocol):
    """Of rows with what is right and what was answered."""

    @property
    def rows(self) -> int:
        """How many there are."""

    def scores(self, weights: Array | None = None) -> dict[str, float]:
        """Metrics by name, of rows that count as often as ``weights`` says, ``(rows,)``."""

    def by_label(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support by label; nothing where there are none."""

    @property
    def quality(self) -> Array:
        """How good the answer to each row is, ``(rows,)``; more is better."""

    def comparable(self, other: Self) -> Self:
        """The same, with averages over the other's labels too, which is of the same rows."""

    def joined(self, other: Self) -> Self:
        """These rows, and then the other's."""


@dataclass(frozen=True)
class Labels:
    """Of rows that hold labelled units.

    Parameters
    ----------
    gold, given : the units of each row
    space : labels that an average is over; none: those that occur
    words : ``(rows, 2)``: words that are right, and words, where there is a tag for each
    """

    gold: Sequence[AbstractSet[Unit]]
    given: Sequence[AbstractSet[Unit]]
    space: tuple[str, ...] = ()
    words: Array | None = None

    @property
    def rows(self) -> int:
        return len(self.gold)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Those that occur, or that an average is over, in sorted order."""
        units = (unit for some in (self.gold, self.given) for row in some for unit in row)
        return tuple(sorted({*self.space, *(str(unit[0]) for unit in units)}))

    @cached_property
    def _places(self) -> list[tuple[Array, Array]]:
        """Row and label of every unit that is a hit, that is given, and that is gold."""
        ids = {label: i for i, label in enumerate(self.labels)}

        def places(rows: Iterable[AbstractSet[Unit]]) -> tuple[Array, Array]:
            found = [(i, ids[str(unit[0])]) for i, row in enumerate(rows) for unit in row]
            pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
            return pairs[:, 0], pairs[:, 1]

        both = [right & guess for right, guess in zip(self.gold, self.given, strict=True)]
        return [places(rows) for rows in (both, self.given, self.gold)]

    @cached_property
    def right(self) -> Array:
        """Whether a row is wholly right, ``(rows,)``."""
        pairs = zip(self.gold, self.given, strict=True)
        return np.array([right == guess for right, guess in pairs], dtype=bool)

    @cached_property
    def quality(self) -> Array:
        """The F1 of each row, ``(rows,)``."""
        pairs = zip(self.gold, self.given, strict=True)
        # No label where there is none is right.
        return np.array([2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0 for a, b in pairs])

    @cached_property
    def _counted(self) -> Array:
        """Whether an average is over a label, ``(labels,)``."""
        space = frozenset(self.space or self.labels)
        return np.array([label in space for label in self.labels], bool)

    @cached_property
    def _findable(self) -> Array:
        """Of those the labels that some row has; the F1 of the others is 0 in any rows."""
        return np.asarray(self._counted & (self._counts(None)[2] > 0))

    def _counts(self, weights: Array | None) -> list[Array]:
        """Hits, given and gold units of each label."""
        size = len(self.labels)
        return [
            np.bincount(label, None if weights is None else weights[row], size)
            for row, label in self._places
        ]

    def scores(self, weights: Array | None = None) -> dict[str, float]:
        hits, given, gold = self._counts(weights)
        f1 = _share(2 * hits, given + gold)
        # What a label that these rows happen to lack would add is what the others do.
        there = self._findable & (given + gold > 0)
        macro = float(_share(f1[there].sum(), there.sum() * self._counted.sum()))
        macro *= float(self._findable.sum())
        micro = float(_share(2 * hits.sum(), given.sum() + gold.sum()))
        exact = float(np.average(self.right, weights=weights))
        found = {
            "accuracy": exact,
            "subset_accuracy": exact,
            "precision": float(_share(hits.sum(), given.sum())),
            "recall": float(_share(hits.sum(), gold.sum())),
            "f1": micro,
            "f1_micro": micro,
            "f1_macro": macro,
            "f1_weighted": float(_share(f1 @ gold, gold.sum())),
            "f1_samples": float(np.average(self.quality, weights=weights)),
        }
        if self.words is not None:
            right, words = np.average(self.words, axis=0, weights=weights)
            found["word_accuracy"] = float(_share(right, words))
        return found

    def by_label(self) -> dict[str, dict[str, float]]:
        hits, given, gold = self._counts(None)
        columns = {
            "precision": _share(hits, given),
            "recall": _share(hits, gold),
            "f1": _share(2 * hits, given + gold),
            "support": gold,
        }
        return {
            label: {name: float(column[i]) for name, column in columns.items()}
            for i, label in enumerate(self.labels)
        }

    def comparable(self, other: Labels) -> Labels:
        # Models may know different labels, and one may invent what no row has.
        rows_have = {str(unit[0]) for units in self.gold for unit in units}
        return replace(self, space=tuple(sorted({*rows_have, *self.space, *other.space})))

    def joined(self, other: Labels) -> Labels:
        words = None
        if self.words is not None and other.words is not None:
            words = np.concatenate([self.words, other.words])
        return Labels([*self.gold, *other.gold], [*self.given, *other.given], self.space, words)


@dataclass(frozen=True)
class Numbers:
    """Of rows that hold a number, ``(rows,)`` each."""

    gold: Array
    given: Array

    @property
    def rows(self) -> int:
        return len(self.gold)

    @cached_property
    def _order(self) -> list[Array]:
        """The place of each number among those that differ."""
        return [np.unique(side, return_inverse=True)[1] for side in (self.gold, self.given)]

    def scores(self, weights: Array | None = None) -> dict[str, float]:
        w = np.ones(self.rows) if weights is None else weights.astype(np.float64)
        error = self.given - self.gold
        mse = float(np.average(error**2, weights=w))
        spread = float(np.average((self.gold - np.average(self.gold, weights=w)) ** 2, weights=w))
        gold, given = (_ranks(order, w) for order in self._order)
        # Without two different values on a side some have none.
        differ = [np.count_nonzero(np.bincount(order, w)) > 1 for order in self._order]
        return {
            "mse": mse,
            "rmse": mse**0.5,
            "mae": float(np.average(np.abs(error), weights=w)),
            "r2": 1 - mse / spread if differ[0] else 0.0,
            "pearson": _correlation(self.gold, self.given, w) if all(differ) else 0.0,
            "spearman": _correlation(gold, given, w) if all(differ) else 0.0,
        }

    def by_label(self) -> dict[str, dict[str, float]]:
        return {}

    @property
    def quality(self) -> Array:
        """The distance from the truth, less than 0."""
        return np.asarray(-np.abs(self.given - self.gold))

    def comparable(self, other: Numbers) -> Numbers:
        return self

    def joined(self, other: Numbers) -> Numbers:
        pairs = (self.gold, other.gold), (self.given, other.given)
        return Numbers(*map(np.concatenate, pairs))


def figure(value: float) -> str:
    """A metric as it is read."""
    if value and abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def _share(part: Any, whole: Any) -> Array:
    """0 of nothing is 0."""
    return np.asarray(
        np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)
    )


def _ranks(order: Array, weights: Array) -> Array:
    """Ranks, from 1; numbers that are equal share the mean of theirs."""
    counts = np.bincount(order, weights)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[order])


def _correlation(one: Array, other: Array, weights: Array) -> float:
    a, b = (side - np.average(side, weights=weights) for side in (one, other))
    both = float(np.sqrt((weights @ a**2) * (weights @ b**2)))
    return max(-1.0, min(1.0, float(weights @ (a * b)) / both)) if both else 0.0
