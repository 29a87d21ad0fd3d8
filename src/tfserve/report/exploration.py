"""What there is to see of a table before a model is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfserve import tasks
from tfserve.exploration import Exploration, Twins, contents
from tfserve.report import figures
from tfserve.report.page import MANY, Cards, Grid, Page, Part, Plot, Section, shown
from tfserve.tables import Row
from tfserve.tasks.common import named

MOST_LABELS, MOST_ROWS, MOST_PROBLEMS = 150, 50, 20
OUT_OF_ORDER = 0.1
"""A row of whose words more than this share go back is to be looked at."""

LEADING = 1 / 100
"""A label that has less than this share of the commonest one's rows is rare."""


def page(found: Exploration, *, title: str) -> Page:
    """The page, of at least one table with rows; its problems are listed first."""
    task = tasks.get(found.check.task_name)
    first = next(iter(found.tables.values()))
    counted = any(split.labels for split in found.check.splits.values())
    numeric = task.numeric and counted
    sections = [_summary(found, numeric=numeric)]
    if numeric:
        sections.append(_targets(found))
    elif counted:
        sections.append(_labels(found))
    sections.append(_lengths(found))
    if task.per_word and "train" in found.tables and counted:
        sections.append(_entities(found))
    elif counted and not (task.exclusive or task.numeric):
        sections += _together(found)
    if first.rows[0].record.bbox is not None:
        sections.append(_boxes(found))
    sections += _twins(found)
    sections += _first(found, task, numeric=numeric)
    rows = " · ".join(f"{name} {len(table.rows):,}" for name, table in found.tables.items())
    problems = found.check.problems
    notes = [str(problem) for problem in problems[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        notes.append(f"… and {len(problems) - MOST_PROBLEMS:,} more problems.")
    return Page(title, f"{found.check.task_name} · rows: {rows}", sections, notes)


def _summary(found: Exploration, *, numeric: bool) -> Section:
    header = ["split", "rows", f"median {found.unit}", f"longest {found.unit}", "same text twice",
              "of these labelled otherwise", "nearly the same twice", "text also in train",
              "nearly one of an earlier split", "labels that train lacks"]  # fmt: skip
    rows = []
    for name, split in found.check.splits.items():
        lengths = found.lengths[name]
        rows.append([
            name, split.rows, int(np.median(lengths)), int(lengths.max()), split.duplicates,
            split.conflicts, len(found.repeats(name)), split.also_in_train,
            len(found.leaks(name)), len(split.unseen_labels),
        ])  # fmt: skip
    cards = []
    train = found.check.splits.get("train")
    if train is not None:
        cards = [("rows of train", f"{train.rows:,}", "")]
        if train.labels and not numeric:
            cards.append(_imbalance(train.labels))
    over = [split.over_capacity for split in found.check.splits.values()]
    if found.check.capacity is not None and over[0] is not None:
        told = f"more than the {found.check.capacity} tokens that the model sees at once"
        windowed = tasks.get(found.check.task_name).per_word
        what = "read in windows" if windowed else "too long, without windows"
        cards.append((f"rows of {next(iter(found.tables))} {what}", f"{over[0]:.1%}", told))
    leaked = sum(len(found.leaks(name)) for name in found.tables)
    cards.append(("rows seen before", f"{leaked:,}", "of dev and test, in an earlier split"))
    cards.append(("labelled twice", f"{len(found.conflicting()):,}", "nearly the same text"))
    text = "A row of dev or test whose text is also in train makes a model look better than it is."
    return Section("Summary", text, [Cards(cards), Grid(header, rows)])


def _imbalance(labels: dict[str, float]) -> tuple[str, str, str]:
    most, least = max(labels.values()), min(labels.values())
    return ("labels", f"{len(labels):,}", f"{most / max(1, least):,.0f} : 1 commonest to rarest")


def _labels(found: Exploration) -> Section:
    splits = found.check.splits
    names = sorted({label for split in splits.values() for label in split.labels})
    totals = {name: max(1.0, sum(split.labels.values())) for name, split in splits.items()}
    first = next(iter(splits))
    names.sort(key=lambda label: -splits[first].labels.get(label, 0))
    rows: list[Sequence[Any]] = []
    for label in names:
        counts = [int(split.labels.get(label, 0)) for split in splits.values()]
        rows.append([named(label), *counts, counts[0] / totals[first]])
    parts: list[Part] = []
    most = names[:MANY]
    series = {
        name: [split.labels.get(label, 0) / totals[name] for label in most]
        for name, split in splits.items()
    }
    svg = figures.bars(list(map(named, most)), series, "share of the split's labels")
    more = "" if len(names) <= MANY else f" The {MANY} commonest of {len(names):,}."
    parts.append(Plot(svg, "How common each label is, by split." + more))
    header = ["label", *splits, f"share of {first}'s labels"]
    parts.append(Grid(header, rows, tall=len(rows) > MANY))
    text = "Splits of one source have like shares; a label that is rare in train is learned badly."
    return Section("Labels", text, parts)


def _targets(found: Exploration) -> Section:
    series = {name: np.array(table.labels, float) for name, table in found.tables.items()}
    svg = figures.histogram(series, "target", shares=True)
    return Section("Target", "Splits of one source have like shapes.", [
        Plot(svg, "Targets of each split.")])  # fmt: skip


def _lengths(found: Exploration) -> Section:
    marks = {}
    if found.check.capacity is not None:
        marks = {f"the model sees {found.check.capacity}": float(found.check.capacity)}
    svg = figures.histogram(
        dict(found.lengths), found.unit, marks=marks, shares=len(found.lengths) > 1, log=True
    )
    text = f"Lengths in {found.unit}."
    if found.unit == "words":
        text += " With --model_name they are those of the model's tokens."
    return Section("Lengths", text, [Plot(svg, f"Rows by their length in {found.unit}.")])


def _together(found: Exploration) -> list[Section]:
    name, table = next(iter(found.tables.items()))
    labels = table.labels
    counts = found.check.splits[name].labels
    names = sorted(counts, key=lambda label: -counts[label])[:MOST_LABELS]
    if len(names) < 2:
        return []
    sizes = np.array([len(row) for row in labels])
    spread = [(int(size), int((sizes == size).sum())) for size in np.unique(sizes)]
    shares = contents.together(labels, names)
    svg = figures.heat(shares, names, names, "have this label too", "of rows with this label")
    caption = "Share of a label's rows (down) that have another label too (across)."
    caption += f" The {len(names)} commonest of {len(counts):,}." * (len(counts) > len(names))
    parts: list[Part] = [Grid(["labels of a row", "rows"], spread), Plot(svg, caption, wide=True)]
    return [Section("Labels together", "Which labels come with which.", parts)]


def _entities(found: Exploration) -> Section:
    by_type = contents.mentions(found.tables)
    others = [name for name in found.tables if name != "train"]
    rows = [
        [named(kind), told.count, told.distinct, told.words,
         *(told.known.get(name) for name in others), ", ".join(told.common)]
        for kind, told in by_type.items()
    ]  # fmt: skip
    header = ["type", "entities", "distinct", "mean words",
              *(f"share of {name} seen in train" for name in others), "commonest"]  # fmt: skip
    text = (
        "Entities of train. Where most of dev and test were seen in train, a good score may be "
        "memory; where few were, it is understanding."
    )
    return Section("Entities", text, [Grid(header, rows, tall=len(rows) > MANY)])


def _boxes(found: Exploration) -> Section:
    parts: list[Part] = []
    for name, table in list(found.tables.items())[:1]:
        svg = figures.boxes_map(contents.box_density(table), name)
        parts.append(Plot(svg, "Where the words lie on their pages."))
    rows = []
    for name, table in found.tables.items():
        back = contents.out_of_order(table)
        worst = int(back.argmax())
        rows.append((name, float(back.mean()), float(back[worst]), table.rows[worst].line))
    header = ["split", "words that go back", "in the worst row", "its line"]
    text = (
        "Words are read in the order of the table. Where many stand above the word before, or on "
        "the wrong side of it, the order is not that of reading: columns that are mixed up, or "
        "boxes that are not sorted."
    )
    return Section("Boxes", text, [*parts, Grid(header, rows)])


def _twins(found: Exploration) -> list[Section]:
    told = (
        ("Labelled twice", "Nearly the same text, other labels: one of them is wrong, or the "
         "question cannot be answered from the text.", [found.conflicting()]),
        ("Seen before", "Rows of dev and test that nearly repeat a row of an earlier split.",
         [found.leaks(name) for name in found.tables]),
        ("Repeated", "Nearly the same text twice in a split. Where train has such rows and there "
         "is no dev, a part of train that is held out for it is easier than new texts.",
         [found.repeats(name) for name in found.tables]),
    )  # fmt: skip
    header = ["similarity", "split", "line", "label", "text", "split", "line", "label", "text"]
    sections = []
    for title, text, lists in told:
        parts = []
        for pairs in filter(None, lists):
            rows = [_pair(found, pair) for pair in pairs[:MOST_ROWS]]
            more = f"The first {MOST_ROWS} of {len(pairs):,}." if len(pairs) > MOST_ROWS else ""
            parts.append(Grid(header, rows, more, tall=True))
        if parts:
            sections.append(Section(title, text, parts))
    return sections


def _pair(found: Exploration, pair: Twins) -> list[Any]:
    cells: list[Any] = [pair.similarity]
    task = tasks.get(found.check.task_name)
    for place in (pair.one, pair.other):
        row = found.row(place)
        cells += [place[0], row.line, _label(task, row), row.record.text[:300]]
    return cells


def _label(task: type[tasks.Task], row: Row) -> str:
    return shown(task.label_text(row.label, row.record), 200)


def _first(found: Exploration, task: type[tasks.Task], *, numeric: bool) -> list[Section]:
    """Rows that stand out, each with why."""
    name, table = next(iter(found.tables.items()))
    lengths = found.lengths[name]
    rows: list[tuple[str, int, str, str]] = []

    def add(why: str, places: Sequence[int]) -> None:
        for i in places[:10]:
            row = table.rows[i]
            rows.append((why, row.line, _label(task, row), row.record.text[:300]))

    order = np.argsort(-lengths, kind="stable")
    if found.check.capacity is not None:
        if not task.per_word:  # whose texts are always read whole
            long = [i for i in order if lengths[i] > found.check.capacity]
            add("longer than the model sees", long)
    else:
        usual = float(np.median(lengths))
        add("very long", [i for i in order if lengths[i] > 20 * usual])
    add("a single word", [i for i, r in enumerate(table.rows) if len(r.record.spans) == 1])
    add("broken characters", [i for i, r in enumerate(table.rows) if _broken(r.record.text)])
    if table.rows[0].record.bbox is not None:
        back = contents.out_of_order(table)
        add("not in reading order", [i for i in np.argsort(-back) if back[i] > OUT_OF_ORDER])
        add("all boxes the same", contents.alike(table))
    if numeric:
        values = np.array(table.labels, float)
        off = np.abs(values - np.median(values))
        spread = float(np.median(off) or np.std(values))
        add("a target far from the others", [i for i in np.argsort(-off) if off[i] > 8 * spread])
    else:
        counts = found.check.splits[name].labels
        few = max(2.0, LEADING * max(counts.values(), default=0))
        rare = {label for label, count in counts.items() if count < few}
        labels = (task.label_names(row.label) for row in table.rows)
        add("a rare label", [i for i, names in enumerate(labels) if names & rare])
    if not rows:
        return []
    grid = Grid(["why", "line", "label", "text"], rows, tall=True)
    return [Section("Rows to look at first", f"Of {name}.", [grid])]


def _broken(text: str) -> bool:
    """A replacement character, or UTF-8 that was read as Latin-1."""
    return any(mark in text for mark in ("\ufffd", "Ã©", "Ã¨", "Ã¼", "Ã¶", "Ã¤", "â€™", "â€œ"))
