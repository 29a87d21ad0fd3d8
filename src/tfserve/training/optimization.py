"""What the optimizer is told: which parameters decay, how fast they learn, and how that changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from tfserve.hparams import HParams

BASE_RATE, BASE_WIDTH, MOST_RATE = 5e-5, 768, 5e-4
"""The learning rate of BERT base; narrower encoders want a higher one, wider ones a lower one, in
proportion to the square of the width (docs/quality.md)."""


def usual_rate(width: int) -> float:
    """The learning rate that suits an encoder of so many dimensions."""
    return min(MOST_RATE, BASE_RATE * (BASE_WIDTH / width) ** 2)


def schedule(hp: HParams, rate: float, total: int) -> Callable[[int], float]:
    """The share of ``rate`` at each step, from transformers' schedule of that name."""
    scheduler = transformers.get_scheduler(
        hp.lr_scheduler_type,
        torch.optim.SGD([torch.zeros(1)], lr=rate),
        num_warmup_steps=round(hp.warmup_ratio * total),
        num_training_steps=total,
    )
    share: Callable[[int], float] = scheduler.lr_lambdas[0]
    return share


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: biases and norms are not pulled to zero."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
