"""Two models side by side, on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tfserve.evaluation import Evaluation
from tfserve.evaluation.bootstrap import Difference
from tfserve.evaluation.notes import notes
from tfserve.report import figures
from tfserve.report.mistakes import read_as
from tfserve.report.page import MANY, Grid, Page, Part, Plot, Section
from tfserve.tallies import Labels, Numbers, figure
from tfserve.tasks.common import named

MOST = 50

BESIDE = {
    "ece": "calibration error",
    "ece_chance": "what chance alone would show",
    "coverage": "share of rows answered",
    "accuracy_answered": "share of these that is right",
}


def page(
    one: Evaluation,
    other: Evaluation,
    names: Sequence[str],
    differing: Mapping[str, Difference],
) -> Page:
    """``names`` are those of the models, ``differing`` what sets their metrics apart."""
    rows = [
        (metric, d.one, d.other, d.one - d.other, " to ".join(map(figure, d.interval)),
         d.p, "yes" if d.significant else "no")
        for metric, d in differing.items()
    ]  # fmt: skip
    header = ["metric", *names, "difference", "95% of it", "p", "significant"]
    text = (
        "The interval is that of the difference over resampled rows; p says how often two models "
        "that do not differ would differ as much, their answers exchanged by chance. Averages "
        "over labels are over the same labels for both."
    )
    sections = [Section("Metrics", text, [Grid(header, rows), *_beside(one, other, names)])]
    sections += _labels(one, other, names)
    sections += _rows(one, other, names)
    subtitle = f"{one.task.name} · {one.table.name} · {len(one.answers):,} rows"
    told = [f"{name}: {note}" for name, of in zip(names, (one, other), strict=True)
            for note in notes(of)]  # fmt: skip
    return Page(f"{names[0]} or {names[1]}?", subtitle, sections, told)


def _beside(one: Evaluation, other: Evaluation, names: Sequence[str]) -> list[Part]:
    """What is no aim by itself: how true probabilities are, and how many rows are answered."""
    rows = [
        (what, one.metrics.get(name), other.metrics.get(name))
        for name, what in BESIDE.items()
        if name in one.metrics or name in other.metrics
    ]
    return [Grid(["beside them", *names], rows)] if rows else []


def _labels(one: Evaluation, other: Evaluation, names: Sequence[str]) -> list[Section]:
    scores = [found.metrics.get("per_label", {}) for found in (one, other)]
    shared = [label for label in scores[0] if label in scores[1]]
    if not shared:
        return []
    rows = [
        (named(label), *(by_label[label]["f1"] for by_label in scores),
         scores[0][label]["f1"] - scores[1][label]["f1"], int(scores[0][label]["support"]))
        for label in shared
    ]  # fmt: skip
    rows.sort(key=lambda row: -abs(row[3]))
    header = ["label", *names, "difference", one.task.unit]
    parts: list[Part] = []
    series = {name: [row[1 + i] for row in rows] for i, name in enumerate(names)}
    if len(rows) <= MANY and any(map(any, series.values())):
        parts.append(
            Plot(figures.bars([row[0] for row in rows], series, "F1"), "F1 of each label.")
        )
    parts.append(Grid(header, rows, tall=len(rows) > MANY))
    return [Section("Labels", "F1 of each label, where they differ most first.", parts)]


def _rows(one: Evaluation, other: Evaluation, names: Sequence[str]) -> list[Section]:
    """Rows that one gets right, or righter, and the other does not."""
    better = one.tally.quality - other.tally.quality
    gained, lost, alike = (np.flatnonzero(some) for some in (better > 0, better < 0, better == 0))
    counts = [(f"{names[0]} is better", len(gained)), (f"{names[1]} is better", len(lost))]
    if isinstance(one.tally, Labels):
        right = int(one.tally.right[alike].sum())
        counts += [("both are right", right), ("both are as wrong", len(alike) - right)]
    else:
        counts.append(("both are as far off", len(alike)))
    parts: list[Part] = [Grid(["rows", "count"], counts)]
    for name, rows in zip(names, (gained, lost), strict=True):
        ranked = rows[np.argsort(-np.abs(better[rows]), kind="stable")][:MOST]
        if len(ranked):
            shown = [
                (one.table.rows[i].line, *(_said(found, i) for found in (one, other)),
                 one.table.rows[i].record.text)
                for i in ranked
            ]  # fmt: skip
            header = ["line", *names, "text"]
            parts.append(Grid(header, shown, f"Where {name} is better.", tall=True))
    return [Section("Rows", "Where they part.", parts)]


def _said(found: Evaluation, row: int) -> str:
    if isinstance(found.tally, Numbers):
        return f"{found.tally.given[row]:.4g} for {found.tally.gold[row]:.4g}"
    return read_as(found, row, found.answers[row]["pred"])
