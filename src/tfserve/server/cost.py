"""What a batch costs: ``c0 + c1·n·L + c2·n·L²`` seconds for n windows padded to L tokens.

``c0`` is the overhead of a call, ``c1`` the matrix products, ``c2`` attention. The three are fitted
to the batches that were run, the latest counting most, because they differ between machines,
models and what else a machine is doing.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np

from tfserve.arrays import Array

GUESS = np.array([5e-3, 1e-4, 1e-7])
"""Before a batch was seen: about a small model on one core."""

TRUST = 1e-3
"""What the guess weighs, in batches: it decides only what the batches leave open."""

FORGET = 0.98
"""What is left of a batch's weight after the next one: some fifty count."""

OUTLIER = 4.0
"""A batch counts as at most so many times slower or faster than expected: others' noise."""

MEMORY, BATCHES, SLOWEST = 1.0, 4, 0.05
"""Seconds, or batches where they take longer, over which a pace is a mean; the least it can be."""

SURE_AFTER, REFIT_EVERY = 8, 8
"""Batches until the fit is believed, and then between two fits."""


class Cost:
    """An online fit whose coefficients are never negative.

    Attributes
    ----------
    c0, c1, c2 : the coefficients, in seconds
    seen : batches that were learned from
    """

    def __init__(self) -> None:
        self.c0, self.c1, self.c2 = map(float, GUESS)
        self.seen = 0
        # The normal equations of least squares of relative errors.
        self._prior = TRUST * np.diag(GUESS**-2)
        self._products, self._targets = np.zeros((3, 3)), np.zeros(3)

    @property
    def sure(self) -> bool:
        """Whether enough was seen to refuse work by."""
        return self.seen >= SURE_AFTER

    def windows(self, count: Any, length: Any) -> Any:
        """Seconds of so many windows without the overhead of their call; numbers or arrays."""
        return count * length * (self.c1 + self.c2 * length)

    def batch(self, rows: int, length: int) -> float:
        """Seconds of a batch."""
        return self.c0 + float(self.windows(rows, length))

    def budget(self, most: int, share: float) -> int:
        """Tokens in a batch of which the overhead is ``share``; between ``most`` and an eighth."""
        wanted = self.c0 * (1 - share) / share / self.c1 if self.c1 > 0 else most
        return int(min(most, max(most / 8, wanted)))

    def learn(self, rows: int, length: int, seconds: float) -> None:
        """A batch of this shape took so long."""
        if self.sure:
            expected = self.batch(rows, length)
            seconds = min(max(seconds, expected / OUTLIER), expected * OUTLIER)
        self.seen += 1
        features = np.array([1.0, rows * length, rows * length**2]) / seconds
        self._products = FORGET * self._products + np.outer(features, features)
        self._targets = FORGET * self._targets + features
        if not self.sure or self.seen % REFIT_EVERY == 0:
            prior = self._prior
            found = _non_negative(self._products + prior, self._targets + prior @ GUESS)
            self.c0, self.c1, self.c2 = map(float, found)


class Pace:
    """The share of time that busy lanes spend computing.

    The rest of it they wait for a process that is busy with requests, or their cores are.
    """

    def __init__(self, lanes: int) -> None:
        self.share, self.lanes = 1.0, lanes
        self._worked = self._passed = MEMORY * lanes

    def add(self, worked: float, passed: float) -> None:
        """A batch of so much work ended, so many seconds of lanes after the one before."""
        left = math.exp(-passed / max(MEMORY, BATCHES * worked) / self.lanes)
        self._worked = left * self._worked + worked
        self._passed = left * self._passed + passed
        self.share = min(1.0, max(SLOWEST, self._worked / self._passed))


def _non_negative(products: Array, targets: Array) -> Array:
    """The best of the least squares solutions with some coefficients held at 0."""
    best, least = np.zeros(len(targets)), 0.0
    for size in range(1, len(targets) + 1):
        for kept in map(list, combinations(range(len(targets)), size)):
            found = np.zeros(len(targets))
            found[kept] = np.linalg.solve(products[np.ix_(kept, kept)], targets[kept])
            error = found @ products @ found - 2 * found @ targets
            if (found >= 0).all() and error < least:
                best, least = found, float(error)
    return best
