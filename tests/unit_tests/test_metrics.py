"""Metric definitions, against the log of real training runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import tiny
from conftest import PretrainedFolder

import tfserve
from tfserve import tasks
from tfserve.aws.metrics import metric_definitions, objective
from tfserve.errors import HParamsError


@pytest.mark.parametrize("task", tasks.names())
def test_the_definitions_find_every_number_of_a_log(
    task: str, pretrained: PretrainedFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tfserve.train(
        tiny.hparams(task, pretrained(), learning_rate=1e-5),
        train_dir=tiny.data(tmp_path / "data", task),
        model_dir=tmp_path / "model",
    )
    log = capsys.readouterr().out
    lines = [ast.literal_eval(line) for line in log.splitlines() if line.startswith("{")]
    assert len(lines) == 3  # two evaluations, and the best
    printed: dict[str, list[float]] = {}
    for line in lines:
        for name, value in line.items():
            printed.setdefault(name, []).append(value)
    assert any("e-" in str(value) for value in printed["learning_rate"])
    definitions = metric_definitions(task)
    found = {d["Name"]: [float(v) for v in re.findall(d["Regex"], log)] for d in definitions}
    assert found == {k: v for k, v in printed.items() if k not in ("step", "best_step")}


@pytest.mark.parametrize("task", tasks.names())
def test_definitions_are_what_sagemaker_takes(task: str) -> None:
    definitions = metric_definitions(task)
    assert len(definitions) <= 40
    assert len({d["Name"] for d in definitions}) == len(definitions)
    assert all(len(d["Name"]) <= 255 and len(d["Regex"]) <= 500 for d in definitions)


def test_the_objective_is_the_metric_that_chooses_the_checkpoint() -> None:
    assert objective("classif") == ("best_eval_f1_macro", "Maximize")
    assert objective("regression") == ("best_eval_rmse", "Minimize")
    assert objective("classif", "eval_accuracy") == ("best_eval_accuracy", "Maximize")
    assert objective("ner", "loss") == ("best_eval_loss", "Minimize")
    for task in tasks.names():
        assert objective(task)[0] in {d["Name"] for d in metric_definitions(task)}
    with pytest.raises(HParamsError, match="expected one of loss, accuracy"):
        objective("classif", "f1")
