"""What there is to see of a model's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tfserve.arrays import Array
from tfserve.artifact import Manifest
from tfserve.calibration import NEVER
from tfserve.evaluation import Evaluation
from tfserve.evaluation.notes import notes as told
from tfserve.report import confusion, figures, mistakes, probabilities
from tfserve.report.page import MANY, Cards, Grid, Page, Part, Plot, Section, shown
from tfserve.tallies import Labels, Numbers, Tally
from tfserve.tasks import Task
from tfserve.tasks.common import named

GROUPS = 5
"""Of rows of like length, or labels of like frequency."""


def page(
    found: Evaluation,
    *,
    title: str,
    notes: Sequence[str] = (),
) -> Page:
    """The report; ``notes`` come before those of the evaluation itself."""
    data = {} if found.manifest is None else found.manifest.data
    # Rows of each label in train; for ner entities.
    frequencies: Mapping[str, float] = data.get("train", {}).get("labels", {})
    sections = [_summary(found), *_labels(found, frequencies)]
    if isinstance(found.tally, Numbers):
        sections += mistakes.residuals(found.tally)
    elif found.items is not None and len(found.items.truth):
        if isinstance(found.tally, Labels) and found.items.exclusive and not found.task.per_word:
            sections += confusion.sections(found.tally)
        sections += probabilities.sections(found, found.items)
    sections += _slices(found, frequencies)
    sections += mistakes.sections(found)
    if found.manifest is not None and len(found.manifest.history) > 1:
        sections.append(_history(found.manifest, found.task))
    subtitle = f"{found.task.name} · {found.table.name} · {len(found.answers):,} rows"
    return Page(title, subtitle, sections, [*notes, *told(found)])


def _summary(found: Evaluation) -> Section:
    cards = []
    for name in found.task.metric_names:
        low, high = found.intervals[name]
        cards.append((name, shown(found.metrics[name]), f"{shown(low)} to {shown(high)}"))
    if "ece" in found.metrics:
        chance = f"{shown(found.metrics['ece_chance'])} would be chance"
        cards.append(("calibration error", shown(found.metrics["ece"]), chance))
    if "coverage" in found.metrics:
        right = f"{found.metrics['accuracy_answered']:.1%} of them right"
        cards.append(("rows answered", f"{found.metrics['coverage']:.1%}", right))
    text = (
        "Beside each metric its 95% interval (bootstrap over rows): of a hundred such intervals, "
        "each from a table of its own, 95 hold what the metric is on all texts of this kind."
    )
    names = ("temperature", "positive", "threshold", "abstain")
    state = found.task.state()
    own = [(name, _threshold(state[name])) for name in names if state.get(name) is not None]
    grid = [Grid(["the model's", "value"], own)] if own else []
    return Section("Summary", text, [Cards(cards), *grid])


def _labels(found: Evaluation, frequencies: Mapping[str, float]) -> list[Section]:
    by_label = found.metrics.get("per_label")
    if not by_label:
        return []
    thresholds = found.task.thresholds_by_label() if not found.task.exclusive else {}
    unit = found.task.unit
    header = ["label", "precision", "recall", "F1", unit]
    header += [f"{unit} in train"] * bool(frequencies) + ["threshold"] * bool(thresholds)
    rows = []
    for label, scores in by_label.items():
        shares = [scores[name] for name in ("precision", "recall", "f1")]
        row = [named(label), *shares, int(scores["support"])]
        row += [int(frequencies.get(label, 0))] * bool(frequencies)
        row += [_threshold(thresholds.get(label))] * bool(thresholds)
        rows.append(row)
    rows.sort(key=lambda row: -row[4])
    parts: list[Part] = []
    series = {name: [row[i] for row in rows] for i, name in enumerate(header[1:4], 1)}
    if len(rows) <= MANY and any(map(any, series.values())):
        svg = figures.bars([row[0] for row in rows], series, "share")
        parts.append(Plot(svg, "Precision, recall and F1 of each label, the commonest first."))
    parts.append(Grid(header, rows, "A click on a heading sorts.", tall=len(rows) > MANY))
    return [Section("Labels", "How well each label is found.", parts)]


def _threshold(value: Any) -> Any:
    return "never" if isinstance(value, float) and value == NEVER else value


def _slices(found: Evaluation, frequencies: Mapping[str, float]) -> list[Section]:
    # A macro average over the labels that happen to be in a part is another one in each part.
    metric = "accuracy" if "accuracy" in found.task.metric_names else found.task.metric
    parts: list[Part] = []
    if rows := _by_length(found, metric):
        parts.append(Grid(["tokens", "rows", metric], rows, "By length, in the model's tokens."))
    by_label = found.metrics.get("per_label", {})
    known = sorted(
        (label for label, of_it in by_label.items() if of_it["support"] and frequencies.get(label)),
        key=frequencies.__getitem__,
    )
    if len(known) > 2:
        rows = []
        for some in np.array_split(np.array(known, object), min(GROUPS, len(known))):
            low, high = int(frequencies[some[0]]), int(frequencies[some[-1]])
            f1 = float(np.mean([by_label[label]["f1"] for label in some]))
            rows.append((f"{low:,} to {high:,}", len(some), f1))
        header = [f"{found.task.unit} in train", "labels", "mean F1"]
        parts.append(Grid(header, rows, "By a label's frequency."))
    if not parts:
        return []
    return [Section("Where it is good", "The metric for parts of the table.", parts)]


def _by_length(found: Evaluation, metric: str) -> list[tuple[str, int, float | None]]:
    edges = np.unique(np.quantile(found.tokens, np.linspace(0, 1, GROUPS + 1), method="nearest"))
    if edges[-1] > found.capacity > edges[0]:
        edges = np.unique(np.append(edges, found.capacity))
    rows = list[tuple[str, int, float | None]]()
    for low, high in pairwise(edges):
        some = (found.tokens > low) | ((low == edges[0]) & (found.tokens == low))
        some &= found.tokens <= high
        if some.any():
            first = low if low == edges[0] else low + 1
            score = found.tally.scores(some.astype(float))[metric]
            known = _has_units(found.tally, np.flatnonzero(some))
            rows.append((f"{first:,} to {high:,}", int(some.sum()), score if known else None))
    return rows


def _has_units(tally: Tally, rows: Array) -> bool:
    """Whether there is anything in these rows that is right, missed or invented."""
    return not isinstance(tally, Labels) or any(tally.gold[i] or tally.given[i] for i in rows)


def _history(manifest: Manifest, task: Task) -> Section:
    history = manifest.history
    chosen = task.metric_for_best_model(manifest.hparams.get("metric_for_best_model"))
    metric = task.metric if chosen == "loss" else chosen
    sign = 1 if task.greater_is_better(chosen) else -1
    kept = max(history, key=lambda entry: (sign * entry[f"eval_{chosen}"], -entry["eval_loss"]))

    def points(split: str, name: str) -> figures.Line:
        pairs = [(entry["epoch"], entry[name]) for entry in history if name in entry]
        return split, np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])

    losses = [points("train", "loss"), points("dev", "eval_loss")]
    panels = [
        ("loss", "epoch", "loss", losses),
        (metric, "epoch", metric, [points("dev", f"eval_{metric}")]),
    ]
    text = (
        "Where dev's loss rises while train's falls, the model learns train by heart. The dashed "
        f"line is where the model was kept, for its {chosen} on dev."
    )
    svg = figures.lines(panels, marks={"kept": kept["epoch"]})
    plot = Plot(svg, "Loss on train and dev, and the metric on dev, by epoch.")
    return Section("Training", text, [plot])
