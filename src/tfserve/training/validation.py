"""What a model makes of dev while it is trained, and how the task is calibrated there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tfserve.hparams import HParams
from tfserve.parameters import Parameters
from tfserve.predictor import Predictor
from tfserve.processing import Prepared
from tfserve.tasks import Task
from tfserve.tasks.base import CALIBRATION
from tfserve.training.examples import Examples

Validated = tuple[dict[str, Any], Task]
"""Metrics on dev, and the task as it was calibrated there."""


def validate(predictor: Predictor, dev: Examples, hp: HParams) -> Validated:
    """Loss and metrics on dev, of the task with the temperatures and thresholds that suit it."""
    prepared = Prepared.of(dev.encoded)
    logits = predictor.logits(prepared, predictor.run(prepared.windows))
    labels, plain = dev.table.labels, predictor.task
    task = plain.calibrated(logits, labels, hp)
    answers = task.decode(logits, dev.records, Parameters())
    pairs = zip(CALIBRATION, (task, plain), strict=True)
    errors = {name: one.calibration_error(logits, labels) for name, one in pairs}
    join = np.concatenate if task.per_word else np.stack
    rows, targets = join(logits), join(dev.row_targets)
    if task.per_word:
        seen = ~np.isnan(rows).any(-1)
        rows, targets = rows[seen], targets[seen]
    loss = task.loss_sum(torch.from_numpy(rows), torch.from_numpy(targets), None)
    metrics = {
        "loss": float(loss) / (task.normaliser(targets, None) or 1.0),
        **task.metrics(labels, answers),
        **{name: error for name, error in errors.items() if error is not None},
    }
    return metrics, task
