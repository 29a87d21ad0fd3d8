"""The tables of what `study.py` measured.

    python benchmarks/quality/summary.py RESULTS.jsonl docs/quality.md

writes them between their marks in the document. Of the methods: the metric on test, median and
range of the seeds, the processor's seconds of a job, and who is ahead. Of the variants: what each
adds to the defaults with the same seeds.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import machine, spread, table
from jobs import read
from methods import METHODS, TASKS
from variants import SETS, VARIANTS

SHOWN = {"classif": "accuracy", "multilabel-classif": "f1_micro", "ner": "f1",
         "regression": "pearson"}  # fmt: skip
OWN = {"docbank_samples": "word_accuracy"}
"""Sets with a metric of their own. DocBank's tags are of blocks of up to hundreds of words: hardly
one is right from its first word to its last."""

NAMES = {"tfserve": "tfserve", "example": "example scripts", "words": "TF-IDF, linear"}
Results = dict[tuple[str, str], dict[int, dict[str, Any]]]
"""Set and method → seed → a line of the results."""


def main() -> None:
    """Read, write."""
    results, document = Path(sys.argv[1]), Path(sys.argv[2])
    found: Results = defaultdict(dict)
    for line in read(results):
        found[line["set"], line["method"]][line["seed"]] = line
    text = document.read_text("utf-8")
    for what, made in (("machine", f"{machine('fp32')}; a core a job."),
                       ("quality", quality(found)), ("variants", variants(found, SETS)),
                       ("more variants", variants(found, set(TASKS) - set(SETS)))):  # fmt: skip
        begin, end = f"<!-- {what}: begin -->\n", f"<!-- {what}: end -->"
        if begin not in text:
            sys.exit(f"found no {begin.strip()} in {document}; expected the marks of the tables")
        text = f"{text.split(begin)[0]}{begin}{made}\n{end}{text.split(end)[1]}"
    document.write_text(text, "utf-8")


def shown(name: str) -> str:
    """The metric of a set."""
    return OWN.get(name, SHOWN[TASKS[name]])


def values(found: Results, name: str, method: str, metric: str) -> dict[int, float]:
    """Seed → metric, of jobs that have it."""
    lines = found.get((name, method), {})
    return {s: line["metrics"][metric] for s, line in lines.items() if metric in line["metrics"]}


def quality(found: Results) -> str:
    """A row a data set."""
    rows = []
    for name in TASKS:
        metric = shown(name)
        each = {m: values(found, name, m, metric) for m in METHODS}
        notes = (
            list(values(found, name, "tfserve", metric).values())
            for metric in ("ece", "ece_chance", "f1_micro_at_half")
        )
        seconds = (
            [line["seconds"] for line in found.get((name, m), {}).values()] for m in NAMES
        )  # fmt: skip
        rows.append([
            name, metric, *(cell(list(each[m].values())) for m in NAMES), ahead(each),
            *map(cell, notes), *(f"{statistics.median(s):.0f}" if s else "-" for s in seconds),
        ])  # fmt: skip
    header = ["set", "metric", *NAMES.values(), "ahead", "ECE", "of which chance", "at 0.5",
              *(f"CPU s, {name}" for name in NAMES.values())]  # fmt: skip
    return table(header, rows)


def ahead(each: Mapping[str, Mapping[int, float]]) -> str:
    """Which method has the best median, and in how many seeds it is the best, if not in all."""
    if not all(each.values()):
        return "-"
    middles = {method: statistics.median(of.values()) for method, of in each.items()}
    first = max(middles, key=middles.__getitem__)
    seeds = set.intersection(*(set(of) for of in each.values()))
    won = sum(each[first][seed] == max(of[seed] for of in each.values()) for seed in seeds)
    return NAMES[first] + (f", {won} of {len(seeds)} seeds" if won < len(seeds) else "")


def variants(found: Results, sets: Collection[str]) -> str:
    """A row a variant that was tried on any of ``sets``: its differences from the defaults, seed by
    seed."""
    tried = {variant: [name for name in sets if (name, variant) in found] for variant in VARIANTS}
    names = [name for name in TASKS if any(name in each for each in tried.values())]
    rows = []
    for variant in (variant for variant in VARIANTS if tried[variant]):
        cells = []
        for name in names:
            metric = shown(name)
            usual = values(found, name, "tfserve", metric)
            changed = values(found, name, variant, metric)
            cells.append(cell([changed[seed] - usual[seed] for seed in usual if seed in changed]))
        rows.append([variant, *cells])
    return table(["variant", *(f"{name}, {shown(name)}" for name in names)], rows)


def cell(given: list[float]) -> str:
    """Median and range, the value where there is one, or nothing."""
    if len(given) == 1:
        return f"{given[0]:.3f}"
    return spread(given, 3) if given else "-"


if __name__ == "__main__":
    main()
