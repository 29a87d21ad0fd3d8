"""Cold start and memory of the HuggingFace inference toolkit, with our ``code/`` and without.

The same fine-tuned MiniLM is served twice by the toolkit on MMS with one worker: as training wrote
it, and without ``code/``, so that the toolkit answers with its default pipeline. Seconds from the
start of the server to the first answer, and megabytes of all its processes after that answer and
after a hundred more, one text each.

    python benchmarks/cold_start.py [--rounds 5] [--model DIR]

Needs Java and root; the toolkit's packages are installed once, as the container tests do it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, classifier, machine, spread, table, texts

sys.path.insert(0, str(ROOT / "tests" / "docker_test"))

from environments import environment
from servers import post, resident, toolkit

VERSIONS = {"4": "4.57.6", "5": "5.23.0"}
MORE = 100


def measure(version: str, model: Path, asked: list[str]) -> tuple[float, int, int]:
    """Seconds to the first answer, megabytes after it and after a hundred more."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "ml"
        started = time.perf_counter()
        with toolkit(version, model, base) as url:
            _ask(url, asked[0])
            seconds, first = time.perf_counter() - started, resident(str(base))
            for text in asked[1:]:
                _ask(url, text)
            return seconds, first, resident(str(base))


def _ask(url: str, text: str) -> None:
    reply = post(url, json.dumps({"inputs": text}))
    assert reply.status == 200, reply.text


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="a classif model directory; default: one trained here")
    options = parser.parse_args()
    ours = classifier(options.model, max_steps=30)
    bare = Path(tempfile.mkdtemp()) / "bare"
    bare = Path(shutil.copytree(ours, bare, ignore=shutil.ignore_patterns("code")))
    asked = texts("banking77")[: MORE + 1]
    for version in VERSIONS:
        environment(f"inference-{version}")
    found: dict[tuple[str, str], list[tuple[float, int, int]]] = {}
    for _ in range(options.rounds):
        for version in VERSIONS:
            for name, model in (("default pipeline", bare), ("tfserve", ours)):
                found.setdefault((version, name), []).append(measure(version, model, asked))
                print(version, name, found[version, name][-1], flush=True)
    rows = [
        [
            VERSIONS[version],
            name,
            *(spread([run[i] for run in runs], 1 if i == 0 else 0) for i in range(3)),
        ]
        for (version, name), runs in found.items()
    ]
    print(f"\n{machine()}\nmedian (range) of {options.rounds} rounds\n")
    header = ["transformers", "answers", "s to the first", "MB after it", f"MB after {MORE} more"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
