"""Metrics of any choice of rows, against those of scikit-learn and SciPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from tfserve.tallies import Labels, Numbers

CLASSES = st.sampled_from("abc")
SETS = st.sets(st.sampled_from("abcd"))
COUNTS = st.integers(0, 3)


def repeated(rows: list[Any], counts: list[int]) -> list[Any]:
    return [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]


@given(st.lists(st.tuples(CLASSES, CLASSES, COUNTS), min_size=1, max_size=30))
def test_rows_with_one_label_count_as_often_as_they_weigh(rows: list[tuple[str, str, int]]) -> None:
    gold, given_, counts = (list(column) for column in zip(*rows, strict=True))
    if not sum(counts):
        return
    tally = Labels([{(label,)} for label in gold], [{(label,)} for label in given_])
    scores = tally.scores(np.array(counts, float))
    truth, guess = repeated(gold, counts), repeated(given_, counts)
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, guess))
    for average in ("weighted", "micro"):
        expected = sklearn.metrics.f1_score(truth, guess, average=average, zero_division=0)
        assert scores[f"f1_{average}"] == pytest.approx(expected), average
    # A label without gold has an F1 of 0 in any choice of rows; another that these rows lack is
    # taken to be as good as those that they have.
    labels = sorted({*truth, *guess} & set(gold))
    macro = sklearn.metrics.f1_score(truth, guess, labels=labels, average="macro", zero_division=0)
    share = len(set(gold)) / len({*gold, *given_})
    assert scores["f1_macro"] == pytest.approx(macro * share)


@given(st.lists(st.tuples(SETS, SETS, st.integers(1, 3)), min_size=1, max_size=30))
def test_rows_with_several_labels_count_as_often_as_they_weigh(
    rows: list[tuple[set[str], set[str], int]],
) -> None:
    gold, given_, counts = (list(column) for column in zip(*rows, strict=True))
    units = ([{(label,) for label in row} for row in side] for side in (gold, given_))
    scores = Labels(*units, space=("a", "b", "c", "d")).scores(np.array(counts, float))
    truth, guess = (
        np.array([[label in row for label in "abcd"] for row in repeated(side, counts)], int)
        for side in (gold, given_)
    )
    assert scores["subset_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, guess))
    for average, empty in (("macro", 0), ("micro", 0), ("samples", 1)):
        expected = sklearn.metrics.f1_score(truth, guess, average=average, zero_division=empty)
        assert scores[f"f1_{average}"] == pytest.approx(expected), average
    for name in ("precision", "recall"):
        measure = getattr(sklearn.metrics, f"{name}_score")
        assert scores[name] == pytest.approx(
            measure(truth, guess, average="micro", zero_division=0)
        )


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), COUNTS), min_size=2, max_size=30))
def test_numbers_count_as_often_as_they_weigh(rows: list[tuple[int, int, int]]) -> None:
    gold, given_, counts = (list(column) for column in zip(*rows, strict=True))
    gold, given_ = ([value / 10 for value in side] for side in (gold, given_))
    truth, guess = repeated(gold, counts), repeated(given_, counts)
    if len(truth) < 2:
        return
    scores = Numbers(np.array(gold, float), np.array(given_, float)).scores(np.array(counts, float))
    mse = sklearn.metrics.mean_squared_error(truth, guess)
    assert scores["mse"] == pytest.approx(mse)
    assert scores["rmse"] == pytest.approx(math.sqrt(mse))
    assert scores["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(truth, guess))
    assert len(set(truth)) > 1 or scores["r2"] == 0
    if len(set(truth)) > 1:
        assert scores["r2"] == pytest.approx(sklearn.metrics.r2_score(truth, guess))
    if len(set(truth)) > 1 and len(set(guess)) > 1:
        pearson = scipy.stats.pearsonr(truth, guess).statistic
        assert scores["pearson"] == pytest.approx(pearson, abs=1e-9)
        spearman = scipy.stats.spearmanr(truth, guess).statistic
        assert scores["spearman"] == pytest.approx(spearman, abs=1e-9)
    else:
        assert scores["pearson"] == scores["spearman"] == 0


@pytest.mark.parametrize("space", [(), ("a", "b", "c", "d")])
def test_a_label_that_is_only_invented_does_not_move_the_others_average(
    space: tuple[str, ...],
) -> None:
    """A label without gold has an F1 of 0 in every choice of rows, also in those without it."""
    gold = [{(label,)} for label in "abc" * 10]
    given_ = [*gold[:-1], {("d",)}]
    tally = Labels(gold, given_, space=space)
    whole = tally.scores()["f1_macro"]
    truth, guess = ([next(iter(row))[0] for row in side] for side in (gold, given_))
    expected = sklearn.metrics.f1_score(
        truth, guess, average="macro", labels=list("abcd"), zero_division=0
    )
    assert whole == pytest.approx(expected)
    without = np.ones(30)
    without[-1] = 0
    assert tally.scores(without)["f1_macro"] == pytest.approx(3 / 4)
