"""What the files of tasks share: shapes of answers, weights of labels, probabilities as shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfserve.arrays import Array
from tfserve.errors import HParamsError
from tfserve.parameters import Parameters, Schema

Answer = dict[str, Any]

IGNORED = -100
"""The target of a row whose label train lacks: no loss, and an error in the metrics."""

MAX_BALANCED_WEIGHT = 20.0
"""A label in one row of a thousand would weigh a thousand times: then it is all that is learned."""

NO_TYPE = "(no type)"
"""How the type of bare tags is shown, which is empty."""

NUMBER, TEXT = {"type": "number"}, {"type": "string"}
LABEL_SCORES = {"type": "object", "additionalProperties": NUMBER}


def array_of(items: Schema) -> Schema:
    """The schema of a list."""
    return {"type": "array", "items": items}


def object_of(required: Sequence[str], **properties: Schema) -> Schema:
    """The schema of an object; keys of other names may stand in it."""
    return {"type": "object", "required": list(required), "properties": properties}


def named(label: str) -> str:
    """A label as it is shown."""
    return label or NO_TYPE


def ranked_scores(
    labels: Sequence[str], probabilities: Array, parameters: Parameters
) -> dict[str, float] | None:
    """Label → probability, best first, as far as the caller asked; None if he did not."""
    if not parameters.scores and parameters.top_k is None:
        return None
    order = np.argsort(-probabilities, kind="stable")[: parameters.top_k]
    return {labels[i]: rounded(probabilities[i]) for i in order}


def rounded(probability: float) -> float:
    """Six decimals: more than any model means, and stable across surfaces."""
    return round(float(probability), 6)


def given_weights(spec: Mapping[str, float], labels: Sequence[str]) -> Array:
    """A weight per label from a mapping; labels not named weigh 1."""
    unknown = [name for name in spec if name not in labels]
    if unknown:
        raise HParamsError(
            "hparams.value",
            f"class_weights: found the label {unknown[0]!r}; train has {', '.join(labels[:20])}",
        )
    return np.array([spec.get(label, 1.0) for label in labels], dtype=np.float32)


def weight_of(targets: Array, weights: Array | None) -> float:
    """How many targets have a label of train, or what they weigh together."""
    kept = targets[targets != IGNORED]
    return float(len(kept) if weights is None else weights[kept].sum())


def unquoted(cell: str) -> str:
    """A cell without the double quotes that a CSV writer puts around it."""
    cell = cell.strip()
    if len(cell) >= 2 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"').strip()
    return cell
