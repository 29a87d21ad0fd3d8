"""Load on an HTTP server: a closed loop of clients, or requests that come by chance."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

UNSENT = -1


@dataclass
class Result:
    """What a run saw.

    Attributes
    ----------
    latencies : seconds of the requests that were answered with 200
    seconds : of the run
    statuses : how often each came; 0 where the connection broke
    """

    seconds: float
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Requests answered with 200, per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Milliseconds; infinite where nothing was answered."""
        return float(np.quantile(self.latencies, share)) * 1e3 if self.latencies else float("inf")


class Connection(asyncio.Protocol):
    """One connection, kept: a request's bytes out, a status back."""

    def __init__(self) -> None:
        self.buffer, self.expected = b"", -1
        self.answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """The status of the answer, or 0 where the connection broke."""
        self.answer = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self.answer.set_result(0)
        else:
            self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.expected < 0 and (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            self.expected = end + 4 + length
        if 0 <= self.expected <= len(self.buffer):
            status, self.buffer, self.expected = int(self.buffer[9:12]), b"", -1
            self._done(status)

    def connection_lost(self, exc: Exception | None) -> None:
        self._done(0)

    def _done(self, status: int) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(status)


def request(path: str, body: bytes) -> bytes:
    """The bytes of a POST of JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, "127.0.0.1", port
    )
    return connection


async def closed(
    port: int, requests: Sequence[bytes], clients: int, seconds: float, most: int = 10**9
) -> Result:
    """So many clients that ask again as soon as they have their answer.

    It ends after so many seconds, or when so many requests were sent.
    """
    result, order = Result(seconds), iter(range(most))
    began = time.perf_counter()
    end = began + seconds

    async def client() -> None:
        connection = await _connect(port)
        for number in order:
            asked = time.perf_counter()
            status = await connection.ask(requests[number % len(requests)])
            answered = time.perf_counter()
            if answered > end:
                break
            result.statuses[status] += 1
            if status == 200:
                result.latencies.append(answered - asked)
            elif connection.transport.is_closing():
                connection = await _connect(port)
        connection.transport.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    result.seconds = min(seconds, time.perf_counter() - began)
    return result


async def open_loop(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    connections: int = 512,
    seed: int = 0,
) -> Result:
    """Requests that come by chance, so many a second, whatever the server does (Poisson).

    They share so many connections, which are open from the start. One that finds none free is not
    sent: status ``UNSENT``. The run lasts until the last answer.
    """
    result, rng = Result(seconds), random.Random(seed)
    idle = [await _connect(port) for _ in range(connections)]
    asking: set[asyncio.Task[None]] = set()

    async def ask(connection: Connection, body: bytes, due: float) -> None:
        status = await connection.ask(body)
        result.statuses[status] += 1
        if status == 200:
            result.latencies.append(time.perf_counter() - due)
        idle.append(await _connect(port) if connection.transport.is_closing() else connection)

    begin = due = time.perf_counter()
    while (due := due + rng.expovariate(rate)) < begin + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if not idle:
            result.statuses[UNSENT] += 1
            continue
        task = asyncio.ensure_future(ask(idle.pop(), rng.choice(requests), due))
        asking.add(task)
        task.add_done_callback(asking.discard)
    if asking:
        await asyncio.wait(asking, timeout=60)
    result.seconds = time.perf_counter() - begin
    for connection in idle:
        connection.transport.close()
    return result
