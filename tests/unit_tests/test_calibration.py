"""Temperatures and thresholds: what they are fitted to, and what they change."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserve import tasks
from tfserve.calibration import (
    NEVER,
    Aim,
    Curve,
    calibration_error,
    sigmoid_loss,
    softmax_loss,
    temperature,
    thresholds,
)
from tfserve.errors import HParamsError, ParameterError
from tfserve.hparams import HParams
from tfserve.parameters import Parameters
from tfserve.records import Record
from tfserve.tasks.multilabel import sigmoid

ROWS = 4000


def hparams(task: str, **given: Any) -> HParams:
    return HParams(task_name=task, model_name="m", **given)


def drawn(heat: float, labels: int = 4, rows: int = ROWS) -> tuple[Any, Any]:
    """Logits of a model that is ``heat`` times too sure, and labels as they truly fall."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, (rows, labels))
    chances = np.exp(true) / np.exp(true).sum(-1, keepdims=True)
    targets = np.array([rng.choice(labels, p=row) for row in chances])
    return true * heat, targets


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_a_temperature_is_found_again(heat: float) -> None:
    logits, targets = drawn(heat)
    assert temperature(softmax_loss(logits, targets)) == pytest.approx(heat, rel=0.1)
    truth = np.random.default_rng(1).random(logits.shape) < sigmoid(logits / heat)
    assert temperature(sigmoid_loss(logits, truth)) == pytest.approx(heat, rel=0.1)


def test_few_rows_do_not_move_a_temperature_far() -> None:
    logits, targets = np.array([[4.0, 0.0], [5.0, 0.0]]), np.array([0, 0])
    assert 0.5 < temperature(softmax_loss(logits, targets)) < 1
    assert temperature(softmax_loss(logits[:0], targets[:0]), 2.5) == pytest.approx(2.5, rel=0.01)


def test_a_label_stays_nearer_to_what_is_expected_than_all_of_them() -> None:
    logits, targets = (side[:40] for side in drawn(3.0))
    loss = softmax_loss(logits, targets)
    assert temperature(loss) > 1.05 * temperature(loss, 1.0) > 1.05


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    assert calibration_error(np.full(10, 0.9), np.arange(10) < 9) == pytest.approx(0.0)
    assert calibration_error(np.full(10, 0.9), np.arange(10) < 5) == pytest.approx(0.4)
    sure = np.repeat([0.95, 0.55], 10)
    right = np.concatenate([np.arange(10) < 5, np.arange(10) < 10])
    assert calibration_error(sure, right) == pytest.approx(0.45)
    assert calibration_error(np.array([1.0, 0.0]), np.array([1, 0])) == 0.0


def bound(hits: float, rows: float) -> float:
    """Wilson's lower bound of a share, by one standard error."""
    return float((hits + 0.5 - (hits * (rows - hits) / rows + 0.25) ** 0.5) / (rows + 1))


def best(curve: Curve, aim: Aim, worth: float) -> int:
    """The place that serves an aim, found by looking at each."""
    places = range(len(curve.given))
    given, believed, positives = curve.given, curve.believed, curve.positives
    if aim.name == "f1":
        return max(places, key=lambda i: 2 * believed[i] / (given[i] + positives + 1e-9))
    if aim.name == "f1_micro":
        return max(places, key=lambda i: believed[i] - worth / 2 * given[i])
    of = given if aim.name == "precision" else np.full(len(given), positives)
    surely = [i for i in places if of[i] and bound(curve.hits[i], of[i]) >= aim.least]
    reached = [i for i in places if curve.hits[i] and curve.hits[i] >= aim.least * of[i]]
    served = surely or reached
    if aim.name == "precision":
        return served[-1] if served else 0
    return served[0] if served else places[-1]


# No share of up to 60 rows has a bound of just 0.55 or 0.85: it would be a matter of rounding.
@given(
    st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=1, max_size=60),
    st.sampled_from(["f1", "f1_micro", "precision>=0.55", "recall>=0.85"]),
)
@settings(deadline=None)
def test_a_curve_says_what_its_thresholds_give(rows: list[tuple[int, bool]], aim: str) -> None:
    scores = np.array([score / 100 for score, _ in rows])
    truth = np.array([right for _, right in rows])
    curve = Curve(scores, truth)
    for place, count in enumerate(curve.given):
        threshold = curve.threshold(place, Aim("f1_micro"), 0.5)
        assert 0 < threshold <= 1
        assert (scores >= threshold).sum() == count
        assert truth[scores >= threshold].sum() == curve.hits[place]
    assert curve.best(Aim.parse(aim), 0.5) == best(curve, Aim.parse(aim), 0.5)


def test_where_rows_say_nothing_the_threshold_is_half_of_the_best_f1() -> None:
    chances = np.array([[0.1, 0.1], [0.2, 0.1], [0.9, 0.1]])
    truth = np.array([[0, 0], [0, 0], [1, 0]])
    one, never_seen = thresholds(chances, truth, Aim("f1_micro"))
    assert 0.3 < one < 0.6 and 0.3 < never_seen < 0.6


@pytest.mark.parametrize("aim", ["precision>=0.9", "recall>=0.95"])
def test_a_threshold_keeps_its_promise_on_other_rows(aim: str) -> None:
    rng = np.random.default_rng(0)
    chances = rng.beta(0.5, 1, 2 * ROWS)
    truth = rng.random(2 * ROWS) < chances
    wanted = Aim.parse(aim)
    [threshold] = thresholds(chances[:ROWS, None], truth[:ROWS, None], wanted)
    given, right = chances[ROWS:] >= threshold, truth[ROWS:]
    precision, recall = right[given].mean(), given[right].mean()
    reached, other = (precision, recall) if wanted.name == "precision" else (recall, precision)
    assert wanted.least - 0.03 < reached < 1
    assert other > 0.2


def test_thresholds_make_f1_better_on_other_rows() -> None:
    rng = np.random.default_rng(0)
    chances = rng.beta(0.4, 4, (2 * ROWS, 6)) ** np.linspace(1, 2, 6)
    truth = rng.random(chances.shape) < chances

    def f1(values: Any, axis: Any) -> Any:
        given, right = chances[ROWS:] >= values, truth[ROWS:]
        return 2 * (given & right).sum(axis) / (given.sum(axis) + right.sum(axis))

    micro = thresholds(chances[:ROWS], truth[:ROWS], Aim("f1_micro"))
    each = thresholds(chances[:ROWS], truth[:ROWS], Aim("f1"))
    assert f1(micro, None) > f1(0.5, None) + 0.05
    # With probabilities that are right the best threshold is half of the best F1.
    assert np.median(micro) == pytest.approx(f1(micro, None) / 2, abs=0.05)
    assert f1(each, 0).mean() > f1(micro, 0).mean() > f1(0.5, 0).mean()
    assert f1(micro, None) >= f1(each, None) - 0.005


def test_a_wish_that_few_rows_cannot_assure_is_kept_on_them() -> None:
    chances = np.concatenate([np.linspace(0.7, 0.9, 8), np.linspace(0.05, 0.3, 100)])[:, None]
    truth = np.repeat([1, 0], [8, 100])[:, None]
    for aim in ("precision>=0.9", "recall>=0.95", "recall>=1", "precision>=1"):
        [threshold] = thresholds(chances, truth, Aim.parse(aim))
        assert 0.3 < threshold <= 0.9, aim
    assert thresholds(chances, truth * 0, Aim("recall", 0.9)) == [0.5]
    assert thresholds(chances, truth * 0, Aim("precision", 0.9)) == [NEVER]
    assert NEVER > 1 and json.loads(json.dumps(NEVER)) == NEVER


def test_weights_of_classes_do_not_give_a_rare_label_to_all() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(-5.5, 2.0, (8000, 1))
    truth = rng.random(true.shape) < sigmoid(true)
    shifted = sigmoid(true + np.log(20))  # what a weight of 20 does

    def f1(threshold: float) -> float:
        given, right = shifted[4000:, 0] >= threshold, truth[4000:, 0]
        return float(2 * (given & right).sum() / (given.sum() + right.sum()))

    [threshold] = thresholds(shifted[:4000], truth[:4000], Aim("f1"))
    best = max(f1(value) for value in np.linspace(0.01, 0.99, 99))
    assert f1(threshold) > 0.9 * best
    assert f1(0.5) < 0.7 * best


@pytest.mark.parametrize("wrong", ["f2", "precision", "precision>=2", "recall>=-1", "recall=0.9"])
def test_an_aim_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(HParamsError, match="threshold_for: found"):
        tasks.get("multilabel-classif").fit([("a",)]).check_hparams(
            hparams("multilabel-classif", threshold_for=wrong)
        )


def test_choices_that_mean_nothing_are_refused() -> None:
    two, three = (tasks.get("classif").fit(list(labels)) for labels in ("aab", "abc"))
    two.check_hparams(hparams("classif", threshold_for="f1", positive_label="a"))
    two.check_hparams(hparams("classif", positive_label="a", abstain=0.5))
    with pytest.raises(HParamsError, match="abstain: expected none beside threshold_for"):
        two.check_hparams(hparams("classif", threshold_for="f1", abstain=0.5))
    named = tasks.get("classif").fit(["none", "none", "hate"])
    assert named.check_hparams(hparams("classif", positive_label="none")) is None
    for task, name, value in (
        (three, "threshold_for", "f1"), (three, "positive_label", "a"),
        (two, "positive_label", "c"),
        (tasks.get("ner").fit([("B-X", "O")]), "abstain", 0.5),
        (tasks.get("regression").fit([1.0, 2.0]), "threshold_for", "f1"),
    ):  # fmt: skip
        with pytest.raises(HParamsError, match=name):
            task.check_hparams(hparams(task.name, **{name: value}))


def test_classif_is_calibrated() -> None:
    logits, targets = drawn(3.0)
    task = tasks.get("classif").fit(["a", "b", "c", "d"])
    labels = [task.labels[i] for i in targets]
    fitted = task.calibrated(list(logits), [*labels[:-1], "unheard of"], hparams("classif"))
    assert task.calibration_error(logits, labels) > 0.1
    assert fitted.calibration_error(logits, labels) < 0.02
    answers, sure = (t.decode(logits, [], Parameters()) for t in (fitted, task))
    assert [a["pred"] for a in answers] == [a["pred"] for a in sure]
    assert np.mean([a["proba"] for a in answers]) < np.mean([a["proba"] for a in sure])
    state = {**fitted.state(), "labels": task.labels}
    assert tasks.get("classif")(**state) == fitted


def test_two_labels_have_a_threshold_and_may_be_left_open() -> None:
    logits, targets = drawn(1.0, labels=2)
    labels = ["ham" if target else "spam" for target in targets]
    labels[:3] = ["ham"] * 3
    task = tasks.get("classif").fit([*labels, "ham", "ham", "ham"])
    assert task.positive == min(("ham", "spam"), key=labels.count)
    chosen = hparams("classif", threshold_for="recall>=0.9", positive_label="spam")
    logits = logits[:, ::-1]  # ham comes first
    fitted = task.calibrated(list(logits), labels, chosen)
    answers = fitted.decode(logits, [], Parameters())
    found = [
        a["pred"] == "spam" for a, label in zip(answers, labels, strict=True) if label == "spam"
    ]
    assert np.mean(found) == pytest.approx(0.9, abs=0.02)
    careful = task.calibrated(list(logits), labels, hparams("classif", abstain=0.6))
    unsure = [
        answer for answer in careful.decode(logits, [], Parameters()) if answer["pred"] is None
    ]
    assert unsure and all(answer["proba"] < 0.6 for answer in unsure)
    assert all(answer["scores"].keys() == {"ham", "spam"} for answer in unsure)
    metrics = task.metrics(labels, careful.decode(logits, [], Parameters()))
    assert metrics["accuracy"] < task.metrics(labels, answers)["accuracy"]
    assert set(metrics["per_label"]) == {"ham", "spam"}
    plain = fitted.decode(logits, [], Parameters(threshold=0.5, abstain=0.0))
    assert [a["pred"] for a in plain] == [a["pred"] for a in task.decode(logits, [], Parameters())]
    with pytest.raises(ParameterError, match="threshold"):
        tasks.get("classif").fit(["a", "b", "c"]).check(Parameters(threshold=0.4))


def test_a_dev_table_of_unknown_labels_calibrates_nothing() -> None:
    task = tasks.get("classif").fit(["a", "a", "b"])
    chosen = hparams("classif", threshold_for="f1")
    fitted = task.calibrated([np.zeros(2)], ["unheard of"], chosen)
    assert fitted == task
    kept = task.calibrated([np.zeros(2)], ["unheard of"], hparams("classif", abstain=0.7))
    assert kept == replace(task, abstain=0.7)  # type: ignore[type-var]
    assert task.calibration_error([np.zeros(2)], ["unheard of"]) == 0.0


def test_multilabel_has_a_temperature_and_a_threshold_for_each_label() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal([-2.0, -1.0, 0.0], 1.5, (ROWS, 3))
    truth = rng.random(true.shape) < sigmoid(true)
    task = tasks.get("multilabel-classif").fit([("a", "b", "c")])
    labels = [tuple(np.array(task.labels)[row]) for row in truth]
    logits = list(true * [3.0, 1.0, 0.5])
    fitted = task.calibrated(logits, labels, hparams(task.name))
    assert fitted.temperatures == pytest.approx((3.0, 1.0, 0.5), rel=0.15)
    assert fitted.calibration_error(logits, labels) < task.calibration_error(logits, labels) / 2
    scores = [t.metrics(labels, t.decode(logits, [], Parameters())) for t in (task, fitted)]
    assert scores[1]["f1_micro"] > scores[0]["f1_micro"] + 0.02
    everywhere = fitted.decode(logits, [], Parameters(threshold=0.0))
    assert all(len(answer["pred"]) == 3 for answer in everywhere)
    assert tasks.get(task.name)(**{k: tuple(v) for k, v in fitted.state().items()}) == fitted


def test_a_tag_has_its_own_temperature() -> None:
    task = tasks.get("ner").fit([("B-X", "O")])
    logits, targets = drawn(1.0, labels=3)
    likeliest = logits.argmax(-1)
    logits = logits * np.array([1.0, 4.0, 1.0])[likeliest][:, None]
    rows = [logits[i : i + 10] for i in range(0, ROWS, 10)]
    rows[0] = np.full_like(rows[0], np.nan)  # the model saw none of these words
    tags = [tuple(task.labels[i] for i in targets[i : i + 10]) for i in range(0, ROWS, 10)]
    fitted = task.calibrated(rows, tags, hparams("ner"))
    assert fitted.temperatures == pytest.approx((1.0, 4.0, 1.0), rel=0.2)
    assert fitted.calibration_error(rows, tags) < task.calibration_error(rows, tags) / 2
    words = Record(" ".join("w" * 10))
    one, other = (t.decode(rows[:2], [words, words], Parameters()) for t in (task, fitted))
    assert [a["pred"] for a in one] == [a["pred"] for a in other]
    assert one[0]["proba"] == other[0]["proba"] == [0.0] * 10
    assert one[1]["proba"] != other[1]["proba"]
