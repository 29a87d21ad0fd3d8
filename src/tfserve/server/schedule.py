"""Which windows run next: a pure account of what waits and what runs, without threads or clock.

A lane (see ``Engine``) that is free is given work at once. The next batch is a slice of the waiting
windows sorted by length: the one that wastes the least of its cost on padding and on the overhead
of a call. The oldest window is in it once it has waited for ``PATIENCE``, so that none starves.

Under load there is a batch on every lane, each on a core of its own; what would leave the other
lanes idle runs alone, on all cores, where that is faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from tfserve.arrays import Array
from tfserve.encoding import Window
from tfserve.server.cost import Cost, Pace

PATIENCE = 0.1
"""Seconds after which the oldest window goes first: some batches, and too short to be noticed."""

SIGHT, SHORT = 128, 16
"""So many of the oldest windows are looked at, more where short ones of so many tokens would leave
a batch half empty."""

COUNTS = np.unique(np.geomspace(1, 1024, 40).astype(int))[None, :]
"""Sizes of slices that are compared; the largest that the budget allows is always one."""

OVERHEAD = 0.1
"""The share of a batch's cost that its call may be; larger batches only make others wait."""


@dataclass(eq=False)
class Job:
    """A window that is wanted, by one request or by several.

    Attributes
    ----------
    key : the window's
    arrived, started : seconds of the scheduler's clock
    wanted : who waits for it
    """

    window: Window
    key: bytes
    arrived: float
    started: float = 0.0
    wanted: list[Any] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.window)


@dataclass(eq=False)
class Run:
    """A batch that runs, or waits in the worker for the lane that is free next.

    Attributes
    ----------
    alone : on all cores
    cost : seconds, as far as is known when it starts
    shape : windows, and tokens to which they are padded
    """

    jobs: list[Job]
    alone: bool
    cost: float

    @property
    def shape(self) -> tuple[int, int]:
        return shape(self.jobs)


def shape(jobs: list[Job]) -> tuple[int, int]:
    """Windows of a batch, and tokens to which they are padded."""
    return len(jobs), max(job.length for job in jobs)


class Schedule:
    """What waits and what runs.

    Parameters
    ----------
    lanes, budget : of the engine

    Attributes
    ----------
    lane, alone : the cost of a batch on one lane, and on all cores
    tokens, squares : the sums of the lengths that wait, and of their squares
    pace : of lanes that have enough to do
    """

    def __init__(self, lanes: int, budget: int) -> None:
        self.lanes, self.budget = lanes, budget
        self.lane, self.alone = Cost(), Cost()
        self.running: set[Run] = set()
        self.tokens = self.squares = 0
        self.pace = Pace(lanes)
        self._busy_since: float | None = None  # all lanes are, and more waits
        self._late = 0.0  # the longest time that an answer lay unread, of the last ones
        self._ended = 0.0
        self._waiting: dict[Job, None] = {}  # in the order of arrival
        self._decided: list[list[Job]] = []  # batches whose windows are chosen already

    @property
    def waiting(self) -> int:
        """Windows that wait."""
        return len(self._waiting) + sum(map(len, self._decided))

    @property
    def cost(self) -> Cost:
        """Of a batch under load."""
        return self.alone if self.lanes == 1 else self.lane

    def add(self, job: Job) -> None:
        """Jobs are added in the order in which they arrive."""
        self._waiting[job] = None
        self._count([job])

    def discard(self, job: Job) -> None:
        """Nobody wants it any more; one that runs already is finished all the same."""
        if job in self._waiting:
            del self._waiting[job]
            self._count([job], -1)

    def start(self, now: float) -> list[Run]:
        """The batches that the worker is given now.

        There is one for each lane. Where enough waits for it, there is one more to begin as soon as
        a lane is free, or as many as it can work on until its next answer is read.
        """
        if not self.running:
            self._busy_since = None
        started = []
        while self.waiting and self._wants_more():
            jobs, alone = self._next(now), self.lanes == 1
            if not alone and not self.running and not self.waiting:
                alone, half = self._faster_alone(jobs), len(jobs) // 2
                if not alone:  # nothing else waits: its other half starts in the next round
                    self._decide(jobs[:half])
                    jobs = jobs[half:]
            run = Run(jobs, alone, (self.alone if alone else self.lane).batch(*shape(jobs)))
            for job in jobs:
                job.started = now
            self.running.add(run)
            started.append(run)
        if not self.waiting:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now
        return started

    def finished(self, run: Run, seconds: float, now: float, late: float = 0.0) -> None:
        """It took the model so long; its answer is read only now, so many seconds later."""
        self.running.remove(run)
        self._late = max(late, self._late * math.exp(self._ended - now))
        self._ended = now
        passed = run.cost
        if self._busy_since is not None:
            passed = (now - self._busy_since) * (1 if run.alone else self.lanes)
            self._busy_since = now
        self.pace.add(run.cost, passed)
        (self.alone if run.alone else self.lane).learn(*run.shape, seconds)

    def failed(self, run: Run) -> list[Job]:
        """Its halves are tried again, apart; a job that failed by itself is returned."""
        self.running.remove(run)
        if len(run.jobs) == 1:
            return run.jobs
        half = len(run.jobs) // 2
        self._decide(run.jobs[:half])
        self._decide(run.jobs[half:])
        return []

    def wait(self, tokens: float = 0, squares: float = 0) -> float:
        """Seconds until what waits and what runs is done, and this besides, as far as is known."""
        cost = self.cost
        tokens, squares = tokens + self.tokens, squares + self.squares
        calls = cost.c0 * tokens / cost.budget(self.budget, OVERHEAD)
        work = self._given() + calls + cost.c1 * tokens + cost.c2 * squares
        return work / self.lanes / self.pace.share

    def _given(self) -> float:
        """The cost of what the worker was given and has not answered."""
        return sum(run.cost for run in self.running)

    def _wants_more(self) -> bool:
        if self.lanes > 1 and any(run.alone for run in self.running):
            return False
        ahead = len(self.running) - self.lanes
        enough = self.tokens > self.budget or self._late > PATIENCE
        return ahead < enough or (enough and self._given() < self.lanes * self._late)

    def _next(self, now: float) -> list[Job]:
        """The jobs of the next batch, taken from those that wait."""
        if self._decided:
            jobs = self._decided.pop(0)
        else:
            seen = list(islice(self._waiting, max(SIGHT, self.budget // SHORT)))
            jobs = [seen[i] for i in self._best(seen, now)] if len(seen) > 1 else seen
            for job in jobs:
                del self._waiting[job]
        self._count(jobs, -1)
        return jobs

    def _best(self, jobs: list[Job], now: float) -> Array:
        """The indices of the best slice of ``jobs``, which are in the order of arrival."""
        lengths = np.array([job.length for job in jobs])
        order = np.argsort(lengths, kind="stable")
        lengths = lengths[order]
        budget = self.cost.budget(self.budget, OVERHEAD)
        most = np.minimum(np.arange(1, len(jobs) + 1), np.maximum(1, budget // lengths))
        ends = np.arange(1, len(jobs) + 1)[:, None]
        counts = np.minimum(COUNTS, most[:, None])
        useful = np.concatenate(([0.0], np.cumsum(self.cost.windows(1, lengths))))
        paid = self.cost.c0 + self.cost.windows(counts, lengths[:, None])
        share = (useful[ends] - useful[ends - counts]) / paid
        if now - jobs[0].arrived > PATIENCE:
            place = int(np.flatnonzero(order == 0)[0])
            share[(ends <= place) | (ends - counts > place)] = -1
        end, column = np.unravel_index(share.argmax(), share.shape)
        return order[end + 1 - counts[end, column] : end + 1]

    def _faster_alone(self, jobs: list[Job]) -> bool:
        """Whether one batch on all cores is done before two on one core each."""
        if len(jobs) == 1:
            return True
        half = len(jobs) // 2
        longest = [max(job.length for job in some) for some in (jobs[:half], jobs[half:])]
        apart = max(
            self.lane.batch(half, longest[0]), self.lane.batch(len(jobs) - half, longest[1])
        )
        return self.alone.batch(len(jobs), max(longest)) <= apart

    def _decide(self, jobs: list[Job]) -> None:
        self._decided.append(jobs)
        self._count(jobs)

    def _count(self, jobs: Iterable[Job], sign: int = 1) -> None:
        for job in jobs:
            self.tokens += sign * job.length
            self.squares += sign * job.length**2
