"""What is to be known of an evaluation before its figures are believed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from conftest import Loaded

from tfserve import tables
from tfserve.evaluation import evaluate
from tfserve.evaluation.notes import notes


def noted(task: str, rows: list[tuple[str, ...]], folder: Path, loaded: Loaded) -> list[str]:
    """The notes on what a tiny model makes of these rows."""
    predictor = loaded(task)
    file = tiny.table(folder / "t.csv", rows, ("text", "labels"))
    return list(notes(evaluate(predictor, tables.read_table(file, type(predictor.task)))))


def test_texts_that_the_model_sees_in_part_are_counted(tmp_path: Path, loaded: Loaded) -> None:
    rows: list[tuple[str, ...]] = [("late parcel", "delivery"), ("cold food", "praise")] * 4
    assert "longer than the model sees" not in " ".join(noted("classif", rows, tmp_path, loaded))
    [note] = [
        note
        for note in noted("classif", [*rows, ("late " * 100, "delivery")], tmp_path, loaded)
        if "longer" in note
    ]
    assert note.startswith("1 rows (11.1%) are longer than the model sees (64 tokens) and were ")


def test_texts_that_are_read_in_windows_are_seen_whole(tmp_path: Path, loaded: Loaded) -> None:
    rows: list[tuple[str, ...]] = [("late " * 100, "O " * 100), ("my parcel", "O B-THING")]
    assert "longer than the model sees" not in " ".join(noted("ner", rows, tmp_path, loaded))


@pytest.mark.parametrize(("count", "end"), [(10, "l09"), (11, "l09, …"), (30, "l09, …")])
def test_of_many_unknown_labels_ten_are_named(
    count: int, end: str, tmp_path: Path, loaded: Loaded
) -> None:
    rows: list[tuple[str, ...]] = [("late parcel", f"l{i:02d}") for i in range(count)]
    note = noted("classif", rows, tmp_path, loaded)[0]
    names = ", ".join(f"l{i:02d}" for i in range(9))
    assert note.startswith(f"The model does not know {count} of the labels ({names}, {end}): ")
