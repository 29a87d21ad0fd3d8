"""What a training job's log tells SageMaker: metric definitions, and the metric to tune for."""

from __future__ import annotations

from tfserve import tasks
from tfserve.tasks.base import CALIBRATION

TRAINING = ("loss", "learning_rate", "samples_per_second", "epoch")
NUMBER = r"(-?[0-9.]+(?:e[-+]?[0-9]+)?|nan|-?inf)"


def metric_definitions(task_name: str) -> list[dict[str, str]]:
    """``Name`` and ``Regex`` of everything that a training job of this task prints.

    ``eval_…`` are the metrics of each evaluation on dev, ``best_eval_…`` those of the model that is
    kept, the others come from training. Both SDKs take them as they are.
    """
    task = tasks.get(task_name)
    probabilities = CALIBRATION if "scores" in task.parameters else ()
    evaluated = ("loss", *task.metric_names, *probabilities)
    names = (
        *(f"best_eval_{name}" for name in evaluated),
        *(f"eval_{name}" for name in evaluated),
        *TRAINING,
    )
    return [{"Name": name, "Regex": f"'{name}': {NUMBER}"} for name in names]


def objective(task_name: str, metric: str | None = None) -> tuple[str, str]:
    """The name of the metric to tune for, and ``Maximize`` or ``Minimize``.

    ``metric`` is one of the task's, by default the one that chooses its best checkpoint. Raises
    HParamsError for another.
    """
    task = tasks.get(task_name)
    chosen = task.metric_for_best_model(metric)
    return f"best_eval_{chosen}", "Maximize" if task.greater_is_better(chosen) else "Minimize"
