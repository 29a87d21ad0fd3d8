"""A request's body from its connection within limits, and an end to the wait for its answer."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from tfserve.errors import (
    BodyError,
    BusyError,
    MediaTypeError,
    TfserveError,
    TooLargeError,
    UnavailableError,
)
from tfserve.settings import Settings

DRAINED = 200_000_000
"""Bytes of a body that is too large are read and thrown away up to here: a client that is still
sending would not read the answer."""

T = TypeVar("T")


class Bodies:
    """The bytes of all bodies that are being read or answered: a bound on memory."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0

    @contextlib.contextmanager
    def held(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes for one request, which are given back in the end.

        It raises BusyError where there is no room for them beside other requests'.
        """
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if self.used > own and self.used + size > self.most:
                raise BusyError(
                    "server.bodies_full",
                    f"{self.used / 1e6:,.0f} MB of other requests are being answered; expected at "
                    f"most {self.most / 1e6:,.0f} MB at a time",
                    retry_after=1,
                )
            own += size
            self.used += size

        try:
            yield take
        finally:
            self.used -= own


async def read(request: Request, settings: Settings, take: Callable[[int], None]) -> bytes:
    """The body, unpacked if it is gzipped; ``take`` is told of its bytes.

    Raises TooLargeError (413), BodyError (400), MediaTypeError (415) or BusyError (429);
    ClientDisconnect where nobody waits for an answer any more.
    """
    length = request.headers.get("content-length", "")
    refused: TfserveError | None = None
    parts, size, more = [], 0, True
    try:
        settings.check_body(int(length) if length.isdecimal() else 0)
    except TooLargeError as error:
        refused = error
    while more and (refused is None or size < DRAINED):
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if refused is None:
            try:
                settings.check_body(size)
                take(len(part))
                parts.append(part)
            except TfserveError as error:
                refused = error
                parts.clear()
    if refused is not None:
        raise refused
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "gzip":
        body = await asyncio.to_thread(_unzip, body, settings)
        take(len(body))
    elif encoding != "identity":
        raise MediaTypeError(
            "content_type.encoding",
            f"found Content-Encoding {encoding[:40]!r}; expected gzip, or none",
        )
    return body


async def discard(receive: Callable[[], Awaitable[Any]]) -> None:
    """Read a body that is not wanted. Raises ClientDisconnect."""
    size, more = 0, True
    while more and size < DRAINED:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)


async def wanted(request: Request, answering: Coroutine[Any, Any, T], seconds: float) -> T:
    """The answer, unless the client goes away before or it takes longer than ``seconds``.

    Raises ClientDisconnect, or UnavailableError, also where the server stops before it is there.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    reason: Exception | None = None
    done = False

    def end(why: Exception) -> None:
        nonlocal reason
        if not done and reason is None:
            reason = why
            task.cancel()

    late = UnavailableError(
        "server.deadline",
        f"not answered in {seconds} seconds (TFSERVE_DEADLINE_S): send fewer records a request",
    )
    timer = loop.call_later(seconds, end, late)
    leaving = asyncio.ensure_future(request.receive())
    leaving.add_done_callback(lambda _: end(ClientDisconnect()))
    try:
        return await answering
    except asyncio.CancelledError:
        if reason is None:  # uvicorn waits no longer
            raise UnavailableError(
                "server.stopping", "the server is stopping, and this took too long: ask again"
            ) from None
        if hasattr(task, "uncancel"):  # Python 3.11
            task.uncancel()
        raise reason from None
    finally:
        done = True
        timer.cancel()
        leaving.cancel()


def _unzip(body: bytes, settings: Settings) -> bytes:
    """Never more than a body may have: a small one can unpack to terabytes."""
    try:
        found = gzip.GzipFile(fileobj=io.BytesIO(body)).read(settings.max_body_mb * 1_000_000 + 1)
    except EOFError:
        raise BodyError("body.not_gzip", "the gzipped body ends too early") from None
    except (OSError, zlib.error):
        raise BodyError(
            "body.not_gzip", "the body is not gzip, as its Content-Encoding says"
        ) from None
    settings.check_body(len(found))
    return found
