"""Every real data set is read to what its own description counts in it."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfserve import tasks
from tfserve.tables import Table, Tables, find_files, read_table, read_tables
from tfserve.tasks import Task

DATA = Path(os.environ.get("BENCHMARK_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not (DATA / "README.md").is_file(), reason="the real data sets are not here"
)

TASKS = {
    "banking77": "classif",
    "hate_vicomtech": "classif",
    "newsgroups20": "classif",
    "stackoverflow20_titles": "classif",
    "goemotions": "multilabel-classif",
    "wnut17": "ner",
    "litbank": "ner",
    "litbank_long": "ner",
    "sroie": "ner",
    "docbank_samples": "ner",
    "emobank_valence": "regression",
}
BOXED = ("sroie", "docbank_samples")
CSV_ROWS = {"goemotions": (3000, 1000, 1000), "emobank_valence": (8062, 999, 1000)}


@cache
def read(name: str) -> tuple[type[Task], Tables]:
    task = tasks.get(TASKS[name.removeprefix("csvquoted/")])
    files = find_files({"train": DATA / name})
    return task, read_tables(files, task, use_bbox=name in BOXED)


@cache
def source(name: str) -> str:
    return (DATA / name / "SOURCE.md").read_text("utf-8")


@cache
def readme() -> str:
    return (DATA / "README.md").read_text("utf-8")


def test_every_data_set_of_the_index_is_read_here() -> None:
    listed = re.findall(r"^\| (\w+) \| (?:classif|multi|ner|regr)", readme(), re.MULTILINE)
    assert sorted(listed) == sorted(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_row_counts(name: str) -> None:
    _, found = read(name)
    rows = [len(table.rows) for _, table in found.items()]
    assert [split for split, _ in found.items()] == ["train", "dev", "test"]
    told = re.findall(r"^- (?:train|dev|test): (\d+) rows", source(name), re.MULTILINE)
    assert rows == [int(count) for count in told]
    listed = next(line for line in readme().splitlines() if line.startswith(f"| {name} |"))
    assert f" {'/'.join(map(str, rows))} " in listed
    assert not found.dev_from_train


@pytest.mark.parametrize("name", TASKS)
def test_words_per_row(name: str) -> None:
    told = re.findall(r"words/row mean ([\d.]+), median (\d+), p95 (\d+), max (\d+)", source(name))
    _, found = read(name)
    for (_, table), (mean, median, _, most) in zip(found.items(), told, strict=True):
        words = [len(record.spans) for record in table.records]
        assert np.mean(words) == pytest.approx(float(mean), abs=0.051)
        assert sorted(words)[len(words) // 2] == int(median)
        assert max(words) == int(most)


@pytest.mark.parametrize("name", [n for n in TASKS if "classif" in TASKS[n]])
def test_label_sets_and_counts(name: str) -> None:
    task, found = read(name)
    told = re.search(r"^- labels \((\d+)\): (.*?)  \(train/dev/test\)$", source(name), re.MULTILINE)
    assert told is not None
    counts = re.findall(r"(\S+) (\d+)/(\d+)/(\d+)(?:, |$)", told[2])
    assert len(counts) == int(told[1])
    for place, (_, table) in enumerate(found.items(), 1):
        expected = {row[0]: int(row[place]) for row in counts}
        assert task.label_counts(table.labels) == {k: v for k, v in expected.items() if v}
    assert task.fit(found.train.labels).labels == tuple(sorted(row[0] for row in counts))
    for table in (found.dev, found.test):
        assert table is not None
        assert task.unseen(found.train.labels, table.labels) == []


@pytest.mark.parametrize("name", [n for n in TASKS if TASKS[n] == "ner"])
def test_entities_and_outside_words(name: str) -> None:
    task, found = read(name)
    for split, table in found.items():
        told = re.search(
            rf"^- entities in {split}: (.*); O words (\d+)$", source(name), re.MULTILINE
        )
        assert told is not None
        expected = {kind: int(count) for kind, count in re.findall(r"(\S+) (\d+)", told[1])}
        assert task.label_counts(table.labels) == {k: v for k, v in expected.items() if v}
        assert sum(tags.count("O") for tags in table.labels) == int(told[2])
        assert all(len(row.label) == len(row.record.words) for row in table.rows)
    types = re.search(r"^- entity types \(\d+\): (.*)$", source(name), re.MULTILINE)
    assert types is not None
    tags = [f"{prefix}-{kind}" for kind in sorted(types[1].split(", ")) for prefix in "BI"]
    assert task.fit(found.train.labels).labels == ("O", *tags)


@pytest.mark.parametrize("name", BOXED)
def test_there_is_a_box_for_every_word(name: str) -> None:
    _, found = read(name)
    for _, table in found.items():
        for record in table.records:
            assert record.bbox is not None
            assert record.bbox.shape == (len(record.words), 4)
            assert record.bbox.min() >= 0
            assert record.bbox.max() <= 1000


def test_targets_of_a_regression() -> None:
    told = re.findall(r"target min (\S+) max (\S+) mean (\S+) sd (\S+)", source("emobank_valence"))
    _, found = read("emobank_valence")
    for (_, table), numbers in zip(found.items(), told, strict=True):
        least, most, mean, std = map(float, numbers)
        assert (min(table.labels), max(table.labels)) == (least, most)
        assert np.mean(table.labels) == pytest.approx(mean, abs=0.0006)
        assert np.std(table.labels) == pytest.approx(std, abs=0.0006)


@pytest.mark.parametrize("name", [n for n in TASKS if "classif" in TASKS[n]])
def test_texts_that_are_in_two_splits(name: str) -> None:
    told = re.search(r"dev rows also in train (\d+), test rows also in train (\d+)", source(name))
    assert told is not None
    _, found = read(name)
    known = {record.text for record in found.train.records}
    also = [
        sum(record.text in known for record in table.records)
        for table in (found.dev, found.test)
        if table is not None
    ]
    assert also == [int(told[1]), int(told[2])]


@pytest.mark.parametrize("name", CSV_ROWS)
def test_what_a_csv_writer_quoted_is_read_as_by_a_csv_reader(name: str) -> None:
    task, found = read(f"csvquoted/{name}")
    assert tuple(len(table.rows) for _, table in found.items()) == CSV_ROWS[name]
    for split, table in found.items():
        with (DATA / "csvquoted" / name / f"{split}.csv").open(
            newline="", encoding="utf-8"
        ) as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert [record.text for record in table.records] == [row["text"] for row in rows]
        assert [record.extra["labels"] for record in table.records] == [
            row["labels"] for row in rows
        ]
        assert any('"' in row["text"] for row in rows)
        assert table.labels[0] == task.parse_label(rows[0]["labels"], table.records[0])


def plain(text: str) -> str:
    """A text as the tables without CSV quoting hold it."""
    return " ".join(text.replace('"', "'").split())


def labels_by_text(*found: Table | None) -> dict[str, Counter[Any]]:
    labels: dict[str, Counter[Any]] = defaultdict(Counter)
    for table in found:
        for row in table.rows if table else ():
            labels[plain(row.record.text)][row.label] += 1
    return labels


@pytest.mark.parametrize("name", CSV_ROWS)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_both_ways_of_writing_a_table_give_the_same_labels(name: str, split: str) -> None:
    task, _ = read(name)
    one, other = (
        labels_by_text(read_table(DATA / folder / name / f"{split}.csv", task))
        for folder in (".", "csvquoted")
    )
    shared = [text for text in other if text in one]
    assert len(shared) >= 0.99 * len(other)
    assert len(shared) >= 980
    for text in shared:
        assert set(other[text]) <= set(one[text])


def test_a_label_space_is_the_same_in_both_ways_of_writing() -> None:
    task, found = read("goemotions")
    _, quoted = read("csvquoted/goemotions")
    assert task.fit(quoted.train.labels).labels == task.fit(found.train.labels).labels
