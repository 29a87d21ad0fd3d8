"""A connection: uvicorn's, with bounds on how a request comes in, which it does not have itself.

A head that never ends, a body that stops in the middle or an answer that is never read would hold
memory or a place for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfserve.strict_json import dumps

HEAD_BYTES, HEAD_SECONDS = 65_536, 30
"""Of a request's first line and headers: how long they may be, and how long they may take."""

SILENCE, BODY_SECONDS = 30, 300
"""Seconds for which a client may be silent in the middle of its body, or not read its answer, and
in which the whole body must come."""

NO_BODY = 1_000_000
"""Bytes that may come without being any of the body: chunks have heads and tails too."""


class Whole:
    """A transport that sends an answer's head and body as one: either alone would wake the client,
    and sending is the dearest part of a small answer."""

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()


class Connection(HttpToolsProtocol):
    """Refuses heads that are too long (431) or too slow (408), and drops who stops."""

    _due: tuple[Any, ...] | None = None
    """What is to be done after how many seconds, if nothing comes before."""
    _timer: asyncio.TimerHandle | None = None
    _parsing = _changed = False
    _reading: asyncio.TimerHandle | None = None
    _in_head, _bytes, _last = False, 0, 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(Whole(transport, self.loop))  # type: ignore[arg-type]
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        was_in_head, self._parsing = self._in_head, True
        super().data_received(data)
        self._parsing = False
        self._bytes += len(data)
        if self._in_head:
            # What came before this head began, in the same read, does not count.
            self._bytes = self._bytes if was_in_head else 0
            if self._bytes > HEAD_BYTES:
                said = f"found more; expected at most {HEAD_BYTES:,} bytes of headers"
                self._refuse("431 Request Header Fields Too Large", "server.head_too_large", said)
        elif self._bytes > NO_BODY:
            self.transport.abort()
        elif self._due is None and not self._answering:
            self._expect_head()
        self._set_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._in_head, self._bytes = False, 0
        self._last = self.loop.time() + BODY_SECONDS
        self._arm(SILENCE, self._drop)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._bytes = -len(body)  # this read is counted when all of it was parsed
        self._arm(min(SILENCE, self._last - self.loop.time()), self._drop)

    def on_message_complete(self) -> None:
        self._arm(None)
        self._bytes = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading = self._reading or self.loop.call_later(SILENCE, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._arm(None)
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    @property
    def _answering(self) -> bool:
        """Whether an earlier request of this connection has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._in_head, self._bytes = True, 0
        said = f"found no complete head in {HEAD_SECONDS} seconds"
        self._arm(HEAD_SECONDS, self._refuse, "408 Request Timeout", "server.head_too_slow", said)

    def _arm(
        self, seconds: float | None, action: Callable[..., None] = lambda: None, *told: str
    ) -> None:
        """Do this in so many seconds, instead of what was to be done."""
        self._due = None if seconds is None else (seconds, action, *told)
        self._changed = True
        if not self._parsing:  # most requests come in one piece, and need no timer
            self._set_timer()

    def _set_timer(self) -> None:
        if not self._changed:
            return
        self._changed = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self._due is None else self.loop.call_later(*self._due)

    def _drop(self) -> None:
        if self.pipeline:  # it is not read because an earlier request has no answer yet
            self._arm(SILENCE, self._drop)
        else:
            self.transport.abort()

    def _refuse(self, status: str, code: str, message: str) -> None:
        if self._answering:  # its answer comes first
            self._arm(SILENCE, self._refuse, status, code, message)
            return
        self._arm(None)
        if self.transport.is_closing():
            return
        body = dumps({"error": {"code": code, "message": message}})
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
        self.transport.write(f"HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}".encode())
        self.transport.close()
