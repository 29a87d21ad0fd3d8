"""One request's way: a body is read, cut into parts, computed by the batcher and answered.

Reading and tokenising happen here, while the model works on what came before. A large request goes
to the batcher part by part, the next one tokenised while one is computed: it needs little memory,
and small requests pass it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tfserve import artifact, codecs
from tfserve.artifact import Artifact
from tfserve.codecs import Request
from tfserve.errors import BusyError, TfserveError, TooLargeError
from tfserve.processing import Item, Prepared, Processor
from tfserve.records import Record
from tfserve.server.batcher import STARTING, Batcher, Computed
from tfserve.server.metrics import Metrics
from tfserve.server.worker import Worker
from tfserve.settings import Settings
from tfserve.tasks import Parameters
from tfserve.tasks.base import Answer

PART_CHARACTERS, PART_RECORDS = 20_000, 256
PARTS_AT_ONCE = 2
"""Of a request so many parts wait at a time, of some five thousand tokens each."""

AT_ONCE = 20_000
"""Characters up to which work is done at once; what takes longer would hold up other requests, and
goes to a thread."""

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """An answered request.

    Attributes
    ----------
    queued, computing : seconds, see ``Computed``
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
    computed: Computed


class Service:
    """A model directory that is being served.

    Attributes
    ----------
    artifact, processor : None until the model was found to be sound
    version : the model's content hash, empty until then
    """

    def __init__(self, model_dir: Path | str, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.artifact: Artifact | None = None
        self.processor: Processor | None = None
        self.version = ""
        self._model_dir = model_dir
        self.batcher = Batcher(self._start, self._observe)
        self.metrics.watch(self.batcher)

    async def _start(self) -> Worker:
        # The worker verifies the model as well; meanwhile this one is idle.
        worker = asyncio.ensure_future(Worker.start(self._model_dir, self.settings.precision))
        try:
            if self.processor is None:
                await asyncio.to_thread(self._read_model)
        except TfserveError:
            worker.cancel()
            raise
        return await worker

    def _read_model(self) -> None:
        found = artifact.load(self._model_dir)
        processor = Processor(found.task(), found.encoder())
        processor.parameters = self.settings.parameters
        processor.asked(processor.parameters)  # raises where the task does not understand one
        self.version = found.version
        self.artifact, self.processor = found, processor

    def _observe(self, run: Any, seconds: float) -> None:
        assert self.batcher.schedule is not None
        self.metrics.batch(run, seconds, self.batcher.schedule.budget)

    async def answer(self, body: bytes, content_type: str | None, accept: str | None) -> Reply:
        """Answer a body.

        Raises RequestError for what is wrong with it, ServingError where it cannot be answered.
        """
        at_once = len(body) <= AT_ONCE
        media_type = codecs.negotiate(accept)
        request = await _off(at_once, codecs.decode, body, content_type)
        return await self.ask(request, media_type, at_once)

    async def ask(self, request: Request, media_type: str, at_once: bool = True) -> Reply:
        """Answer a decoded request."""
        if self.batcher.failure is not None or self.processor is None:
            raise (self.batcher.failure or STARTING).at()
        self.settings.check_records(len(request.items))
        items, asked = await _off(at_once, self.processor.read, request)
        parts = await self._answer(self.processor, items, asked, at_once)
        answers = [answer for part in parts for answer in part.answers]
        return Reply(
            await _off(at_once, codecs.encode, answers, media_type),
            media_type,
            len(items),
            sum(part.tokens for part in parts),
            parts[0].computed.queued if parts else 0.0,
            sum(part.computed.computing for part in parts),
        )

    async def _answer(
        self, processor: Processor, items: Sequence[Item], asked: Parameters, at_once: bool
    ) -> list[_Part]:
        """Answers part by part."""
        slots = asyncio.Semaphore(PARTS_AT_ONCE)
        parts = list(_parts(items))

        async def one(part: Sequence[Item]) -> _Part:
            async with slots:
                prepared = await _off(at_once, processor.preprocess, part)
                if part is parts[0]:
                    self._admit(prepared, part, items)
                done = await self.batcher.run(prepared.windows)
            answers = await _off(at_once, _decode, processor, part, prepared, done, asked)
            return _Part(answers, sum(len(window) for window in prepared.windows), done)

        if len(parts) == 1:
            return [await one(parts[0])]
        tasks = [asyncio.ensure_future(one(part)) for part in parts]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    def _admit(self, prepared: Prepared, part: Sequence[Item], items: Sequence[Item]) -> None:
        """Raise BusyError or TooLargeError for a request that would not be answered in time.

        ``prepared`` is the first part: it tells how many tokens the others will have.
        """
        schedule, deadline = self.batcher.schedule, self.settings.deadline_s
        if schedule is None:
            return
        share = sum(map(_characters, items)) / max(1, sum(map(_characters, part)))
        lengths = [len(window) for window in prepared.windows]
        tokens, squares = share * sum(lengths), share * sum(n * n for n in lengths)
        now = asyncio.get_running_loop().time()
        before = schedule.wait(now)
        if schedule.tokens and schedule.tokens + sum(lengths) > self.settings.max_queue_tokens:
            raise BusyError(
                "server.queue_full",
                f"{schedule.tokens:,} tokens wait already; expected at most "
                f"{self.settings.max_queue_tokens:,} (TFSERVE_MAX_QUEUE_TOKENS)",
                retry_after=max(1, math.ceil(before / 2)),
            )
        if not schedule.cost.sure:
            return
        alone = schedule.wait(now, tokens, squares) - before
        if alone > deadline:
            fitting = int(len(items) * deadline / alone)
            raise TooLargeError(
                "body.too_slow",
                f"found {len(items):,} records, some {alone:,.0f} seconds of work; expected at "
                f"most {deadline} seconds, about {fitting:,} such records (TFSERVE_DEADLINE_S)",
            )
        if before + alone > deadline:
            raise BusyError(
                "server.busy",
                f"this would be answered in {before + alone:,.0f} seconds; expected at most "
                f"{deadline} (TFSERVE_DEADLINE_S)",
                retry_after=max(1, math.ceil(before + alone - deadline)),
            )


async def _off(at_once: bool, function: Callable[..., T], *arguments: Any) -> T:
    """Call it here, or in a thread where that would hold up others."""
    return function(*arguments) if at_once else await asyncio.to_thread(function, *arguments)


def _decode(
    processor: Processor,
    items: Sequence[Item],
    prepared: Prepared,
    done: Computed,
    asked: Parameters,
) -> list[Answer]:
    pairs = zip(prepared.windows, done.outputs, strict=True)
    computed = [processor.computed(window, output) for window, output in pairs]
    return processor.postprocess(items, prepared, computed, asked)


def _characters(item: Item) -> int:
    return len(item.text) if isinstance(item, Record) else 1


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    start = characters = 0
    for end, item in enumerate(items, 1):
        characters += _characters(item)
        if characters >= PART_CHARACTERS or end - start == PART_RECORDS or end == len(items):
            yield items[start:end]
            start, characters = end, 0
