"""How good do models get? Every data set, three seeds, three ways to train.

    python benchmarks/quality/study.py RESULTS.jsonl [--sets …] [--methods …] [--seeds 0 1 2]

A line a job is added to the file; what stands there already is not run again, so that the same
command goes on. `summary.py` writes the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from methods import METHODS, TASKS


def main() -> None:
    """Run what is missing, each job in a process of its own, cheap ones first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--sets", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--job", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        method, name, seed = options.job
        seconds, metrics = METHODS[method](name, int(seed))
        kept = {k: v for k, v in metrics.items() if isinstance(v, float)}
        result = {"method": method, "set": name, "seed": int(seed), "seconds": seconds}
        with options.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**result, "metrics": kept}) + "\n")
        return
    done = set()
    if options.results.exists():
        lines = options.results.read_text("utf-8").splitlines()
        done = {(r["method"], r["set"], r["seed"]) for r in map(json.loads, lines)}
    for method in options.methods:
        for seed in options.seeds:
            for name in options.sets:
                if (method, name, seed) in done:
                    continue
                print(method, name, seed, flush=True)
                job = [sys.executable, __file__, str(options.results), "--job", method, name]
                ran = subprocess.run([*job, str(seed)], capture_output=True, text=True, check=False)
                if ran.returncode:
                    sys.exit(ran.stderr[-3000:])


if __name__ == "__main__":
    main()
