"""One request's way: a body is read, cut into parts, computed by the batcher and answered.

Reading and tokenising happen here, while the model works on what came before. A large request goes
to the batcher part by part, the next one tokenised while one is computed: it needs little memory,
and small requests pass it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tfserve import artifact, codecs
from tfserve.artifact import Artifact
from tfserve.codecs import Request
from tfserve.errors import BusyError, ModelError, ServingError
from tfserve.parameters import Parameters
from tfserve.processing import Item, Prepared, Processor
from tfserve.records import Record
from tfserve.server.admission import Work, admit, check_room
from tfserve.server.batcher import STARTING, Batcher, Computed, now
from tfserve.server.graph import Graph, wanted
from tfserve.server.metrics import Metrics
from tfserve.server.worker import Starting, Worker
from tfserve.settings import Settings
from tfserve.tasks.common import Answer

PART_CHARACTERS, PART_RECORDS = 20_000, 256
PARTS_AT_ONCE = 2
"""Of a request so many parts wait at a time, of some five thousand tokens each."""

AT_ONCE, AT_ONCE_RECORDS = 20_000, 32
"""Up to so many bytes and records work is done at once; what takes longer would hold up other
requests, and goes to a thread."""

MOST_REQUESTS = 2000
"""Requests that are answered at a time: each holds some 30 kB, and one process does not answer more
than that in a second or two."""

CHARACTERS_A_TOKEN = 4
"""About: what a model reads of a text that it cuts off."""

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """An answered request.

    Attributes
    ----------
    queued, computing : seconds until its first window began, and from then to the last one's end
    """

    text: str
    media_type: str
    records: int = 0
    tokens: int = 0
    queued: float = 0.0
    computing: float = 0.0


@dataclass(frozen=True)
class _Part:
    """A part of a request, answered."""

    answers: list[Answer]
    tokens: int
    queued: float


class Service:
    """A model directory that is being served.

    Parameters
    ----------
    first : a worker that loads the model already, with the engine and precision of ``settings``

    Attributes
    ----------
    artifact, processor : None until the model was found to be sound
    version : the model's content hash, empty until then
    promised : what was admitted and is not queued yet
    answering : requests
    """

    def __init__(
        self, model_dir: Path | str, settings: Settings, first: Starting | None = None
    ) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.artifact: Artifact | None = None
        self.processor: Processor | None = None
        self.version = ""
        self._model_dir, self._first = model_dir, first
        self._served: Artifact | None = None  # what the worker loads
        self._graph = Graph()
        self.batcher = Batcher(self._start, self._observe)
        self.metrics.watch(self.batcher)
        self.promised, self.answering = Work(), 0

    async def _start(self) -> Worker:
        if self.processor is None:
            found = await asyncio.to_thread(artifact.load, self._model_dir)
            if self._first is not None and wanted(self.settings.engine, found):
                self._first.kill()  # it lacks the graph
                self._first = None
            self._served = await self._graph.prepare(found, self.settings.engine)
            starting = asyncio.ensure_future(self._worker())
            try:
                await asyncio.to_thread(self._read, found)  # while the worker loads the model
                worker = await starting
            except BaseException:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                raise
        else:
            worker = await self._worker()
        assert self._served is not None
        if worker.facts["version"] != self._served.version:
            await worker.stop()
            raise ModelError(
                "model.changed",
                "the model directory is not the one that was served; start the server again",
            )
        return worker

    def close(self) -> None:
        """Leave nothing behind."""
        self._graph.remove()

    def _worker(self) -> Coroutine[Any, Any, Worker]:
        assert self._served is not None
        starting, self._first = self._first, None
        return Worker.ready(starting or Starting(self._served.path, self.settings))

    def _read(self, found: Artifact) -> None:
        processor = Processor(found.task(), found.encoder())
        processor.parameters = self.settings.parameters
        processor.asked(processor.parameters)  # raises where the task does not understand one
        self.version = found.version
        self.artifact, self.processor = found, processor

    def _observe(self, run: Any, seconds: float) -> None:
        assert self.batcher.schedule is not None
        self.metrics.batch(run, seconds, self.batcher.schedule.budget)

    def check_room(self) -> None:
        """Raise ServingError where no request can be answered in time, before it is read."""
        if self.batcher.failure is not None or self.batcher.schedule is None:
            raise (self.batcher.failure or STARTING).at()
        check_room(self.batcher.schedule, self.settings)

    async def answer(
        self,
        body: bytes,
        content_type: str | None,
        accept: str | None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Answer a body; what it asks for itself comes before ``parameters``.

        Raises RequestError for what is wrong with it, ServingError where it cannot be answered.
        """
        at_once = len(body) <= AT_ONCE
        media_type = codecs.negotiate(accept)
        most = self.settings.max_records
        request = await _off(at_once, codecs.decode, body, content_type, most)
        if parameters:
            request = replace(request, parameters={**parameters, **request.parameters})
        return await self.ask(request, media_type, at_once)

    async def ask(self, request: Request, media_type: str, at_once: bool = True) -> Reply:
        """Answer a decoded request."""
        if self.batcher.failure is not None or self.processor is None:
            raise (self.batcher.failure or STARTING).at()
        if self.answering >= MOST_REQUESTS:
            raise BusyError(
                "server.too_many_requests",
                f"{MOST_REQUESTS:,} other requests are being answered; expected fewer at a time",
                retry_after=1,
            )
        self.answering += 1
        try:
            return await self._ask(self.processor, request, media_type, at_once)
        finally:
            self.answering -= 1

    async def _ask(
        self, processor: Processor, request: Request, media_type: str, at_once: bool
    ) -> Reply:
        self.settings.check_records(len(request.items))
        at_once = at_once and len(request.items) <= AT_ONCE_RECORDS
        items, asked = await _off(at_once, processor.read, request)
        began = now()
        parts = await self._answer(processor, items, asked, at_once)
        queued = parts[0].queued if parts else 0.0
        computing = now() - began - queued
        answers = [answer for part in parts for answer in part.answers]
        text = await _off(at_once, codecs.encode, answers, media_type)
        tokens = sum(part.tokens for part in parts)
        return Reply(text, media_type, len(items), tokens, queued, computing)

    async def _answer(
        self, processor: Processor, items: Sequence[Item], asked: Parameters, at_once: bool
    ) -> list[_Part]:
        """Answers part by part."""
        parts = list(_parts(items))
        if not parts:
            return []
        # Nothing of a request is queued before all of it was admitted.
        first = await _off(at_once, processor.preprocess, parts[0])
        slots = asyncio.Semaphore(PARTS_AT_ONCE)
        promise = self._admit(Work.of(first).times(_share(processor, parts[0], items)), len(items))

        async def one(part: Sequence[Item]) -> _Part:
            async with slots:
                prepared = first
                if part is not parts[0]:
                    prepared = await _off(at_once, processor.preprocess, part)
                work = Work.of(prepared)
                # What is queued is no promise any more.
                nonlocal promise
                kept = promise.less(work)
                self.promised -= promise - kept
                promise = kept
                done = await self.batcher.run(prepared.windows)
            answers = await _off(at_once, _decode, processor, part, prepared, done, asked)
            return _Part(answers, int(work.tokens), done.queued)

        try:
            if len(parts) == 1:
                return [await one(parts[0])]
            tasks = [asyncio.ensure_future(one(part)) for part in parts]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
        finally:
            self.promised -= promise

    def _admit(self, work: Work, records: int) -> Work:
        """Promise the work of a request. Raises BusyError or TooLargeError, see ``admit``."""
        assert self.batcher.schedule is not None
        admit(work, records, self.batcher.schedule, self.promised, self.settings)
        self.promised += work
        return work


async def _off(at_once: bool, function: Callable[..., T], *arguments: Any) -> T:
    """Call it here, or in a thread where that would hold up others.

    A thread cannot be cancelled: what it holds counts until it has ended.
    """
    if at_once:
        return function(*arguments)
    thread = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # which nobody asks for any more
        raise


def _decode(
    processor: Processor,
    items: Sequence[Item],
    prepared: Prepared,
    done: Computed,
    asked: Parameters,
) -> list[Answer]:
    """Answers to the items."""
    pairs = zip(prepared.windows, done.outputs, strict=True)
    tried = [o if isinstance(o, ServingError) else processor.tried(w, o) for w, o in pairs]
    return processor.settled(items, prepared, tried, asked)


def _share(processor: Processor, part: Sequence[Item], items: Sequence[Item]) -> float:
    """How many times the work of ``part`` that of ``items`` is, by their characters."""
    seen = processor.encoder
    longest = math.inf if seen.windowed else seen.max_length * CHARACTERS_A_TOKEN
    whole, first = (sum(min(_characters(i), longest) for i in some) for some in (items, part))
    return whole / max(1, first)


def _characters(item: Item) -> int:
    return len(item.text) if isinstance(item, Record) else 1


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    start = characters = 0
    for end, item in enumerate(items, 1):
        characters += _characters(item)
        if characters >= PART_CHARACTERS or end - start == PART_RECORDS or end == len(items):
            yield items[start:end]
            start, characters = end, 0
