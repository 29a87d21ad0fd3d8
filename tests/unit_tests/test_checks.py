from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from tfserve import tasks
from tfserve.checks import Report, check, render
from tfserve.errors import HParamsError

COLUMNS = ("text", "labels")
Rows = list[tuple[str, ...]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with 64 positions, two of them for special tokens."""
    return tiny.model(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., Report]:
    """``checked(task, train, dev, …)``: the report on tables of these rows."""

    def make(task: str, *splits: Rows, **more: Any) -> Report:
        for name, rows in zip(("train", "dev", "test"), splits, strict=False):
            tiny.table(tmp_path / f"{name}.csv", rows, COLUMNS)
        return check(tmp_path, task, **more)

    return make


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("task", tasks.names())
def test_sound_data_of_every_task(tmp_path: Path, task: str, boxed: bool) -> None:
    report = check(tiny.data(tmp_path, task, boxed), task, use_bbox=boxed)
    assert report.ok
    assert (report.task_name, report.capacity, report.problems) == (task, None, [])
    assert {name: split.rows for name, split in report.splits.items()} == {
        "train": 24,
        "dev": 8,
        "test": 8,
    }
    assert report.splits["dev"].file == str(tmp_path / "dev.csv")
    assert report.splits["train"].tokens is None
    assert report.splits["train"].over_capacity is None
    assert all(split.unseen_labels == [] for split in report.splits.values())


def test_word_percentiles(checked: Callable[..., Report]) -> None:
    rows = [("w " * n, "xy"[n % 2]) for n in range(1, 101)]
    words = checked("classif", rows).splits["train"].words
    assert words == {"p50": 51, "p90": 91, "p95": 96, "p99": 100, "p100": 100}


def test_token_percentiles_and_the_share_over_capacity(
    checked: Callable[..., Report], folder: Path
) -> None:
    # Each # is one token, and there are two special ones.
    lengths = [1, 10, 61, 62, 63, 64, 200, 3]
    rows = [("# " * n, "xy"[n % 2]) for n in lengths]
    report = checked("classif", rows, rows[:3], model_folder=folder)
    assert report.capacity == 64
    train, dev = report.splits["train"], report.splits["dev"]
    assert train.tokens == {"p50": 64, "p90": 202, "p95": 202, "p99": 202, "p100": 202}
    assert train.over_capacity == 3 / 8
    assert dev.tokens is not None
    assert (dev.tokens["p50"], dev.tokens["p100"]) == (12, 63)
    assert dev.over_capacity == 0.0


def test_repeated_texts(checked: Callable[..., Report]) -> None:
    train = [("a", "x"), ("a", "x"), ("a", "y"), ("b", "y"), ("b", "x"), ("c", "x")]
    train += [("e", "x"), ("e", "y"), ("e", "y")]
    dev = [("a", "x"), ("c", "y"), ("b", "x"), ("d", "x"), ("d", "x")]
    splits = checked("classif", train, dev).splits
    found = {
        name: (split.duplicates, split.conflicts, split.also_in_train)
        for name, split in splits.items()
    }
    assert found == {"train": (5, 4, 0), "dev": (1, 0, 3)}


@pytest.mark.parametrize(
    ("task", "train", "counts", "dev", "unseen"),
    [
        ("classif", ["y", "x", "x"], {"x": 2, "y": 1}, ["x", "z", "A"], ["A", "z"]),
        ("multilabel-classif", ['"x","y"', '"x"', ""], {"x": 2, "y": 1}, ["z,x", ""], ["z"]),
        ("ner", ["B-X", "O", "B-Y"], {"X": 1, "Y": 1}, ["B-Z", "I-X"], ["Z"]),
        ("ner", ["B", "O", "I"], {"": 2}, ["O"], []),
        (
            "regression",
            ["1", "2", "3", "4", "5"],
            {"mean": 3.0, "std": 2**0.5, "min": 1, "p25": 2, "median": 3, "p75": 4, "max": 5},
            ["9"],
            [],
        ),
    ],
)
def test_labels(
    checked: Callable[..., Report],
    task: str,
    train: list[str],
    counts: dict[str, float],
    dev: list[str],
    unseen: list[str],
) -> None:
    splits = [[(f"t{n}", label) for n, label in enumerate(part)] for part in (train, dev)]
    report = checked(task, *splits)
    assert report.ok
    assert report.splits["train"].labels == pytest.approx(counts)
    assert list(report.splits["train"].labels) == list(counts)
    assert report.splits["dev"].unseen_labels == unseen


def test_problems_are_told_beside_what_is_sound(tmp_path: Path) -> None:
    tiny.table(tmp_path / "train.csv", [("a", "x"), ("b", "x")], COLUMNS)
    tiny.table(tmp_path / "dev.csv", [("a", "x")], ("text", "label"))
    tiny.table(tmp_path / "test.csv", [("a", "y"), ("b", "")], COLUMNS)
    report = check(tmp_path, "classif")
    assert not report.ok
    assert [(Path(p.file).name, p.code, p.line, p.column) for p in report.problems] == [
        ("dev.csv", "data.columns", 1, None),
        ("test.csv", "label.empty", 3, "labels"),
        ("train.csv", "label.one_only", None, "labels"),
    ]
    assert {name: split.rows for name, split in report.splits.items()} == {"train": 2, "test": 1}
    assert report.splits["test"].unseen_labels == ["y"]


def test_a_file_of_another_kind_does_not_hide_the_others(tmp_path: Path) -> None:
    train = tiny.table(tmp_path / "train.csv", tiny.rows("classif"), COLUMNS)
    dev = tiny.table(tmp_path / "dev.txt", [("a", "x")], COLUMNS)
    report = check({"train": train, "dev": dev}, "classif")
    assert [problem.code for problem in report.problems] == ["data.suffix"]
    assert report.splits["train"].rows == 24


def test_a_bad_row_of_train_does_not_hide_its_label(checked: Callable[..., Report]) -> None:
    report = checked("classif", [("a", "x"), ("", "y")])
    assert [problem.code for problem in report.problems] == ["record.text_empty"]


def test_boxes_are_checked_where_they_are_used(tmp_path: Path) -> None:
    rows = [("a b", "1 2 3 4", "x"), ("a", "1 2 3 4", "y"), ("b", "1 2 3 4", "x")]
    tiny.table(tmp_path / "train.csv", rows, ("text", "bbox", "labels"))
    assert check(tmp_path, "classif").ok
    report = check(tmp_path, "classif", use_bbox=True)
    assert [(p.code, p.line, p.column) for p in report.problems] == [
        ("record.bbox_count", 2, "bbox")
    ]


@pytest.mark.parametrize("data", ["none", {"train": "none"}])
def test_nothing_there(tmp_path: Path, data: Any) -> None:
    data = tmp_path / data if isinstance(data, str) else {"train": tmp_path / "none"}
    report = check(data, "classif")
    assert (report.ok, report.splits) == (False, {})
    assert [(p.code, p.file) for p in report.problems] == [("data.no_file", str(tmp_path / "none"))]


def test_no_train_table_is_a_problem(tmp_path: Path) -> None:
    dev = tiny.table(tmp_path / "dev.csv", [("a", "x")], COLUMNS)
    report = check({"dev": dev}, "classif")
    assert [problem.code for problem in report.problems] == ["data.no_file"]


def test_an_unknown_task_is_told_with_the_nearest() -> None:
    with pytest.raises(HParamsError, match=r"did you mean classif\?"):
        check("anywhere", "classify")


def test_a_report_is_json(checked: Callable[..., Report], folder: Path) -> None:
    report = checked("classif", [("a", "x"), ("b", "")], model_folder=folder)
    found = json.loads(json.dumps(report.as_dict()))
    assert found["ok"] is False
    assert found["capacity"] == 64
    assert found["splits"]["train"]["rows"] == 1
    assert found["problems"][0]["code"] == "label.empty"
    assert found["problems"][0]["line"] == 3


def test_a_sound_report_for_a_terminal(checked: Callable[..., Report], folder: Path) -> None:
    train = [("# " * n, "xy"[n % 2]) for n in (1, 1, 2, 70)]
    text = render(checked("classif", train, [("# ", "y"), ("new", "z")], model_folder=folder))
    lines = text.splitlines()
    assert lines[0].startswith("train: 4 rows in ")
    assert lines[1] == "  words   median 2  p90 70  p95 70  p99 70  max 70"
    assert lines[2] == (
        "  tokens  median 4  p90 72  p95 72  p99 72  max 72   25.0% of rows over the model's 64"
    )
    assert lines[3:5] == ["  labels  x 2, y 2", "  note    1 rows repeat an earlier row's text"]
    assert lines[5].startswith("dev: 2 rows in ")
    assert lines[-3:] == [
        "  note    1 rows with a text that is also in train",
        "  note    labels that train lacks, errors in every metric: z",
        "no problems",
    ]


def test_a_report_with_many_labels_and_problems_stays_short(
    checked: Callable[..., Report],
) -> None:
    rows = [(f"t{n}", f"l{n:02}") for n in range(40)] + [("t", "")] * 25
    lines = render(checked("classif", rows)).splitlines()
    assert sum(line.startswith("problem: ") for line in lines) == 20
    assert lines[-2:] == ["… and 5 more problems", "25 problems"]
    labels = next(line for line in lines if line.startswith("  labels"))
    assert labels.endswith("l28 1, l29 1, … 10 more")


def test_one_problem_is_no_plural(checked: Callable[..., Report]) -> None:
    rows = [("a", "x"), ("b", "y"), ("c", "")]
    assert render(checked("classif", rows)).splitlines()[-1] == "1 problem"


def test_what_training_would_refuse_of_the_model_is_a_problem(tmp_path: Path) -> None:
    data = tiny.data(tmp_path / "data", "ner", boxed=True)
    folder = tiny.model(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    report = check(data, "ner", model_folder=folder, use_bbox=True)
    assert [problem.code for problem in report.problems] == ["model.no_weights", "model.no_bbox"]
    boxed = tiny.model(tmp_path / "layoutlm", "layoutlm")
    assert check(data, "ner", model_folder=boxed, use_bbox=True).ok


def test_too_few_rows_to_hold_some_out_are_a_problem(tmp_path: Path) -> None:
    rows = [("late", "a"), ("early", "b")]
    tiny.table(tmp_path / "train.csv", rows, ("text", "labels"))
    assert [problem.code for problem in check(tmp_path, "classif").problems] == ["data.too_few"]
    tiny.table(tmp_path / "dev.csv", rows, ("text", "labels"))
    assert check(tmp_path, "classif").ok


def test_labels_that_are_none_are_noted(tmp_path: Path) -> None:
    rows = [(f"text {i}", f"O O B-{i}{'x' * 80 * (i == 3)}") for i in range(40)]
    tiny.table(tmp_path / "train.csv", rows, ("text", "labels"))
    shown = render(check(tmp_path, "classif"))
    assert "40 of 40 labels occur once: is classif the task of this table?" in shown
    assert max(map(len, shown.splitlines())) < 1000 and "… 10 more" in shown


def test_a_long_label_is_cut_and_keeps_its_count(tmp_path: Path) -> None:
    rows = [(f"text {i}", "long " * 20 + "!" if i % 2 else "short") for i in range(8)]
    tiny.table(tmp_path / "train.csv", rows, ("text", "labels"))
    line = next(x for x in render(check(tmp_path, "classif")).splitlines() if "labels" in x)
    assert line == f"  labels  {('long ' * 20)[:60]}… 4, short 4"
