from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfserve.errors import HParamsError
from tfserve.hparams import FALSE, NONE, TRUE, HParams

NEEDED = {"task_name": "classif", "model_name": "some/model"}
NAMES = [f.name for f in dataclasses.fields(HParams)]


def parse(**values: Any) -> HParams:
    return HParams.parse({**NEEDED, **values})


def message(**values: Any) -> str:
    with pytest.raises(HParamsError) as caught:
        parse(**values)
    return caught.value.message


def test_only_task_and_model_are_needed() -> None:
    hp = HParams.parse(NEEDED)
    assert hp == HParams(task_name="classif", model_name="some/model")
    assert (hp.use_bbox, hp.seed, hp.precision) == (False, 42, "auto")
    assert hp.max_steps is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("use_bbox", "true", True),
        ("use_bbox", "False", False),
        ("max_steps", "100", 100),
        ("max_steps", " 100 ", 100),
        ("max_steps", "-1", None),
        ("max_steps", -1, None),
        ("max_steps", 7, 7),
        ("num_train_epochs", "2.5", 2.5),
        ("num_train_epochs", 3, 3.0),
        ("learning_rate", "5e-5", 5e-5),
        ("learning_rate", 1, 1.0),
        ("warmup_ratio", "0", 0.0),
        ("max_grad_norm", "0", 0.0),
        ("long_text", " window ", "window"),
        ("precision", "bf16", "bf16"),
        ("model_name", "  a/b ", "a/b"),
        ("metric_for_best_model", "f1_macro", "f1_macro"),
        ("seed", "0", 0),
        ("seed", "2147483647", 2**31 - 1),
    ],
)
def test_strings_and_values_are_read(name: str, text: Any, value: Any) -> None:
    read = getattr(parse(**{name: text}), name)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("word", [*TRUE, "TRUE", " Yes ", 1, True])
def test_words_for_true(word: Any) -> None:
    assert parse(use_bbox=word).use_bbox is True


@pytest.mark.parametrize("word", [*FALSE, "No", "FALSE ", 0, False])
def test_words_for_false(word: Any) -> None:
    assert parse(use_bbox=word).use_bbox is False


@pytest.mark.parametrize("word", [*NONE, "None", " NULL ", None])
@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("max_steps", None),
        ("max_grad_norm", 1.0),
        ("long_text", "truncate"),
        ("use_bbox", False),
        ("class_weights", None),
    ],
)
def test_words_for_none_mean_the_default(name: str, default: Any, word: Any) -> None:
    assert getattr(parse(**{name: word}), name) == default


def test_a_label_may_be_a_number_or_a_truth_value_as_in_tables() -> None:
    for value, label in ((1, "1"), (0, "0"), (True, "true"), (False, "false")):
        assert parse(positive_label=value).positive_label == label
    assert parse(class_weights={True: 5, 0: 2}).class_weights == {"true": 5.0, "0": 2.0}
    with pytest.raises(HParamsError, match=r"positive_label: found .*; expected a string"):
        parse(positive_label=0.5)


@pytest.mark.parametrize(
    ("text", "label"),
    [("none", "none"), (" none ", "none"), ("None", None), ("null", None), ("", None),
     (None, None)],
)  # fmt: skip
def test_a_label_may_be_called_none_but_not_as_python_writes_it(
    text: str | None, label: str | None
) -> None:
    assert parse(positive_label=text).positive_label == label


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_steps", "100.5", "a whole number"),
        ("max_steps", "0", "at least 1"),
        ("max_steps", "-2", "at least 1"),
        ("max_steps", "ten", "a whole number"),
        ("max_steps", "nan", "a whole number"),
        ("max_steps", "inf", "a whole number"),
        ("max_steps", True, "a whole number"),
        ("max_steps", [1], "a whole number"),
        ("num_train_epochs", "0", "above 0"),
        ("num_train_epochs", "nan", "a number"),
        ("num_train_epochs", "1e999", "a number"),
        ("learning_rate", "0", "above 0"),
        ("learning_rate", "2", "at most 1"),
        ("learning_rate", "5e-5x", "a number"),
        ("warmup_ratio", "-0.1", "at least 0"),
        ("warmup_ratio", "1.1", "at most 1"),
        ("per_device_train_batch_size", "0", "at least 1"),
        ("max_length", "7", "at least 8"),
        ("seed", "-1", "at least 0"),
        ("seed", 2**31, "at most 2147483647"),
        ("use_bbox", "maybe", "true or false"),
        ("use_bbox", 2, "true or false"),
        ("long_text", "exotic", "one of truncate, window"),
        ("long_text", "windw", "did you mean window?"),
        ("precision", "bf-16", "did you mean bf16?"),
        ("model_name", 5, "a string"),
        ("task_name", "", "What to learn"),
        ("model_name", "None", "A hub id"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    name: str, value: Any, expected: str
) -> None:
    said = message(**{name: value})
    assert said.startswith(f"{name}: found {value!r}; expected ")
    assert expected in said


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("learning_rat", "did you mean learning_rate?"),
        ("epochs", "did you mean num_train_epochs?"),
        ("Use_Bbox", "did you mean use_bbox?"),
        ("zzzz", "known: task_name, model_name"),
    ],
)
def test_an_unknown_name_brings_the_nearest_one(name: str, hint: str) -> None:
    said = message(**{name: "1"})
    assert f"unknown hyperparameter {name!r}" in said
    assert hint in said


def test_dashes_are_underscores() -> None:
    assert HParams.parse({"task-name": "ner", "model-name": "m", "max-steps": "3"}) == HParams(
        task_name="ner", model_name="m", max_steps=3
    )


@pytest.mark.parametrize(
    "name", ["sagemaker_program", "sagemaker_region", "_tuning_objective_metric"]
)
def test_what_sagemaker_injects_is_not_ours(name: str) -> None:
    assert parse(**{name: "whatever"}) == HParams.parse(NEEDED)


@pytest.mark.parametrize(
    ("given_values", "missing"),
    [
        ({}, ["task_name is missing", "model_name is missing"]),
        ({"task_name": "ner"}, ["model_name is missing"]),
        ({"model_name": "m"}, ["task_name is missing"]),
    ],
)
def test_missing_names_are_told(given_values: dict[str, str], missing: list[str]) -> None:
    with pytest.raises(HParamsError) as caught:
        HParams.parse(given_values)
    assert caught.value.code == "hparams.invalid"
    assert caught.value.message.count("is missing") == len(missing)
    assert all(part in caught.value.message for part in missing)


def test_all_problems_come_together() -> None:
    said = message(max_steps="100.5", use_bbox="maybe", learning_rat="1", seed="-1")
    assert said.count("; expected ") == 3  # the three values
    assert all(part in said for part in ("max_steps:", "use_bbox:", "seed:", "'learning_rat'"))


@pytest.mark.parametrize(
    ("value", "weights"),
    [
        ("balanced", "balanced"),
        (" balanced ", "balanced"),
        ('{"a": 2, "b": 0.5}', {"a": 2.0, "b": 0.5}),
        ({"a": 3}, {"a": 3.0}),
    ],
)
def test_class_weights(value: Any, weights: Any) -> None:
    assert parse(class_weights=value).class_weights == weights


@pytest.mark.parametrize(
    "value",
    ["even", "{}", "[1, 2]", "3", '"balanced"', '{"a": 0}', '{"a": -1}', '{"a": NaN}',
     '{"a": Infinity}', '{"a": true}', '{"a": "1"}', '{"a": null}', '{"a": 1e400}', '{"a": 1',
     {"a": float("nan")}, 5, ["a"]],
)  # fmt: skip
def test_bad_class_weights(value: Any) -> None:
    said = message(class_weights=value)
    assert said.startswith("class_weights: found ")
    assert "`balanced` or a JSON object" in said


@pytest.mark.parametrize("value", ['{"a": 1' + "0" * 400 + "}", "[" * 100_000, '{"a":' * 100_000])
def test_class_weights_that_no_parser_likes_are_an_error_like_any_other(value: str) -> None:
    assert "`balanced` or a JSON object" in message(class_weights=value)


@pytest.mark.parametrize("name", ["max_steps", "seed", "learning_rate"])
def test_an_enormous_integer_is_an_error_like_any_other(name: str) -> None:
    assert message(**{name: 10**400}).startswith(f"{name}: ")


def test_hparams_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        HParams.parse(NEEDED).seed = 1  # type: ignore[misc]


words = st.text(min_size=1).map(str.strip).filter(lambda word: word and word.lower() not in NONE)
counts = st.integers(1, 2**53)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
labels = st.dictionaries(st.text(), positive, min_size=1)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "task_name": words,
    "model_name": words,
    "use_bbox": st.booleans(),
    "num_train_epochs": st.none() | positive,
    "max_steps": st.none() | counts,
    "per_device_train_batch_size": counts,
    "gradient_accumulation_steps": counts,
    "learning_rate": st.none() | st.floats(0, 1, exclude_min=True),
    "layer_decay": st.none() | st.floats(0, 1, exclude_min=True),
    "warmup_ratio": st.floats(0, 1),
    "weight_decay": st.floats(0, 1),
    "max_grad_norm": st.floats(min_value=0, allow_infinity=False),
    "class_weights": st.none() | st.just("balanced") | labels,
    "max_length": st.none() | st.integers(8, 2**53),
    "stride": st.none() | st.integers(0, 2**53),
    "long_text": st.sampled_from(["truncate", "window"]),
    "eval_steps": st.none() | counts,
    "save_steps": st.none() | counts,
    "early_stopping_patience": st.none() | counts,
    "metric_for_best_model": st.none() | words,
    "threshold_for": st.none() | words,
    "positive_label": st.none() | st.just("none") | words,
    "abstain": st.none() | st.floats(0, 1),
    "report": st.booleans(),
    "precision": st.sampled_from(["auto", "fp32", "bf16", "fp16"]),
    "seed": st.integers(0, 2**31 - 1),
}


@st.composite
def hyperparameters(draw: st.DrawFn) -> HParams:
    return HParams(**{name: draw(strategy) for name, strategy in VALUES.items()})


def test_every_hyperparameter_is_drawn() -> None:
    assert VALUES.keys() == set(NAMES)


def as_str(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@given(hyperparameters())
def test_every_value_reads_back_from_each_of_its_forms(hp: HParams) -> None:
    values = hp.as_dict()
    assert list(values) == NAMES
    assert HParams.parse(values) == hp
    assert HParams.parse(json.loads(json.dumps(values))) == hp
    assert HParams.parse({name: as_str(value) for name, value in values.items()}) == hp
    assert HParams.parse({name: as_json(value) for name, value in values.items()}) == hp


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@given(
    st.dictionaries(st.sampled_from(NAMES) | st.text(), st.text() | anything.map(json.dumps)),
    st.booleans(),
)
def test_arbitrary_strings_raise_nothing_else(values: dict[str, str], complete: bool) -> None:
    try:
        hp = HParams.parse({**NEEDED, **values} if complete else values)
    except HParamsError as error:
        assert error.code in ("hparams.invalid", "hparams.value")
    else:
        assert HParams.parse(hp.as_dict()) == hp


@given(st.dictionaries(st.sampled_from(NAMES), anything))
def test_arbitrary_values_raise_nothing_else(values: dict[str, Any]) -> None:
    try:
        hp = HParams.parse({**NEEDED, **values})
    except HParamsError as error:
        assert error.code in ("hparams.invalid", "hparams.value")
    else:
        assert HParams.parse(hp.as_dict()) == hp
