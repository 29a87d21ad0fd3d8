"""What a job or an endpoint needs to be told, whichever SDK tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfserve import tasks
from tfserve.codecs import JSON_LINES
from tfserve.errors import HParamsError
from tfserve.hparams import HParams, Range

MODEL_ENVIRONMENT = {
    "SAGEMAKER_PROGRAM": "inference.py",
    "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
}
"""The archive's own ``code/``: the SDKs otherwise tell the container that there is no script."""

TRANSFORM = {"strategy": "MultiRecord", "assemble_with": "Line", "accept": JSON_LINES}
TRANSFORM_INPUT = {"content_type": JSON_LINES, "split_type": "Line"}
"""Batch Transform as it is fastest and safest: many lines a request, a line out per line in."""

SPOT_WAIT = 2
"""A Spot job may wait for capacity so many times as long as it may run."""


def checked(hparams: Mapping[str, Any]) -> tuple[HParams, dict[str, str]]:
    """The hyperparameters parsed, and as the strings that a job gets.

    Raises HParamsError for what the job would raise it for, whatever its tables hold, and for a
    model that the job could not see, before anything is paid for.
    """
    hp = HParams.parse(hparams)
    tasks.get(hp.task_name).check_choices(hp)
    if Path(hp.model_name).is_dir() and not hp.model_name.startswith("/opt/ml/"):
        raise HParamsError(
            "hparams.value",
            f"model_name: found the folder {hp.model_name} of this machine; expected a hub id, or "
            "/opt/ml/input/data/model with the folder uploaded and given as the channel `model`",
        )
    return hp, {name: _text(value) for name, value in hparams.items() if value is not None}


def parameters(kinds: Any, ranges: Mapping[str, Range]) -> dict[str, Any]:
    """The ranges as a tuning job takes them; ``kinds`` is the SDK's module ``parameter``."""
    made: dict[str, Any] = {}
    for name, r in ranges.items():
        number = kinds.IntegerParameter if r.whole else kinds.ContinuousParameter
        made[name] = (
            kinds.CategoricalParameter(list(r.choices))
            if r.choices
            else number(r.low, r.high, "Logarithmic" if r.log else "Auto")
        )
    return made


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
