"""Jobs as data: YAML files that a team keeps under review, as arguments of ``sdk2`` and ``sdk3``.

    estimator = sdk2.estimator(**operations.training("training.yaml"), role=role)
    tuner = sdk2.tuner(estimator, **operations.tuning("tuning.yaml"))

``examples/aws`` holds one of each with what every line means.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfserve import tasks
from tfserve.errors import CloudError, missing_extra, one_line
from tfserve.hparams import HParams, searched

try:
    import yaml
except ImportError:
    raise missing_extra("pyyaml", "sagemaker") from None

Kinds = Mapping[str, type]

TRAINING: Kinds = {
    "hparams": dict, "instance_type": str, "instance_count": int, "distributed": bool, "spot": bool,
    "max_run": int, "checkpoint_s3_uri": str, "transformers_version": str,
}  # fmt: skip
TUNING: Kinds = {
    "search": list, "metric": str, "max_jobs": int, "max_parallel_jobs": int,
    "warm_start_from": list,
}  # fmt: skip


def training(file: Path | str) -> dict[str, Any]:
    """Of a training job what ``sdk2.estimator`` and ``sdk3.trainer`` take besides the role.

    Raises CloudError for a file that cannot be read or a name or value that is none of theirs, and
    HParamsError for hyperparameters that the job would end with.
    """
    given = {"hparams": {}, **_read(Path(file), TRAINING)}
    hp = HParams.parse(given["hparams"])
    tasks.get(hp.task_name).check_choices(hp)
    return given


def tuning(file: Path | str) -> dict[str, Any]:
    """Of a tuning job what ``sdk2.tuner`` and ``sdk3.tuner`` take besides the training.

    Raises as ``training`` does.
    """
    given = _read(Path(file), TUNING)
    searched(given.get("search"))
    return given


def mapping(file: Path) -> dict[str, Any]:
    """A YAML file's names and values. Raises CloudError where it holds something else."""
    try:
        given = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CloudError("aws.parameters", f"cannot read {file}: {one_line(error)}") from None
    if not isinstance(given, dict):
        raise CloudError("aws.parameters", f"{file}: expected lines such as `max_run: 3600`")
    return given


def _read(file: Path, kinds: Kinds) -> dict[str, Any]:
    """Those that are given; ``null`` leaves a name at its default."""
    given = {name: value for name, value in mapping(file).items() if value is not None}
    for name, value in given.items():
        if name not in kinds:
            expected = ", ".join(kinds)
            raise CloudError("aws.parameters", f"{file}: found {name!r}; expected {expected}")
        kind = kinds[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise CloudError(
                "aws.parameters",
                f"{file}: {name}: found {value!r}; expected {kind.__name__}",
            )
    return given
