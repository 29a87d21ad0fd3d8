"""``calibrate``: temperatures and thresholds of a trained model, fitted anew.

Another aim, or texts that have changed, need held-out rows and no training.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from tfserve import tables
from tfserve.artifact import MANIFEST, REPORT
from tfserve.errors import DataError, HParamsError, Problem
from tfserve.evaluation import Evaluation, evaluate
from tfserve.files import storing, write_json
from tfserve.hparams import CHOICES, HParams
from tfserve.predictor import Predictor, load
from tfserve.training.examples import Examples
from tfserve.training.golden import golden
from tfserve.training.results import describe
from tfserve.training.validation import validate

TRAINED_ON = (
    "found the rows that the model was trained on, of which it is surer than of others; expected "
    "rows that it has not seen"
)


def calibrate(model_dir: Path | str, file: Path | str, **chosen: Any) -> Evaluation:
    """Change a model directory in place, and write its card and ``report/`` anew.

    Parameters
    ----------
    file : a labelled table of rows that the model was not trained on
    chosen : of ``threshold_for``, ``positive_label`` and ``abstain`` what is to be another than in
        training

    Returns
    -------
    evaluation : of the table, by the model as it is now

    Raises
    ------
    DataError
        With all problems of the table, or where it is that of training.
    HParamsError
        For a value of ``chosen``, or a model that has no probabilities.
    ModelError, StorageError
        The model cannot be loaded, or its directory cannot be written.
    """
    path, loaded = Path(model_dir), load(model_dir, precision="fp32")
    assert loaded.artifact is not None
    manifest, encoder, task = loaded.artifact.manifest, loaded.encoder, loaded.task.uncalibrated()
    if odd := sorted(set(chosen) - set(CHOICES)):
        raise HParamsError(
            "hparams.value", f"found {odd[0]}; expected some of {', '.join(CHOICES)}"
        )
    known = {field.name for field in fields(HParams)}  # an older version may have had others
    given = {name: value for name, value in manifest.hparams.items() if name in known}
    hp = HParams.parse({**given, **chosen})
    if not task.all_scores:
        raise HParamsError(
            "hparams.value", f"found a model for {task.name}; expected one with probabilities"
        )
    task.check_hparams(hp)
    table = tables.read_table(file, type(task), use_bbox=manifest.use_bbox)
    train = manifest.data.get("train", {})
    if table.fingerprint in (train.get("fingerprint"), train.get("fingerprint_with_dev")):
        raise DataError([Problem("data.trained_on", TRAINED_ON, table.name)])
    plain = Predictor(task, encoder, loaded.engine, pad_id=loaded.pad_id)
    metrics, task = validate(plain, Examples.make(table, task, encoder), hp)
    fitted = Predictor(task, encoder, loaded.engine, pad_id=loaded.pad_id)
    told = {"rows": len(table.rows), "fingerprint": table.fingerprint}
    manifest = replace(
        manifest,
        task_state=task.state(),
        metrics={**manifest.metrics, "dev": metrics},
        data={**manifest.data, "dev": told},
        golden=golden(fitted, table),
        hparams=hp.as_dict(),
    )
    with storing(path):
        write_json(path / MANIFEST, asdict(manifest))
        shutil.rmtree(path / REPORT, ignore_errors=True)  # of other thresholds
    found = evaluate(load(path, precision="fp32"), table)
    describe(path, manifest, {"dev": found}, (path / REPORT,) if hp.report else ())
    return found
