"""What the optimizer is told: which parameters decay, how fast they learn, and how that changes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import transformers

from tfserve.hparams import HParams

BASE_RATE, BASE_WIDTH, MOST_RATE = 5e-5, 768, 5e-4
"""The learning rate of BERT base; narrower encoders want a higher one, wider ones a lower one, in
proportion to the square of the width (docs/quality.md)."""

HEAD_RATE, EMBEDDINGS_RATE = 5.0, 0.2
"""Shares of the learning rate: the head begins from nothing, the embeddings know the most."""

LAYER = re.compile(r"\.(\d+)\.")
"""The number of a layer in the name of its parameters."""


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


def parameter_groups(
    model: Any, *, weight_decay: float, layer_decay: float | None
) -> list[dict[str, Any]]:
    """Parameters by how fast they learn, with and without weight decay.

    A layer's rate is ``layer_decay`` times that of the one above it, the embeddings' that of a
    layer below all (Howard and Ruder, "Universal Language Model Fine-tuning for Text
    Classification", 2018, section 3.2). By default the embeddings get a fifth, whatever the depth.
    Biases and norms are not pulled to zero.

    Returns
    -------
    groups : each with ``params``, ``weight_decay``, and ``scale``, a factor of the learning rate
    """
    encoder = {id(parameter) for parameter in model.base_model.parameters()}
    numbered = {
        name: LAYER.search(name) for name, p in model.named_parameters() if id(p) in encoder
    }
    levels = {name: int(found[1]) + 1 for name, found in numbered.items() if found}
    level, top = 0, max(levels.values(), default=0) + 1
    decay = layer_decay or EMBEDDINGS_RATE ** (1 / top)
    groups = defaultdict[tuple[float, float], list[Any]](list)
    for name, parameter in model.named_parameters():
        # Embeddings come before the first layer, a pooler after the last.
        level = levels.get(name, top if level else 0)
        scale = decay ** (top - level) if name in numbered else HEAD_RATE
        groups[scale, weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
    return [
        {"params": parameters, "weight_decay": pulled, "scale": scale}
        for (scale, pulled), parameters in groups.items()
    ]
