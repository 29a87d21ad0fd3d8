"""``tfserve tune``: a search on this machine, over the ranges that SageMaker's tuner uses too.

A trial is a training. The first one takes the defaults, so that what is found is no worse; the
others are proposed by Optuna's tree-structured Parzen estimator (Bergstra et al., "Algorithms for
hyper-parameter optimization", 2011). The same call goes on with a search that was interrupted, in
the middle of a trial as well.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
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
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
except ImportError as error:
    raise missing_extra(error.name or "optuna", "tune") from None

STUDY, TRIALS, RUNNING, BEST = "study.log", "trials.json", "running.json", "best"

FAILING = ("model.not_finite", "model.memory")
"""What a model ends with because of a trial's hyperparameters."""

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
        What the first trial, with the defaults, ends with, or a search for what has a value.
    StoppedError
        After SIGTERM or SIGINT: the same call goes on.
    StorageError
        ``output_dir`` holds another search, or cannot be written.
    """
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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(output / STUDY))),
        study_name="tfserve",
        sampler=optuna.samplers.TPESampler(seed=hp.seed + len(found)),
        direction="maximize",
        load_if_exists=True,
    )
    while len(found) < trials:
        trial = _next(output, study, ranges, len(found))
        folder = output / f"trial-{trial['number']}"
        try:
            metrics = train(
                {**hparams, **trial["hparams"]},
                train_dir=train_dir, dev_dir=dev_dir, test_dir=test_dir,
                model_dir=folder / "model", output_dir=folder / "output",
            )  # fmt: skip
        except (HParamsError, ModelError) as error:
            # Of a combination that cannot be, a rate at which the loss is lost, a batch too large.
            of_it = isinstance(error, HParamsError) or error.code in FAILING
            if not trial["hparams"] or not of_it:
                raise
            trial["error"] = error.message
        else:
            trial["value"] = metrics["dev"][metric]
            trial["test"] = numbers(metrics.get("test", {}))
        with storing(output):
            if "value" in trial and all(_better(trial, other, sign) for other in found):
                shutil.rmtree(output / BEST, ignore_errors=True)
                (folder / "model").rename(output / BEST)
            if "id" in trial:
                state = optuna.trial.TrialState
                value = sign * trial["value"] if "value" in trial else None
                failed = state.FAIL if value is None else None
                study.tell(trial["id"], value, state=failed, skip_if_finished=True)
            found.append(trial)
            write_json(output / TRIALS, {"asked": asked, "trials": found})
            (output / RUNNING).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        watched(trial)
    return sorted(found, key=lambda t: -sign * t["value"] if "value" in t else math.inf)


def _found(output: Path, asked: Mapping[str, Any]) -> list[Trial]:
    """The trials that have ended. Raises StorageError for those of another search."""
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


def _next(output: Path, study: optuna.Study, ranges: Mapping[str, Range], number: int) -> Trial:
    """The trial that was interrupted, or a new one; the first takes the defaults."""
    file = output / RUNNING
    if file.is_file():
        trial: Trial = json.loads(file.read_text("utf-8"))
        if trial["number"] == number:
            return trial
    trial = {"number": number, "hparams": {}}
    if number:
        asked = study.ask({name: _distribution(r) for name, r in ranges.items()})
        trial |= {"id": asked.number, "hparams": asked.params}
    write_json(file, trial)
    return trial


def _distribution(found: Range) -> optuna.distributions.BaseDistribution:
    if found.choices:
        return optuna.distributions.CategoricalDistribution(found.choices)
    if found.whole:
        return optuna.distributions.IntDistribution(int(found.low), int(found.high), log=found.log)
    return optuna.distributions.FloatDistribution(found.low, found.high, log=found.log)


def _better(trial: Trial, other: Trial, sign: float) -> bool:
    return "value" not in other or sign * trial["value"] > sign * other["value"]
