"""``calibrate``: temperatures and thresholds of a trained model, fitted anew.

Another aim, or texts that have changed, need held-out rows and no training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tfserve import artifact, tables
from tfserve.artifact import MANIFEST, REPORT, TOLERANCE, Artifact
from tfserve.errors import DataError, HParamsError, ModelError, Problem
from tfserve.evaluation import Evaluation, evaluate
from tfserve.files import check_absent, new_folder
from tfserve.hparams import CHOICES, HParams
from tfserve.predictor import Predictor, golden_distance, load
from tfserve.tables import Table
from tfserve.tasks import Task
from tfserve.training.examples import Examples
from tfserve.training.golden import golden
from tfserve.training.results import describe
from tfserve.training.validation import validate

SPLIT = "calibration"
"""What the manifest and the card call the rows."""


def calibrate(
    model_dir: Path | str, file: Path | str, output: Path | str, **chosen: Any
) -> Evaluation:
    """Write a model directory with the weights of another, and its own temperatures and thresholds.

    Parameters
    ----------
    model_dir : as training wrote it, with its weights; graphs for other engines are left out
    file : a labelled table of rows that the model was not trained on
    output : a new directory
    chosen : of ``threshold_for``, ``positive_label`` and ``abstain`` what is to be another than in
        training

    Returns
    -------
    evaluation : of the table, by the new model

    Raises
    ------
    DataError
        With all problems of the table, or where it is that of training.
    HParamsError
        For a value of ``chosen``, or a model that has no probabilities.
    ModelError, StorageError
        The model cannot be loaded, or the new directory cannot be written.
    """
    check_absent(Path(output))
    hp, loaded = _chosen(model_dir, chosen)
    found, task = loaded.artifact, loaded.task.uncalibrated()
    assert found is not None
    task.check_hparams(hp)
    table = _rows(file, task, found)
    plain = Predictor(task, loaded.encoder, loaded.engine)
    metrics, task = validate(plain, Examples.make(table, task, loaded.encoder), hp)
    fitted = Predictor(task, loaded.encoder, loaded.engine)
    before = found.manifest
    told = {"rows": len(table.rows), "fingerprint": table.fingerprint}
    manifest = replace(
        before,
        task_state=task.state(),
        metrics={**before.metrics, SPLIT: metrics},
        data={**before.data, SPLIT: told},
        golden=golden(fitted, table),
        hparams={**before.hparams, **{name: getattr(hp, name) for name in CHOICES}},
        files={name: digest for name, digest in before.files.items() if "/" not in name},
    )
    evaluation = replace(evaluate(fitted, table), manifest=manifest)
    with new_folder(Path(output)) as folder:
        artifact.copy(found, manifest.files, folder)
        manifest.write(folder)
        reports = (folder / REPORT,) if before.hparams.get("report", True) else ()
        describe(folder, manifest, {SPLIT: evaluation}, reports)
    return evaluation


def _chosen(model_dir: Path | str, chosen: dict[str, Any]) -> tuple[HParams, Predictor]:
    """What is chosen, now or in training, and the model, which computes as it did in training."""
    if odd := sorted(set(chosen) - set(CHOICES)):
        known = ", ".join(CHOICES)
        raise HParamsError("hparams.value", f"found {odd[0]}; expected some of {known}")
    loaded = load(model_dir, engine="torch", precision="fp32")
    assert loaded.artifact is not None
    if golden_distance(loaded) > TOLERANCE["fp32"]:
        raise ModelError(
            "model.golden",
            f"{model_dir} does not answer as it did when it was trained: compare the versions of "
            f"libraries in its {MANIFEST}",
        )
    if not loaded.task.all_scores:
        raise HParamsError(
            "hparams.value",
            f"found a model for {loaded.task.name}; expected one that gives probabilities",
        )
    names = ("task_name", "model_name", *CHOICES)
    told = loaded.artifact.manifest.hparams
    given = {name: told[name] for name in names if told.get(name) is not None}
    return HParams.parse({**given, **chosen}), loaded


def _rows(file: Path | str, task: Task, found: Artifact) -> Table:
    """Raises DataError where nothing can be learned from them."""
    table = tables.read_table(file, type(task), use_bbox=found.manifest.use_bbox)
    if found.manifest.known_as(table.fingerprint) in ("train", "train with dev"):
        message = (
            "found the rows that the model was trained on, of which it is surer than of others; "
            "expected rows that it has not seen"
        )
        raise DataError([Problem("data.trained_on", message, table.name)])
    if not set(task.label_counts(table.labels)) - set(task.unknown(table.labels)):
        message = f"found no row with a label that the model knows: {', '.join(task.labels[:10])}"
        raise DataError([Problem("data.other_labels", message, table.name)])
    return table
