"""What to read first: answers that are wrong and yet sure, and how entities are wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from tfserve.evaluation import Evaluation, Items
from tfserve.evaluation.spans import KINDS, Slip, slips
from tfserve.records import Record
from tfserve.report import figures
from tfserve.report.page import MANY, Grid, Part, Plot, Section, shown
from tfserve.tallies import Labels, Numbers, figure
from tfserve.tasks.common import named

MOST = 100
MOST_WORDS, MOST_LETTERS = 60, 40
"""Of the words about an entity, and of one of them."""


def sections(found: Evaluation) -> list[Section]:
    """The rows to read first."""
    if isinstance(found.tally, Numbers):
        return [_largest(found, found.tally)]
    if found.task.per_word:
        return [_slips(found)]
    if found.items is None or not isinstance(found.tally, Labels):
        return []
    return [_surest(found, found.items, found.tally)]


def _surest(found: Evaluation, items: Items, tally: Labels) -> Section:
    wrong = []
    for row in np.flatnonzero(~tally.right).tolist():
        if items.exclusive:
            if not tally.given[row]:  # it abstained
                continue
            sure = found.answers[row]["proba"]
        else:  # of the labels that are wrong, whichever way they went, the surest
            truth, given = items.truth[row], items.probabilities[row]
            odd = tally.gold[row] ^ tally.given[row]
            wrongly = [(label,) in odd for label in items.labels]
            sure = float(np.max(np.where(truth, 1 - given, given)[wrongly], initial=0.0))
        label, pred = found.table.rows[row].label, found.answers[row]["pred"]
        wrong.append((sure, read_as(found, row, label), read_as(found, row, pred), row))
    wrong.sort(key=lambda error: -error[0])
    if not wrong:
        silent = "coverage" in found.metrics
        return Section("Errors", f"There are none{' in what it answers' * silent}.", [])
    text = "The surest first: often it is the label that is wrong."
    text += f" The surest {MOST} of {len(wrong):,}." if len(wrong) > MOST else ""
    rows = [(*error[:3], *_place(found, error[3])) for error in wrong[:MOST]]
    return Section("Errors", text, [
        Grid(["probability", "label", "given", "line", "text"], rows, tall=True)])  # fmt: skip


def _largest(found: Evaluation, tally: Numbers) -> Section:
    error = tally.given - tally.gold
    rows = [
        (float(error[i]), float(tally.gold[i]), float(tally.given[i]), *_place(found, i))
        for i in np.argsort(-np.abs(error), kind="stable")[:MOST].tolist()
    ]
    header = ["residual", "label", "answer", "line", "text"]
    return Section("Largest residuals", "Labels that may be wrong, or what is not learned.",
                   [Grid(header, rows, tall=True)])  # fmt: skip


def read_as(found: Evaluation, row: int, label: Any) -> str:
    """A label of a row, given or right, as it is read."""
    record = found.table.rows[row].record
    return ("" if label is None else found.task.label_text(label, record)) or "(none)"


def _place(found: Evaluation, row: int) -> tuple[int, str]:
    return found.table.rows[row].line, found.table.rows[row].record.text


def _slips(found: Evaluation) -> Section:
    """Kinds of wrong entities, by type, and the surest of them in their texts."""
    every = slips(found.table.labels, found.answers)
    counts = Counter((slip.kind, (slip.gold or slip.given or (0, 0, ""))[2]) for slip in every)
    types = sorted({label for _, label in counts})
    parts: list[Part] = []
    if types:
        most = sorted(types, key=lambda label: -sum(counts[kind, label] for kind in KINDS))[:MANY]
        drawn = {kind: [counts[kind, label] for label in most] for kind in KINDS}
        told = f" The {MANY} types with the most." if len(types) > MANY else ""
        svg = figures.bars(list(map(named, most)), drawn, "errors")
        parts.append(Plot(svg, "Errors of each kind, by the type of the entity." + told))
    rows = [
        (kind, what, sum(counts[kind, label] for label in types)) for kind, what in KINDS.items()
    ]
    parts.append(Grid(["kind", "what it means", "errors"], rows))
    ranked = sorted(every, key=lambda slip: -slip.proba)[:MOST]
    examples = [
        (slip.proba, slip.kind,
         *(entity and named(entity[2]) for entity in (slip.gold, slip.given)),
         found.table.rows[slip.row].line, _marked(found.table.rows[slip.row].record, slip))
        for slip in ranked
    ]  # fmt: skip
    if examples:
        header = ["probability", "kind", "label", "given", "line", "text"]
        parts.append(Grid(header, examples, "The surest errors.", tall=True))
    return Section("Errors", "What is wrong with entities.", parts)


def _marked(record: Record, slip: Slip, around: int = 12) -> Markup:
    """The words about an error; the label's are marked, and what was given."""
    places = [entity for entity in (slip.gold, slip.given) if entity is not None]
    first = max(0, min(place[0] for place in places) - around)
    last = min(len(record.spans), max(place[1] for place in places) + around, first + MOST_WORDS)
    words = []
    for i in range(first, last):
        word = escape(shown(record.text[slice(*record.spans[i])], MOST_LETTERS))
        for entity, name in ((slip.given, "given"), (slip.gold, "gold")):
            if entity is not None and entity[0] <= i < entity[1]:
                word = Markup('<mark class="{}">{}</mark>').format(name, word)
        words.append(word)
    text = Markup(" ").join(words)
    return Markup("{}{}{}").format("… " * (first > 0), text, " …" * (last < len(record.spans)))


def residuals(tally: Numbers) -> list[Section]:
    """Numbers beside what was answered, and what is between them."""
    error = tally.given - tally.gold
    gold = {"label": tally.gold, "answer": tally.given}
    return [
        Section("Answers and labels", "On the line an answer is right.", [
            Plot(figures.density(tally.gold, tally.given, "label", "answer", diagonal=True),
                 "Answers over labels; darker where there are more rows."),
            Plot(figures.histogram(gold, "value", shares=True), "Values of labels and of answers."),
        ]),
        Section("Residuals", f"Answer less label: mean {figure(error.mean())}, deviation "
                f"{figure(error.std())}.", [
            Plot(figures.histogram({"residual": error}, "answer less label"),
                 "Residuals; centred on 0 where the model has no bias."),
            Plot(figures.density(tally.gold, error, "label", "answer less label"), "Residuals "
                 "over labels; a slope says that extremes are drawn to the middle."),
        ]),
    ]  # fmt: skip
