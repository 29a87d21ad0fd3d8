"""Trainings one after the other on every core, each in a process of its own with one thread.

A line a job is added to a file of results; what stands there already is not run again, so that the
same command goes on where it was stopped. Lines of defaults that have changed are to be deleted.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Job = tuple[str, str, int]
"""Method, data set, seed."""
Result = tuple[float, dict[str, Any]]
"""The processor's seconds without imports, and the metrics on test."""


Method = Callable[[str, int], Result]
"""Of a data set and a seed."""


def work(results: Path, jobs: Sequence[Job], methods: Mapping[str, Method]) -> None:
    """Do the jobs, or, as one of the processes that this starts, the one of the command line."""
    if "--job" in sys.argv:
        _one(results, methods)
        return
    found = read(results) if results.exists() else []
    done = {(r["method"], r["set"], r["seed"]) for r in found}
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        if job not in done:
            waiting.put(job)
    failed: list[Job] = []
    threads = [
        threading.Thread(target=_worker, args=(results, waiting, core, failed))
        for core in sorted(os.sched_getaffinity(0))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit(f"{len(failed)} jobs failed; the same command tries them again")


def read(results: Path) -> list[dict[str, Any]]:
    """The lines: ``method``, ``set``, ``seed``, ``seconds``, ``metrics``."""
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()]


def _worker(results: Path, waiting: queue.SimpleQueue[Job], core: int, failed: list[Job]) -> None:
    while True:
        try:
            method, name, seed = waiting.get_nowait()
        except queue.Empty:
            return
        print(method, name, seed, flush=True)
        job = [sys.executable, sys.argv[0], str(results), "--job", method, name, str(seed)]
        ran = subprocess.run(
            ["taskset", "--cpu-list", str(core), *job],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ran.returncode:
            failed.append((method, name, seed))
            print(f"{method} {name} {seed} failed:\n{ran.stderr[-3000:]}", flush=True)


def _one(results: Path, methods: Mapping[str, Method]) -> None:
    method, name, seed = sys.argv[sys.argv.index("--job") + 1 :]
    seconds, metrics = methods[method](name, int(seed))
    kept = {k: v for k, v in metrics.items() if isinstance(v, float)}
    line = {"method": method, "set": name, "seed": int(seed), "seconds": seconds, "metrics": kept}
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
