"""A request's way through the server, where it is not seen from outside."""

from __future__ import annotations

import asyncio
import gzip
import threading
from typing import Any

import numpy as np
import pytest
from conftest import Loaded
from starlette.requests import Request as HttpRequest

from tfserve.codecs import Request
from tfserve.encoding import Window
from tfserve.errors import (
    BodyError,
    BusyError,
    ModelError,
    ServingError,
    TooLargeError,
    UnavailableError,
)
from tfserve.processing import Processor
from tfserve.records import Record, Rejected
from tfserve.server import around
from tfserve.server import body as body_module
from tfserve.server import service as service_module
from tfserve.server.admission import Work, admit, check_room
from tfserve.server.batcher import Computed
from tfserve.server.body import Bodies
from tfserve.server.schedule import Job, Schedule
from tfserve.server.service import Service, _decode
from tfserve.server.worker import Worker, ahead
from tfserve.settings import Settings

FAILED = ServingError("server.model", "the model failed")


@pytest.mark.parametrize("task", ["classif", "ner"])
def test_a_window_that_failed_costs_its_records_alone(task: str, loaded: Loaded) -> None:
    predictor = loaded(task)
    processor = Processor(predictor.task, predictor.encoder)
    texts = ["where is my parcel", "refund the invoice", "where is my parcel", "late parcel"]
    items: list[Record | Rejected] = [
        Record(text, extra={"id": number}) for number, text in enumerate(texts)
    ]
    items.insert(1, Rejected(ServingError("record.bad", "bad"), {"id": "x"}))
    prepared = processor.preprocess(items)
    expected = processor.postprocess(items, prepared, predictor.run(prepared.windows),
                                     processor.asked())  # fmt: skip
    rows = [np.zeros((len(window), len(predictor.task.labels))) for window in prepared.windows]
    for row, window, values in zip(rows, prepared.windows, predictor.run(prepared.windows),
                                   strict=True):  # fmt: skip
        row[window.places if processor.task.per_word else slice(None)] = values
    outputs = [row if processor.task.per_word else row[0] for row in rows]
    place = prepared.places[0][0]  # of the first text and of the third
    for failure in (FAILED, np.full_like(outputs[place], np.nan)):
        done = Computed([*outputs[:place], failure, *outputs[place + 1 :]], 0.0)
        answers = _decode(processor, items, prepared, done, processor.asked({"on_error": "record"}))
        for number, (answer, wanted) in enumerate(zip(answers, expected, strict=True)):
            if number in (0, 3):
                code = "server.model" if failure is FAILED else "model.not_finite"
                assert answer["error"]["code"] == code
                assert answer["id"] == wanted["id"]
            else:
                assert answer == wanted
        with pytest.raises((ServingError, ModelError)):
            _decode(processor, items, prepared, done, processor.asked())


@pytest.mark.parametrize("lines", [None, (1, 2, 3)])
def test_one_text_without_numbers_costs_itself_alone(
    lines: Any, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = loaded("classif")
    texts = ["where is my parcel", {"text": "refund", "pred": "mine", "error": "?"}, "late"]
    expected = predictor.predict(texts)
    plain = type(predictor.engine).run

    def spoiled(self: Any, batch: Any, *, alone: bool) -> Any:
        logits = np.array(plain(self, batch, alone=alone))
        logits[batch.attention_mask.sum(-1) == len(predictor.preprocess(
            [Record("late")]).windows[0])] = np.nan  # fmt: skip
        return logits

    monkeypatch.setattr(type(predictor.engine), "run", spoiled)
    request = Request([*texts[:2], {"text": "late", "pred": "mine", "id": 7}], lines=lines)
    if lines is None:
        with pytest.raises(ModelError, match="NaN or infinity"):
            predictor.answer(request)
        found = list(predictor.stream(request.items))
    else:
        found = predictor.answer(request)
    assert found[0] == expected[0] and found[1] == expected[1]
    assert "error" not in expected[1] and expected[1]["pred"] != "mine"
    assert found[2].keys() == {"id", "error"}
    assert found[2]["error"]["code"] == "model.not_finite"


def test_nothing_of_a_request_is_queued_before_it_was_admitted(loaded: Loaded) -> None:
    predictor = loaded("classif")

    async def main() -> list[tuple[float, int]]:
        service = Service("nowhere", Settings())
        processor = Processor(predictor.task, predictor.encoder)
        service.batcher.failure, service.processor = None, processor
        service.batcher.schedule = Schedule(1, 512)
        seen = []

        def admit(work: Work, records: int) -> Work:
            assert service.batcher.schedule is not None
            seen.append((service.batcher.schedule.tokens, records))
            raise BusyError("server.busy", "no")

        service._admit = admit  # type: ignore[method-assign]
        texts = ["a " * 200_000, *["short"] * 100]
        with pytest.raises(BusyError):
            await service.ask(Request(texts), "application/json", at_once=False)
        return seen

    assert asyncio.run(main()) == [(0, 101)]


def test_a_body_larger_than_what_is_thrown_away_is_read_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body_module, "DRAINED", 200)
    parts = [b"x" * 100] * 4

    async def receive() -> dict[str, Any]:
        part = parts.pop()
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    request = HttpRequest({"type": "http", "method": "POST", "headers": []}, receive)
    found = asyncio.run(body_module.read(request, Settings(), lambda _: None))
    assert found == b"x" * 400 and not parts


def test_gzip_of_many_members_and_padding_is_unpacked() -> None:
    packed = gzip.compress(b"", mtime=0) * 20_000 + gzip.compress(b"text", mtime=0) + b"\0" * 100
    assert body_module._unzip(packed, Settings()) == b"text"
    with pytest.raises(BodyError, match="ends too early"):
        body_module._unzip(gzip.compress(b"text" * 99)[:-9], Settings())
    with pytest.raises(BodyError, match="is not gzip"):
        body_module._unzip(gzip.compress(b"text") + b"more", Settings())


def test_what_is_cut_off_when_the_server_stops_is_told_so() -> None:
    async def main() -> None:
        async def receive() -> Any:
            await asyncio.sleep(60)

        request = HttpRequest({"type": "http", "method": "POST", "headers": []}, receive)
        asked = asyncio.ensure_future(body_module.wanted(request, asyncio.sleep(60), 60))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(UnavailableError, match="the server is stopping") as caught:
            await asked
        assert caught.value.code == "server.stopping"

    asyncio.run(main())


def test_what_a_thread_holds_counts_until_it_ends() -> None:
    async def main() -> None:
        begun, allowed = threading.Event(), threading.Event()

        def slow() -> bool:
            begun.set()
            return allowed.wait(60)

        asked = asyncio.ensure_future(service_module._off(False, slow))
        assert await asyncio.to_thread(begun.wait, 60)
        asked.cancel()
        for _ in range(20):  # more than a cancelled task takes to end
            await asyncio.sleep(0)
        ended = asked.done()
        allowed.set()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert not ended

    asyncio.run(main())


def test_bodies_are_bounded_together() -> None:
    bodies = Bodies(100)
    with bodies.held() as one:
        one(80)
        with bodies.held() as other, pytest.raises(BusyError, match="other requests") as caught:
            other(30)
        assert caught.value.code == "server.bodies_full"
        one(90)  # alone it may have more: what one may have is another bound
    assert bodies.used == 0


def test_promised_work_is_given_back_once() -> None:
    promised, promise = Work(500, 5000), Work(100, 1000)
    for queued, left in ((Work(30, 100), Work(70, 900)), (Work(90, 100), Work(0, 800))):
        kept = promise.less(queued)
        promised -= promise - kept
        promise = kept
        assert promise == left
    assert promised - promise == Work(400, 4000)
    assert Work(10, 100).times(0.333) == Work(3, 33)  # whole, so that it is given back whole


def test_what_cannot_be_answered_in_time_is_refused() -> None:
    none = Work()
    schedule = Schedule(2, 512)
    second = Work(20_000, 0)  # on two lanes, at 0.1 ms a token

    def ask(times: float, promised: Work = none, most: int = 10**6) -> None:
        settings = Settings(deadline_s=10, max_queue_tokens=most)
        admit(second.times(times), 100, schedule, promised, settings)

    ask(7)  # nothing is known yet
    for rows in range(1, 41):
        schedule.lane.learn(rows, 16, 1e-4 * rows * 16)
    ask(5)
    ask(9)  # alone it may take as long as there is
    with pytest.raises(TooLargeError, match=r"about (4[0-9]|50) such records"):
        ask(20)
    with pytest.raises(BusyError, match="would be answered in") as busy:
        ask(7, second.times(4))  # the parts of both take turns: 4 + 7 seconds
    assert 5 <= busy.value.place["retry_after"] <= 7
    ask(5, second.times(4))
    ask(0.1, second.times(9))  # a small one passes
    with pytest.raises(BusyError, match="80,000 tokens wait already"):
        ask(1, second.times(4), 90_000)
    ask(0.5, second.times(4), 90_000)
    ask(9, none, 90_000)  # alone it may be more


def test_what_would_wait_too_long_is_not_looked_at() -> None:
    schedule, settings = Schedule(2, 512), Settings(deadline_s=10)
    for rows in range(1, 41):
        schedule.lane.learn(rows, 16, 1e-4 * rows * 16)
    ids, none = np.zeros(16, np.int64), np.empty(0, np.int64)
    window = Window(ids, None, none, none, none.astype(bool))
    for number in range(7500):  # 6 seconds
        if number == 3750:
            assert check_room(schedule, settings) == pytest.approx(3, rel=0.1)
            admit(Work(120_000, 0), 100, schedule, Work(), settings)  # 3 + 6 seconds
            with pytest.raises(BusyError):
                admit(Work(150_000, 0), 100, schedule, Work(), settings)
        schedule.add(Job(window, str(number).encode(), 0.0))
    with pytest.raises(BusyError, match="answered in 6 seconds") as busy:
        check_room(schedule, settings)
    assert busy.value.place["retry_after"] in (1, 2)


def asked(path: str, service: Service, app: Any = None) -> tuple[int, int]:
    """The status of a request whose body comes in three parts, and how many of them were read."""
    read, statuses = 0, []

    async def receive() -> Any:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": read < 3}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def untouched(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    asyncio.run(around.Around(app or untouched, service)(scope, receive, send))
    [status] = statuses
    return status, read


def test_a_request_that_is_not_looked_at_is_read_to_its_end() -> None:
    """A client that is still sending would not read the answer."""
    service = Service("nowhere", Settings(deadline_s=1, api_keys=("key",)))
    assert asked("/predict", service) == (401, 3)
    service = Service("nowhere", Settings(deadline_s=1))
    assert asked("/predict", service) == (503, 3)  # there is no model yet
    assert asked("/ping", service) == (200, 0)
    service.batcher.failure, service.batcher.schedule = None, Schedule(1, 512)
    assert asked("/predict", service) == (200, 0)
    for rows in range(1, 41):
        service.batcher.schedule.alone.learn(rows, 16, 1e-2 * rows * 16)
    ids, none = np.zeros(400, np.int64), np.empty(0, np.int64)
    window = Window(ids, None, none, none, none.astype(bool))
    service.batcher.schedule.add(Job(window, b"", 0.0))
    assert asked("/predict", service) == (429, 3)


def test_only_so_many_requests_are_answered_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MOST_REQUESTS", 2)

    async def main() -> list[Any]:
        service = Service("nowhere", Settings())
        service.batcher.failure, service.processor = None, Processor(None, None)  # type: ignore[arg-type]

        async def slow(*_: Any) -> Any:
            await asyncio.sleep(0.01)
            return "answered"

        monkeypatch.setattr(service, "_ask", slow)
        asking = [service.ask(Request([], {}), "application/json") for _ in range(3)]
        found = await asyncio.gather(*asking, return_exceptions=True)
        return [*found, await service.ask(Request([], {}), "application/json")]

    one, two, refused, after = asyncio.run(main())
    assert (one, two, after) == ("answered", "answered", "answered")
    assert refused.code == "server.too_many_requests"


def test_a_worker_that_was_started_ahead_ends_with_its_server() -> None:
    with pytest.raises(OSError, match="in use"), ahead("nowhere") as first:
        raise OSError("address in use")
    assert first.process.returncode is not None
    with ahead("nowhere") as first:
        with pytest.raises(ModelError, match="found no folder nowhere"):
            asyncio.run(Worker.ready(first))
        assert first.process.returncode == 0
