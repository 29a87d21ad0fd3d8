"""Cold start and memory: from the start of a process to its first answer.

The same fine-tuned MiniLM is served by the HuggingFace inference toolkit on MMS with one worker, as
training wrote it and without its ``code/``, so that the toolkit answers with its default pipeline;
by `tfserve serve` with torch; by `tfserve serve` as it was exported for OpenVINO and for ONNX
Runtime; and it is asked once by a bare script that imports torch and transformers. Megabytes are
those of all processes, Java's among them, after the first answer and after a hundred more, one text
each.

    python benchmarks/cold_start.py [--rounds 5] [--model DIR]

The toolkit needs Java and root; its packages are installed once, as the container tests do it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import ROOT, classifier, machine, parser, spread, table, texts

sys.path.insert(0, str(ROOT / "tests" / "docker_test"))

from environments import environment
from servers import own_server, post, resident, toolkit

from tfserve.export import export

MORE = 100
SCRIPT = """
import re, sys
from transformers import pipeline
model = pipeline("text-classification", model=sys.argv[1], truncation=True)
for text in sys.argv[2:]:
    model(text)
    # Not ru_maxrss: that begins with what the process was forked from.
    status = open("/proc/self/status").read()
    print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1000, flush=True)
"""

Start = Callable[[Path], contextlib.AbstractContextManager[str]]
Measured = tuple[float, int, int]
"""Seconds to the first answer, megabytes after it and after a hundred more."""


def served(start: Start, asked: list[str]) -> Measured:
    """Of a server; ``start`` gets a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "ml"
        started = time.perf_counter()
        with start(base) as url:
            _ask(url, asked[0])
            seconds, first = time.perf_counter() - started, resident(str(base))
            for text in asked[1:]:
                _ask(url, text)
            return seconds, first, resident(str(base))


def script(model: Path, asked: list[str]) -> Measured:
    """Of the bare script."""
    started = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(model), *asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        first = int(process.stdout.readline())
        seconds = time.perf_counter() - started
        return seconds, first, [int(line) for line in process.stdout][-1]


def _ask(url: str, text: str) -> None:
    reply = post(url, json.dumps({"inputs": text}))
    assert reply.status == 200, reply.text


def main() -> None:
    """Measure in turn and print."""
    options = parser(__doc__, rounds=5).parse_args()
    ours, scratch = classifier(options.model, max_steps=30), Path(tempfile.mkdtemp())
    bare = Path(shutil.copytree(ours, scratch / "bare", ignore=shutil.ignore_patterns("code")))
    for engine in ("openvino", "onnx"):
        export(ours, engine, output=scratch / engine)
    for version in ("4", "5"):
        environment(f"inference-{version}")
    asked = texts("banking77")[: MORE + 1]
    variants: dict[str, Callable[[], Measured]] = {
        "transformers 4, toolkit's pipeline": lambda: served(
            lambda base: toolkit("4", bare, base), asked
        ),
        "transformers 4, tfserve's code": lambda: served(lambda b: toolkit("4", ours, b), asked),
        "transformers 5, toolkit's pipeline": lambda: served(
            lambda base: toolkit("5", bare, base), asked
        ),
        "transformers 5, tfserve's code": lambda: served(lambda b: toolkit("5", ours, b), asked),
        "a script with a pipeline": lambda: script(ours, asked),
        "tfserve, torch": lambda: served(lambda base: own_server(ours, base), asked),
        **{
            f"tfserve, exported for {engine}": lambda engine=engine: served(  # type: ignore[misc]
                lambda base: own_server(scratch / engine, base, engine=engine), asked
            )
            for engine in ("openvino", "onnx")
        },
    }
    found: dict[str, list[Measured]] = {}
    for _ in range(options.rounds):
        for name, measure in variants.items():
            found.setdefault(name, []).append(measure())
            print(name, found[name][-1], flush=True)
    rows = [
        [name, *(spread([run[i] for run in runs], 1 if i == 0 else 0) for i in range(3))]
        for name, runs in found.items()
    ]
    print(f"\n{machine()}\nmedian (range) of {options.rounds} rounds\n")
    header = ["what answers", "s to the first", "MB after it", f"MB after {MORE} more"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
