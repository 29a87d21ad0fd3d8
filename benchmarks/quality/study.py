"""Every method on every data set, and every variant of tfserve on some, with several seeds.

    python benchmarks/quality/study.py RESULTS.jsonl [--methods …] [--sets …] [--seeds 0 1 2]

`summary.py` writes the tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs import work
from methods import METHODS, TASKS
from variants import MEANT, SETS, VARIANTS


def main() -> None:
    """Run what is missing."""
    every = {**METHODS, **VARIANTS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--sets", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="*", default=list(every), choices=list(every))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--job", nargs=3, metavar=("METHOD", "SET", "SEED"), help="this one alone")
    options = parser.parse_args()
    jobs = [
        (method, name, seed)
        for seed in options.seeds
        for method in options.methods
        for name in options.sets
        if method in METHODS or name in MEANT.get(method, SETS)
    ]
    work(options.results, jobs, every)


if __name__ == "__main__":
    main()
