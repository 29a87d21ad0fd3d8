"""Asking a server: any number of records, in order, whatever its limits and its load.

    from tfserve import client

    answers = client.predict("http://localhost:8080", ["where is my parcel?", …])

Records are cut into requests of the size that a server takes, several are asked at a time, busy
servers are asked again when they say, and what takes too long is split. ``tfserve.aws.client`` asks
SageMaker's endpoints in the same way.
"""

from __future__ import annotations

import json
import random
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from tfserve.codecs import JSON
from tfserve.errors import EndpointError, RequestError, TooLargeError
from tfserve.records import FIELDS
from tfserve.strict_json import dumps

MAX_BYTES, MAX_RECORDS = 5_000_000, 1000
"""Of a request."""

ATTEMPTS, FIRST_WAIT, LONGEST_WAIT = 8, 0.5, 20.0
"""How often a busy server is asked; pauses are random, up to a bound in seconds that doubles."""

SPLIT = ("server.deadline", "body.too_slow", "body.too_large", "body.too_many")
"""Errors of requests that may be answered in halves."""

TIMEOUT = 120
"""Seconds for an answer."""

Answer = dict[str, Any]
Send = Callable[[bytes], Any]
"""Sends a request's body and gives what came back; raises Refused."""


class Refused(Exception):  # noqa: N818
    """A request that was not answered.

    Attributes
    ----------
    problem : what to raise if that is the end of it
    busy : asking again later may help, after ``retry_after`` seconds where the server knows
    slow : asking for less at a time may help
    """

    def __init__(
        self, problem: EndpointError, *, busy: bool, slow: bool = False, retry_after: float = 0
    ) -> None:
        super().__init__(str(problem))
        self.problem, self.busy, self.slow = problem, busy, slow
        self.retry_after = retry_after


def predict(
    url: str,
    records: Iterable[Any],
    parameters: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    workers: int = 4,
    max_bytes: int = MAX_BYTES,
    max_records: int = MAX_RECORDS,
) -> list[Answer]:
    """Answers to ``records``, in their order; parameters and errors are those of ``stream``."""
    bounds = {"workers": workers, "max_bytes": max_bytes, "max_records": max_records}
    return list(stream(url, records, parameters, key=key, **bounds))


def stream(
    url: str,
    records: Iterable[Any],
    parameters: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    workers: int = 4,
    max_bytes: int = MAX_BYTES,
    max_records: int = MAX_RECORDS,
) -> Iterator[Answer]:
    """Answers to ``records`` of any number (strings, or objects with ``text`` or ``words``).

    Parameters
    ----------
    url : of the server, without ``/predict``
    parameters : of the request (see README); ``on_error`` is ``record`` unless given
    key : that the server wants
    workers : requests at a time
    max_bytes, max_records : bounds of a request

    Raises
    ------
    EndpointError
        The server cannot be reached, refuses the request, or stays busy after eight attempts.
    """
    headers = {"Content-Type": JSON, "Accept": JSON}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    address = url.rstrip("/") + "/predict"

    def send(body: bytes) -> Any:
        request = urllib.request.Request(address, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise _refused(url, error) from None
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            problem = EndpointError("endpoint.connection", f"cannot ask {url}: {reason}")
            broken = not isinstance(error, ValueError)
            raise Refused(problem, busy=broken, slow="timed out" in str(reason)) from None

    return answers(send, records, parameters, workers, max_bytes, max_records)


def by_line(
    url: str,
    samples: Iterable[tuple[int, Any]],
    parameters: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    workers: int = 4,
) -> Iterator[Answer]:
    """Answers to the lines of a file, each a number with a raw record or the error that it is.

    Parameters and errors are those of ``stream``; the errors of records name their lines.
    """
    read: deque[tuple[int, RequestError | None]] = deque()

    def records() -> Iterator[Any]:
        for line, raw in samples:
            bad = raw if isinstance(raw, RequestError) else None
            read.append((line, bad))
            if bad is None:
                yield raw

    def bad_ones() -> Iterator[Answer]:
        while read and read[0][1] is not None:
            yield {"error": read.popleft()[1].as_dict()}  # type: ignore[union-attr]

    for answer in stream(url, records(), parameters, key=key, workers=workers):
        yield from bad_ones()
        line, _ = read.popleft()
        error = answer.get("error")
        if "pred" not in answer and isinstance(error, dict):
            error = {key: value for key, value in error.items() if key != "index"}
            answer = {**answer, "error": {**error, "line": line}}
        yield answer
    yield from bad_ones()


def answers(
    send: Send,
    records: Iterable[Any],
    parameters: Mapping[str, Any] | None,
    workers: int,
    max_bytes: int,
    max_records: int,
) -> Iterator[Answer]:
    """Answers to ``records`` by way of ``send``, in order; few requests are held at a time."""
    given = {"on_error": "record", **(parameters or {})}
    waiting: deque[Future[list[Answer]]] = deque()
    with ThreadPoolExecutor(workers, "tfserve-client") as pool:
        try:
            first = 0
            for items in _requests(records, given, max_bytes, max_records):
                waiting.append(pool.submit(_ask, send, items, given, first))
                first += len(items)
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _requests(
    records: Iterable[Any], parameters: Mapping[str, Any], max_bytes: int, max_records: int
) -> Iterator[list[str]]:
    """Records as JSON, so many at a time as fit into a request."""
    room = max_bytes - len(_body([], parameters))
    items: list[str] = []
    size = 0
    for index, record in enumerate(records):
        item = dumps(record)
        length = len(item.encode()) + 1
        if length > room:
            raise TooLargeError(
                "record.too_large",
                f"found a record of {length:,} bytes; expected at most {room:,}, which is what a "
                "request takes: cut it",
                index=index,
            )
        if items and (size + length > room or len(items) == max_records):
            yield items
            items, size = [], 0
        items.append(item)
        size += length
    if items:
        yield items


def _body(items: list[str], parameters: Mapping[str, Any]) -> bytes:
    return f'{{"data":[{",".join(items)}],"parameters":{dumps(dict(parameters))}}}'.encode()


def _ask(send: Send, items: list[str], parameters: Mapping[str, Any], first: int) -> list[Answer]:
    """The answers of one request, which is split where the server is too slow for it.

    ``first`` is the index of its first record among all.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _predictions(send(_body(items, parameters)), len(items))
        except Refused as refused:
            if refused.slow and len(items) > 1:
                middle = len(items) // 2
                one = _ask(send, items[:middle], parameters, first)
                return one + _ask(send, items[middle:], parameters, first + middle)
            if refused.slow and not refused.busy and parameters["on_error"] == "record":
                return [_unanswered(items[0], refused.problem)]
            if not refused.busy or attempt == ATTEMPTS:
                index = refused.problem.place.get("index")
                place = {} if index is None else {"index": first + index}
                raise refused.problem.at(**place) from None
            # Full jitter: clients that were refused together do not come back together.
            longest = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
            time.sleep(refused.retry_after + random.uniform(0, longest))
    raise AssertionError("unreachable")


def _predictions(answer: Any, records: int) -> list[Answer]:
    """What an answer holds; whatever stands between may answer something else with a 200."""
    found = answer.get("predictions") if isinstance(answer, dict) else None
    if not isinstance(found, list) or len(found) != records:
        kind = "something else" if not isinstance(found, list) else f"{len(found)} predictions"
        raise EndpointError(
            "endpoint.answer",
            f"found {kind} as the answer to {records} records; expected a prediction for each: is "
            "this the address of tfserve?",
        )
    return found


def _unanswered(item: str, problem: EndpointError) -> Answer:
    """Of a record that is too much for the server even alone."""
    record = json.loads(item)
    extra = record if isinstance(record, dict) else {}
    kept = {name: value for name, value in extra.items() if name not in FIELDS}
    return {**kept, "error": problem.as_dict()}


def _refused(url: str, error: urllib.error.HTTPError) -> Refused:
    text = error.read().decode(errors="replace")
    problem = found(text) or EndpointError(
        "endpoint.error", f"{url} answers {error.code} and no error of tfserve's: {text[:200]}"
    )
    after = error.headers.get("Retry-After", "")
    return Refused(
        problem,
        busy=error.code in (429, 502, 503, 504),
        slow=error.code == 504 or problem.code in SPLIT,
        retry_after=float(after) if after.isdecimal() else 0,
    )


def found(message: str) -> EndpointError | None:
    """The error object of tfserve's in a message, perhaps inside another's."""
    for _ in range(2):
        try:
            inner = json.loads(message)
        except ValueError:
            return None
        inner = inner.get("error", inner) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            return None
        message = str(inner.get("message", ""))
        if isinstance(inner.get("code"), str):
            return EndpointError(inner["code"], message, index=inner.get("index"))
    return None
