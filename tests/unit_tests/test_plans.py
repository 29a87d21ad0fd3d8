"""What jobs are told, before any SDK is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tfserve.aws import operations
from tfserve.aws.plans import checked
from tfserve.errors import HParamsError
from tfserve.hparams import HParams, searched

GIVEN = {"task_name": "classif", "model_name": "org/encoder"}


def test_hyperparameters_of_a_job_are_strings_that_parse_to_the_same() -> None:
    given = {**GIVEN, "max_steps": 100, "use_bbox": False, "learning_rate": 3e-5, "stride": None,
             "class_weights": {"it's rare": 3}, "warmup_ratio": "0.2"}  # fmt: skip
    hp, values = checked(given)
    assert all(isinstance(value, str) for value in values.values())
    assert "stride" not in values
    assert json.loads(values["class_weights"]) == {"it's rare": 3}
    assert HParams.parse(values) == hp == HParams.parse(given)


def test_a_model_of_this_machine_is_not_seen_by_a_job(tmp_path: Path) -> None:
    with pytest.raises(HParamsError, match="given as the channel `model`"):
        checked({**GIVEN, "model_name": str(tmp_path)})
    checked({**GIVEN, "model_name": "/opt/ml/input/data/model"})


@pytest.mark.parametrize(
    ("task", "given"),
    [
        ("classif", {"metric_for_best_model": "acuracy"}),
        ("ner", {"abstain": 0.5}),
        ("multilabel-classif", {"threshold_for": "precision>0.9"}),
    ],
)
def test_a_choice_that_is_none_of_the_task_s_is_found_before_a_job(
    task: str, given: dict[str, object], tmp_path: Path
) -> None:
    hparams = {**GIVEN, "task_name": task, **given}
    with pytest.raises(HParamsError, match=next(iter(given))):
        checked(hparams)
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps({"hparams": hparams}), "utf-8")
    with pytest.raises(HParamsError, match=next(iter(given))):
        operations.training(file)


def test_every_value_of_a_range_is_one_that_a_job_takes() -> None:
    for name, found in HParams.ranges().items():
        for value in found.choices or (found.low, found.high):
            assert getattr(HParams.parse({**GIVEN, name: str(value)}), name) == value


def test_ranges_that_are_searched() -> None:
    assert searched(None) == HParams.ranges()
    assert list(searched(["warmup_ratio"])) == ["warmup_ratio"]
    assert "num_train_epochs" not in searched(None, {**GIVEN, "max_steps": 10})
    assert "learning_rate" not in searched(None, {**GIVEN, "learning-rate": "1e-4"})
    with pytest.raises(HParamsError, match="learning_rate: found it in the search"):
        searched(["learning_rate"], {**GIVEN, "learning_rate": "1e-4"})
    with pytest.raises(HParamsError, match="found 'seed'; expected some of"):
        searched(["seed"])
