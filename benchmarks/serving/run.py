"""Requests per second of servers with the same fine-tuned MiniLM, one text a request.

Ours, the HuggingFace inference toolkit on MMS with a worker per core, and a plain FastAPI around a
pipeline; each on short texts and on a mix with long documents, with so many clients that ask again
as soon as they are answered. All servers take turns, several rounds; medians and ratios count. The
clients run on the same cores.

    python benchmarks/serving/run.py [--rounds 3] [--seconds 10] [--clients 1 8 32 64] [--model DIR]

Needs Java and root for the toolkit, whose packages are installed once, as the container tests do
it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import uvloop
from load import Result, closed, request

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests" / "docker_test")]

from common import classifier, machine, spread, table  # noqa: E402
from prediction import load_texts  # noqa: E402
from servers import free_port, own_server, running, toolkit  # noqa: E402

SETS = ("banking77", "mix")
WARM_UP = 3
"""Seconds before each measurement."""


@contextlib.contextmanager
def ours(model: Path, folder: Path) -> Iterator[str]:
    """``tfserve serve``, in its own precision."""
    with own_server(model, folder / "ml", precision="auto") as url:
        yield url


@contextlib.contextmanager
def huggingface(model: Path, folder: Path) -> Iterator[str]:
    """The toolkit's own pipeline: a model directory without our ``code/``."""
    bare = folder / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("code"))
    with toolkit("4", bare, folder / "ml", workers=os.cpu_count() or 1) as url:
        yield url


@contextlib.contextmanager
def plain(model: Path, folder: Path) -> Iterator[str]:
    """FastAPI and a pipeline."""
    port = free_port()
    command = [sys.executable, str(HERE / "peers" / "plain.py"), str(model), str(port)]
    with running(command, os.environ, folder / "log", f"http://127.0.0.1:{port}") as url:
        yield url


SERVERS: dict[str, tuple[Callable[[Path, Path], contextlib.AbstractContextManager[str]], str]] = {
    "tfserve": (ours, "/predict"),
    "HuggingFace toolkit": (huggingface, "/invocations"),
    "FastAPI and pipeline": (plain, "/invocations"),
}


def measure(port: int, path: str, name: str, clients: int, seconds: float) -> Result:
    """One closed loop, after a shorter one."""
    requests = [request(path, json.dumps({"inputs": text}).encode()) for text in load_texts(name)]

    async def run() -> Result:
        await closed(port, requests, clients, WARM_UP)
        return await closed(port, requests, clients, seconds)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--model", help="a classif model directory; default: one trained here")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    model = classifier(options.model, max_steps=30)
    found: dict[tuple[str, str, int], list[Result]] = {}
    for number in range(options.rounds):
        for server, (start, path) in SERVERS.items():
            folder = scratch / f"{number}-{server.replace(' ', '-')}"
            folder.mkdir()
            with start(model, folder) as url:
                port = int(url.rpartition(":")[2])
                for name in SETS:
                    for clients in options.clients:
                        result = measure(port, path, name, clients, options.seconds)
                        found.setdefault((server, name, clients), []).append(result)
                        print(server, name, clients, f"{result.rate:.0f}/s", dict(result.statuses),
                              flush=True)  # fmt: skip
    print(f"\n{machine()}\nmedian (range) of {options.rounds} rounds of {options.seconds:.0f} s\n")
    for name in SETS:
        rows = [
            [
                server,
                *(spread([run.rate for run in found[server, name, n]]) for n in options.clients),
                *(spread([run.quantile(0.5) for run in found[server, name, n]], 1)
                  for n in options.clients[:1]),
                spread([run.quantile(0.99) for run in found[server, name, options.clients[-1]]]),
            ]
            for server in SERVERS
        ]  # fmt: skip
        clients = [f"{n} clients" for n in options.clients]
        header = [name, *clients, f"p50 ms, {clients[0]}", f"p99 ms, {clients[-1]}"]
        print(table(header, rows) + "\n")


if __name__ == "__main__":
    main()
