"""A request's way through the server, where it is not seen from outside."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from conftest import Loaded

from tfserve.errors import BusyError, ModelError, ServingError, TooLargeError
from tfserve.processing import Processor
from tfserve.records import Record, Rejected
from tfserve.server import around
from tfserve.server.admission import Work, admit, check_room
from tfserve.server.batcher import Computed
from tfserve.server.body import Bodies
from tfserve.server.schedule import Schedule
from tfserve.server.service import Service, _decode
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


def test_bodies_are_bounded_together() -> None:
    bodies = Bodies(100)
    with bodies.held() as one:
        one(80)
        with bodies.held() as other, pytest.raises(BusyError, match="other requests"):
            other(30)
        one(90)  # alone it may have more: what one may have is another bound
    assert bodies.used == 0


def test_promised_work_is_given_back_once() -> None:
    promise = Work(100, 1000)
    assert promise.less(Work(30, 100)) == Work(-30, -100)
    assert promise.less(Work(90, 100)) == Work(-70, -100)
    assert promise.less(promise) == Work(0, -800)
    assert promise == Work(0, 0)


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
        ask(5, second.times(4))  # 9 seconds; 5 are promised
    assert 3 <= busy.value.place["retry_after"] <= 5
    ask(1, second.times(3.5))
    given = Settings(deadline_s=10)
    assert check_room(schedule, second.times(4), given) == pytest.approx(4, rel=0.1)
    with pytest.raises(BusyError, match="would be answered in"):
        check_room(schedule, second.times(6), given)
    with pytest.raises(BusyError, match="80,000 tokens wait already"):
        ask(1, second.times(4), 90_000)
    ask(0.5, second.times(4), 90_000)
    ask(9, none, 90_000)  # alone it may be more


@pytest.mark.parametrize("path", ["/predict", "/ping"])
def test_only_so_many_requests_are_looked_at(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(around, "AT_ONCE", 2)
    sent: list[Any] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def main() -> None:
        app = around.Around(slow, Service("nowhere", Settings()))
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}

        async def send(message: Any) -> None:
            sent.append(message)

        for _ in range(2):  # those of the first time are over
            await asyncio.gather(*(app(dict(scope), send, send) for _ in range(3)))

    asyncio.run(main())
    starts = [message for message in sent if message["type"] == "http.response.start"]
    refused = [message for message in starts if message["status"] == 429]
    assert (len(starts), len(refused)) == (6, 2 if path == "/predict" else 0)
    assert all((b"retry-after", b"1") in message["headers"] for message in refused)
