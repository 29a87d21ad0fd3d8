"""What `tfserve serve` does under ten times its load, over many requests, and with bad ones.

- overload: requests that come by chance, ten times as many as it can answer: whether those that it
  accepts are answered within the deadline, what the others get, and its memory;
- bad requests: one in a hundred cannot be answered: whether the others notice;
- soak: very many requests: whether its memory grows.

    python benchmarks/serving/stress.py [--soak 100000] [--model DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import uvloop
from load import UNSENT, Result, closed, open_loop, request

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests" / "docker_test")]

from common import classifier, machine, table  # noqa: E402
from prediction import load_texts  # noqa: E402
from servers import own_server, resident  # noqa: E402

PATH, CLIENTS = "/predict", 32
OVERLOAD, OVERLOAD_SECONDS, DEADLINE_S = 10, 20, 5
CONNECTIONS = 4000
"""Of the overload: requests for which none is free are not sent."""

BAD = [b"{", b'{"inputs": 7}', b'{"data": [{"text": "a", "bbox": 1}], "parameters": {"no": 1}}',
       b"\xff\xfe", b""]  # fmt: skip
SAMPLES = 50


def run(port: int, *loads: tuple[list[bytes], float, int]) -> list[Result]:
    """Closed loops, one after the other."""

    async def all_() -> list[Result]:
        return [await closed(port, asked, CLIENTS, most, count) for asked, most, count in loads]

    return uvloop.run(all_())


def overload(port: int, mark: str, requests: list[bytes]) -> None:
    """Ten times what it can answer."""
    (calm,) = run(port, (requests, 6, 10**9))
    before = resident(mark)
    rate = OVERLOAD * calm.rate
    found = uvloop.run(open_loop(port, requests, rate, OVERLOAD_SECONDS, CONNECTIONS))
    unsent = found.statuses.pop(UNSENT, 0)
    sent = sum(found.statuses.values()) / OVERLOAD_SECONDS
    rows = [
        ["answers a second before, and now", f"{calm.rate:.0f}, {found.rate:.0f}"],
        ["requests a second that were due, and sent", f"{rate:.0f}, {sent:.0f}"],
        ["found no free connection", f"{unsent:,}"],
        ["statuses", str(dict(found.statuses))],
        ["ms p50, p99 of the accepted", f"{found.quantile(0.5):.0f}, {found.quantile(0.99):.0f}"],
        ["the deadline, ms", str(DEADLINE_S * 1000)],
        ["MB before and after", f"{before}, {resident(mark)}"],
    ]
    print(table([f"{OVERLOAD} times overload", ""], rows) + "\n", flush=True)


def bad(port: int, requests: list[bytes]) -> None:
    """One bad request in a hundred."""
    spoilt = list(requests)
    for number in range(0, len(spoilt), 100):
        spoilt[number] = request(PATH, BAD[number // 100 % len(BAD)])
    pairs = [run(port, (requests, 8, 10**9), (spoilt, 8, 10**9)) for _ in range(3)]
    rows = []
    for name, results in zip(
        ("all good", "one in a hundred bad"), zip(*pairs, strict=True), strict=True
    ):
        statuses = sum((result.statuses for result in results), start=Counter[int]())
        middle = [np.median([r.quantile(q) for r in results]) for q in (0.5, 0.99)]
        rate = np.median([result.rate for result in results])
        rows.append([name, f"{rate:.0f}", *(f"{ms:.0f}" for ms in middle), dict(statuses)])
    print(table(["requests", "answers a second", "ms p50", "ms p99", "statuses"], rows) + "\n",
          flush=True)  # fmt: skip


def soak(port: int, mark: str, requests: list[bytes], count: int) -> None:
    """Very many."""
    sizes, statuses = [], Counter[int]()
    for _ in range(SAMPLES):
        (found,) = run(port, (requests, 3600, count // SAMPLES))
        statuses += found.statuses
        sizes.append(resident(mark))
    later = sizes[SAMPLES // 5 :]  # what was seen once is kept from then on
    slope = np.polyfit(np.arange(len(later)) * count / SAMPLES, later, 1)[0]
    rows = [
        ["statuses", str(dict(statuses))],
        ["MB after a fiftieth, a fifth, all", f"{sizes[0]}, {later[0]}, {sizes[-1]}"],
        ["MB for each 10,000 more, from a fifth on", f"{slope * 10_000:.2f}"],
    ]
    print(table([f"{count:,} requests", ""], rows) + "\n", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soak", type=int, default=100_000)
    parser.add_argument("--model", help="a classif model directory; default: one trained here")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for connections, here and there
    model = classifier(options.model, max_steps=30)
    os.environ["TFSERVE_DEADLINE_S"] = str(DEADLINE_S)
    texts = load_texts("banking77")
    requests = [request(PATH, json.dumps({"inputs": text}).encode()) for text in texts]
    base = Path(tempfile.mkdtemp()) / "ml"
    print(machine() + "\n")
    with own_server(model, base, "auto", "auto") as url:
        port, mark = int(url.rpartition(":")[2]), str(base)
        overload(port, mark, requests)
        bad(port, requests)
        soak(port, mark, requests, options.soak)


if __name__ == "__main__":
    main()
