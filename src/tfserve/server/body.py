"""A request's body from its connection within limits, and an end to the wait for its answer."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from tfserve.errors import BodyError, MediaTypeError, TooLargeError, UnavailableError
from tfserve.settings import Settings

DRAINED = 200_000_000
"""Bytes of a body that is too large are read and thrown away up to here: a client that is still
sending would not read the answer."""

T = TypeVar("T")


async def read(request: Request, settings: Settings) -> bytes:
    """The body, unpacked if it is gzipped.

    Raises TooLargeError (413), BodyError (400) or MediaTypeError (415); ClientDisconnect where
    nobody waits for an answer any more.
    """
    length = request.headers.get("content-length", "")
    refused = _too_large(int(length), settings) if length.isdecimal() else None
    parts, size, more = [], 0, True
    while more and size < DRAINED:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        refused = refused or _too_large(size, settings)
        if refused is None:
            parts.append(part)
    if refused is not None:
        raise refused
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "gzip":
        return await asyncio.to_thread(_unzip, body, settings)
    if encoding != "identity":
        raise MediaTypeError(
            "content_type.encoding",
            f"found Content-Encoding {encoding[:40]!r}; expected gzip, or none",
        )
    return body


async def wanted(request: Request, answering: Coroutine[Any, Any, T], seconds: float) -> T:
    """The answer, unless the client goes away before or it takes longer than ``seconds``.

    Raises ClientDisconnect or UnavailableError.
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
        if reason is None:
            raise
        if hasattr(task, "uncancel"):  # Python 3.11
            task.uncancel()
        raise reason from None
    finally:
        done = True
        timer.cancel()
        leaving.cancel()


def _too_large(size: int, settings: Settings) -> TooLargeError | None:
    try:
        settings.check_body(size)
    except TooLargeError as error:
        return error
    return None


def _unzip(body: bytes, settings: Settings) -> bytes:
    """Never more than a body may have: a small one can unpack to terabytes."""
    unpacking = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacking.decompress(body, settings.max_body_mb * 1_000_000 + 1)
    except zlib.error:
        raise BodyError(
            "body.not_gzip", "the body is not gzip, as its Content-Encoding says"
        ) from None
    settings.check_body(len(unpacked))
    if not unpacking.eof:
        raise BodyError("body.not_gzip", "the gzipped body ends too early")
    return unpacked
