"""How good do models get? Every data set, three seeds, three ways to train.

    python benchmarks/quality/study.py RESULTS.jsonl [--sets …] [--methods …] [--seeds 0 1 2]

`summary.py` writes the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs import work
from methods import METHODS, TASKS


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--sets", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    options, _ = parser.parse_known_args()
    jobs = [(m, s, seed) for seed in options.seeds for m in options.methods for s in options.sets]
    work(options.results, jobs, METHODS)


if __name__ == "__main__":
    main()
