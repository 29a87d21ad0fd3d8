"""A training job in a container: what SageMaker hands over, run by ``tfserve.train``.

    from tfserve.job import main

    if __name__ == "__main__":
        main()

is all that an Estimator's or ModelTrainer's entry point needs; ``python -m tfserve.job`` is what
our own image runs. The layout is SageMaker's: ``input/config/hyperparameters.json``,
``input/data/<channel>``, ``model``, ``output`` and ``checkpoints`` under ``/opt/ml`` (or
``SAGEMAKER_BASE_DIR``), with ``SM_HPS``, ``SM_CHANNEL_<NAME>``, ``SM_MODEL_DIR`` and
``SM_OUTPUT_DATA_DIR`` before it where the training toolkits set them.
"""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tfserve.errors import DataError, HParamsError, Problem, StoppedError, TfserveError
from tfserve.hparams import HParams, decoded
from tfserve.tables import SPLITS

CHANNELS = {**SPLITS, "train": ("train", "training")}
ADDED = ("code", "sm_drivers", "model")
"""Channels that hold no tables: two of SDK v3's, and a pretrained model for ``model_name``."""

FAILURE, REASON = "failure", 1024
"""The file with the reason of a failure, and the characters of it that SageMaker shows."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the job; a failure is one message, on standard error and in ``output/failure``."""
    logging.basicConfig(level="WARNING")
    # Nobody else hears a signal to the first process of a container, before training listens to it.
    signal.signal(signal.SIGTERM, _end)
    if _rank() == 0:
        with contextlib.suppress(OSError):
            (base_folder(os.environ) / "output" / FAILURE).unlink()  # of the run before
    try:
        run(sys.argv[1:] if arguments is None else arguments, os.environ)
    except StoppedError as error:
        print(f"tfserve: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except (HParamsError, DataError) as error:  # every process of a job meets these
        if _rank() == 0:
            _tell(str(error))
        sys.exit(1)
    except TfserveError as error:
        _tell(str(error))
        sys.exit(1)
    except Exception as error:
        logging.getLogger("tfserve").error("unexpected", exc_info=error)
        _tell(f"unexpected {type(error).__name__}: {error}")
        sys.exit(1)


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Train as ``arguments`` and ``environment`` ask; returns the metrics.

    Raises
    ------
    TfserveError
        HParamsError and DataError before any model is loaded.
    """
    base = base_folder(environment)
    hp = HParams.parse(hyperparameters(arguments, environment))
    data = channels(environment)
    from tfserve.training import train

    return train(
        hp,
        train_dir=data["train"],
        dev_dir=data.get("dev"),
        test_dir=data.get("test"),
        model_dir=environment.get("SM_MODEL_DIR") or base / "model",
        output_dir=environment.get("SM_OUTPUT_DATA_DIR") or base / "output" / "data",
        checkpoint_dir=base / "checkpoints",
        tensorboard_dir=base / "output" / "tensorboard",
    )


def base_folder(environment: Mapping[str, str]) -> Path:
    """The root of the container's layout."""
    return Path(environment.get("SAGEMAKER_BASE_DIR") or "/opt/ml")


def hyperparameters(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """The job's hyperparameters: of ``SM_HPS``, else of the config file, else of the arguments.

    ``SM_HPS`` is the same under both SDKs, while their arguments differ.
    """
    if given := _json_object(environment.get("SM_HPS", "{}"), "SM_HPS"):
        return given
    file = base_folder(environment) / "input" / "config" / "hyperparameters.json"
    if file.is_file() and (given := _json_object(file.read_text("utf-8"), str(file))):
        return {name: decoded(value) for name, value in given.items()}
    return _from_arguments(arguments)


def channels(environment: Mapping[str, str]) -> dict[str, Path]:
    """Split → folder of the channels that are there: ``train``, and ``dev`` and ``test`` if given.

    ``training`` is train, ``validation`` is dev; a single channel of any name is train. Other
    channels are none of these. Raises DataError without a train channel.
    """
    prefix = "SM_CHANNEL_"
    found = {
        name.removeprefix(prefix).lower(): Path(value)
        for name, value in environment.items()
        if name.startswith(prefix)
    }
    root = base_folder(environment) / "input" / "data"
    if not found and root.is_dir():
        found = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    splits = {
        split: found[name] for split, names in CHANNELS.items() for name in names if name in found
    }
    others = [name for name in found if name not in ADDED]
    if not splits and len(others) == 1:
        splits = {"train": found[others[0]]}
    if "train" not in splits:
        names = ", ".join(sorted(found)) or "none"
        message = f"found the channels {names}; expected train, and dev and test if there are any"
        raise DataError([Problem("data.no_channel", message, "train")])
    return splits


def _json_object(text: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise HParamsError("hparams.not_json", f"cannot read {place}: {error}") from None
    if not isinstance(value, dict):
        raise HParamsError("hparams.not_json", f"{place}: expected a JSON object")
    return value


def _from_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """``--name value`` and ``--name=value``; objects as Python's repr (SDK v2) or JSON (v3)."""
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise HParamsError("hparams.argument", f"found {flag[:40]!r}; expected --name value")
        name, equals, value = flag[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise HParamsError("hparams.argument", f"found no value after {flag}")
            value = rest.pop(0)
        values[name] = value
        if value.startswith("{"):
            with contextlib.suppress(ValueError, SyntaxError):
                values[name] = ast.literal_eval(value)
    return values


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _end(number: int, frame: Any) -> NoReturn:
    sys.exit(128 + number)


def _tell(reason: str) -> None:
    """Say why where people and SageMaker look for it, which is told of the first process to fail:
    what the others end with follows from that."""
    folder = base_folder(os.environ) / "output"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FAILURE).open("x", encoding="utf-8") as file:
            file.write(reason[:REASON])
    process = f" (process {_rank()})" if _rank() else ""
    print(f"tfserve{process}: {reason}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
