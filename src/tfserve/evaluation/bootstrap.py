"""How far a metric can be trusted: intervals, and whether two models differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tfserve.arrays import Array
from tfserve.tallies import Tally

RESAMPLES, SEED = 1000, 0
LEVEL = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """Of a metric between two models on the same rows.

    Attributes
    ----------
    one, other : the metric of each
    interval : 95% of ``one - other`` over resampled rows
    p : how often models that do not differ would show a difference as large, 0..1
    """

    one: float
    other: float
    interval: Interval
    p: float

    @property
    def significant(self) -> bool:
        return self.p < 1 - LEVEL


def intervals(tally: Tally, names: Sequence[str]) -> dict[str, Interval]:
    """The interval of each metric by the percentiles of resampled rows (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993)."""
    found = [tally.scores(weights) for weights in _resamples(tally.rows)]
    return {name: _interval([scores[name] for scores in found]) for name in names}


def differences(one: Tally, other: Tally, names: Sequence[str]) -> dict[str, Difference]:
    """What sets two models apart; both tallies are of the same rows in the same order.

    Macro averages are over the labels that the rows have, and those that a tally is about. The
    interval is that of a paired bootstrap. ``p`` comes from exchanging the models' answers to rows
    by chance (approximate randomization: Noreen, "Computer-Intensive Methods for Testing
    Hypotheses", 1989; Yeh, "More accurate tests for the statistical significance of result
    differences", 2000).
    """
    one, other = one.comparable(other), other.comparable(one)
    rows = one.rows
    found = [(one.scores(w), other.scores(w)) for w in _resamples(rows)]
    both, rng = one.joined(other), np.random.default_rng(SEED)
    exchanged = []
    for _ in range(RESAMPLES):
        mine = rng.integers(0, 2, rows).astype(float)
        halves = (np.concatenate(pair) for pair in ((mine, 1 - mine), (1 - mine, mine)))
        exchanged.append(tuple(both.scores(weights) for weights in halves))
    scores = one.scores(), other.scores()
    differing = {}
    for name in names:
        gap = abs(scores[0][name] - scores[1][name])
        least = gap - 1e-9 * max(abs(scores[0][name]), abs(scores[1][name]))  # sums are rounded
        as_large = sum(abs(a[name] - b[name]) >= least for a, b in exchanged)
        differing[name] = Difference(
            scores[0][name],
            scores[1][name],
            _interval([a[name] - b[name] for a, b in found]),
            (as_large + 1) / (RESAMPLES + 1),
        )
    return differing


def _resamples(rows: int) -> Iterator[Array]:
    """How often each row is drawn."""
    rng = np.random.default_rng(SEED)
    for _ in range(RESAMPLES):
        yield np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(float)


def _interval(values: Sequence[float]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
