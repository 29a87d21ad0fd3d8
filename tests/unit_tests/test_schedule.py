"""Which windows run next, and what batches are expected to cost."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserve.encoding import Window
from tfserve.server.cost import Cost, Pace
from tfserve.server.schedule import PATIENCE, Job, Run, Schedule

NONE = np.empty(0, np.int64)
numbers = count()


def job(length: int, arrived: float = 0.0) -> Job:
    window = Window(np.zeros(length, np.int64), None, NONE, NONE, NONE.astype(bool))
    return Job(window, str(next(numbers)).encode(), arrived)


def taught(lanes: int = 2, budget: int = 512, slow_alone: float = 0.6) -> Schedule:
    """A schedule that knows what batches cost: 4 ms and 0.1 ms a token on a lane."""
    schedule = Schedule(lanes, budget)
    for rows, length in ((1, 8), (4, 16), (16, 16), (1, 300), (2, 200), (8, 64)) * 8:
        schedule.lane.learn(rows, length, 4e-3 + 1e-4 * rows * length)
        schedule.alone.learn(rows, length, 4e-3 + slow_alone * 1e-4 * rows * length)
    return schedule


def lengths(run: Run) -> list[int]:
    return sorted(job.length for job in run.jobs)


shapes = st.tuples(st.integers(1, 64), st.integers(2, 512))


@given(
    st.tuples(*(st.floats(low, high) for low, high in ((1e-4, 1e-1), (1e-6, 1e-3), (0, 1e-6)))),
    st.lists(shapes, min_size=60, max_size=80, unique=True),
)
@settings(deadline=None, max_examples=50)
def test_the_cost_of_batches_is_learned(
    true: tuple[float, float, float], seen: list[tuple[int, int]]
) -> None:
    def seconds(rows: int, length: int) -> float:
        return true[0] + true[1] * rows * length + true[2] * rows * length**2

    cost = Cost()
    for rows, length in seen * 3:
        cost.learn(rows, length, seconds(rows, length))
    assert min(cost.c0, cost.c1, cost.c2) >= 0
    off = [cost.batch(*shape) / seconds(*shape) for shape in seen]
    assert np.median(np.abs(np.log(off))) < 0.1


def test_what_a_machine_does_besides_does_not_spoil_the_fit() -> None:
    cost, rng = Cost(), np.random.default_rng(0)
    for number in range(400):
        rows, length = int(rng.integers(1, 32)), int(rng.integers(5, 200))
        paused = 20 if number % 50 == 49 else 1
        cost.learn(rows, length, paused * (3e-3 + 2e-4 * rows * length))
    assert cost.batch(16, 32) == pytest.approx(3e-3 + 2e-4 * 16 * 32, rel=0.3)


def test_a_machine_that_became_slower_is_noticed() -> None:
    cost = Cost()
    for slower in (1, 3):
        for number in range(200):
            cost.learn(1 + number % 16, 20, slower * (3e-3 + 2e-4 * 20 * (1 + number % 16)))
    assert cost.batch(8, 20) == pytest.approx(3 * (3e-3 + 2e-4 * 160), rel=0.1)


@given(st.lists(st.integers(2, 512), min_size=1, max_size=200), st.integers(1, 3))
@settings(deadline=None)
def test_everything_runs_once_within_the_budget(sizes: list[int], lanes: int) -> None:
    schedule, jobs = taught(lanes), [job(size, i * 1e-3) for i, size in enumerate(sizes)]
    for one in jobs:
        schedule.add(one)
    assert schedule.tokens == sum(sizes)
    ran: list[Job] = []
    now = 1.0
    while schedule.waiting or schedule.running:
        for run in schedule.start(now):
            rows, longest = run.shape
            assert rows == 1 or rows * longest <= schedule.budget
            assert run.jobs and (not run.alone or lanes == 1 or len(schedule.running) == 1)
            ran += run.jobs
        assert 1 <= len(schedule.running) <= lanes + 1
        done = next(iter(schedule.running))
        now += 0.01
        schedule.finished(done, 0.01, now)
    assert sorted(map(id, ran)) == sorted(map(id, jobs))
    assert (schedule.tokens, schedule.squares) == (0, 0)


def test_like_lengths_run_together() -> None:
    schedule = taught()
    for size in (10, 300, 12, 11, 290, 10, 12, 11):
        schedule.add(job(size))
    started = schedule.start(0.0)
    while schedule.running:
        schedule.finished(next(iter(schedule.running)), 0.01, 0.0)
        started += schedule.start(0.0)
    assert all(lengths(run)[-1] - lengths(run)[0] <= 10 for run in started)


@given(
    st.lists(st.integers(2, 512), min_size=1, max_size=60),
    st.lists(st.integers(2, 512), min_size=1, max_size=5),
)
@settings(deadline=None)
def test_none_starves(sizes: list[int], stream: list[int]) -> None:
    schedule, now = taught(), 0.0
    first = [job(size, now) for size in sizes]
    for one in first:
        schedule.add(one)
    schedule.start(now)
    now = 2 * PATIENCE
    for _ in range(len(sizes) + 3):  # each batch that begins now takes the oldest that waits
        waiting = [one for one in first if one in schedule._waiting]
        for size in stream:
            schedule.add(job(size, now))
        schedule.finished(next(iter(schedule.running)), 0.01, now)
        begun = [one for run in schedule.start(now) for one in run.jobs]
        if waiting and begun:
            assert waiting[0] in begun
    assert not [one for one in first if one in schedule._waiting]


def test_a_lane_is_never_idle_while_something_waits() -> None:
    schedule = taught()
    for size in (400, 400, 400):
        schedule.add(job(size))
    assert len(schedule.start(0.0)) == 2
    assert schedule.start(0.0) == []
    schedule.finished(next(iter(schedule.running)), 0.04, 0.04)
    assert len(schedule.start(0.04)) == 1


def test_a_lone_window_has_all_cores_and_others_wait_for_it() -> None:
    schedule = taught()
    schedule.add(job(20))
    [run] = schedule.start(0.0)
    assert run.alone
    schedule.add(job(20))
    assert schedule.start(0.0) == []
    schedule.finished(run, 0.004, 0.004)
    assert [run.alone for run in schedule.start(0.004)] == [True]


def test_one_batch_is_halved_where_two_cores_are_faster_apart() -> None:
    apart, together = taught(slow_alone=0.9), taught(slow_alone=0.4)
    for schedule, expected in ((apart, [False, False]), (together, [True])):
        for _ in range(10):
            schedule.add(job(20))
        assert [run.alone for run in schedule.start(0.0)] == expected
        assert not schedule.waiting


def test_a_batch_that_failed_is_tried_in_halves() -> None:
    schedule, bad = taught(1), job(10)
    for one in [job(10), job(10), bad, job(10), job(10)]:
        schedule.add(one)
    blamed, well = [], 0
    runs = schedule.start(0.0)
    while runs:
        run = runs.pop()
        if bad in run.jobs:
            blamed += schedule.failed(run)
        else:
            schedule.finished(run, 0.01, 0.0)
            well += len(run.jobs)
        runs += schedule.start(0.0)
    assert (blamed, well, schedule.tokens) == ([bad], 4, 0)


def test_what_nobody_wants_any_more_is_not_run() -> None:
    schedule = taught()
    unwanted, wanted = job(30), job(30)
    schedule.add(unwanted)
    schedule.add(wanted)
    schedule.discard(unwanted)
    schedule.discard(unwanted)
    assert [run.jobs for run in schedule.start(0.0)] == [[wanted]]
    assert schedule.tokens == 0


def test_the_wait_is_foreseen() -> None:
    schedule = taught(lanes=2)
    for _ in range(100):
        schedule.add(job(100))
    # 10,000 tokens, 0.1 ms each, and the calls, on two lanes.
    assert schedule.wait() == pytest.approx(0.5 * 1.1, rel=0.1)
    assert schedule.wait(10_000, 10_000 * 100) == pytest.approx(1.0 * 1.1, rel=0.1)
    assert taught().wait() == 0.0


def test_a_worker_with_much_to_do_has_its_next_batch_already() -> None:
    for lanes in (1, 2):
        schedule = taught(lanes)
        for _ in range(100):
            schedule.add(job(100))
        assert len(schedule.start(0.0)) == lanes + 1
        few = taught(lanes)
        for _ in range(lanes + 1):  # the last may be run better with what comes meanwhile
            few.add(job(400))
        assert (len(few.start(0.0)), few.waiting) == (lanes, 1)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_worker_whose_answers_lie_unread_is_given_more_ahead(lanes: int) -> None:
    schedule = taught(lanes)
    for _ in range(200):
        schedule.add(job(100))
    [first, *_] = schedule.start(0.0)
    schedule.finished(first, first.cost, 1.0, late=0.8)
    schedule.start(1.0)
    given = sum(run.cost for run in schedule.running)
    assert 0.8 * lanes < given < 0.8 * lanes + 0.1
    ahead = len(schedule.running)
    for second in range(2, 12):  # it is read at once again
        run = next(iter(schedule.running))
        schedule.finished(run, run.cost, float(second), late=0.0)
    assert schedule.start(12.0) == []
    assert len(schedule.running) == ahead - 10


def test_an_answer_that_is_read_late_counts_though_little_waits() -> None:
    schedule = taught(2)
    for _ in range(2):
        schedule.add(job(300))
    first, _ = schedule.start(0.0)
    schedule.finished(first, 0.03, 1.0, late=0.9)
    for _ in range(2):
        schedule.add(job(20))
    assert [run.shape for run in schedule.start(1.0)] == [(2, 20)]
    schedule.add(job(20))
    assert [run.shape for run in schedule.start(1.0)] == [(1, 20)]


@given(st.floats(0.1, 1.0), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_the_wait_is_longer_where_the_worker_is_not_kept_busy(share: float, lanes: int) -> None:
    """A process that comes to the worker's answers late leaves it idle between two batches."""
    schedule = taught(lanes)
    for _ in range(6000):
        schedule.add(job(100))
    foreseen = schedule.wait()
    now, half = 0.0, False
    schedule.start(now)
    while schedule.waiting:
        for run in list(schedule.running):
            now += run.cost / lanes / share
            schedule.finished(run, run.cost, now)
            if schedule.waiting:
                schedule.start(now)
        if not half and schedule.waiting <= 3000:
            half = True
            given = sum(one.length for run in schedule.running for one in run.jobs)
            left = foreseen * (schedule.tokens + given) / 600_000
            assert schedule.wait() == pytest.approx(left / share, rel=0.15)
    assert half
    assert schedule.pace.share == pytest.approx(share, rel=0.25)  # the last wait for nobody
    for run in list(schedule.running):
        schedule.finished(run, run.cost, now)
    for _ in range(1000):  # light work does not wait
        schedule.add(job(100))
        for run in schedule.start(now):
            schedule.finished(run, 0.01, now + 1)
    assert schedule.pace.share > 0.9


def test_a_time_without_a_worker_is_no_time_of_the_worker() -> None:
    schedule = taught(2)
    for _ in range(50):
        schedule.add(job(100))
    for run in schedule.start(0.0):
        schedule.running.discard(run)  # it died
    for run in schedule.start(30.0):
        schedule.finished(run, run.cost, 30.0 + run.cost / 2)
    assert schedule.pace.share > 0.9


def test_the_pace_of_long_batches_is_not_that_of_the_first_to_end() -> None:
    pace = Pace(4)
    pace.add(0.5, 2.0)
    assert pace.share > 0.6
    for _ in range(3):
        pace.add(0.5, 0.0)
    assert pace.share == 1.0


def test_a_budget_grows_until_the_overhead_is_small() -> None:
    cost = taught().lane
    assert cost.budget(1000, 0.1) == pytest.approx(4e-3 / 1e-4 * 9, rel=0.1)
    assert cost.budget(200, 0.1) == 200
    assert cost.budget(1000, 0.9) == 125
