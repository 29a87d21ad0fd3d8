"""A connection: uvicorn's, with bounds on how a request comes in, which it does not have itself.

A head that never ends, or a body that stops in the middle, would hold memory or a place for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfserve.codecs import dumps

HEAD_BYTES, HEAD_SECONDS = 65_536, 30
"""Of a request's first line and headers: how long they may be, and how long they may take."""


SILENCE = 30
"""Seconds for which a client in the middle of its body may be silent."""


class Connection(HttpToolsProtocol):
    """Refuses heads that are too long (431) or too slow (408), and drops bodies that stop."""

    _head_bytes = 0
    _in_head = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                said = f"found more; expected at most {HEAD_BYTES:,} bytes of headers"
                self._refuse("431 Request Header Fields Too Large", "server.head_too_large", said)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        self._end()
        self._timer = self.loop.call_later(SILENCE, self.transport.close)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._end()
        self._timer = self.loop.call_later(SILENCE, self.transport.close)

    def on_message_complete(self) -> None:
        self._end()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._end()
        self._in_head, self._head_bytes = True, 0
        said = f"found no complete head in {HEAD_SECONDS} seconds"
        self._timer = self.loop.call_later(
            HEAD_SECONDS, self._refuse, "408 Request Timeout", "server.head_too_slow", said
        )

    def _end(self) -> None:
        self._in_head = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: str, code: str, message: str) -> None:
        self._end()
        if self.transport.is_closing():
            return
        body = dumps({"error": {"code": code, "message": message}})
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
        self.transport.write(f"HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}".encode())
        self.transport.close()
