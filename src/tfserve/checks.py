"""``tfserve check``: is this data sound, and does the model fit it? Without loading the model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfserve import tables, tasks
from tfserve.encoding import capacity, load_tokenizer, takes_bbox, token_counts
from tfserve.errors import MAX_PROBLEMS_SHOWN, DataError, Problem
from tfserve.tables import Table
from tfserve.tasks.common import named

PERCENTILES = (50, 90, 95, 99, 100)
MAX_LABELS_SHOWN, MAX_LABEL = 30, 60
MANY = 10
"""More labels than so that occur once, over half of all, look like those of another task."""

IMBALANCED = 10
"""From so many times as common as the rarest on, the commonest label is told."""


@dataclass
class Split:
    """What was found in one split.

    Attributes
    ----------
    labels : rows (entities, for ner) per label, or the target's statistics
    words, tokens : length percentiles, ``{"p50": …}``; tokens only where a model was named
    over_capacity : share of the rows with more tokens than the model sees
    duplicates : rows whose text stands in an earlier row of the split
    conflicts : of these, rows whose labels differ from the earlier row's
    also_in_train : rows whose text is also in train
    unseen_labels : labels that train lacks
    once : labels that occur once
    """

    file: str
    rows: int
    labels: dict[str, float]
    words: dict[str, int]
    tokens: dict[str, int] | None = None
    over_capacity: float | None = None
    duplicates: int = 0
    conflicts: int = 0
    also_in_train: int = 0
    unseen_labels: list[str] = field(default_factory=list)
    once: int = 0


@dataclass
class Report:
    """The findings of a check; ``ok`` when training would accept the data."""

    task_name: str
    capacity: int | None
    splits: dict[str, Split]
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


@dataclass
class Found:
    """The tables of a folder, as far as they can be read.

    Attributes
    ----------
    tables : of each split its file and its rows
    """

    task_name: str
    use_bbox: bool
    tables: dict[str, tuple[str, Table]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read(
    data: Path | str | Mapping[str, Path | str | None], task_name: str, *, use_bbox: bool = False
) -> Found:
    """Read every table and find what is wrong with each and with all together.

    Parameters
    ----------
    data : a folder, or the location of each split
    """
    task = tasks.get(task_name)
    found = Found(task_name, use_bbox)
    try:
        locations = data if isinstance(data, Mapping) else {"train": data}
        files = tables.find_files(locations)
    except DataError as error:
        found.problems += error.problems
        return found
    scanned, problems = tables.scan_tables(files, task, use_bbox=use_bbox)
    found.problems += problems
    found.tables |= {name: (str(files[name]), table) for name, table in scanned.items()}
    return found


def check(
    data: Path | str | Mapping[str, Path | str | None],
    task_name: str,
    *,
    model_folder: Path | str | None = None,
    use_bbox: bool = False,
) -> Report:
    """Read every table and say what is in it and what is wrong with it.

    Parameters
    ----------
    data : a folder, or the location of each split
    model_folder : config and tokenizer of the model to be trained, for lengths in tokens
    """
    return described(read(data, task_name, use_bbox=use_bbox), model_folder)


def lengths(
    found: Mapping[str, Table], model_folder: Path | str | None
) -> dict[str, npt.NDArray[np.int64]]:
    """Of each row, in the model's tokens, or in words where none is named; by split."""
    if model_folder is None:
        return {
            name: np.array([len(row.record.spans) for row in table.rows])
            for name, table in found.items()
        }
    tokenizer = load_tokenizer(Path(model_folder) / "tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return {name: np.array(token_counts(tokenizer, table.records)) for name, table in found.items()}


def described(
    found: Found,
    model_folder: Path | str | None = None,
    tokens: Mapping[str, npt.NDArray[np.int64]] | None = None,
) -> Report:
    """What is in tables that were read; ``tokens`` are their lengths, where they are known."""
    task, problems = tasks.get(found.task_name), list(found.problems)
    if model_folder is not None:
        problems += _model_problems(Path(model_folder), found.use_bbox)
    limit = capacity(model_folder) if model_folder is not None else None
    train = found.tables.get("train", ("", Table("", ())))[1]
    known = {row.record.text for row in train.rows}
    splits: dict[str, Split] = {}
    for name, (path, table) in found.tables.items():
        if not table.rows:
            continue
        splits[name] = split = _describe(path, table, task)
        if name != "train":
            split.also_in_train = sum(row.record.text in known for row in table.rows)
            split.unseen_labels = task.unseen(train.labels, table.labels) if train.rows else []
        if model_folder is not None and limit is not None:
            counts = (tokens or lengths({name: table}, model_folder))[name]
            split.tokens = _percentiles(counts)
            split.over_capacity = float(np.mean(counts > limit))
    return Report(found.task_name, limit, splits, problems)


def _model_problems(folder: Path, use_bbox: bool) -> list[Problem]:
    """What training would refuse of the model's files."""
    found = []
    if not list(folder.glob("*.safetensors")):
        found.append(("model.no_weights", "found no *.safetensors; expected the model's weights"))
    if use_bbox and not takes_bbox(folder):
        found.append(("model.no_bbox", "the model takes no bbox; expected one such as LayoutLM"))
    return [Problem(code, message, str(folder)) for code, message in found]


def render(report: Report) -> str:
    """The report for a terminal."""
    lines = []
    for name, split in report.splits.items():
        lines.append(f"{name}: {split.rows:,} rows in {split.file}")
        lines.append(f"  words   {_row(split.words)}")
        if split.tokens is not None and split.over_capacity is not None:
            over = f"{split.over_capacity:.1%} of rows over the model's {report.capacity}"
            lines.append(f"  tokens  {_row(split.tokens)}   {over}")
        lines.append(f"  labels  {shown(_ranked(split.labels))}")
        counts = [count for count in split.labels.values() if isinstance(count, int)]
        if len(counts) > 1 and (ratio := max(counts) / max(1, min(counts))) >= IMBALANCED:
            lines.append(f"  note    {ratio:,.0f} : 1 from the commonest label to the rarest")
        notes = [
            (split.duplicates, "repeat an earlier row's text"),
            (split.conflicts, "of these with other labels"),
            (split.also_in_train, "with a text that is also in train"),
        ]
        lines += [f"  note    {count:,} rows {what}" for count, what in notes if count]
        if split.unseen_labels:
            names = shown(split.unseen_labels)
            lines.append(f"  note    labels that train lacks, errors in every metric: {names}")
        if split.once > max(MANY, len(split.labels) / 2):
            once = f"{split.once:,} of {len(split.labels):,} labels occur once"
            lines.append(f"  note    {once}: is {report.task_name} the task of this table?")
    lines += [f"problem: {problem}" for problem in report.problems[:MAX_PROBLEMS_SHOWN]]
    more_problems = len(report.problems) - MAX_PROBLEMS_SHOWN
    if more_problems > 0:
        lines.append(f"… and {more_problems:,} more problems")
    count = len(report.problems)
    lines.append("no problems" if report.ok else f"{count:,} problem{'s' * (count != 1)}")
    return "\n".join(lines)


def _ranked(labels: Mapping[str, float]) -> dict[str, float]:
    """Counts of labels, the commonest first; statistics of a target as they are."""
    if any(isinstance(count, float) for count in labels.values()):
        return dict(labels)
    return dict(sorted(labels.items(), key=lambda label: -label[1]))


def shown(labels: Sequence[str] | Mapping[str, float]) -> str:
    """The first of them, long ones cut, with their counts where there are any."""
    counts = labels if isinstance(labels, Mapping) else {}
    names = [
        f"{name[:MAX_LABEL]}…" if len(name) > MAX_LABEL else name for name in map(named, labels)
    ]
    texts = [
        f"{text} {counts[name]:,.6g}" if name in counts else text
        for name, text in zip(labels, names, strict=True)
    ]
    more = [f"… {len(texts) - MAX_LABELS_SHOWN} more"] * (len(texts) > MAX_LABELS_SHOWN)
    return ", ".join(texts[:MAX_LABELS_SHOWN] + more)


def _describe(path: str, table: Table, task: type[tasks.Task]) -> Split:
    seen: dict[str, list[Any]] = defaultdict(list)
    for row in table.rows:
        seen[row.record.text].append(row.label)
    repeated = [labels for labels in seen.values() if len(labels) > 1]
    labels = task.label_counts(table.labels)
    return Split(
        file=path,
        rows=len(table.rows),
        labels=labels,
        once=sum(isinstance(count, int) and count == 1 for count in labels.values()),
        words=_percentiles([len(row.record.spans) for row in table.rows]),
        duplicates=sum(len(labels) - 1 for labels in repeated),
        conflicts=sum(len(labels) - Counter(labels)[labels[0]] for labels in repeated),
    )


def _percentiles(lengths: Any) -> dict[str, int]:
    values = np.percentile(lengths, PERCENTILES, method="higher")
    return {f"p{p}": int(value) for p, value in zip(PERCENTILES, values, strict=True)}


def _row(percentiles: Mapping[str, int]) -> str:
    named = {"p50": "median", "p100": "max"}
    return "  ".join(f"{named.get(name, name)} {value:,}" for name, value in percentiles.items())
