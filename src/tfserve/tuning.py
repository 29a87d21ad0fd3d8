"""``tfserve tune``: a search on this machine, over the ranges that SageMaker's tuner uses too.

A trial is a training. The first one takes the defaults, so that what is found is no worse; the
others are proposed by Optuna's tree-structured Parzen estimator (Bergstra et al., "Algorithms for
hyper-parameter optimization", 2011). The same call goes on with a search that was interrupted, in
the middle of a trial as well.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfserve.errors import HParamsError, ModelError, StorageError, missing_extra
from tfserve.files import sha256, storing, write_json
from tfserve.hparams import HParams, Range, searched
from tfserve.tables import find_files
from tfserve.tasks import get
from tfserve.training import train
from tfserve.training.logs import numbers

try:
    import optuna
except ImportError as error:
    raise missing_extra(error.name or "optuna", "tune") from None

TRIALS, RUNNING, BEST, REPLACED = "trials.json", "running.json", "best", ".replaced"

FAILING = ("model.not_finite", "model.memory")
"""What a model ends with because of a trial's hyperparameters."""

MOST_STARTS = 3
"""A trial whose process was killed so often, and got no further, is given up: it was the memory,
most likely."""

Trial = dict[str, Any]
"""``number``, ``hparams``, and the dev metric as ``value``, or why it failed as ``error``."""


def tune(
    hparams: Mapping[str, Any],
    *,
    train_dir: Path | str,
    output_dir: Path | str,
    trials: int = 20,
    search: Sequence[str] | None = None,
    dev_dir: Path | str | None = None,
    test_dir: Path | str | None = None,
    watched: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Train again and again, and keep the best model in ``output_dir/best``.

    Parameters
    ----------
    hparams : of all trials; what is given is not searched
    trials : in all, those of an interrupted search included
    search : hyperparameters; by default all that have a range and no value
    watched : is called with each trial when it has ended

    Returns
    -------
    list
        All trials, the best one first; those that failed come last.

    Raises
    ------
    HParamsError, DataError, ModelError
        What the first trial, with the defaults, ends with, a search for what has a value or for
        nothing, or several processes.
    StoppedError
        After SIGTERM or SIGINT: the same call goes on.
    StorageError
        ``output_dir`` holds another search, or cannot be written.
    """
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise HParamsError(
            "hparams.value",
            f"found {processes} processes (WORLD_SIZE); expected one: tune runs without torchrun",
        )
    hp, output = HParams.parse(hparams), Path(output_dir)
    ranges = searched(search, hparams)
    task = get(hp.task_name)
    metric = task.metric_for_best_model(hp.metric_for_best_model)
    sign = 1.0 if task.greater_is_better(metric) else -1.0
    files = find_files({"train": train_dir, "dev": dev_dir, "test": test_dir})
    data = {split: sha256(file) for split, file in files.items()}
    asked = {"hparams": hp.as_dict(), "search": sorted(ranges), "data": data}
    with storing(output):
        output.mkdir(parents=True, exist_ok=True)
        found = _found(output, asked)
    while len(found) < trials:
        with storing(output):
            trial = _begun(output, len(found)) or _proposed(found, ranges, sign, hp.seed)
            folder = output / f"trial-{trial['number']}"
            proposed = {name: trial[name] for name in ("number", "hparams")}
            step = _newest(folder / "output" / "checkpoints")
            starts = trial.get("starts", 0) + 1 if step == trial.get("step") else 1
            write_json(output / RUNNING, {**proposed, "starts": starts, "step": step})
        trial = dict(proposed)
        with _living(output / RUNNING, proposed):
            try:
                if starts > MOST_STARTS and trial["hparams"]:
                    raise ModelError("model.memory", f"its process was killed {MOST_STARTS} times")
                metrics = train(
                    {**hparams, **trial["hparams"]},
                    train_dir=train_dir, dev_dir=dev_dir, test_dir=test_dir,
                    model_dir=folder / "model", output_dir=folder / "output",
                )  # fmt: skip
            except (HParamsError, ModelError) as error:
                # Of a combination that cannot be, a loss that is lost, a batch too large.
                of_it = isinstance(error, HParamsError) or error.code in FAILING
                if not trial["hparams"] or not of_it:
                    raise
                trial["error"] = error.message
            else:
                trial["value"] = metrics["dev"][metric]
                trial["test"] = numbers(metrics.get("test", {}))
            with storing(output):
                if "value" in trial and all(_better(trial, other, sign) for other in found):
                    _replace(output / BEST, folder / "model", output / REPLACED)
                write_json(output / TRIALS, {"asked": asked, "trials": [*found, trial]})
                (output / RUNNING).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
        found.append(trial)
        watched(trial)
    return sorted(found, key=lambda t: -sign * t["value"] if "value" in t else math.inf)


def _found(output: Path, asked: Mapping[str, Any]) -> list[Trial]:
    """The trials that have ended. Raises StorageError for those of another search."""
    best, replaced = output / BEST, output / REPLACED
    if replaced.is_dir() and not best.exists():  # the process was killed between two renames
        replaced.rename(best)
    shutil.rmtree(replaced, ignore_errors=True)  # or after both
    file = output / TRIALS
    if not file.is_file():
        return []
    told = json.loads(file.read_text("utf-8"))
    if told["asked"] != asked:
        raise StorageError(
            "storage.other_output",
            f"found another search in {output}: other data, hyperparameters or ranges; expected an "
            "interrupted one of this command, or a new folder",
        )
    trials: list[Trial] = told["trials"]
    return trials


def _newest(checkpoints: Path) -> int:
    """The step of the newest checkpoint."""
    names = (folder.name for folder in checkpoints.glob("checkpoint-*"))
    return max((int(name.rpartition("-")[2]) for name in names), default=0)


@contextlib.contextmanager
def _living(running: Path, proposed: Trial) -> Iterator[None]:
    """A start that ends with an error does not count: its process was not killed."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            write_json(running, proposed)
        raise


def _begun(output: Path, number: int) -> Trial | None:
    """The trial of that number, if it was interrupted."""
    file = output / RUNNING
    trial: Trial = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return trial if trial.get("number") == number else None


def _proposed(found: Sequence[Trial], ranges: Mapping[str, Range], sign: float, seed: int) -> Trial:
    """The next trial: the first takes the defaults; after the same trials it is the same."""
    number = len(found)
    if not number:
        return {"number": number, "hparams": {}}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed + number)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    distributions = {name: _distribution(each) for name, each in ranges.items()}
    for trial in found[1:]:
        value = sign * trial["value"] if "value" in trial else None
        states = optuna.trial.TrialState
        state = states.FAIL if value is None else states.COMPLETE
        study.add_trial(
            optuna.trial.create_trial(
                params=trial["hparams"], distributions=distributions, value=value, state=state
            )
        )
    return {"number": number, "hparams": study.ask(distributions).params}


def _distribution(found: Range) -> optuna.distributions.BaseDistribution:
    if found.choices:
        return optuna.distributions.CategoricalDistribution(found.choices)
    if found.whole:
        return optuna.distributions.IntDistribution(int(found.low), int(found.high), log=found.log)
    return optuna.distributions.FloatDistribution(found.low, found.high, log=found.log)


def _better(trial: Trial, other: Trial, sign: float) -> bool:
    return "value" not in other or sign * trial["value"] > sign * other["value"]


def _replace(best: Path, model: Path, replaced: Path) -> None:
    """Give a model the place of the best one, which is there until that is done."""
    shutil.rmtree(replaced, ignore_errors=True)
    if best.exists():
        best.rename(replaced)
    model.rename(best)
    shutil.rmtree(replaced, ignore_errors=True)
