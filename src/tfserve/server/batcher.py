"""The dynamic batcher: the windows of many requests, computed together.

One event loop, no locks: requests add their windows to the schedule, the worker computes batches,
and each window goes back to all who wait for it. A window that is wanted twice at the same time is
computed once. A batch that fails is halved until the one that is to blame fails by itself. When the
worker dies, what it was computing fails, what waits goes on waiting, and another one is started.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tfserve.arrays import Array
from tfserve.encoding import Window
from tfserve.errors import ServingError, TfserveError, UnavailableError
from tfserve.server.schedule import Job, Run, Schedule
from tfserve.server.worker import BatchError, CrashError, Worker

log = logging.getLogger("tfserve")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
"""Seconds before a worker is started again; twice as long each time that it dies young."""

YOUNG = 60.0
"""Seconds."""

HUNG = 300
"""Seconds after which a batch will never end: the worker does not answer any more."""

HOPELESS = 5
"""So many windows fail by themselves and none is computed: the worker is of no use any more."""


STARTING = UnavailableError("server.loading", "the model is being loaded")


@dataclass(frozen=True)
class Computed:
    """What the model computed for the windows of a request.

    Attributes
    ----------
    outputs : of each window, or why there is none
    queued : seconds until the first of them began
    """

    outputs: list[Array | ServingError]
    queued: float


class Batcher:
    """Computes windows with a worker that it keeps alive.

    Parameters
    ----------
    start : starts a worker
    observe : is told of every batch that was computed

    Attributes
    ----------
    failure : why there is no worker; None while there is one
    schedule : None until there was one
    starts : how often one was started
    given_up : the first could not be started, and no other will be
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Worker]],
        observe: Callable[[Run, float], None] = lambda *_: None,
    ) -> None:
        self._start, self._observe = start, observe
        self.failure: ServingError | None = STARTING
        self.worker: Worker | None = None
        self.starts = 0
        self.given_up = False
        self._failures = 0  # windows that failed since one was computed
        self.schedule: Schedule | None = None
        self._jobs: dict[bytes, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._due = False

    async def keep(self) -> None:
        """Start the worker, and another one whenever it dies; returns if the first cannot be."""
        pause = FIRST_PAUSE
        while True:
            born = now()
            self.starts += 1
            try:
                worker = await self._start()
            except TfserveError as error:
                self.failure = UnavailableError(error.code, error.message, **error.place)
                log.error("%s", error, extra={"fields": {"code": error.code}})
                if self.schedule is None:
                    self.given_up = True
                    return
            except Exception as error:  # no memory, no file descriptors: later there may be
                reason = f"the process with the model cannot be started: {type(error).__name__}"
                self.failure = UnavailableError("server.worker", reason)
                log.error(reason, exc_info=True)
            else:
                lanes, budget = worker.facts["lanes"], worker.facts["budget"]
                self.schedule = self.schedule or Schedule(lanes, budget)
                self.worker, self.failure = worker, None
                self._pump()
                try:
                    await worker.ended
                finally:
                    self.worker = None
                    self.failure = UnavailableError(
                        "server.restarting", "the process with the model is being restarted"
                    )
                    await worker.stop()
                status = worker.process.returncode
                log.error("the worker ended with %s; starting another", status)
            pause = FIRST_PAUSE if now() - born > YOUNG else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def run(self, windows: Sequence[Window]) -> Computed:
        """Compute windows; when it is cancelled, what nobody else wants is not computed.

        Raises ServingError where the worker dies, or ``failure`` where there is none.
        """
        if self.failure is not None or self.schedule is None:
            raise (self.failure or STARTING).at()
        arrived = now()
        loop = asyncio.get_running_loop()
        waiting: list[tuple[Job, asyncio.Future[Array | ServingError]]] = []
        for window in windows:
            key = window.key
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = Job(window, key, arrived)
                self.schedule.add(job)
            future = loop.create_future()
            job.wanted.append(future)
            waiting.append((job, future))
        self._pump_soon()
        try:
            outputs = [await future for _, future in waiting]
        except BaseException:
            for job, future in waiting:
                self._unwanted(job, future)
            raise
        began = min((job.started for job, _ in waiting), default=arrived)
        return Computed(outputs, max(0.0, began - arrived))

    def _unwanted(self, job: Job, future: asyncio.Future[Array | ServingError]) -> None:
        if not future.cancel() and not future.cancelled():
            future.exception()  # so that it counts as known
        if future in job.wanted:
            job.wanted.remove(future)
        if not job.wanted and self._jobs.get(job.key) is job and self.schedule:
            del self._jobs[job.key]
            self.schedule.discard(job)

    def _pump_soon(self) -> None:
        """Start batches when all that has arrived already has been read."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._due = False
        if self.worker is None or self.schedule is None:
            return
        for run in self.schedule.start(now()):
            task = asyncio.ensure_future(self._compute(self.worker, self.schedule, run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _compute(self, worker: Worker, schedule: Schedule, run: Run) -> None:
        hung = asyncio.get_running_loop().call_later(HUNG, self._hung, worker)
        try:
            given, windows = now(), [job.window for job in run.jobs]
            logits, seconds, ended = await worker.run(windows, run.alone)
        except BatchError as error:
            self._blame(worker, schedule.failed(run), error)
            self._pump()
        except Exception as error:
            schedule.running.discard(run)
            if not isinstance(error, CrashError):
                log.error("a batch failed", exc_info=True)
            crashed = "the process with the model died before it answered this"
            for job in run.jobs:
                for future in self._awaited(job):
                    future.set_exception(ServingError("server.crashed", crashed))
        else:
            self._failures = 0
            read = now()
            ended = min(max(ended, given), read)  # whatever that clock may be on some system
            schedule.finished(run, seconds, read, read - ended)
            self._pump()  # the model has work again before its answers are written
            self._observe(run, seconds)
            for job, output in zip(run.jobs, logits, strict=True):
                job.started = max(job.started, ended - seconds)  # it may have waited there
                self._settle(job, output)
        finally:
            hung.cancel()

    def _hung(self, worker: Worker) -> None:
        log.error("a batch has taken %d seconds: ending the worker", HUNG)
        worker.process.kill()

    def _blame(self, worker: Worker, failed: Sequence[Job], error: BatchError) -> None:
        """Tell those who wait for a job that fails by itself."""
        for job in failed:
            log.error("a window of %d tokens failed: %s", job.length, error)
            self._settle(job, ServingError("server.model", "the model failed; see the log"))
            self._failures += 1
        if failed and self._failures >= HOPELESS:  # a GPU may need a new process
            log.error("nothing but failures: ending the worker")
            worker.process.kill()

    def _settle(self, job: Job, output: Array | ServingError) -> None:
        """Give it to all who wait for it."""
        for future in self._awaited(job):
            future.set_result(output)

    def _awaited(self, job: Job) -> list[asyncio.Future[Array | ServingError]]:
        """Those who still wait for a job that is over."""
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
        return [future for future in job.wanted if not future.done()]


def now() -> float:
    """Seconds on the machine's monotonic clock. That of uvloop steps by whole milliseconds."""
    return time.monotonic()
