"""The page of two models on the same rows: where they part, and by how much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from conftest import Loaded
from test_report import evaluated, grids, made_up, manifest, numbered, read, tagged

from tfserve import tables, tasks
from tfserve.evaluation import Evaluation, evaluate
from tfserve.evaluation.bootstrap import Difference, differences
from tfserve.report import comparison
from tfserve.report.page import Grid

NAMES = ("new", "old")


def rows(one: Evaluation, other: Evaluation) -> list[Grid]:
    """How many rows each gets better, and those rows."""
    return grids(comparison.page(one, other, NAMES, {}).sections, "Rows")


def test_of_numbers_the_nearer_one_is_better() -> None:
    gold = [1.0, 2.0, 3.0, 4.0]
    one, other = numbered(gold, [1, 2.5, 3, 9]), numbered(gold, [2, 2, 3, 1e5 / 3])
    counts, mine, others = rows(one, other)
    assert [count for _, count in counts.rows] == [2, 1, 1]
    assert counts.rows[-1][0] == "both are as far off"
    assert mine.caption == "Where new is better." and others.caption == "Where old is better."
    assert mine.header == others.header == ["line", "new", "old", "text"]
    assert mine.rows == [  # the furthest apart first
        (5, "9 for 4", "3.333e+04 for 4", "text 3"), (2, "1 for 1", "2 for 1", "text 0"),
    ]  # fmt: skip
    assert others.rows == [(3, "2.5 for 2", "2 for 2", "text 1")]


def test_of_labels_the_right_one_is_better() -> None:
    task: Any = tasks.get("classif").fit(["a", "b"])
    labelled = [(f"text {i}", label) for i, label in enumerate("aabb")]
    one, other = (
        evaluated(task, labelled, [{"pred": label, "proba": 0.9} for label in given])
        for given in (["a", "a", None, "b"], ["a", "b", "b", "b"])
    )
    counts, mine, others = rows(one, other)
    assert counts.rows == [
        ("new is better", 1), ("old is better", 1), ("both are right", 2), ("both are as wrong", 0),
    ]  # fmt: skip
    assert mine.rows == [(3, "a", "b", "text 1")]
    assert others.rows == [(4, "(none)", "b", "text 2")]
    [counts] = rows(one, one)
    assert [count for _, count in counts.rows] == [0, 0, 3, 1]


def test_of_tagged_words_the_one_that_finds_more_is_better() -> None:
    texts, gold = ("Ann met Bob", "Cy left", "we left"), ("B-PER O B-PER", "B-PER O", "O O")
    one, other = (
        tagged(*zip(texts, gold, given, ([0.5] * 3, [0.5] * 2, [0.5] * 2), strict=True))
        for given in (("B-PER O B-PER", "B-ORG O", "O O"), ("B-PER O O", "O O", "O O"))
    )
    counts, mine = rows(one, other)
    assert [count for _, count in counts.rows] == [1, 0, 1, 1]
    assert mine.rows == [(2, "PER: Ann; PER: Bob", "PER: Ann", "Ann met Bob")]
    [others] = rows(other, one)[1:]
    assert others.rows == [(2, "PER: Ann", "PER: Ann; PER: Bob", "Ann met Bob")]

    texts, gold = ("Ann met Bob and Cy",), ("B-PER O B-PER O B-PER",)
    two, none = (
        tagged(*zip(texts, gold, given, ([0.5] * 5,), strict=True))
        for given in (("B-PER O B-PER O O",), ("O O O O O",))
    )
    assert [count for _, count in rows(two, none)[0].rows] == [1, 0, 0, 0]


def test_labels_stand_by_how_much_their_f1_differs() -> None:
    task: Any = tasks.get("classif").fit(["a", "b", "c"])
    labelled = [(f"text {i}", label) for i, label in enumerate("aabbcc")]
    one, other = (
        evaluated(task, labelled, [{"pred": label, "proba": 0.9} for label in given])
        for given in ("aabbcc", "aabcba")
    )
    [grid] = grids(comparison.page(one, other, NAMES, {}).sections, "Labels")
    assert grid.header == ["label", "new", "old", "difference", "rows"]
    assert grid.rows == [
        ("c", 1, 0, 1, 2),
        ("b", 1, 0.5, 0.5, 2),
        ("a", 1, pytest.approx(0.8), pytest.approx(0.2), 2),
    ]


def test_what_is_to_be_known_of_each_model_stands_on_the_page() -> None:
    found = numbered([1, 2], [1, 2])
    known = {"fingerprint": found.table.fingerprint}
    one, other = (
        replace(found, manifest=manifest(data={split: known})) for split in ("train", "dev")
    )
    assert comparison.page(found, found, NAMES, {}).notes == []
    first, second = comparison.page(one, other, NAMES, {}).notes
    assert first.startswith("new: The model was trained on these very rows")
    assert second.startswith("old: This is the dev table")


def test_how_much_is_answered_and_how_true_it_is_stands_beside() -> None:
    task: Any = tasks.get("classif").fit(["a", "b"])
    labelled = [(f"text {i}", label) for i, label in enumerate("aabb")]
    one, other = (
        evaluated(replace(task, abstain=abstain), labelled, answers)
        for abstain, answers in (
            (None, [{"pred": label, "proba": 0.9} for label in "aabb"]),
            (0.5, [{"pred": label, "proba": 0.9} for label in ("a", None, "a", "b")]),
        )
    )
    grid = grids(comparison.page(one, other, NAMES, {}).sections, "Metrics")[1]
    beside = {row[0]: row[1:] for row in grid.rows}
    assert beside["share of rows answered"] == (None, 0.75)
    assert beside["share of these that is right"] == (None, pytest.approx(2 / 3))


def test_metrics_stand_beside_each_other_with_what_sets_them_apart() -> None:
    found = numbered([1, 2], [1, 2])
    apart = {
        "rmse": Difference(0.5, 0.75, (-0.5, -0.125), 0.01),
        "mae": Difference(0.5, 0.25, (-0.25, 0.5), 0.4),
    }
    [grid] = grids(comparison.page(found, found, NAMES, apart).sections, "Metrics")
    assert grid.header == ["metric", *NAMES, "difference", "95% of it", "p", "significant"]
    assert grid.rows == [
        ("rmse", 0.5, 0.75, -0.25, "-0.500 to -0.125", 0.01, "yes"),
        ("mae", 0.5, 0.25, 0.25, "-0.250 to 0.500", 0.4, "no"),
    ]


def test_two_models_that_differ_in_a_border_are_told_apart(loaded: Loaded, tmp_path: Path) -> None:
    predictor = loaded("ner")
    tiny.table(tmp_path / "t.csv", [("Ann Lee went home", "B-PER I-PER O O")], ("text", "labels"))
    table = tables.read_table(tmp_path / "t.csv", type(predictor.task))
    one = evaluate(predictor, table)

    def saying(*tags: str) -> Evaluation:
        answers = [{**one.answers[0], "pred": list(tags)}]
        return replace(one, answers=answers, tally=one.task.tally(table.labels, answers))

    right, wrong = saying("B-PER", "I-PER", "O", "O"), saying("B-PER", "O", "O", "O")
    apart = differences(right.tally, wrong.tally, right.task.metric_names)
    text = read(comparison.page(right, wrong, ("new", "old"), apart))
    assert "2 PER: Ann Lee PER: Ann Ann Lee went home" in text


def test_two_models_are_set_side_by_side() -> None:
    one, other = made_up(4, 400, wrong=0.1), made_up(4, 400, wrong=0.4)
    other = Evaluation(**{**vars(other), "table": one.table,
                          "tally": one.task.tally(one.table.labels, other.answers)})  # fmt: skip
    differing = differences(one.tally, other.tally, one.task.metric_names)
    text = read(comparison.page(one, other, ("new", "old"), differing))
    found = differing["accuracy"]
    assert f"accuracy {found.one:.3f} {found.other:.3f} {found.one - found.other:.3f}" in text
    assert "new or old?" in text and " yes" in text
    right = [one.answers[i]["pred"] == one.table.labels[i] for i in range(400)]
    old = [other.answers[i]["pred"] == one.table.labels[i] for i in range(400)]
    better = sum(a and not b for a, b in zip(right, old, strict=True))
    assert f"new is better {better}" in text
