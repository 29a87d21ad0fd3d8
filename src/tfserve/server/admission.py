"""Whether a request will be answered in time: what is promised, what waits, what it would cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tfserve.errors import BusyError, TooLargeError
from tfserve.processing import Prepared
from tfserve.server.schedule import Schedule
from tfserve.settings import Settings

SAFE = 0.5
"""The share of the deadline that a request may have to wait: it may take longer than foreseen,
because a machine that is asked more than it can answer gets slower."""


@dataclass(frozen=True, slots=True)
class Work:
    """An amount of it: the sums of windows' lengths, and of their squares."""

    tokens: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, prepared: Prepared) -> Work:
        """That of windows."""
        lengths = [len(window) for window in prepared.windows]
        return cls(sum(lengths), sum(length * length for length in lengths))

    def times(self, share: float) -> Work:
        """So many times as much."""
        return Work(round(self.tokens * share), round(self.squares * share))

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.squares + other.squares)

    def __sub__(self, other: Work) -> Work:
        return Work(self.tokens - other.tokens, self.squares - other.squares)

    def less(self, other: Work) -> Work:
        """What is left of it; never less than none."""
        return Work(max(0.0, self.tokens - other.tokens), max(0.0, self.squares - other.squares))


def check_room(schedule: Schedule, settings: Settings) -> float:
    """The seconds until the turn of what comes now.

    Nothing is refused for its time before the cost of batches is known.

    Raises BusyError (429): what waits takes too long.
    """
    before = schedule.wait()
    if schedule.cost.sure and before > settings.deadline_s * SAFE:
        raise _busy(before, settings)
    return before


def admit(work: Work, records: int, schedule: Schedule, promised: Work, settings: Settings) -> None:
    """Take a request of so much work, or say why not, see ``check_room``.

    ``promised`` is the work of admitted requests whose parts are not queued yet: they will queue
    behind a small request, and take turns with the parts of a large one.

    Raises
    ------
    BusyError
        429: too much waits, or what waits takes too long.
    TooLargeError
        413: the request alone takes too long.
    """
    deadline = settings.deadline_s
    before = check_room(schedule, settings)
    waiting = schedule.tokens + promised.tokens
    if waiting and waiting + work.tokens > settings.max_queue_tokens:
        raise BusyError(
            "server.queue_full",
            f"{waiting:,.0f} tokens wait already; expected at most "
            f"{settings.max_queue_tokens:,} (TFSERVE_MAX_QUEUE_TOKENS)",
            retry_after=max(1, math.ceil(before / 2)),
        )
    if not schedule.cost.sure:
        return
    paced = schedule.wait(work.tokens, work.squares) - before
    alone = paced * schedule.pace.share
    if alone > deadline:
        fitting = int(records * deadline / alone)
        raise TooLargeError(
            "body.too_slow",
            f"found {records:,} records, some {alone:,.0f} seconds of work; expected at "
            f"most {deadline} seconds, about {fitting:,} such records (TFSERVE_DEADLINE_S)",
        )
    # Others' parts and this one's take turns: as much of them comes before its last.
    beside = Work(min(promised.tokens, work.tokens), min(promised.squares, work.squares))
    before = schedule.wait(beside.tokens, beside.squares)
    if waiting and before + paced > deadline:
        raise _busy(before + paced, settings)


def _busy(seconds: float, settings: Settings) -> BusyError:
    return BusyError(
        "server.busy",
        f"this would be answered in {seconds:,.0f} seconds; expected at most "
        f"{settings.deadline_s} (TFSERVE_DEADLINE_S), and half of that to wait",
        retry_after=max(1, math.ceil(seconds - settings.deadline_s * SAFE)),
    )
