"""The model in a process of its own: what serves it lives on when it dies.

The two talk over a socket pair in frames: a JSON header and raw arrays. The worker answers batches
as they are done; it ends when the other end of its socket is closed.

    python -m tfserve.server.worker FD MODEL_DIR ENGINE PRECISION
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tfserve.arrays import Array
from tfserve.encoding import Ints, Window
from tfserve.errors import ModelError, TfserveError
from tfserve.server import logs
from tfserve.settings import Settings

LENGTHS = struct.Struct("<II")
"""Of a frame's header and of its arrays, in bytes."""

PATIENCE = 5
"""Seconds for a worker to finish its batch when it is stopped."""

log = logging.getLogger("tfserve")

NOTHING: Ints = np.empty(0, np.int64)


class BatchError(Exception):
    """The model could not compute a batch."""


class CrashError(Exception):
    """The worker is gone."""


class Starting:
    """A worker's process, while it loads its model."""

    def __init__(self, model_dir: Path | str, settings: Settings) -> None:
        self.wire, there = socket.socketpair()
        with there:
            command = [sys.executable, "-m", __name__, str(there.fileno()), str(model_dir)]
            # A session of its own: what the terminal interrupts is the server.
            self.process = subprocess.Popen(
                [*command, settings.engine, settings.precision],
                pass_fds=[there.fileno()],
                start_new_session=True,
            )
        self.wire.setblocking(False)

    def kill(self) -> None:
        """End it and what it may have started to make a graph, if it has not ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wire.close()
        self.process.wait()


@contextlib.contextmanager
def ahead(model_dir: Path | str) -> Iterator[Starting]:
    """A worker that loads its model while the server's own libraries are imported, which a cold
    start would otherwise wait for first."""
    starting = Starting(model_dir, Settings.from_environment())
    try:
        yield starting
    finally:
        starting.kill()


class Worker:
    """The parent's end of a worker that is ready.

    Attributes
    ----------
    facts : of the engine: ``name``, ``lanes``, ``budget``, ``precision``
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        wire: socket.socket,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        facts: dict[str, Any],
    ) -> None:
        self.process, self.facts = process, facts
        self._wire, (self._reader, self._writer) = wire, streams
        self._pending: dict[int, asyncio.Future[tuple[Array, float, float]]] = {}
        self._numbers = 0
        self.ended = asyncio.ensure_future(self._read())

    @classmethod
    async def ready(cls, starting: Starting) -> Worker:
        """The worker when its model is loaded. Raises TfserveError if it cannot be."""
        process, here = starting.process, starting.wire
        wire = here.dup()  # to be shut at once: a transport closes when its loop comes to it
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_connection(sock=here, limit=2**30)
            header, _ = await _receive(reader)
        except EOFError:
            header = {}
        except BaseException:
            process.kill()
            await _end(process, wire, writer)
            raise
        if writer is not None and "lanes" in header:
            return cls(process, wire, (reader, writer), header)
        status = await _end(process, wire, writer)
        lost = f"the process that loads it ended with {status}; see its log"
        raise ModelError(header.get("error", "model.load"), header.get("message", lost))

    async def run(self, windows: Sequence[Window], alone: bool) -> tuple[Array, float, float]:
        """The logits of a batch, the seconds that it took, and when it ended on the machine's
        monotonic clock.

        Raises BatchError or CrashError.
        """
        self._numbers += 1
        number, boxed = self._numbers, windows[0].boxes is not None
        header = {"number": number, "alone": alone, "lengths": [len(w) for w in windows]}
        arrays = [np.concatenate([w.ids for w in windows])]
        if boxed:
            arrays.append(np.concatenate([w.boxes for w in windows if w.boxes is not None]))
        answer: asyncio.Future[tuple[Array, float, float]] = (
            asyncio.get_running_loop().create_future()
        )
        self._pending[number] = answer
        if self.ended.done():
            raise CrashError
        self._writer.write(_frame(header, *arrays))
        return await answer

    async def stop(self) -> None:
        """Let it end; what it still computes is lost."""
        await _end(self.process, self._wire, self._writer)

    async def _read(self) -> None:
        """Hands answers to those who wait, until the worker is gone."""
        try:
            while True:
                header, data = await _receive(self._reader)
                future = self._pending.pop(header["number"])
                if future.done():
                    continue
                if "error" in header:
                    future.set_exception(BatchError(header["error"]))
                else:
                    logits = np.frombuffer(data, np.float32).reshape(header["shape"])
                    future.set_result((logits, header["seconds"], header["ended"]))
        except (EOFError, ConnectionError):
            pass
        except Exception:
            log.error("what the worker sends makes no sense", exc_info=True)
        finally:
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(CrashError())


async def _end(
    process: subprocess.Popen[bytes], wire: socket.socket, writer: asyncio.StreamWriter | None
) -> int:
    """Its exit status, once it is gone."""
    with contextlib.suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
    wire.close()
    if writer is not None:
        writer.close()
    try:
        return await asyncio.to_thread(process.wait, PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        return await asyncio.to_thread(process.wait)


def _frame(header: dict[str, Any], *arrays: Array) -> bytes:
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in arrays)
    return LENGTHS.pack(len(text), len(data)) + text + data


async def _receive(reader: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    """A frame's header and arrays. Raises EOFError."""
    header, data = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
    return json.loads(await reader.readexactly(header)), await reader.readexactly(data)


def main(descriptor: str, model_dir: str, engine_name: str, precision: str) -> None:
    """The worker: loads the model, then answers batches until there are no more."""
    with socket.socket(fileno=int(descriptor)) as connection, connection.makefile("rb") as file:
        sending = threading.Lock()

        def send(header: dict[str, Any], *arrays: Array) -> None:
            # The other end may be gone.
            with sending, contextlib.suppress(OSError):
                connection.sendall(_frame(header, *arrays))

        from tfserve.batching import Batch
        from tfserve.predictor import load

        try:
            predictor = load(model_dir, engine=engine_name, precision=precision)
        except TfserveError as error:
            send({"error": error.code, "message": error.message})
            return
        except Exception as error:
            send({"error": "model.load", "message": f"cannot load {model_dir}: {error}"})
            raise
        engine = predictor.engine
        facts = {name: getattr(engine, name) for name in ("name", "lanes", "budget", "precision")}
        send({**facts, "version": predictor.artifact.version if predictor.artifact else ""})

        seen: set[bool] = set()

        def run(number: int, alone: bool, batch: Batch) -> None:
            try:
                if alone not in seen:  # what is made for the first is no batch's time
                    engine.run(batch, alone=alone)
                    seen.add(alone)
                started = time.perf_counter()
                logits = np.asarray(engine.run(batch, alone=alone), np.float32)
            except Exception as error:
                send({"number": number, "error": type(error).__name__})
                return
            seconds, ended = time.perf_counter() - started, time.monotonic()
            told = {"number": number, "shape": logits.shape, "seconds": seconds, "ended": ended}
            send(told, logits)

        # A thread that has had all cores keeps them: those for one core each are others.
        lanes = {True: ThreadPoolExecutor(1), False: ThreadPoolExecutor(engine.lanes)}
        while sizes := file.read(LENGTHS.size):
            header, data = (file.read(size) for size in LENGTHS.unpack(sizes))
            asked = json.loads(header)
            batch = predictor.batch(_windows(asked["lengths"], data))
            lanes[asked["alone"]].submit(run, asked["number"], asked["alone"], batch)
        for pool in lanes.values():
            pool.shutdown(cancel_futures=True)


def _windows(lengths: Sequence[int], data: bytes) -> list[Window]:
    """The windows whose ids, and boxes if there are any, stand in ``data`` one after the other."""
    values, total = np.frombuffer(data, np.int64), sum(lengths)
    cuts = np.cumsum(lengths)[:-1]
    ids = np.split(values[:total], cuts)
    boxes: Sequence[Ints | None] = [None] * len(lengths)
    if len(values) > total:
        boxes = np.split(values[total:].reshape(-1, 4), cuts)
    owned = np.empty(0, np.bool_)
    return [Window(i, b, NOTHING, NOTHING, owned) for i, b in zip(ids, boxes, strict=True)]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logs.configure()
    main(*sys.argv[1:])
