"""Intervals, comparisons, probabilities by item, and what is wrong with entities."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import Loaded, Trained

import tfserve
from tfserve import tables, tasks
from tfserve.calibration import calibration_error, chance_error
from tfserve.errors import ModelError
from tfserve.evaluation import evaluate
from tfserve.evaluation.bootstrap import differences, intervals
from tfserve.evaluation.items import Collector
from tfserve.evaluation.notes import notes
from tfserve.evaluation.spans import Slip, slips
from tfserve.predictor import Predictor
from tfserve.tallies import Labels, Numbers


def tally(right: Any) -> Labels:
    """Of rows of which some are right."""
    return Labels([{("a",)}] * len(right), [{("a",)} if good else {("b",)} for good in right])


def test_an_interval_is_as_wide_as_chance_makes_it() -> None:
    right = np.arange(400) % 5 > 0  # 0.8, with a standard error of 0.02
    low, high = intervals(tally(right), ["accuracy"])["accuracy"]
    assert (low, high) == pytest.approx((0.8 - 0.0392, 0.8 + 0.0392), abs=0.006)
    assert intervals(tally([True] * 50), ["f1_macro"]) == {"f1_macro": (1.0, 1.0)}


def test_what_differs_by_more_than_chance_is_significant() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    good, better, alike = hard < 0.7, hard < 0.8, rng.permutation(hard) < 0.7
    found = differences(tally(better), tally(good), ["accuracy"])["accuracy"]
    assert found.one - found.other == pytest.approx(np.mean(better) - np.mean(good))
    assert found.significant and found.p < 0.01 and 0 < found.interval[0] < found.interval[1]
    found = differences(tally(good), tally(alike), ["accuracy"])["accuracy"]
    assert not found.significant and found.interval[0] < 0 < found.interval[1]
    assert differences(tally(good), tally(good), ["accuracy"])["accuracy"].p == 1.0


def test_regressions_are_compared_by_their_errors() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=300)
    near, far = (Numbers(gold, gold + rng.normal(0, off, 300)) for off in (0.3, 0.6))
    found = differences(near, far, ["rmse", "spearman"])
    assert found["rmse"].one == pytest.approx(0.3, abs=0.03)
    assert found["rmse"].interval[1] < 0 and found["rmse"].significant
    assert found["spearman"].interval[0] > 0 and found["spearman"].significant


def test_differences_of_f1_are_tested_on_the_metric_itself() -> None:
    """Of models with the same accuracy one may have the better F1 on a rare label."""
    rng = np.random.default_rng(0)
    rare = rng.random(600) < 0.1
    gold = [{("rare",)} if r else {("common",)} for r in rare]
    flat = Labels(gold, [{("common",)}] * 600)
    flips = rare ^ (rng.random(600) < 0.1)
    brave = Labels(gold, [{("rare",)} if f else {("common",)} for f in flips])
    found = differences(brave, flat, ["accuracy", "f1_macro"])
    assert found["f1_macro"].significant and found["f1_macro"].interval[0] > 0.1
    assert not found["accuracy"].significant


def test_models_that_know_different_labels_are_compared_over_all_of_them() -> None:
    gold = [{("a",)}, {("b",)}] * 20
    one, other = (Labels(gold, gold, space=tuple(space)) for space in ("abc", "ab"))
    found = differences(one, other, ["f1_macro"])["f1_macro"]
    assert found.one == found.other == pytest.approx(2 / 3) and found.p == 1


def test_a_label_that_one_model_invents_is_no_difference_of_all_rows() -> None:
    task = tasks.get("classif").fit(["a", "b", "c"])
    gold = ["a", "b"] * 500
    sure = [{"pred": label, "proba": 1.0} for label in gold]
    one, other = (task.tally(gold, [{"pred": odd, "proba": 1.0}, *sure[1:]]) for odd in ("c", "b"))
    found = differences(one, other, ["f1_macro", "accuracy"])
    assert not any(difference.significant for difference in found.values())
    assert found["f1_macro"].one == pytest.approx(0.9995, abs=0.0003)
    assert found["f1_macro"].other == pytest.approx(0.999, abs=0.0003)


@pytest.mark.parametrize("kept", [1.0, 0.8])
def test_an_interval_holds_its_metric_where_labels_are_rare(kept: float) -> None:
    rng = np.random.default_rng(0)
    gold = [{(f"{i % 40:02d}",)} if i < 60 else set() for i in range(200)]
    given = [row if rng.random() < kept else set() for row in gold]
    several = Labels(gold, given, space=tuple(f"{i:02d}" for i in range(41)))
    metric = several.scores()["f1_macro"]
    low, high = intervals(several, ["f1_macro"])["f1_macro"]
    assert low <= metric <= high and metric < 1  # the last label occurs nowhere, and counts
    assert high - low > 0.05 or kept == 1


def test_a_difference_does_not_depend_on_the_unit_of_the_target() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=60)
    near = gold + rng.normal(0, 0.1, 60)
    for differing, expected in ((1, 1.0), (5, 2 / 32)):
        far = near + 0.5 * np.sign(near - gold) * (np.arange(60) < differing)
        for unit in (1.0, 3e4):
            pair = Numbers(unit * gold, unit * near), Numbers(unit * gold, unit * far)
            found = differences(*pair, ["mse", "rmse"])
            assert all(d.p == pytest.approx(expected, abs=0.03) for d in found.values())


@pytest.mark.parametrize(
    ("task", "rows", "says"),
    [
        ("classif", [("great coffee", "delivery")] * 3, "Every row has the label delivery"),
        ("classif", [("great coffee", "x" * 99)] * 3, "does not know 1 of the labels (xxx"),
        ("regression", [("great", "3.5"), ("poor", "3.5")], "Every row has the target 3.500"),
        ("ner", [("we left", "O O")] * 2, "No row has an entity"),
        ("multilabel-classif", [("great coffee", "")] * 2, "No row has a label"),
        ("multilabel-classif", [("great coffee", '"food"')] * 2, "Every row has the label food"),
    ],
)
def test_a_file_that_tells_little_is_told_so(
    task: str, rows: list[Any], says: str, loaded: Loaded, tmp_path: Path
) -> None:
    predictor = loaded(task)
    file = tiny.table(tmp_path / "t.csv", rows, ("text", "labels"))
    found = evaluate(predictor, tables.read_table(file, type(predictor.task)))
    assert says in " ".join(notes(found))
    assert ("ece" in found.metrics) == (task != "regression" and "does not know" not in says)
    assert all(len(note) < 300 for note in notes(found))


def test_scores_are_taken_out_of_answers() -> None:
    task = tasks.get("classif").fit(["a", "b"])
    collector = Collector(task)
    given = [
        {"pred": "b", "scores": {"b": 0.9, "a": 0.1}},
        {"pred": "a", "scores": {"a": 0.6, "b": 0.4}},
    ]
    assert list(collector.without_scores(given)) == [{"pred": "b"}, {"pred": "a"}]
    items = collector.items(["b", "b"])
    assert items is not None and items.exclusive
    np.testing.assert_allclose(items.probabilities, [[0.1, 0.9], [0.6, 0.4]])
    assert items.truth.tolist() == [[False, True], [False, True]]
    assert items.right.tolist() == [True, False]
    assert items.calibration_error == pytest.approx((0.1 + 0.6) / 2)
    items = collector.items(["b", "unheard of"])  # which no probability is about
    assert items is not None and items.right.tolist() == [True]


def test_a_column_of_a_name_of_ours_is_the_table_s(loaded: Loaded, tmp_path: Path) -> None:
    predictor = loaded("regression")
    rows = [("great coffee", "1.0", "5"), ("cold food", "2.0", "6")]
    file = tiny.table(tmp_path / "t.csv", rows, ("text", "labels", "scores"))
    found = evaluate(predictor, tables.read_table(file, type(predictor.task)))
    assert [answer["scores"] for answer in found.answers] == ["5", "6"] and found.items is None


def test_scores_of_several_labels_and_of_words() -> None:
    several = tasks.get("multilabel-classif").fit([("a", "b")])
    collector = Collector(several)
    list(collector.without_scores([{"pred": [], "scores": {"a": 0.2, "b": 0.4}}]))
    items = collector.items([("b",)])
    assert items is not None and not items.exclusive
    assert items.confidence.tolist() == pytest.approx([0.2, 0.4])
    assert items.right.tolist() == [False, True]
    words = tasks.get("ner").fit([("B-X", "O")])
    collector = Collector(words)
    scores = [{"O": 0.7, "B-X": 0.2, "I-X": 0.1}, {"B-X": 0.5, "O": 0.4, "I-X": 0.1}]
    said = {"pred": ["O", "B-X", "O"], "proba": [0.7, 0.5, 0.0], "scores": [*scores, scores[0]]}
    list(collector.without_scores([said]))
    items = collector.items([("O", "O", "B-X")])
    assert items is not None and items.probabilities.shape == (2, 3)  # the third was not seen
    assert items.right.tolist() == [True, False]
    assert Collector(tasks.get("regression").fit([1.0, 2.0])).items([1.0]) is None


@pytest.mark.parametrize(
    ("gold", "given", "kinds"),
    [
        ("B-X I-X O", "B-X I-X O", []),
        ("B-X I-X O", "B-X O O", ["boundary"]),
        ("B-X I-X O", "B-Y I-Y O", ["type"]),
        ("B-X I-X O", "O B-Y I-Y", ["both"]),
        ("B-X I-X O", "O O O", ["missed"]),
        ("O O O", "O B-X O", ["invented"]),
        ("B-X I-X I-X", "B-X B-X B-X", ["boundary", "boundary", "boundary"]),
        ("B-X B-X O", "B-X I-X O", ["boundary", "boundary"]),
        ("B-X B-Y O", "B-X I-X B-Y", ["boundary", "both", "invented"]),
        ("B-X O B-X", "B-X O B-Y", ["type"]),
    ],
)
def test_an_error_of_an_entity_has_a_kind(gold: str, given: str, kinds: list[str]) -> None:
    tags = given.split()
    answer = {"pred": tags, "proba": [0.9] * len(tags)}
    found = slips([gold.split()], [answer])
    assert sorted(slip.kind for slip in found) == sorted(kinds)
    assert all((slip.gold is None) == (slip.kind == "invented") for slip in found)


def test_an_error_is_as_sure_as_the_words_of_what_was_given() -> None:
    gold, given = ["B-X", "I-X", "I-X", "O"], ["B-X", "O", "O", "B-X"]
    missed = {"pred": ["O"] * 4, "proba": [0.5, 0.25, 0.75, 0.9]}
    found = slips([gold, gold], [{"pred": given, "proba": [0.9, 0.8, 0.7, 0.6]}, missed])
    assert found == [
        Slip("boundary", 0, (0, 3, "X"), (0, 1, "X"), 0.9),
        Slip("invented", 0, None, (3, 4, "X"), 0.6),
        Slip("missed", 1, (0, 3, "X"), None, 0.5),
    ]


@pytest.mark.parametrize("task", tasks.names())
def test_a_model_is_evaluated_as_it_answers(task: str, loaded: Loaded, tmp_path: Any) -> None:
    predictor = loaded(task)
    table = tables.read_table(tiny.data(tmp_path, task) / "train.csv", type(predictor.task))
    found = evaluate(predictor, table)
    assert found.answers == predictor.predict(table.records)
    assert {k: v for k, v in found.metrics.items() if "ece" not in k} == predictor.task.metrics(
        table.labels, found.answers
    )
    assert found.known_as == "train"
    assert "trained on these very rows" in next(notes(found))
    for name in predictor.task.metric_names:
        low, high = found.intervals[name]
        assert low <= found.metrics[name] <= high, name
    assert found.as_dict()["intervals"].keys() == set(predictor.task.metric_names)
    assert found.tokens.tolist() == [
        len(predictor.encoder.tokenizer.encode(record.text).ids) for record in table.records
    ]
    if task == "regression":
        assert found.items is None
    else:
        assert found.items is not None
        assert found.items.calibration_error == found.metrics["ece"]
        assert found.items.chance_error == found.metrics["ece_chance"]


def test_rows_without_a_label_are_written_with_their_scores(
    trained: Trained, tmp_path: Path
) -> None:
    predictor = tfserve.load(trained("classif"))
    predictor.task = replace(predictor.task, abstain=0.5)  # type: ignore[type-var]
    table = tables.read_table(tiny.data(tmp_path, "classif") / "dev.csv", type(predictor.task))
    answers = predictor.predict(table.records)
    middle = sorted(answer["proba"] for answer in answers)[len(answers) // 2]
    predictor.task = replace(predictor.task, abstain=middle)  # type: ignore[type-var]
    evaluate(predictor, table).write_predictions(tmp_path / "predictions.jsonl")
    lines = (tmp_path / "predictions.jsonl").read_text("utf-8").splitlines()
    for line, answer in zip(map(json.loads, lines), predictor.predict(table.records), strict=True):
        assert {name: line.get(name) for name in ("pred", "scores")} == {
            "pred": answer["pred"], "scores": answer.get("scores"),
        }  # fmt: skip
    assert {json.loads(line)["pred"] is None for line in lines} == {True, False}


def test_a_model_that_answers_with_few_scores_is_evaluated_with_all(
    trained: Trained, tmp_path: Path
) -> None:
    predictor = tfserve.load(trained("classif"), parameters={"top_k": 1})
    table = tables.read_table(tiny.data(tmp_path, "classif") / "dev.csv", type(predictor.task))
    found = evaluate(predictor, table)
    assert found.items is not None
    assert found.items.probabilities.sum(-1) == pytest.approx(1, abs=1e-4)


def test_a_table_with_boxes_is_known_to_a_model_without(loaded: Loaded, tmp_path: Path) -> None:
    predictor = loaded("classif")
    plain = tables.read_table(
        tiny.data(tmp_path / "plain", "classif") / "dev.csv", type(predictor.task)
    )
    rows = [replace(row, record=replace(row.record, bbox=np.zeros((len(row.record.spans), 4), int)))
            for row in plain.rows]  # fmt: skip
    boxed = tables.Table("dev.csv", tuple(rows))
    assert boxed.fingerprint != plain.fingerprint == boxed.unboxed.fingerprint
    assert plain.unboxed is plain
    assert evaluate(predictor, boxed).known_as == evaluate(predictor, plain).known_as == "dev"


def test_a_table_that_dev_was_taken_from_is_known(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = loaded("classif")
    assert predictor.artifact is not None
    test = tables.read_table(tiny.data(tmp_path, "classif") / "test.csv", type(predictor.task))
    told = predictor.artifact.manifest.data["train"]
    monkeypatch.setitem(told, "fingerprint_with_dev", test.fingerprint)
    found = evaluate(predictor, test)
    assert found.known_as == "train with dev"
    assert next(notes(found)).startswith("The model was trained on most of these very rows")


def test_dev_is_known_and_other_rows_are_not(loaded: Loaded, tmp_path: Path) -> None:
    predictor = loaded("classif")
    folder = tiny.data(tmp_path, "classif")
    dev = tables.read_table(folder / "dev.csv", type(predictor.task))
    assert evaluate(predictor, dev).known_as == "dev"
    turned = tables.Table("turned", dev.rows[::-1])
    assert evaluate(predictor, turned).known_as == "dev"
    fewer = tables.Table("fewer", dev.rows[:-1])
    assert evaluate(predictor, fewer).known_as is None
    assert not any("dev table" in note for note in notes(evaluate(predictor, fewer)))


def test_what_is_chance_of_a_calibration_error_is_what_true_probabilities_show() -> None:
    rng = np.random.default_rng(0)
    sure = rng.beta(5, 1, 400)
    drawn = [calibration_error(sure, rng.random(400) < sure) for _ in range(500)]
    assert chance_error(sure) == pytest.approx(np.mean(drawn), rel=0.03)
    assert chance_error(np.ones(5)) == chance_error(np.zeros(0)) == 0


@pytest.mark.parametrize("task", ["classif", "regression", "ner"])
def test_a_model_that_computes_no_number_is_not_evaluated(
    task: str, loaded: Loaded, tmp_path: Path
) -> None:
    whole = loaded(task)

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(whole.engine, name)

        def run(self, *asked: Any, **more: Any) -> Any:
            return np.full_like(whole.engine.run(*asked, **more), np.nan)

    broken = Predictor(whole.task, whole.encoder, Broken())
    table = tables.read_table(tiny.data(tmp_path, task) / "dev.csv", type(whole.task))
    with pytest.raises(ModelError) as caught:
        evaluate(broken, table)
    assert caught.value.code == "model.not_finite"
