"""What the optimizer is told: which parameters decay, how fast they learn, and how that changes."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

log = logging.getLogger("tfserve")

BASE_RATE, BASE_WIDTH, LEAST_RATE, MOST_RATE = 5e-5, 768, 1e-5, 5e-4
"""The learning rate of BERT base; narrower encoders want a higher one, wider ones a lower one, in
proportion to the square of the width (docs/quality.md), within what is used for any."""

HEAD_RATE, EMBEDDINGS_RATE = 5.0, 0.2
"""Of the learning rate: the head, and what else is fresh, begins from nothing; the embeddings know
the most."""

LAYER, ABOVE = re.compile(r"\.(\d+)\."), re.compile("pool|norm", re.IGNORECASE)
"""The number of a layer in the names of its parameters; what stands above all layers."""


def usual_rate(width: int) -> float:
    """The learning rate that suits an encoder of so many dimensions."""
    return max(LEAST_RATE, min(MOST_RATE, BASE_RATE * (BASE_WIDTH / width) ** 2))


def schedule(warmup_ratio: float, total: int) -> Callable[[int], float]:
    """The share of the learning rate at each step: it rises in a line, and falls in one to 0."""
    rising = round(warmup_ratio * total)

    def share(step: int) -> float:
        return step / rising if step < rising else (total - step) / max(1, total - rising)

    return share


def parameter_groups(
    model: Any, *, fresh: Collection[str], weight_decay: float, layer_decay: float | None
) -> list[dict[str, Any]]:
    """Parameters by how fast they learn, with and without weight decay.

    A layer's rate is ``layer_decay`` times that of the one above it, the embeddings' that of a
    layer below all, what stands above that of one above (Howard and Ruder, "Universal Language
    Model Fine-tuning for Text Classification", 2018, section 3.2). By default the embeddings get a
    fifth, whatever the depth. Layers that share their weights learn all alike. Biases and norms
    are not pulled to zero.

    Parameters
    ----------
    fresh : names of the parameters that were not pretrained

    Returns
    -------
    groups : each with ``params``, ``weight_decay``, and ``scale``, a factor of the learning rate
    """
    encoder = {id(parameter) for parameter in model.base_model.parameters()}
    layers = int(model.config.num_hidden_layers)
    levels = {
        name: _level(name, layers) if id(p) in encoder else layers + 1
        for name, p in model.named_parameters()
    }
    decay = layer_decay or EMBEDDINGS_RATE ** (1 / (layers + 1))
    if set(range(1, layers + 1)) - set(levels.values()):
        if layer_decay not in (None, 1.0):
            log.warning("layer_decay: %s has no layers by number", model.config.model_type)
        decay = 1.0
    groups = defaultdict[tuple[float, float], list[Any]](list)
    for name, parameter in model.named_parameters():
        scale = HEAD_RATE if name in fresh else decay ** (layers + 1 - levels[name])
        groups[scale, weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
    return [
        {"params": parameters, "weight_decay": pulled, "scale": scale}
        for (scale, pulled), parameters in groups.items()
    ]


def _level(name: str, layers: int) -> int:
    """0 for embeddings, 1 for the lowest layer, ``layers + 1`` for what stands above all."""
    if number := LAYER.search(name):
        return int(number[1]) + 1
    return layers + 1 if ABOVE.search(name) and "emb" not in name else 0
