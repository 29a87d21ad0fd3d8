"""The table of what `study.py` measured.

    python benchmarks/quality/summary.py RESULTS.jsonl docs/quality.md

writes it between its marks in the document: the metric on test, median and range of the seeds, the
seconds of a job, and who is ahead.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import machine, spread, table
from methods import METHODS, TASKS

BEGIN, END = "<!-- quality: begin -->\n", "<!-- quality: end -->"
SHOWN = {"classif": "accuracy", "multilabel-classif": "f1_micro", "ner": "f1",
         "regression": "pearson"}  # fmt: skip
NAMES = {"tfserve": "tfserve", "example": "example scripts", "words": "TF-IDF, linear"}


def main() -> None:
    """Read, write."""
    lines = Path(sys.argv[1]).read_text("utf-8").splitlines()
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        result = json.loads(line)
        found[result["set"], result["method"]].append(result)
    rows = []
    for name, task in TASKS.items():
        metric = SHOWN[task]
        cells: dict[str, str] = {}
        middles: dict[str, float] = {}
        for method in METHODS:
            results = found.get((name, method), [])
            values = [result["metrics"][metric] for result in results]
            cells[method] = spread(values, 3) if values else "-"
            if values:
                middles[method] = statistics.median(values)
        errors = [
            r["metrics"]["ece"] for r in found.get((name, "tfserve"), []) if "ece" in r["metrics"]
        ]
        seconds = [
            f"{statistics.median(r['seconds'] for r in found[name, method]):.0f}"
            if found.get((name, method))
            else "-"
            for method in NAMES
        ]
        first = max(middles, key=middles.__getitem__) if len(middles) == len(METHODS) else "-"
        rows.append([
            name, metric, *(cells[method] for method in NAMES), NAMES.get(first, first),
            spread(errors, 3) if errors else "-", *seconds,
        ])  # fmt: skip
    header = ["set", "metric", *NAMES.values(), "ahead", "ECE of tfserve",
              *(f"s, {name}" for name in NAMES.values())]  # fmt: skip
    document = Path(sys.argv[2])
    text = document.read_text("utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    document.write_text(
        f"{before}{BEGIN}{machine()}\n\n{table(header, rows)}\n{END}{after}", "utf-8"
    )


if __name__ == "__main__":
    main()
