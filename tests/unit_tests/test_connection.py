"""What a connection does with clients that send too much, too slowly or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from simulated import simulate
from uvicorn.server import ServerState

from tfserve.server.connection import BODY_SECONDS, HEAD_SECONDS, SILENCE, Connection

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


class Wire(asyncio.Transport):
    """What the connection writes; it is open until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.ended, self.writes = b"", "", 0

    def write(self, data: Any) -> None:
        self.written += bytes(data)
        self.writes += 1

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def is_closing(self) -> bool:
        return bool(self.ended)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, works for 100 seconds, answers."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(100)
    length = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": b"ok"})


def connected(test: Callable[[Connection, Wire], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            config = uvicorn.Config(app, log_config=None, lifespan="off")
            config.load()
            connection, wire = Connection(config, ServerState(), {}), Wire()
            connection.connection_made(wire)
            await test(connection, wire)
            connection.connection_lost(None)
            await asyncio.sleep(200)

        simulate(main())

    run.__name__ = test.__name__
    return run


@connected
async def test_a_client_that_sends_nothing_is_told(connection: Connection, wire: Wire) -> None:
    await asyncio.sleep(HEAD_SECONDS - 1)
    assert not wire.ended
    await asyncio.sleep(2)
    assert wire.written.startswith(b"HTTP/1.1 408 ")
    assert b"server.head_too_slow" in wire.written
    assert wire.ended == "closed"


@connected
async def test_a_head_that_comes_byte_by_byte_is_told(connection: Connection, wire: Wire) -> None:
    for byte in (HEAD + b"X: xxxxxxxxxxxxxxxxxxxx")[: HEAD_SECONDS + 2]:
        connection.data_received(bytes([byte]))
        await asyncio.sleep(1)
    assert wire.written.startswith(b"HTTP/1.1 408 ")


@connected
async def test_a_body_that_stops_is_dropped(connection: Connection, wire: Wire) -> None:
    connection.data_received(HEAD + b"Content-Length: 9\r\n\r\n{")
    await asyncio.sleep(SILENCE - 1)
    connection.data_received(b"{")
    await asyncio.sleep(SILENCE - 1)
    assert not wire.ended
    await asyncio.sleep(2)
    assert (wire.ended, wire.written) == ("aborted", b"")


@connected
async def test_a_body_that_trickles_is_dropped(connection: Connection, wire: Wire) -> None:
    connection.data_received(HEAD + b"Content-Length: 999\r\n\r\n")
    for _ in range(BODY_SECONDS // 20):
        assert not wire.ended
        connection.data_received(b"x")
        await asyncio.sleep(20)
    await asyncio.sleep(1)
    assert wire.ended == "aborted"


@connected
async def test_trailers_without_end_are_dropped(connection: Connection, wire: Wire) -> None:
    connection.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ")
    for _ in range(30):
        connection.data_received(b"x" * 50_000)
    assert wire.ended == "aborted"


@connected
async def test_a_large_body_is_taken(connection: Connection, wire: Wire) -> None:
    connection.data_received(HEAD + b"Content-Length: 5000000\r\n\r\n")
    for _ in range(50):
        connection.data_received(b"x" * 100_000)
        await asyncio.sleep(1)
    await asyncio.sleep(101)
    assert wire.written.endswith(b"ok")
    assert not wire.ended


@pytest.mark.parametrize("begun", [b"POST / HT", HEAD + b"Content-Length: 9\r\n\r\n{"])
def test_what_comes_behind_a_request_does_not_cost_its_answer(begun: bytes) -> None:
    @connected
    async def test(connection: Connection, wire: Wire) -> None:
        connection.data_received(HEAD + b"Content-Length: 1\r\n\r\nx" + begun)
        await asyncio.sleep(101)
        assert wire.written.endswith(b"ok")
        await asyncio.sleep(2 * SILENCE)
        assert wire.ended

    test()


@connected
async def test_an_empty_line_behind_an_answer_holds_no_place(
    connection: Connection, wire: Wire
) -> None:
    connection.data_received(HEAD + b"Content-Length: 0\r\n\r\n")
    await asyncio.sleep(101)
    connection.data_received(b"\r\n")
    await asyncio.sleep(HEAD_SECONDS + 1)
    assert wire.ended


@connected
async def test_an_answer_that_is_not_read_is_dropped(connection: Connection, wire: Wire) -> None:
    connection.pause_writing()
    await asyncio.sleep(SILENCE - 1)
    connection.resume_writing()
    await asyncio.sleep(SILENCE)
    assert not [what for what in [wire.ended] if what == "aborted"]
    connection.pause_writing()
    await asyncio.sleep(SILENCE + 1)
    assert wire.ended == "aborted"


@connected
async def test_an_answer_is_sent_as_one(connection: Connection, wire: Wire) -> None:
    for _ in range(2):
        connection.data_received(HEAD + b"Content-Length: 2\r\n\r\nhi")
        await asyncio.sleep(101)
    assert (wire.written.count(b"200 OK"), wire.written.count(b"\r\n\r\nok")) == (2, 2)
    assert wire.writes == 2
