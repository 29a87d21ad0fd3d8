"""The user's files: train, dev and test tables, read and validated before any model is loaded.

Every problem of every file is found in one pass and raised as one ``DataError``. Files are
tab-separated with a header (``.csv``, ``.tsv``; a comma or semicolon is understood when the header
is written with it) or JSON Lines (``.jsonl``), in UTF-8. Columns: ``text`` (or ``words`` in JSON
Lines), ``labels``, and ``bbox`` where boxes are used; other columns travel with the record.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfserve.errors import DataError, Problem, RecordError, RequestError
from tfserve.records import SURROGATE, Record
from tfserve.samples import SUFFIXES, read_samples
from tfserve.tasks import Task

SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid"), "test": ("test",)}
DEV_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled sample and the line where it begins."""

    record: Record
    label: Any
    line: int


@dataclass(frozen=True)
class Table:
    """The rows of one file."""

    name: str
    rows: tuple[Row, ...]

    @property
    def records(self) -> list[Record]:
        return [row.record for row in self.rows]

    @property
    def labels(self) -> list[Any]:
        return [row.label for row in self.rows]

    @cached_property
    def unboxed(self) -> Table:
        """The same rows, as a model reads them that takes no boxes."""
        if all(row.record.bbox is None for row in self.rows):
            return self
        rows = (replace(row, record=replace(row.record, bbox=None)) for row in self.rows)
        return Table(self.name, tuple(rows))

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same texts, boxes and labels, in any order and however written."""
        digests = []
        for row in self.rows:
            boxes = None if row.record.bbox is None else row.record.bbox.tolist()
            content = json.dumps([row.record.text, boxes, row.label])
            digests.append(hashlib.sha256(content.encode()).digest())
        return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


@dataclass(frozen=True)
class Tables:
    """The splits of one data set; ``dev_from_train`` says that no dev file was given."""

    train: Table
    dev: Table
    test: Table | None
    dev_from_train: bool = False

    @property
    def given(self) -> Table:
        """Train as it was given: with dev, where that is a part of it."""
        if not self.dev_from_train:
            return self.train
        return Table(self.train.name, (*self.train.rows, *self.dev.rows))

    def items(self) -> Iterator[tuple[str, Table]]:
        yield "train", self.train
        yield "dev", self.dev
        if self.test is not None:
            yield "test", self.test


def find_files(locations: Mapping[str, Path | str | None]) -> dict[str, Path]:
    """The file of each split, in channels (``{"train": …, "dev": …}``) or one folder for all.

    A location is a file, a folder that holds ``train.csv`` and the like, or a channel's folder
    with a single table of any name. ``validation`` means ``dev``. Raises DataError when there is
    no train table, a location does not exist, or a folder has two tables of one split.
    """
    problems: list[Problem] = []
    files: dict[str, Path] = {}
    split_of = {name: split for split, names in SPLITS.items() for name in names}
    for name in locations:
        if name not in split_of:
            message = f"found the split {name!r}; expected one of {', '.join(split_of)}"
            raise DataError([Problem("data.split", message, name)])
    given = {split_of[name]: Path(path) for name, path in locations.items() if path is not None}
    if "train" not in given:
        message = "found no location of train; expected a file or folder"
        raise DataError([Problem("data.no_file", message, "train")])
    for split, path in given.items():
        try:
            if not path.exists():
                message = "found nothing; expected a file or folder"
                raise DataError([Problem("data.no_file", message, str(path))])
            files[split] = _in_folder(path, split) if path.is_dir() else path
        except DataError as error:
            problems.extend(error.problems)
    for split in SPLITS if given["train"].is_dir() else ():
        names = (f"{name}{suffix}" for name in SPLITS[split] for suffix in SUFFIXES)
        if split not in given and any((given["train"] / name).is_file() for name in names):
            try:
                files[split] = _in_folder(given["train"], split)
            except DataError as error:
                problems.extend(error.problems)
    if problems:
        raise DataError(problems)
    return {split: files[split] for split in SPLITS if split in files}


def read_tables(
    files: Mapping[str, Path | str], task: type[Task], *, use_bbox: bool = False, seed: int = 42
) -> Tables:
    """Read and validate every split; without a dev file, a stratified tenth of train is dev.

    Raises
    ------
    DataError
        With all problems of all files.
    """
    tables, problems = scan_tables(files, task, use_bbox=use_bbox)
    if problems:
        raise DataError(problems)
    train, dev = tables["train"], tables.get("dev")
    if dev is not None:
        return Tables(train, dev, tables.get("test"))
    train, dev = _split(train, task, seed)
    return Tables(train, dev, tables.get("test"), dev_from_train=True)


def scan_tables(
    files: Mapping[str, Path | str], task: type[Task], *, use_bbox: bool = False
) -> tuple[dict[str, Table], list[Problem]]:
    """The good rows of every split, and every problem of each and of what train is to teach."""
    problems: list[Problem] = []
    tables: dict[str, Table] = {}
    for split, path in files.items():
        tables[split], wrong = scan_table(path, task, use_bbox=use_bbox)
        problems += wrong
    path = Path(files["train"])
    if not any(problem.file == str(path) for problem in problems):
        try:
            task.fit(tables["train"].labels)
        except RecordError as error:
            problems.append(Problem.of(error, path))
        else:
            if "dev" not in tables:
                problems += held_out_problems(tables["train"], task)
    return tables, problems


def read_table(path: Path | str, task: type[Task], *, use_bbox: bool = False) -> Table:
    """One labelled file. Raises DataError with every problem in it."""
    table, problems = scan_table(path, task, use_bbox=use_bbox)
    if problems:
        raise DataError(problems)
    return table


def scan_table(
    path: Path | str, task: type[Task], *, use_bbox: bool = False
) -> tuple[Table, list[Problem]]:
    """The good rows of one labelled file, and every problem in it."""
    path, rows, problems = Path(path), list[Row](), list[Problem]()
    columns = ("text", "labels", "bbox") if use_bbox else ("text", "labels")
    try:
        for line, sample in read_samples(path, columns):
            try:
                rows.append(_row(sample, line, task, use_bbox))
            except RequestError as error:
                problems.append(Problem.of(error, path, line))
    except DataError as error:
        problems += error.problems
    if not rows and not problems:
        problems.append(Problem("data.empty", "found no rows; expected at least one", str(path)))
    return Table(path.name, tuple(rows)), problems


def _row(sample: Any, line: int, task: type[Task], use_bbox: bool) -> Row:
    if isinstance(sample, RequestError):
        raise sample
    record = Record.parse(sample, use_bbox=use_bbox)
    if "labels" not in record.extra:
        raise RecordError(
            "data.no_labels", "found no labels; expected them in every row", field="labels"
        )
    label = record.extra["labels"]
    for part in label if isinstance(label, list) else [label]:
        if isinstance(part, str) and SURROGATE.search(part):
            raise RecordError(
                "label.invalid",
                "found half of a surrogate pair, which is no character; expected Unicode text",
                field="labels",
            )
    return Row(record, task.parse_label(label, record), line)


def _in_folder(folder: Path, split: str) -> Path:
    tables = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    named = [path for path in tables if path.stem in SPLITS[split]]
    others = {name for key, names in SPLITS.items() if key != split for name in names}
    candidates = named or [path for path in tables if path.stem not in others]
    if len(candidates) == 1:
        return candidates[0]
    found = ", ".join(path.name for path in (named or tables)[:8]) or "no table"
    message = f"found {found}; expected one file {split}.csv or {split}.jsonl"
    raise DataError([Problem("data.no_file", message, str(folder))])


def _split(train: Table, task: type[Task], seed: int) -> tuple[Table, Table]:
    """A seeded share of every stratum becomes dev, of rows whose text occurs once if it has any;
    each keeps at least one row in train."""
    strata: dict[Any, list[int]] = {}
    for i, key in enumerate(task.strata(train.labels)):
        strata.setdefault(key, []).append(i)
    rng, chosen = np.random.default_rng(seed), set[int]()
    keys = sorted(strata, key=str)
    shares = {key: len(strata[key]) * DEV_SHARE for key in keys}
    counts = {key: int(shares[key]) for key in keys}
    missing = max(1, round(len(train.rows) * DEV_SHARE)) - sum(counts.values())
    spare = [key for key in keys if len(strata[key]) > max(1, counts[key] + 1)]
    for key in sorted(spare, key=lambda key: counts[key] - shares[key])[:missing]:
        counts[key] += 1
    if not any(counts.values()):  # every stratum is a single row
        counts[keys[int(rng.integers(len(keys)))]] = 1
    texts = Counter(row.record.text for row in train.rows)
    for key in keys:  # a text that is also in train would make dev too easy
        single = [i for i in strata[key] if texts[train.rows[i].record.text] == 1]
        chosen.update(int(i) for i in rng.permutation(single or strata[key])[: counts[key]])
    kept = tuple(row for i, row in enumerate(train.rows) if i not in chosen)
    held = tuple(row for i, row in enumerate(train.rows) if i in chosen)
    try:
        task.fit([row.label for row in kept])
    except RecordError:
        message = "found too few rows to hold some out as dev; expected more, or a dev file"
        raise DataError([Problem("data.too_few", message, train.name)]) from None
    return Table(train.name, kept), Table(f"{train.name} (held out)", held)


def held_out_problems(train: Table, task: type[Task]) -> list[Problem]:
    """Why no dev can be held out of ``train``."""
    try:
        _split(train, task, seed=0)
    except DataError as error:
        return list(error.problems)
    return []
