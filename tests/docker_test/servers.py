"""Servers that the tests ask: started, waited for, asked over HTTP, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conformance import JSON, Ask
from environments import environment, variables
from machine import need, need_root

HERE = Path(__file__).parent
SECONDS = 180
"""For a server to load its model."""


@dataclass(frozen=True)
class Reply:
    """What came back: any status is an answer."""

    status: int
    text: str
    media_type: str


def post(
    url: str, body: bytes | str, content_type: str | None = JSON, accept: str | None = JSON
) -> Reply:
    """POST to ``/invocations``."""
    headers = {"Content-Type": content_type, "Accept": accept}
    request = urllib.request.Request(
        f"{url}/invocations",
        body.encode() if isinstance(body, str) else body,
        {name: value for name, value in headers.items() if value is not None},
    )
    return _open(request)


def get(url: str, path: str) -> Reply:
    return _open(urllib.request.Request(url + path))


def _open(request: urllib.request.Request) -> Reply:
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return Reply(answer.status, answer.read().decode(), answer.headers["Content-Type"])
    except urllib.error.HTTPError as error:
        return Reply(error.code, error.read().decode(), error.headers["Content-Type"] or "")


def free_port() -> int:
    """Below 49152: MMS takes no other."""
    for port in random.sample(range(20_000, 30_000), 50):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def asker(url: str) -> Ask:
    """Asks ``url`` and expects an answer of the media type that was asked for."""

    def ask(body: str, content_type: str, accept: str) -> str:
        reply = post(url, body, content_type, accept)
        assert (reply.status, reply.media_type) == (200, accept), reply.text
        return reply.text

    return ask


@contextmanager
def toolkit(version: str, model: Path, base: Path, workers: int = 1) -> Iterator[str]:
    """The HuggingFace inference toolkit on MMS, serving ``model``: its URL.

    ``version`` is that of transformers, 4 or 5; ``base`` is a new folder. It is ready when it has
    answered something: its ``/ping`` is 200 before a model is loaded.
    """
    need("java", "gcc")
    need_root()
    bin_folder = environment(f"inference-{version}")
    base.mkdir()
    (base / "model").symlink_to(model)
    port = free_port()
    given = variables(
        bin_folder,
        SAGEMAKER_BASE_DIR=str(base),
        SAGEMAKER_BIND_TO_PORT=str(port),
        SAGEMAKER_MODEL_SERVER_WORKERS=str(workers),
        PYTHONPATH=str(HERE),
        TFSERVE_PRECISION="fp32",
    )
    command = ["serve"] if version == "4" else ["python", str(HERE / "toolkit_5.py")]
    try:
        with running(command, given, base / "log", f"http://127.0.0.1:{port}") as url:
            yield url
    finally:  # MMS forks a server that outlives the process that started it
        stop = [bin_folder / "multi-model-server", "--stop"]
        subprocess.run(stop, env=given, capture_output=True, check=False)


@contextmanager
def own_server(
    model: Path, base: Path, precision: str = "fp32", engine: str = "torch"
) -> Iterator[str]:
    """``tfserve serve`` serving ``model``: its URL. ``base`` is a new folder."""
    base.mkdir()
    port = free_port()
    command = [sys.executable, "-m", "tfserve", "serve", str(model), "--port", str(port)]
    asked = {"TFSERVE_ENGINE": engine, "TFSERVE_PRECISION": precision}
    given = {**os.environ, "SAGEMAKER_BASE_DIR": str(base), **asked}
    with running(command, given, base / "log", f"http://127.0.0.1:{port}") as url:
        yield url


@contextmanager
def running(
    command: list[str], given: Mapping[str, str], log: Path, url: str,
    ready: Callable[[str], bool] | None = None,
) -> Iterator[str]:  # fmt: skip
    """A server in a process group of its own, from when it is ready to its end."""
    with log.open("wb") as out:  # servers write logs of their own into their current folder
        process = subprocess.Popen(
            command, env=dict(given), cwd=log.parent, stdout=out, stderr=out, start_new_session=True
        )
    try:
        end = time.monotonic() + SECONDS
        while not (ready or _answers)(url):
            assert process.poll() is None, log.read_text("utf-8", "replace")[-3000:]
            assert time.monotonic() < end, log.read_text("utf-8", "replace")[-3000:]
            time.sleep(0.05)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def resident(mark: str) -> int:
    """Megabytes of the processes that have ``mark`` in their environment; what several of them
    share counts once."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found = re.search(
                    r"^Pss:\s+(\d+) kB$", (process / "smaps_rollup").read_text(), re.M
                )
                total += int(found[1]) * 1024 if found else 0
        except OSError:  # it ended meanwhile
            continue
    return total // 1_000_000


def _answers(url: str) -> bool:
    """Whether a request is answered by the model, or by its failure to load."""
    try:
        reply = post(url, json.dumps({"data": []}))
    except OSError:
        return False
    return reply.status not in (404, 503) and "ServiceUnavailable" not in reply.text
