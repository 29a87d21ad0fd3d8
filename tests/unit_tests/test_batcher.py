"""The batcher with a worker that fails as it is told to, in simulated time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import simulate

from tfserve.encoding import Window
from tfserve.errors import ModelError, ServingError, UnavailableError
from tfserve.server.batcher import Batcher
from tfserve.server.worker import BatchError, CrashError

NONE = np.empty(0, np.int64)
BAD, DEADLY, ENDLESS = 13, 666, 777
"""Token ids that make a batch fail, the worker die, and a batch never end."""


def window(*ids: int) -> Window:
    return Window(np.array(ids, np.int64), None, NONE, NONE, NONE.astype(bool))


class Process:
    pid, returncode = 0, -9

    def __init__(self, worker: Worker) -> None:
        self.kill = worker.crash


class Worker:
    """Computes the sum of a window's ids, at 1 ms a padded token; two lanes, and a third batch."""

    def __init__(self) -> None:
        self.process = Process(self)
        self.facts = {"lanes": 2, "budget": 64}
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.batches: list[tuple[float, list[Window], bool]] = []
        self.lanes = 0

    async def run(self, windows: list[Window], alone: bool) -> tuple[Any, float, float]:
        now = asyncio.get_running_loop().time()
        self.batches.append((now, list(windows), alone))
        self.lanes += 1
        assert self.lanes <= 3 and not (alone and self.lanes > 1)
        if self.ended.done():
            raise CrashError
        seconds = 1e-3 * len(windows) * max(map(len, windows)) / (2 if alone else 1)
        seconds += 1e9 * any(ENDLESS in w.ids for w in windows)
        await asyncio.wait({asyncio.ensure_future(asyncio.sleep(seconds)), self.ended},
                           return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
        self.lanes -= 1
        ids = {int(i) for w in windows for i in w.ids}
        if DEADLY in ids:
            self.crash()
        if self.ended.done():
            raise CrashError
        if BAD in ids:
            raise BatchError("RuntimeError")
        sums = np.array([[w.ids.sum()] for w in windows], np.float32)
        return sums, seconds, asyncio.get_running_loop().time()

    def crash(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    async def stop(self) -> None:
        self.crash()


class Started:
    """Starts workers and keeps them."""

    def __init__(self, *failures: Exception, seconds: float = 0.0) -> None:
        self.workers: list[Worker] = []
        self.failures, self.seconds = list(failures), seconds

    async def __call__(self) -> Any:
        await asyncio.sleep(self.seconds)
        if self.failures:
            raise self.failures.pop(0)
        self.workers.append(Worker())
        return self.workers[-1]

    @property
    def batches(self) -> list[tuple[float, list[Window], bool]]:
        return [batch for worker in self.workers for batch in worker.batches]


def with_batcher(test: Callable[[Batcher, Started], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            started = Started()
            batcher = Batcher(started)
            keeping = asyncio.ensure_future(batcher.keep())
            await asyncio.sleep(0.001)
            assert batcher.failure is None
            await test(batcher, started)
            keeping.cancel()
            await asyncio.sleep(0)
            assert batcher.schedule is not None
            assert (batcher.schedule.waiting, batcher.schedule.tokens) == (0, 0)
            assert not batcher._jobs

        simulate(main())

    run.__name__ = test.__name__
    return run


@with_batcher
async def test_a_window_gets_its_own_answer(batcher: Batcher, started: Started) -> None:
    done = await batcher.run([window(1, 2), window(3), window(4, 5, 6)])
    assert [float(output[0]) for output in done.outputs] == [3, 3, 15]
    assert done.queued == 0


@with_batcher
async def test_requests_share_batches(batcher: Batcher, started: Started) -> None:
    await asyncio.gather(*(batcher.run([window(i, i)]) for i in range(20, 40)))
    assert len(started.batches) == 2
    assert {len(windows) for _, windows, _ in started.batches} == {10}


@with_batcher
async def test_what_is_wanted_twice_is_computed_once(batcher: Batcher, started: Started) -> None:
    first = asyncio.ensure_future(batcher.run([window(7, 8)]))
    await asyncio.sleep(0.0005)  # it runs already
    more = [batcher.run([window(7, 8), window(1)]) for _ in range(5)]
    results = await asyncio.gather(first, *more)
    assert [float(result.outputs[0][0]) for result in results] == [15] * 6
    assert sum(len(windows) for _, windows, _ in started.batches) == 2


@with_batcher
async def test_one_that_fails_fails_alone(batcher: Batcher, started: Started) -> None:
    done = await batcher.run([window(i, 1) for i in range(BAD - 5, BAD + 5)])
    for number, output in enumerate(done.outputs, BAD - 5):
        if number == BAD:
            assert isinstance(output, ServingError)
            assert output.code == "server.model"
        else:
            assert not isinstance(output, ServingError)
            assert float(output[0]) == number + 1


@with_batcher
async def test_a_worker_that_can_do_nothing_any_more_is_replaced(
    batcher: Batcher, started: Started
) -> None:
    for number in range(20):
        if batcher.failure is None:
            await batcher.run([window(BAD, number)])
        await asyncio.sleep(0.1)
    assert len(started.workers) > 1
    await asyncio.sleep(60)
    assert float((await batcher.run([window(1)])).outputs[0][0]) == 1


@with_batcher
async def test_a_worker_that_hangs_is_replaced(batcher: Batcher, started: Started) -> None:
    with pytest.raises(ServingError, match="the process with the model died"):
        await batcher.run([window(ENDLESS)])
    await asyncio.sleep(60)
    assert len(started.workers) == 2
    assert float((await batcher.run([window(1)])).outputs[0][0]) == 1


@with_batcher
async def test_failures_between_answers_harm_nobody(batcher: Batcher, started: Started) -> None:
    for number in range(20):
        await batcher.run([window(BAD, number)])
        await batcher.run([window(1, number)])
    assert len(started.workers) == 1


@with_batcher
async def test_a_crash_is_said_and_what_waits_is_answered_later(
    batcher: Batcher, started: Started
) -> None:
    deadly = asyncio.ensure_future(batcher.run([window(*[DEADLY] * 60)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = [asyncio.ensure_future(batcher.run([window(i)])) for i in range(100, 103)]
    with pytest.raises(ServingError) as crashed:
        await deadly
    assert (crashed.value.code, crashed.value.status) == ("server.crashed", 500)
    await asyncio.sleep(0)
    assert batcher.failure is not None
    assert (batcher.failure.code, batcher.failure.status) == ("server.restarting", 503)
    with pytest.raises(UnavailableError):
        await batcher.run([window(1)])
    results = await asyncio.gather(*waiting)
    assert [float(result.outputs[0][0]) for result in results] == [100, 101, 102]
    assert batcher.failure is None
    assert len(started.workers) == 2


@with_batcher
async def test_workers_that_die_young_are_started_ever_more_slowly(
    batcher: Batcher, started: Started
) -> None:
    loop, times = asyncio.get_running_loop(), [asyncio.get_running_loop().time()]
    for number in range(2, 13):
        started.workers[-1].crash()
        while len(started.workers) < number:
            await asyncio.sleep(0.01)
        times.append(loop.time())
    pauses = np.diff(times)
    assert pauses[0] < 0.3
    assert (np.diff(pauses) > -0.05).all()
    assert pauses[-1] == pytest.approx(30, abs=0.1)
    await asyncio.sleep(100)
    started.workers[-1].crash()
    await asyncio.sleep(0.2)
    assert len(started.workers) == 13


@with_batcher
async def test_who_goes_away_frees_the_place(batcher: Batcher, started: Started) -> None:
    running = asyncio.ensure_future(batcher.run([window(1, 2, 3)]))
    await asyncio.sleep(0.0005)
    gone = asyncio.ensure_future(batcher.run([window(4), window(5)]))
    stays = asyncio.ensure_future(batcher.run([window(5)]))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(running, stays)
    computed = [int(w.ids[0]) for _, windows, _ in started.batches for w in windows]
    assert computed == [1, 5]


@with_batcher
async def test_who_goes_away_while_it_runs_harms_nobody(batcher: Batcher, started: Started) -> None:
    gone = asyncio.ensure_future(batcher.run([window(1, 2, 3)]))
    await asyncio.sleep(0.0005)
    gone.cancel()
    again = await batcher.run([window(1, 2, 3)])
    assert float(again.outputs[0][0]) == 6


def test_a_model_that_cannot_be_loaded_is_not_tried_again() -> None:
    async def main() -> None:
        started = Started(ModelError("model.tampered", "is not the file", file="a"))
        batcher = Batcher(started)
        await batcher.keep()
        assert batcher.failure is not None
        assert (batcher.failure.code, batcher.failure.status) == ("model.tampered", 503)
        with pytest.raises(ServingError, match="is not the file"):
            await batcher.run([window(1)])

    simulate(main())


def test_until_it_is_loaded_it_says_so() -> None:
    async def main() -> None:
        batcher = Batcher(Started(seconds=5))
        keeping = asyncio.ensure_future(batcher.keep())
        await asyncio.sleep(4)
        with pytest.raises(UnavailableError, match="being loaded"):
            await batcher.run([window(1)])
        await asyncio.sleep(2)
        assert float((await batcher.run([window(1)])).outputs[0][0]) == 1
        keeping.cancel()

    simulate(main())


requests = st.lists(
    st.tuples(
        st.floats(0, 0.5),  # when it comes
        st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=40), min_size=1, max_size=4),
        st.sampled_from(["stays", "stays", "stays", "leaves"]),
    ),
    min_size=1,
    max_size=40,
)


@given(requests, st.lists(st.floats(0, 1), max_size=2))
@settings(deadline=None)
def test_whatever_comes_every_request_ends_with_its_answer_or_its_error(
    plan: list[tuple[float, list[list[int]], str]], crashes: list[float]
) -> None:
    async def ask(batcher: Batcher, at: float, texts: list[list[int]], how: str) -> None:
        await asyncio.sleep(at)
        asking = batcher.run([window(*text) for text in texts])
        try:
            if how == "leaves":
                done = await asyncio.wait_for(asking, 0.02)
            else:
                done = await asking
        except asyncio.TimeoutError:
            return
        except ServingError as error:
            assert error.code in ("server.crashed", "server.restarting")
            assert crashes or any(BAD in text for one in plan for text in one[1])
        else:
            for output, text in zip(done.outputs, texts, strict=True):
                if BAD in text:
                    assert isinstance(output, ServingError)
                else:
                    assert not isinstance(output, ServingError)
                    assert float(output[0]) == sum(text)

    async def main() -> None:
        started = Started(seconds=0.01)
        batcher = Batcher(started)
        keeping = asyncio.ensure_future(batcher.keep())
        await asyncio.sleep(0.02)

        async def crash(at: float) -> None:
            await asyncio.sleep(at)
            started.workers[-1].crash()

        asked = [ask(batcher, *one) for one in plan]
        try:
            await asyncio.wait_for(asyncio.gather(*asked, *map(crash, crashes)), 3600)
            await asyncio.sleep(100)
        finally:
            keeping.cancel()
            await asyncio.sleep(0)
        assert batcher.schedule is not None
        assert (batcher.schedule.waiting, batcher.schedule.tokens) == (0, 0)
        assert not batcher.schedule.running and not batcher._jobs

    simulate(main())
