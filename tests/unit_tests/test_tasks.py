from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from seqeval.scheme import IOB2

from tfserve import tasks
from tfserve.arrays import softmax
from tfserve.errors import HParamsError, ParameterError, RecordError
from tfserve.parameters import Parameters
from tfserve.records import Record
from tfserve.tasks import Task
from tfserve.tasks.classif import Classif
from tfserve.tasks.common import (
    IGNORED,
    MAX_BALANCED_WEIGHT,
    given_weights,
    ranked_scores,
    unquoted,
)
from tfserve.tasks.multilabel import MultilabelClassif, split_labels
from tfserve.tasks.ner import Ner, entities, to_iob2
from tfserve.tasks.regression import Regression

ABC = Classif(("a", "b", "c"))
MULTI = MultilabelClassif(("a", "b", "c"))
TAGS = Ner(("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
SCORE = Regression(mean=3.0, std=0.5)
FITTED = [ABC, MULTI, TAGS, SCORE]
CALIBRATED: list[Any] = [
    Classif(("a", "b"), temperature=2.0, positive="a", threshold=0.25, abstain=0.125),
    MultilabelClassif(("a", "b"), temperatures=(2.0, 0.5), thresholds=(0.25, 0.75)),
    Ner(("O", "B-LOC", "I-LOC"), temperatures=(2.0, 0.5, 1.5)),
]
NOTHING = Parameters()


def record(words: int = 1) -> Record:
    return Record.parse(" ".join("w" * words))


def logs(*probabilities: float) -> np.ndarray[Any, Any]:
    """Logits whose softmax is these probabilities."""
    return np.log(np.array(probabilities)).astype(np.float32)


def logits_of(*probabilities: float) -> np.ndarray[Any, Any]:
    """Logits whose sigmoids are these probabilities."""
    odds = np.array(probabilities) / (1 - np.array(probabilities))
    return np.log(odds).astype(np.float32)


def answers(predictions: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"pred": prediction} for prediction in predictions]


def label_code(task: type[Task], cell: Any, words: int = 1) -> str:
    with pytest.raises(RecordError) as caught:
        task.parse_label(cell, record(words))
    assert caught.value.place == {"field": "labels"}
    return caught.value.code


# All tasks


def test_names() -> None:
    assert tasks.names() == ["classif", "multilabel-classif", "ner", "regression"]
    assert [tasks.get(name) for name in tasks.names()] == [
        Classif,
        MultilabelClassif,
        Ner,
        Regression,
    ]
    assert [tasks.get(name).name for name in tasks.names()] == tasks.names()


@pytest.mark.parametrize(
    ("name", "hint"),
    [("classification", "(did you mean classif?)"), ("NER", ""), ("multilabel", "multilabel-")],
)
def test_an_unknown_task_brings_the_known_ones(name: str, hint: str) -> None:
    with pytest.raises(HParamsError) as caught:
        tasks.get(name)
    assert f"found {name!r}; expected one of {', '.join(tasks.names())}" in caught.value.message
    assert hint in caught.value.message


@pytest.mark.parametrize("task", [*FITTED, *CALIBRATED], ids=lambda task: task.name)
def test_a_task_comes_back_from_its_state(task: Task) -> None:
    state = json.loads(json.dumps(task.state()))
    again = type(task)(**{k: tuple(v) if isinstance(v, list) else v for k, v in state.items()})
    assert again == task
    assert again.labels == task.labels


def test_every_attribute_of_a_task_is_tried() -> None:
    assert [type(task) for task in CALIBRATED] == [Classif, MultilabelClassif, Ner]
    for task in CALIBRATED:
        for field in dataclasses.fields(task):  # a default would come back from an empty state too
            assert getattr(task, field.name) != field.default, field.name


@pytest.mark.parametrize("task", FITTED, ids=lambda task: task.name)
def test_the_metric_that_chooses_a_model_is_one_of_the_metrics(task: Task) -> None:
    gold: dict[str, list[Any]] = {
        "classif": ["a", "b"],
        "multilabel-classif": [("a",), ("b", "c")],
        "ner": [("B-PER", "O"), ("O",)],
        "regression": [1.0, 2.0],
    }
    same = [list(label) if isinstance(label, tuple) else label for label in gold[task.name]]
    metrics = task.metrics(gold[task.name], answers(same))
    assert task.metric in task.metric_names
    assert {name for name, value in metrics.items() if isinstance(value, float)} == set(
        task.metric_names
    )


# Parameters


@pytest.mark.parametrize(
    ("raw", "task", "parsed"),
    [
        ({}, Classif, Parameters()),
        ({"top_k": 2}, Classif, Parameters(top_k=2)),
        ({"top_k": None, "threshold": None}, MultilabelClassif, Parameters()),
        ({"scores": True}, Ner, Parameters(scores=True)),
        ({"threshold": 0.25, "top_k": 1}, MultilabelClassif, Parameters(top_k=1, threshold=0.25)),
        ({"threshold": 1}, MultilabelClassif, Parameters(threshold=1)),
        ({"threshold": {"a": 0.5}}, MultilabelClassif, Parameters(threshold={"a": 0.5})),
        ({"threshold": {}}, MultilabelClassif, Parameters(threshold={})),
        ({"on_error": "record"}, Regression, Parameters(on_error="record")),
    ],
)
def test_parameters(raw: dict[str, Any], task: type[Task], parsed: Parameters) -> None:
    assert Parameters.parse(raw, task) == parsed


@pytest.mark.parametrize(
    ("name", "task"),
    [("topk", Classif), ("threshold", Regression), ("abstain", MultilabelClassif),
     ("threshold", Ner), ("scores", Regression), ("top_k", Regression), ("x" * 500, Classif)],
)  # fmt: skip
def test_a_parameter_that_means_nothing_here(name: str, task: type[Task]) -> None:
    with pytest.raises(ParameterError) as caught:
        Parameters.parse({name: 1}, task)
    assert caught.value.code == "parameters.unknown"
    assert f"{task.name} understands {', '.join((*task.parameters, 'on_error'))}" in str(
        caught.value
    )
    assert len(str(caught.value)) < 200


SHARES = "a number from 0 to 1, or an object of such numbers by label"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("top_k", 0, "a whole number of at least 1"),
        ("top_k", 1.5, "a whole number of at least 1"),
        ("top_k", True, "a whole number of at least 1"),
        ("top_k", "2", "a whole number of at least 1"),
        ("scores", 1, "true or false"),
        ("scores", "true", "true or false"),
        ("threshold", -0.1, SHARES),
        ("threshold", 1.1, SHARES),
        ("threshold", "0.5", SHARES),
        ("threshold", True, SHARES),
        ("threshold", math.nan, SHARES),
        pytest.param("threshold", 10**400, SHARES, id="enormous"),
        ("threshold", [0.5], SHARES),
        ("threshold", {"a": 1.5}, SHARES),
        ("threshold", {"a": {"b": 0.5}}, SHARES),
        ("on_error", "ignore", "raise or record"),
        ("on_error", ["raise"], "raise or record"),
        ("on_error", {}, "raise or record"),
    ],
)
def test_a_parameter_with_a_wrong_value(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Parameters.parse({name: value}, MultilabelClassif)
    assert caught.value.as_dict() == {
        "code": "parameters.value",
        "message": f"{name}: expected {expected}",
        "field": name,
    }


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@given(
    st.dictionaries(
        st.sampled_from(["top_k", "scores", "threshold", "on_error"]) | st.text(), anything
    ),
    st.sampled_from(tasks.names()),
)
def test_arbitrary_parameters_raise_nothing_but_parameter_errors(
    raw: dict[str, Any], name: str
) -> None:
    try:
        parsed = Parameters.parse(raw, tasks.get(name))
    except ParameterError as error:
        assert error.code in ("parameters.unknown", "parameters.value")
    else:
        assert parsed.top_k is None or parsed.top_k >= 1
        assert parsed.threshold is None or 0 <= parsed.threshold <= 1


# Scores


def test_softmax_sums_to_one_whatever_the_size() -> None:
    rows = softmax(np.array([[0.0, 0.0], [1000.0, 0.0], [-1000.0, -1000.0]], np.float32))
    assert rows.dtype == np.float64
    assert rows.tolist() == [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("parameters", "scores"),
    [
        (Parameters(), None),
        (Parameters(scores=True), {"b": 0.6, "a": 0.3, "c": 0.1}),
        (Parameters(top_k=2), {"b": 0.6, "a": 0.3}),
        (Parameters(top_k=2, scores=True), {"b": 0.6, "a": 0.3}),
        (Parameters(top_k=9), {"b": 0.6, "a": 0.3, "c": 0.1}),
        (Parameters(top_k=10**30), {"b": 0.6, "a": 0.3, "c": 0.1}),
    ],
)
def test_scores_come_best_first_as_far_as_asked(
    parameters: Parameters, scores: dict[str, float] | None
) -> None:
    found = ranked_scores(("a", "b", "c"), np.array([0.3, 0.6, 0.1]), parameters)
    assert found == scores
    assert list(found or {}) == list(scores or {})


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    scores = ranked_scores(("a", "b", "c"), np.array([0.2, 0.4, 0.4]), Parameters(top_k=2))
    assert list(scores or {}) == ["b", "c"]


def test_scores_are_rounded_to_six_decimals() -> None:
    scores = ranked_scores(("a", "b"), np.array([1 / 3, 2 / 3]), Parameters(scores=True))
    assert scores == {"b": 0.666667, "a": 0.333333}


def test_given_weights_are_one_where_nothing_is_given() -> None:
    assert given_weights({"b": 3.0}, ("a", "b")).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("task", [ABC, MULTI, TAGS], ids=lambda task: task.name)
def test_a_weight_of_an_unknown_label(task: Task) -> None:
    with pytest.raises(HParamsError) as caught:
        task.class_weights({"zebra": 2.0}, [])
    assert caught.value.code == "hparams.value"
    assert "found the label 'zebra'; train has " in caught.value.message


def test_regression_has_no_classes_to_weigh() -> None:
    with pytest.raises(HParamsError, match="regression has no classes to weigh"):
        SCORE.class_weights("balanced", [1.0])


@pytest.mark.parametrize(
    ("task", "one", "other", "distance"),
    [
        (ABC, {"scores": {"a": 0.5, "b": 0.5}}, {"scores": {"b": 0.7, "a": 0.3}}, 0.2),
        (TAGS, {"scores": [{"O": 1.0}, {"O": 0.2}]}, {"scores": [{"O": 0.9}, {"O": 0.5}]}, 0.3),
        (SCORE, {"pred": 3.0}, {"pred": 2.0}, 2.0),
    ],
)
def test_distance_between_answers(task: Task, one: Any, other: Any, distance: float) -> None:
    assert task.distance(one, other) == pytest.approx(distance)
    assert task.distance(one, one) == 0.0


def test_the_parameters_that_make_answers_comparable() -> None:
    assert [task.all_scores for task in FITTED] == [{"scores": True, "top_k": None}] * 3 + [{}]


# classif


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        ("tech", "tech"),
        ("  tech ", "tech"),
        ('"tech"', "tech"),
        ('"My category"', "My category"),
        ('"a ""b"" c"', 'a "b" c'),
        ('12" disc', '12" disc'),
        ('"', '"'),
        ("a,b", "a,b"),
        (3, "3"),
        (True, "true"),
    ],
)
def test_classif_labels(cell: Any, label: str) -> None:
    assert Classif.parse_label(cell, record()) == label


@pytest.mark.parametrize("cell", ["", "  ", '""', '" "', None, ["a"], {}, 1.5])
def test_classif_without_one_label(cell: Any) -> None:
    assert label_code(Classif, cell) == "label.empty"


@pytest.mark.parametrize(
    ("cell", "plain"), [('"a"', "a"), ("a", "a"), ('"a', '"a'), ('""', ""), (' "a " ', "a")]
)
def test_unquoted(cell: str, plain: str) -> None:
    assert unquoted(cell) == plain


def test_classif_labels_are_sorted() -> None:
    assert Classif.fit(["b", "c", "a", "b"]).labels == ("a", "b", "c")
    assert Classif.fit(["b", "a"]).labels == ("a", "b")


def test_classif_needs_two_labels() -> None:
    with pytest.raises(RecordError, match="found one label only, 'a'"):
        Classif.fit(["a", "a"])


def test_classif_counts_and_unseen_labels() -> None:
    assert Classif.label_counts(["b", "a", "b"]) == {"a": 1, "b": 2}
    assert Classif.unseen(["b", "a"], ["c", "a", "A"]) == ["A", "c"]
    assert list(Classif.strata(["b", "a"])) == ["b", "a"]


def test_classif_targets() -> None:
    assert [int(ABC.target(label)) for label in ("a", "c", "unknown")] == [0, 2, IGNORED]


def test_classif_loss_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [3.0, -1.0, 0.0]])
    targets = torch.tensor([1, 2, IGNORED])
    weights = torch.tensor([1.0, 2.0, 0.5])
    first = -(2.0 - math.log(math.exp(1.0) + math.exp(2.0) + math.exp(0.5)))
    second = math.log(3)
    assert ABC.loss_sum(logits, targets, None).item() == pytest.approx(first + second)
    assert ABC.loss_sum(logits, targets, weights).item() == pytest.approx(2 * first + 0.5 * second)
    assert ABC.normaliser(targets.numpy(), None) == 2.0
    assert ABC.normaliser(targets.numpy(), weights.numpy()) == 2.5


def test_classif_loss_over_its_normaliser_is_the_weighted_mean_of_torch() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(8, 3), torch.randint(0, 3, (8,))
    weights = torch.tensor([0.3, 1.0, 4.0])
    for chosen in (None, weights):
        mean = ABC.loss_sum(logits, targets, chosen) / ABC.normaliser(
            targets.numpy(), None if chosen is None else chosen.numpy()
        )
        expected = torch.nn.functional.cross_entropy(logits, targets, chosen)
        assert mean.item() == pytest.approx(expected.item())


def test_classif_weights() -> None:
    balanced = ABC.class_weights("balanced", ["a"] * 6 + ["b"] * 2 + ["c"])
    assert balanced.tolist() == pytest.approx([0.5, 1.5, 3.0])
    assert balanced.dtype == np.float32
    assert ABC.class_weights({"c": 2.5}, []).tolist() == [1.0, 1.0, 2.5]
    rare = ABC.class_weights("balanced", ["a"] * 9000 + ["b"] * 999 + ["c"])
    assert (rare / rare[0]).tolist() == pytest.approx([1, 9000 / 999, MAX_BALANCED_WEIGHT])


def test_thresholds_of_some_labels_leave_the_others_as_they_are() -> None:
    task = MultilabelClassif(("a", "b", "c"), thresholds=(0.9, 0.6, 0.6))
    plain = MultilabelClassif(("a", "b", "c"))
    logits = [np.array([0.0, 0.0, 1.0])]  # probabilities of a half, a half and 0.73
    for one, asked, expected in (
        (task, None, ["c"]), (task, {"a": 0.5}, ["c", "a"]), (task, {"c": 0.8, "b": 0.1}, ["b"]),
        (plain, {"b": 0.6}, ["c", "a"]), (plain, {}, ["c", "a", "b"]),
    ):  # fmt: skip
        [answer] = one.decode(logits, [], Parameters(threshold=asked))
        assert answer["pred"] == expected, asked
    with pytest.raises(ParameterError, match=r"found the label 'd'; the model has a, b, c"):
        task.check(Parameters(threshold={"a": 0.5, "d": 0.5}))
    with pytest.raises(ParameterError, match=r"threshold: expected a number"):
        Classif(("a", "b")).check(Parameters(threshold={"a": 0.5}))


def test_an_answer_without_a_label_has_the_scores_of_all() -> None:
    logits = [np.array([1.0, 0.9, 0.8])]
    [answer] = ABC.decode(logits, [], Parameters(top_k=1, abstain=0.9))
    assert answer["pred"] is None and answer["scores"].keys() == {"a", "b", "c"}
    [answer] = ABC.decode(logits, [], Parameters(top_k=1, abstain=0.1))
    assert answer["pred"] == "a" and answer["scores"].keys() == {"a"}


def test_classif_answers() -> None:
    logits = [logs(0.2, 0.7, 0.1), logs(0.5, 0.25, 0.25)]
    assert ABC.decode(logits, [record()] * 2, NOTHING) == [
        {"pred": "b", "proba": 0.7},
        {"pred": "a", "proba": 0.5},
    ]
    assert ABC.decode(logits[:1], [record()], Parameters(top_k=2)) == [
        {"pred": "b", "proba": 0.7, "scores": {"b": 0.7, "a": 0.2}}
    ]
    assert ABC.decode(logits[:1], [record()], Parameters(scores=True)) == [
        {"pred": "b", "proba": 0.7, "scores": {"b": 0.7, "a": 0.2, "c": 0.1}}
    ]


def test_classif_metrics_by_hand() -> None:
    metrics = ABC.metrics(["a", "a", "b", "c"], answers(["a", "b", "b", "a"]))
    assert metrics["accuracy"] == 0.5
    assert metrics["f1_macro"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert metrics["f1_weighted"] == pytest.approx((2 * 1 / 2 + 2 / 3 + 0) / 4)
    assert metrics["per_label"] == {
        "a": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2.0},
        "b": {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1.0},
        "c": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1.0},
    }


def test_a_label_that_train_lacks_is_an_error_of_classif() -> None:
    metrics = ABC.metrics(["a", "new"], answers(["a", "a"]))
    assert metrics["accuracy"] == 0.5
    assert metrics["f1_macro"] == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["per_label"]["new"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abc")), min_size=1))
def test_classif_metrics_are_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [list(side) for side in zip(*pairs, strict=True)]
    metrics = ABC.metrics(gold, answers(predicted))
    f1 = sklearn.metrics.f1_score
    assert metrics["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(gold, predicted))
    for average in ("macro", "weighted"):
        expected = f1(gold, predicted, average=average, zero_division=0)
        assert metrics[f"f1_{average}"] == pytest.approx(expected)
    for label, scores in metrics["per_label"].items():
        one = f1(gold, predicted, labels=[label], average="macro", zero_division=0)
        assert scores["f1"] == pytest.approx(one)
        assert scores["support"] == gold.count(label)


# multilabel-classif


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ('"My category","other"', ("My category", "other")),
        ("My category,other", ("My category", "other")),
        ('"""My category"",""other"""', ("My category", "other")),
        ('"""a"",""b"""', ("a", "b")),
        ('"a"', ("a",)),
        ('"""a"""', ("a",)),
        ("a", ("a",)),
        (' "a" , "b" ', ("a", "b")),
        ("b, a", ("a", "b")),
        ('"a, b","c"', ("a, b", "c")),
        ('"""a, b"",""c"""', ("a, b", "c")),
        ("a,a", ("a",)),
        ("", ()),
        ("  ", ()),
        ('""', ()),
        ('""""""', ()),
        (None, ()),
        ([], ()),
        (["b", " a "], ("a", "b")),
        (["a,b"], ("a,b",)),
    ],
)
def test_multilabel_labels(cell: Any, labels: tuple[str, ...]) -> None:
    assert MultilabelClassif.parse_label(cell, record()) == labels


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("a,,b", "label.empty"),
        ("a,", "label.empty"),
        (",", "label.empty"),
        ('"a",""', "label.empty"),
        (["a", ""], "label.empty"),
        (["a", 1], "label.type"),
        (5, "label.type"),
        ({"a": 1}, "label.type"),
    ],
)
def test_bad_multilabel_labels(cell: Any, code: str) -> None:
    assert label_code(MultilabelClassif, cell) == code


@pytest.mark.parametrize("cell", ["a\nb", "a\rb", 'a,b\r\n"c"', '"a\nb",c\rd'])
def test_a_line_break_between_multilabel_labels_costs_its_row(cell: str) -> None:
    assert label_code(MultilabelClassif, cell) == "label.line_break"


@pytest.mark.parametrize(
    ("cell", "labels"),
    [('"a\nb"', ("a\nb",)), ('"a\nb",c', ("a\nb", "c")), ('c,"a\r\nb"', ("a\r\nb", "c"))],
)
def test_a_line_break_inside_quotes_is_part_of_its_label(
    cell: str, labels: tuple[str, ...]
) -> None:
    assert MultilabelClassif.parse_label(cell, record()) == labels


names = st.text(st.characters(exclude_characters='"\t\n\r\0', exclude_categories=["Cs"]))
names = names.map(str.strip).filter(bool)


def quoted(labels: list[str]) -> str:
    return ",".join(f'"{label}"' for label in labels)


def escaped(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if '"' in cell else cell


@given(st.lists(names))
def test_quoted_and_escaped_cells_mean_the_same(labels: list[str]) -> None:
    expected = tuple(sorted(set(labels)))
    assert MultilabelClassif.parse_label(quoted(labels), record()) == expected
    assert MultilabelClassif.parse_label(escaped(quoted(labels)), record()) == expected
    assert MultilabelClassif.parse_label(labels, record()) == expected


@given(st.lists(names.filter(lambda label: "," not in label)))
def test_a_bare_cell_means_the_same_too(labels: list[str]) -> None:
    assert split_labels(",".join(labels)) == split_labels(quoted(labels)) == labels


@given(st.text('ab,"" \n\r') | anything)
@example("a\rb")
def test_arbitrary_multilabel_cells_raise_nothing_but_record_errors(cell: Any) -> None:
    try:
        labels = MultilabelClassif.parse_label(cell, record())
    except RecordError as error:
        assert error.code.startswith("label.")
    else:
        assert list(labels) == sorted(set(labels))
        assert all(label == label.strip() != "" for label in labels)


def test_multilabel_label_space() -> None:
    assert MultilabelClassif.fit([("b",), (), ("a", "c")]).labels == ("a", "b", "c")
    with pytest.raises(RecordError, match="found no label in any row"):
        MultilabelClassif.fit([(), ()])


def test_multilabel_rows_are_stratified_by_their_rarest_label() -> None:
    rows = [("a", "b"), ("a",), ("a", "c"), (), ("b",)]
    assert list(MultilabelClassif.strata(rows)) == ["b", "a", "c", "", "b"]


def test_multilabel_counts_and_unseen_labels() -> None:
    assert MultilabelClassif.label_counts([("b", "a"), ("b",), ()]) == {"a": 1, "b": 2}
    assert MultilabelClassif.unseen([("a",)], [("b", "a"), ("z",)]) == ["b", "z"]


def test_multilabel_targets() -> None:
    assert MULTI.target(("c", "a", "unknown")).tolist() == [1.0, 0.0, 1.0]
    assert MULTI.target(()).tolist() == [0.0, 0.0, 0.0]
    assert MULTI.target(()).dtype == np.float32


def test_multilabel_loss_by_hand() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0, 1.0]])
    parts = [math.log1p(math.exp(-1)), math.log1p(math.exp(-2)), math.log(2)]
    assert MULTI.loss_sum(logits, targets, None).item() == pytest.approx(sum(parts))
    weights = torch.tensor([3.0, 9.0, 0.5])  # of the positive rows only, whose odds they multiply
    weighted = 3 * math.log1p(math.exp(-1) / 3) + math.log1p(9 * math.exp(-2))
    weighted += 0.5 * math.log1p(1 / 0.5)
    assert MULTI.loss_sum(logits, targets, weights).item() == pytest.approx(weighted)
    assert MULTI.normaliser(targets.numpy(), weights.numpy()) == 3.0


def test_multilabel_weights() -> None:
    rows: list[tuple[str, ...]] = [("a",)] * 50 + [("b",)] * 25 + [("c",)]
    balanced = MULTI.class_weights("balanced", rows)
    assert balanced.tolist() == pytest.approx([1.0, 51 / 25, MAX_BALANCED_WEIGHT])
    assert MULTI.class_weights({"b": 4}, rows).tolist() == [1.0, 4.0, 1.0]


def test_multilabel_answers() -> None:
    logits = [logits_of(0.6, 0.9, 0.1), logits_of(0.2, 0.3, 0.4)]
    records = [record()] * 2
    assert MULTI.decode(logits, records, NOTHING) == [
        {"pred": ["b", "a"], "proba": [0.9, 0.6]},
        {"pred": [], "proba": []},
    ]
    assert MULTI.decode(logits[1:], records[1:], Parameters(threshold=0.3 - 1e-6)) == [
        {"pred": ["c", "b"], "proba": [0.4, 0.3]}
    ]
    assert MULTI.decode(logits[:1], records[:1], Parameters(threshold=0.95, top_k=1)) == [
        {"pred": [], "proba": [], "scores": {"b": 0.9}}
    ]
    assert MULTI.decode(logits[:1], records[:1], Parameters(threshold=0, scores=True)) == [
        {
            "pred": ["b", "a", "c"],
            "proba": [0.9, 0.6, 0.1],
            "scores": {"b": 0.9, "a": 0.6, "c": 0.1},
        }
    ]


def test_a_probability_of_one_half_is_enough() -> None:
    logits = [np.zeros(3, np.float32)]
    assert MULTI.decode(logits, [record()], NOTHING)[0]["pred"] == ["a", "b", "c"]


def test_multilabel_survives_extreme_logits() -> None:
    answer = MULTI.decode([np.array([80.0, -80.0, 0.1], np.float32)], [record()], NOTHING)[0]
    assert answer == {"pred": ["a", "c"], "proba": [1.0, pytest.approx(0.524979)]}


def test_multilabel_metrics_by_hand() -> None:
    gold = [("a", "b"), ("a",), (), ("c",)]
    metrics = MULTI.metrics(gold, answers([["a"], ["b", "a"], [], []]))
    assert metrics["f1_micro"] == pytest.approx(4 / 7)
    assert metrics["f1_macro"] == pytest.approx(1 / 3)
    assert metrics["f1_samples"] == pytest.approx((2 / 3 + 2 / 3 + 1 + 0) / 4)
    assert metrics["subset_accuracy"] == 0.25
    assert metrics["per_label"]["a"] == {"precision": 1, "recall": 1, "f1": 1, "support": 2}
    assert metrics["per_label"]["b"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}


def test_a_label_that_train_lacks_is_an_error_of_multilabel() -> None:
    metrics = MULTI.metrics([("a", "new"), ("a",)], answers([["a"], ["a"]]))
    assert metrics["f1_micro"] == pytest.approx(4 / 5)
    assert metrics["subset_accuracy"] == 0.5
    assert metrics["per_label"]["new"]["support"] == 1.0


def test_multilabel_metrics_of_a_single_label() -> None:
    task = MultilabelClassif(("a",))
    metrics = task.metrics([("a",), ("a",), (), ()], answers([["a"], [], ["a"], []]))
    assert metrics == {
        "f1_micro": 0.5,
        "f1_macro": 0.5,
        "f1_samples": 0.5,
        "subset_accuracy": 0.5,
        "per_label": {"a": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2.0}},
    }


subsets = st.sets(st.sampled_from("abcd"))


@given(st.lists(st.tuples(subsets, st.sets(st.sampled_from("abc"))), min_size=1))
def test_multilabel_metrics_are_those_of_scikit_learn(pairs: list[tuple[set[str], Any]]) -> None:
    gold = [tuple(sorted(truth)) for truth, _ in pairs]
    space = sorted({"a", "b", "c"}.union(*gold))
    truth, guess = (
        np.array([[label in row[side] for label in space] for row in pairs], dtype=int)
        for side in (0, 1)
    )
    metrics = MULTI.metrics(gold, answers([sorted(predicted) for _, predicted in pairs]))
    for average in ("micro", "macro"):
        expected = sklearn.metrics.f1_score(truth, guess, average=average, zero_division=0)
        assert metrics[f"f1_{average}"] == expected
    samples = [
        2 * len(right & found) / (len(right) + len(found)) if right or found else 1.0
        for right, found in pairs
    ]
    assert metrics["f1_samples"] == pytest.approx(np.mean(samples))
    assert metrics["subset_accuracy"] == np.mean([right == found for right, found in pairs])


# ner


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        ("O B-PER I-PER", ("O", "B-PER", "I-PER")),
        (" O  B-PER\tI-PER ", ("O", "B-PER", "I-PER")),
        ("O I-PER I-PER", ("O", "B-PER", "I-PER")),
        ("B I O", ("B", "I", "O")),
        ("O I I", ("O", "B", "I")),
        ("B-PER E-PER S-LOC", ("B-PER", "I-PER", "B-LOC")),
        ("B-PER L-PER U-LOC", ("B-PER", "I-PER", "B-LOC")),
        ("S O E", ("B", "O", "B")),
        ("B-a-b I-a-b O", ("B-a-b", "I-a-b", "O")),
        (["O", "B-PER", "I-LOC"], ("O", "B-PER", "B-LOC")),
    ],
)
def test_ner_labels(cell: Any, tags: tuple[str, ...]) -> None:
    assert Ner.parse_label(cell, record(3)) == tags


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("O O", "label.count"),
        ("O O O O", "label.count"),
        ("", "label.count"),
        ("O O PER", "label.tag"),
        ("O O o", "label.tag"),
        ("O O B-", "label.tag"),
        ("O O X-PER", "label.tag"),
        ("O O O-PER", "label.tag"),
        ("O O BPER", "label.tag"),
        (["O", "O", "B-a b"], "label.tag"),
        (["O", "O", ""], "label.tag"),
        (["O", "O", 1], "label.type"),
        (None, "label.type"),
        ({}, "label.type"),
    ],
)
def test_bad_ner_labels(cell: Any, code: str) -> None:
    assert label_code(Ner, cell, words=3) == code


kinds = st.sampled_from(["", "-PER", "-LOC", "-a-b", "-B"])
prefixed = st.builds("{}{}".format, st.sampled_from("BIESLU"), kinds)
any_tags = st.lists(st.just("O") | prefixed, min_size=1, max_size=12)


@given(any_tags)
def test_to_iob2_gives_valid_iob2_and_changes_no_type(tags: list[str]) -> None:
    fixed = to_iob2(tags)
    assert [tag[1:] for tag in fixed] == [tag[1:] for tag in tags]
    assert [tag == "O" for tag in fixed] == [tag == "O" for tag in tags]
    for before, tag in zip(["O", *fixed], fixed, strict=False):
        assert tag[0] in "OBI"
        assert tag[0] != "I" or (before != "O" and before[1:] == tag[1:])


@given(any_tags)
def test_to_iob2_is_idempotent(tags: list[str]) -> None:
    assert to_iob2(to_iob2(tags)) == to_iob2(tags)


@given(any_tags)
def test_what_is_iob2_stays_as_it_is(tags: list[str]) -> None:
    assume(all(tag[0] in "OBI" for tag in tags))
    valid = all(
        tag[0] != "I" or (before != "O" and before[1:] == tag[1:])
        for before, tag in zip(["O", *tags], tags, strict=False)
    )
    assert (to_iob2(tags) == tags) == valid


# A sentence as runs of words: an entity's type (such as "-PER") or None outside, and its length.
runs = st.lists(st.tuples(st.none() | kinds, st.integers(1, 4)), min_size=1, max_size=6)


def written(sentence: list[tuple[str | None, int]], scheme: str) -> list[str]:
    first, inside, last, single = {
        "IOB2": "BIIB",
        "BIOES": "BIES",
        "BILOU": "BILU",
    }[scheme]
    tags: list[str] = []
    for kind, length in sentence:
        if kind is None:
            tags += ["O"] * length
        elif length == 1:
            tags.append(single + kind)
        else:
            tags += [first + kind, *[inside + kind] * (length - 2), last + kind]
    return tags


def written_in_iob1(sentence: list[tuple[str | None, int]]) -> list[str]:
    """B only where an entity follows another of the same type at once."""
    tags: list[str] = []
    for kind, length in sentence:
        if kind is None:
            tags += ["O"] * length
        else:
            begins = "B" if tags and tags[-1] != "O" and tags[-1][1:] == kind else "I"
            tags += [begins + kind, *["I" + kind] * (length - 1)]
    return tags


def expected_entities(sentence: list[tuple[str | None, int]]) -> list[tuple[int, int, str | None]]:
    found, start = [], 0
    for kind, length in sentence:
        if kind is not None:
            found.append((start, start + length, kind[1:] or None))
        start += length
    return found


@given(runs)
@example([("-PER", 1), ("-PER", 2), ("-LOC", 1), ("", 2), ("", 1), (None, 1)])
def test_every_scheme_gives_the_same_entities(sentence: list[tuple[str | None, int]]) -> None:
    expected = expected_entities(sentence)
    iob2 = written(sentence, "IOB2")
    assert list(entities(iob2)) == expected
    for tags in (
        iob2,
        written(sentence, "BIOES"),
        written(sentence, "BILOU"),
        written_in_iob1(sentence),
    ):
        assert to_iob2(tags) == iob2


@given(runs)
def test_bare_tags_give_the_same_borders(sentence: list[tuple[str | None, int]]) -> None:
    bare = [(None if kind is None else "", length) for kind, length in sentence]
    borders = [(first, last, None) for first, last, _ in expected_entities(sentence)]
    assert list(entities(to_iob2(written(bare, "IOB2")))) == borders


def test_ner_label_space() -> None:
    assert Ner.fit([("O", "B-PER"), ("B-LOC", "I-LOC")]).labels == TAGS.labels
    assert Ner.fit([("O", "B", "I")]).labels == ("O", "B", "I")
    with pytest.raises(RecordError, match="found only O tags"):
        Ner.fit([("O",), ("O", "O")])


def test_ner_counts_unseen_types_and_strata() -> None:
    rows = [("B-X", "I-X", "B-X"), ("B-Y", "B-X"), ("O",)]
    assert Ner.label_counts(rows) == {"X": 3, "Y": 1}
    assert Ner.label_counts([("B", "I", "O")]) == {"": 1}
    assert Ner.unseen(rows, [("B-Z", "B-X")]) == ["Z"]
    assert list(Ner.strata(rows)) == ["-X", "-Y", ""]


def test_ner_targets() -> None:
    target = TAGS.target(("O", "B-PER", "I-LOC", "B-NEW"))
    assert target.tolist() == [0, 3, 2, IGNORED]
    assert target.dtype == np.int64


def test_ner_loss_by_hand() -> None:
    task = Ner(("O", "B", "I"))
    logits = torch.tensor([[[1.0, 2.0, 0.5], [9.0, 9.0, 9.0]], [[0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]])
    targets = torch.tensor([[1, IGNORED], [0, 1]])
    parts = [
        -(2.0 - math.log(math.exp(1.0) + math.exp(2.0) + math.exp(0.5))),
        math.log(3),
        -(3.0 - math.log(2 + math.exp(3.0))),
    ]
    weights = torch.tensor([0.5, 2.0, 1.0])
    assert task.loss_sum(logits, targets, None).item() == pytest.approx(sum(parts))
    weighted = 2 * parts[0] + 0.5 * parts[1] + 2 * parts[2]
    assert task.loss_sum(logits, targets, weights).item() == pytest.approx(weighted)
    assert task.normaliser(targets.numpy(), None) == 3.0
    assert task.normaliser(targets.numpy(), weights.numpy()) == 4.5


def test_ner_weights() -> None:
    rows = [("O",) * 7 + ("B-PER", "I-PER", "B-LOC")]
    balanced = TAGS.class_weights("balanced", rows)
    assert balanced.tolist() == pytest.approx([2 / 7, 2.0, 1.0, 2.0, 2.0])  # no I-LOC: 1
    assert TAGS.class_weights({"PER": 3, "O": 0.5}, rows).tolist() == [0.5, 1, 1, 3, 3]
    assert TAGS.class_weights({"B-LOC": 4}, rows).tolist() == [1, 4, 1, 1, 1]


def tag_logits(*words: str | None) -> np.ndarray[Any, Any]:
    """Rows with a probability of 0.6 for the tag and 0.1 for each other; NaN for None."""
    rows = [
        logs(*(0.6 if tag == word else 0.1 for tag in TAGS.labels))
        if word
        else np.full(5, np.nan, np.float32)
        for word in words
    ]
    return np.stack(rows)


def test_ner_answers() -> None:
    text = "  Ann  Lee\tsaw New York "
    logits = tag_logits("B-PER", "I-PER", "O", "B-LOC", "I-LOC")
    logits[4] = logs(0.1, 0.05, 0.8, 0.03, 0.02)
    assert TAGS.decode([logits], [Record.parse(text)], NOTHING) == [
        {
            "pred": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"],
            "proba": [0.6, 0.6, 0.6, 0.6, 0.8],
            "entities": [
                {"label": "PER", "text": "Ann  Lee", "start": 2, "end": 10, "proba": 0.6},
                {"label": "LOC", "text": "New York", "start": 15, "end": 23, "proba": 0.7},
            ],
        }
    ]
    assert text[2:10] == "Ann  Lee"
    assert text[15:23] == "New York"


def test_ner_answers_are_valid_iob2() -> None:
    logits = tag_logits("I-PER", "I-LOC", "O", "I-LOC")
    answer = TAGS.decode([logits], [record(4)], NOTHING)[0]
    assert answer["pred"] == ["B-PER", "B-LOC", "O", "B-LOC"]
    assert [found["label"] for found in answer["entities"]] == ["PER", "LOC", "LOC"]


def test_a_word_that_the_model_did_not_see_is_outside_without_confidence() -> None:
    answer = TAGS.decode([tag_logits("B-PER", None, "I-PER", None)], [record(4)], NOTHING)[0]
    assert answer["pred"] == ["B-PER", "O", "B-PER", "O"]
    assert answer["proba"] == [0.6, 0.0, 0.6, 0.0]
    nothing = TAGS.decode([tag_logits(None, None)], [record(2)], NOTHING)[0]
    assert nothing == {"pred": ["O", "O"], "proba": [0.0, 0.0], "entities": []}


def test_ner_answers_to_given_words() -> None:
    words = Record.parse({"words": ["New York", "is", "big"]})
    answer = TAGS.decode([tag_logits("B-LOC", "O", "O")], [words], NOTHING)[0]
    assert answer["entities"] == [
        {"label": "LOC", "text": "New York", "start": 0, "end": 8, "proba": 0.6}
    ]


def test_bare_ner_answers_have_no_label() -> None:
    logits = np.stack([logs(0.1, 0.8, 0.1), logs(0.1, 0.1, 0.8)])
    answer = Ner(("O", "B", "I")).decode([logits], [record(2)], NOTHING)[0]
    assert answer["pred"] == ["B", "I"]
    assert answer["entities"] == [
        {"label": None, "text": "w w", "start": 0, "end": 3, "proba": 0.8}
    ]


def test_ner_scores() -> None:
    logits = [tag_logits("B-PER", "O")]
    assert "scores" not in TAGS.decode(logits, [record(2)], NOTHING)[0]
    top = TAGS.decode(logits, [record(2)], Parameters(top_k=1))[0]
    assert top["scores"] == [{"B-PER": 0.6}, {"O": 0.6}]
    scores = TAGS.decode(logits, [record(2)], Parameters(scores=True))[0]["scores"]
    assert list(scores[0]) == ["B-PER", "O", "B-LOC", "I-LOC", "I-PER"]
    assert list(scores[0].values()) == [0.6, 0.1, 0.1, 0.1, 0.1]


def test_every_record_is_answered_with_a_tag_a_word() -> None:
    records = [record(1), record(3), record(2)]
    logits = [tag_logits(*["O"] * len(found.spans)) for found in records]
    assert [len(a["pred"]) for a in TAGS.decode(logits, records, NOTHING)] == [1, 3, 2]


def test_ner_metrics_by_hand() -> None:
    gold = [("B-PER", "I-PER", "O", "B-LOC"), ("O", "B-LOC")]
    guess = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "O"]]
    metrics = TAGS.metrics(gold, answers(guess))
    assert metrics["precision"] == pytest.approx(1 / 3)
    assert metrics["recall"] == pytest.approx(1 / 3)
    assert metrics["f1"] == pytest.approx(1 / 3)
    assert metrics["word_accuracy"] == pytest.approx(3 / 6)
    assert metrics["per_label"] == {
        "LOC": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2.0},
        "PER": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1.0},
    }


@pytest.mark.parametrize(
    ("gold", "guess", "accuracy"),
    [
        (("O", "O"), ["O", "O"], 1.0),
        (("O", "O"), ["B-PER", "O"], 0.5),
        (("B-PER", "O"), ["O", "O"], 0.5),
        (("B-NEW", "O"), ["B-PER", "O"], 0.5),
    ],
)
def test_ner_metrics_without_a_right_entity(
    gold: tuple[str, ...], guess: list[str], accuracy: float
) -> None:
    metrics = TAGS.metrics([gold], answers([guess]))
    assert [metrics[name] for name in TAGS.metric_names] == [0.0, 0.0, 0.0, accuracy]


def test_ner_metrics_of_bare_tags() -> None:
    task = Ner(("O", "B", "I"))
    metrics = task.metrics([("B", "I", "O", "B")], answers([["B", "I", "O", "O"]]))
    assert (metrics["precision"], metrics["recall"]) == (1.0, 0.5)
    assert metrics["f1"] == pytest.approx(2 / 3)


typed = st.just("O") | st.builds("{}-{}".format, st.sampled_from("BI"), st.sampled_from("XY"))
sentences = st.lists(st.tuples(typed, typed), min_size=1, max_size=8)


@given(st.lists(sentences, min_size=1, max_size=4))
def test_ner_metrics_are_those_of_seqeval(pairs: list[list[tuple[str, str]]]) -> None:
    gold = [to_iob2([truth for truth, _ in sentence]) for sentence in pairs]
    guess = [to_iob2([found for _, found in sentence]) for sentence in pairs]
    assume(any(tag != "O" for tags in (*gold, *guess) for tag in tags))
    metrics = Ner(("O", "B-X", "I-X", "B-Y", "I-Y")).metrics(
        [tuple(tags) for tags in gold], answers(guess)
    )
    strict: Any = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    for name in ("precision", "recall", "f1"):
        expected = getattr(seqeval.metrics, f"{name}_score")(gold, guess, **strict)
        assert metrics[name] == pytest.approx(expected), name
    right = len(
        {(n, *found) for n, tags in enumerate(gold) for found in entities(tags)}
        & {(n, *found) for n, tags in enumerate(guess) for found in entities(tags)}
    )
    total = sum(len(list(entities(tags))) for tags in (*gold, *guess))
    assert metrics["f1"] == pytest.approx(2 * right / total)


# regression


@pytest.mark.parametrize(
    ("cell", "value"),
    [("3.5", 3.5), (" -2 ", -2.0), ('"1e3"', 1000.0), (4, 4.0), (0.25, 0.25), ("+.5", 0.5)],
)
def test_regression_targets_are_read(cell: Any, value: float) -> None:
    assert Regression.parse_label(cell, record()) == value


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("", "label.not_number"),
        ("high", "label.not_number"),
        ("1,5", "label.not_number"),
        ("1_000", "label.not_number"),
        ("0x10", "label.not_number"),
        (None, "label.not_number"),
        (True, "label.not_number"),
        ([1.0], "label.not_number"),
        (10**400, "label.not_number"),
        ("nan", "label.not_finite"),
        ("-Infinity", "label.not_finite"),
        (math.inf, "label.not_finite"),
    ],
)
def test_bad_regression_targets(cell: Any, code: str) -> None:
    assert label_code(Regression, cell) == code


def test_regression_learns_the_scale_of_train() -> None:
    task = Regression.fit([1.0, 2.0, 3.0, 4.0])
    assert task == Regression(mean=2.5, std=math.sqrt(1.25))
    assert task.labels == ("target",)
    assert [float(task.target(label)) for label in (1.0, 2.5)] == pytest.approx(
        [-1.5 / math.sqrt(1.25), 0.0]
    )


@pytest.mark.parametrize("labels", [[2.0, 2.0], [7.0], [1e6, 1e6 + 1e-5]])
def test_regression_needs_targets_that_differ(labels: list[float]) -> None:
    with pytest.raises(RecordError, match="found the same target") as caught:
        Regression.fit(labels)
    assert caught.value.code == "label.constant"


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2).filter(lambda labels: np.std(labels) > 1e-2)
)  # fmt: skip
def test_regression_answers_are_in_the_unit_of_the_targets(labels: list[float]) -> None:
    task = Regression.fit(labels)
    targets = np.array([task.target(label) for label in labels])
    assert abs(targets.mean()) < 1e-3
    assert targets.std() == pytest.approx(1.0, rel=1e-3)
    found = task.decode([np.array([value]) for value in targets], [record()] * len(labels), NOTHING)
    assert [answer["pred"] for answer in found] == pytest.approx(
        labels, rel=1e-5, abs=1e-5 * max(1.0, task.std + abs(task.mean))
    )


def test_regression_answers() -> None:
    logits = [np.array([2.0], np.float32), np.array([-0.123456789], np.float32)]
    assert SCORE.decode(logits, [record()] * 2, NOTHING) == [{"pred": 4.0}, {"pred": 2.938272}]


def test_regression_loss_by_hand() -> None:
    logits, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, 1.0])
    assert SCORE.loss_sum(logits, targets, None).item() == pytest.approx(0.25 + 4.0)
    assert SCORE.normaliser(targets.numpy(), None) == 2.0


def test_regression_rows_are_stratified_by_deciles() -> None:
    strata = list(Regression.strata([float(n) for n in range(100)]))
    assert strata == sorted(strata)
    assert [strata.count(key) for key in range(10)] == [10] * 10


def test_regression_statistics() -> None:
    assert Regression.label_counts([1.0, 2.0, 3.0, 4.0, 5.0]) == {
        "mean": 3.0,
        "std": pytest.approx(math.sqrt(2)),
        "min": 1.0,
        "p25": 2.0,
        "median": 3.0,
        "p75": 4.0,
        "max": 5.0,
    }
    assert Regression.unseen([1.0], [9.0]) == []


def test_regression_metrics_by_hand() -> None:
    metrics = SCORE.metrics([1.0, 2.0, 3.0], answers([1.0, 2.0, 5.0]))
    assert metrics == pytest.approx(
        {
            "mse": 4 / 3,
            "rmse": math.sqrt(4 / 3),
            "mae": 2 / 3,
            "r2": -1.0,
            "pearson": 4 / math.sqrt(2 * 78 / 9),
            "spearman": 1.0,
        }
    )


@pytest.mark.parametrize(
    ("gold", "predicted"), [([1.0, 2.0], [3.0, 3.0]), ([3.0, 3.0], [1.0, 2.0]), ([1.0], [2.0])]
)
def test_a_correlation_that_is_not_defined_is_zero(
    gold: list[float], predicted: list[float]
) -> None:
    metrics = SCORE.metrics(gold, answers(predicted))
    assert (metrics["pearson"], metrics["spearman"]) == (0.0, 0.0)
    assert all(math.isfinite(value) for value in metrics.values())
    assert len(set(gold)) > 1 or metrics["r2"] == 0.0


def test_regression_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    gold, predicted = rng.normal(size=50).tolist(), rng.normal(size=50).tolist()
    metrics = SCORE.metrics(gold, answers(predicted))
    assert metrics["mse"] == sklearn.metrics.mean_squared_error(gold, predicted)
    assert metrics["mae"] == sklearn.metrics.mean_absolute_error(gold, predicted)
    assert metrics["r2"] == sklearn.metrics.r2_score(gold, predicted)
    assert metrics["pearson"] == pytest.approx(np.corrcoef(gold, predicted)[0, 1])
    ranks = [np.argsort(np.argsort(values)) for values in (gold, predicted)]
    assert metrics["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_the_head_of_many_labels_begins_with_how_common_they_are() -> None:
    rows = [("a",)] * 6 + [("b",)] * 2 + [()] * 8
    bias = type(MULTI).fit(rows).head_bias(rows)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), [6.5 / 17, 2.5 / 17], rtol=1e-6)
    assert ABC.head_bias(["a", "b"]) is None


def test_the_head_of_tags_begins_with_how_common_they_are() -> None:
    rows = [("O", "O", "B-a"), ("O", "B-b", "I-b")]
    task = tasks.get("ner").fit(rows)
    assert task.labels == ("O", "B-a", "I-a", "B-b", "I-b")
    bias = task.head_bias(rows)
    assert bias.dtype == np.float32
    np.testing.assert_allclose(np.exp(bias) * 8.5, [3.5, 1.5, 0.5, 1.5, 1.5], rtol=1e-6)


def test_weights_of_labels_leave_their_probabilities_true() -> None:
    """The loss of a label that a third of the rows have is least where its logit says so."""
    targets = torch.tensor([[1.0], [0.0], [0.0]])
    for weight in (1.0, 5.0):
        logit = torch.zeros(1, requires_grad=True)
        weights = torch.tensor([weight])
        optimizer = torch.optim.Adam([logit], lr=0.05)

        for _ in range(300):
            optimizer.zero_grad()
            MULTI.loss_sum(logit.expand(3, 1), targets, weights).backward()
            optimizer.step()
        assert torch.sigmoid(logit).item() == pytest.approx(1 / 3, abs=1e-4)


def test_a_rare_tag_weighs_at_most_so_many_times_the_commonest() -> None:
    rows = [("O",) * 9_999, ("B-LOC",)]
    weights = TAGS.class_weights("balanced", rows)
    assert weights.max() == pytest.approx(MAX_BALANCED_WEIGHT * weights.min())


def test_a_target_may_be_small() -> None:
    tiny_one = type(SCORE).fit([1e-12, 2e-12, 3e-12])
    assert tiny_one.mean == pytest.approx(2e-12)
