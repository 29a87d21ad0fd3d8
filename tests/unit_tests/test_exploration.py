"""What is found in a table: texts that are nearly the same, entities, boxes, labels together."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import PretrainedFolder

from tfserve import tables, tasks
from tfserve.exploration import contents, explore
from tfserve.exploration.twins import Place, twins

twins_module = importlib.import_module("tfserve.exploration.twins")

LONG = "please send the twelve crates of lemons to the harbour kitchen before friday noon"


def test_texts_that_differ_by_little_are_twins() -> None:
    texts = {
        "train": [LONG, "where is my parcel", "Where is  my PARCEL"],
        "dev": [LONG.replace("noon", "evening"), "nothing like it at all", LONG],
        "test": [f"{LONG} and something that is not there at all, quite another matter"],
    }
    pairs = twins(texts)
    found = {pair.other: (pair.one, pair.similarity) for pair in pairs if pair.one[0] == "train"}
    assert found.keys() == {("train", 2), ("dev", 0), ("dev", 2)}
    assert found["train", 2] == (("train", 1), 1.0)
    assert found["dev", 2] == (("train", 0), 1.0)
    one, similarity = found["dev", 0]
    assert one == ("train", 0) and 0.8 <= similarity < 1
    # What is like a row of each earlier split is a twin of both.
    assert [pair.one for pair in pairs if pair.other == ("dev", 2)] == [("train", 0), ("dev", 0)]


def test_a_copy_has_the_twins_of_what_it_copies() -> None:
    near = LONG.replace("noon", "evening")
    found = twins({"train": [LONG], "dev": [near] * 3})
    assert {pair.other for pair in found if pair.one == ("train", 0)} == {
        ("dev", 0), ("dev", 1), ("dev", 2)
    }  # fmt: skip
    assert {(pair.one, pair.other) for pair in found if pair.similarity == 1} == {
        (("dev", 0), ("dev", 1)), (("dev", 0), ("dev", 2))
    }  # fmt: skip


def test_many_like_rows_of_one_split_do_not_hide_those_of_another() -> None:
    dev = [f"{LONG} and bring number {i:03d}" for i in range(80)]
    found = twins({"train": [f"{LONG} and bring number 777"], "dev": dev})
    assert {pair.other for pair in found if pair.one == ("train", 0)} == {
        ("dev", i) for i in range(80)
    }


def test_of_rows_made_from_one_template_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    plain = twins_module._likest

    def counted(places: list[Place], alike: Any) -> Iterator[Place]:
        looked_at.append(len(places))
        return plain(places, alike)

    monkeypatch.setattr(twins_module, "_likest", counted)
    monkeypatch.setattr(twins_module, "MOST_ALIKE", 20)
    train = [f"{LONG} and bring number {i:03d}" for i in range(60)]
    found = twins({"train": train, "dev": [train[0], "quite another text", train[50]]})
    assert max(looked_at[:60]) == 20 and max(looked_at) == 21  # and one of dev
    assert {pair.other for pair in found} == {
        *(("train", i) for i in range(1, 60)), ("dev", 0), ("dev", 2),
    }  # fmt: skip
    exact = {pair.other: pair.one for pair in found if pair.similarity == 1}
    assert exact == {("dev", 0): ("train", 0), ("dev", 2): ("train", 50)}


def test_the_most_alike_come_first_and_short_texts_are_no_twins_of_all() -> None:
    texts = {"train": ["a", "b", "ab", "", LONG, LONG + "!", LONG]}
    found = twins(texts)
    assert [pair.similarity for pair in found] == sorted(
        (p.similarity for p in found), reverse=True
    )
    assert {pair.other for pair in found} == {("train", 5), ("train", 6)}


def write(folder: Path, name: str, rows: list[tuple[str, ...]], *columns: str) -> None:
    tiny.table(folder / f"{name}.csv", rows, columns or ("text", "labels"))


def test_leaks_and_conflicts_are_told_apart(tmp_path: Path, pretrained: PretrainedFolder) -> None:
    write(tmp_path, "train", [(LONG, "a"), ("my parcel is late again", "b"),
                              ("my parcel is late  again", "a")])  # fmt: skip
    write(tmp_path, "dev", [(LONG.upper(), "a"), ("quite another thing", "b")])
    found = explore(tmp_path, "classif", model_folder=pretrained())
    assert [found.row(pair.other).line for pair in found.leaks("dev")] == [2]
    assert [found.row(pair.other).line for pair in found.conflicting()] == [4]
    assert found.leaks("train") == []
    assert [found.row(pair.other).line for pair in found.repeats("train")] == [4]
    assert found.repeats("dev") == []
    assert found.unit == "tokens" and found.lengths["train"].shape == (3,)
    assert found.check.capacity == tiny.POSITIONS
    assert explore(tmp_path, "classif").lengths["train"].tolist() == [14, 5, 5]


def test_a_row_is_one_leak_however_many_rows_it_repeats(tmp_path: Path) -> None:
    write(tmp_path, "train", [(LONG, "a"), ("something else", "b")])
    for name in ("dev", "test"):
        write(tmp_path, name, [(LONG, "b")])
    found = explore(tmp_path, "classif")
    assert [len(found.leaks(name)) for name in ("train", "dev", "test")] == [0, 1, 1]
    assert len(found.twins) == 3 and len(found.conflicting()) == 2


def test_entities_are_counted_by_their_texts(tmp_path: Path) -> None:
    write(tmp_path, "train", [("Ann met Bo Li", "B-PER O B-PER I-PER"), ("Ann left", "B-PER O")])
    write(tmp_path, "dev", [("Ann saw Cy", "B-PER O B-PER")])
    task = tasks.get("ner")
    found = contents.mentions(
        {name: tables.read_table(tmp_path / f"{name}.csv", task) for name in ("train", "dev")}
    )
    told = found["PER"]
    assert (told.count, told.distinct, told.words) == (3, 2, pytest.approx(4 / 3))
    assert told.common == ["Ann", "Bo Li"] and told.known == {"dev": 0.5}


def differing(task: str, one: tables.Row, other: tables.Row, spread: float = 0.0) -> bool:
    records = (one.record, other.record)
    return tasks.get(task).differ(one.label, other.label, records, spread)


@pytest.mark.parametrize(
    ("task", "one", "other", "differ"),
    [
        ("classif", "a", "b", True),
        ("classif", "a", "a", False),
        ("multilabel-classif", "a,b", "b", True),
        ("multilabel-classif", "a,b,c,d", "a,b,c,e", True),  # as many labels as words
        ("ner", "B-PER O O O", "B-PER O O O", False),
        ("ner", "B-PER O O O", "O O O O", True),
        ("ner", "B-PER I-PER O O", "B-PER I-PER O O", False),
    ],
)
def test_what_counts_as_another_label(
    task: str, one: str, other: str, differ: bool, tmp_path: Path
) -> None:
    write(tmp_path, "train", [("Ann went home today", one), ("ANN  went  home today", other)])
    assert (
        differing(task, *tables.read_table(tmp_path / "train.csv", tasks.get(task)).rows) is differ
    )


def test_numbers_differ_by_what_is_far_in_their_table(tmp_path: Path) -> None:
    for scale, offset in ((1.0, 0.0), (1e-3, 0.0), (1.0, 2000.0)):
        values = [0.0, 0.2, 1.0, 4.0]
        write(tmp_path, "train", [(f"text {v}", str(v * scale + offset)) for v in values])
        table = tables.read_table(tmp_path / "train.csv", tasks.get("regression"))
        spread = tasks.get("regression").spread(table.labels)
        low, near, _, high = table.rows
        assert not differing("regression", low, near, spread)
        assert differing("regression", low, high, spread)


def test_other_words_may_be_other_entities_of_the_same_types(tmp_path: Path) -> None:
    rows = [("Ann went home on Monday", "B-PER O O O B-DAY"),
            ("Bob went home on Friday", "B-PER O O O B-DAY"),
            ("Bob went home on Sunday", "B-PER O O O O")]  # fmt: skip
    write(tmp_path, "train", rows)
    one, other, third = tables.read_table(tmp_path / "train.csv", tasks.get("ner")).rows
    assert not differing("ner", one, other)
    assert differing("ner", one, third)


def test_labels_that_come_together() -> None:
    shares = contents.together([("a", "b"), ("a",), ("c",)], ["a", "b", "c"])
    assert shares.tolist() == [[1, 0.5, 0], [1, 1, 0], [0, 0, 1]]


def test_boxes_are_mapped_and_their_order_is_looked_at(tmp_path: Path) -> None:
    row = ("one two three", "0 0 100 20 500 0 600 20 0 900 100 920", "a")
    back = ("one two three", "0 900 100 920 0 0 100 20 500 0 600 20", "b")
    write(tmp_path, "train", [row, back], "text", "bbox", "labels")
    table = tables.read_table(tmp_path / "train.csv", tasks.get("classif"), use_bbox=True)
    assert contents.out_of_order(table).tolist() == [0.0, 0.5]
    assert contents.alike(table) == []
    density = contents.box_density(table)
    assert density.sum() == 6 and np.argwhere(density > 0).tolist() == [[0, 2], [0, 27], [45, 2]]


@pytest.mark.parametrize(
    ("boxes", "back"),
    [
        ("100 100 190 100 200 100 290 100 300 100 390 100", 0.0),  # of no height
        ("0 0 0 0 0 0 0 0 0 0 0 0", 0.0),
        ("400 10 450 30 300 10 350 30 200 10 250 30", 1.0),  # from right to left
        ("400 10 450 30 500 12 550 32 0 40 50 60", 0.0),
        ("0 40 50 60 400 10 450 30 500 12 550 32", 0.5),
    ],
)
def test_words_that_are_not_read_after_the_word_before(
    boxes: str, back: float, tmp_path: Path
) -> None:
    usual = "0 10 50 30 60 10 90 30 100 10 150 30"
    rows = [("one two three", boxes, "a"), *[("one two three", usual, "b")] * 3]
    write(tmp_path, "train", rows, "text", "bbox", "labels")
    table = tables.read_table(tmp_path / "train.csv", tasks.get("classif"), use_bbox=True)
    assert contents.out_of_order(table).tolist() == [back, 0.0, 0.0, 0.0]
    assert contents.alike(table) == ([0] if boxes.startswith("0 0 0 0") else [])


def test_text_from_right_to_left_is_in_order_too(tmp_path: Path) -> None:
    write(tmp_path, "train", [("one two three", "400 10 450 30 300 10 350 30 200 10 250 30", "a")],
          "text", "bbox", "labels")  # fmt: skip
    table = tables.read_table(tmp_path / "train.csv", tasks.get("classif"), use_bbox=True)
    assert contents.out_of_order(table).tolist() == [0.0]


def test_problems_are_kept_and_what_can_be_read_is_looked_at(tmp_path: Path) -> None:
    write(tmp_path, "train", [("good text", "a"), ("", "b"), ("other text", "b")])
    found = explore(tmp_path, "classif")
    assert not found.check.ok and len(found.tables["train"].rows) == 2
    assert explore(tmp_path / "nowhere", "classif").tables == {}
