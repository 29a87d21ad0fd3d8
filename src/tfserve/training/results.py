"""What a run leaves behind: metrics and predictions of the saved model, reports, a card."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfserve.artifact import REPORT, Manifest
from tfserve.calibration import never_given
from tfserve.errors import InstallError
from tfserve.evaluation import Evaluation, evaluate
from tfserve.files import storing, write_json
from tfserve.hparams import HParams
from tfserve.predictor import load
from tfserve.tables import Tables
from tfserve.training import card

log = logging.getLogger("tfserve")


def write(model_dir: Path, output: Path, data: Tables, hp: HParams) -> dict[str, Any]:
    """Ask the saved model about dev and test, and write what it makes of them.

    ``metrics.json`` and ``test_predictions.jsonl`` go to ``output``, the card to ``model_dir`` and
    reports to both. Returns the metrics. Raises StorageError.
    """
    predictor = load(model_dir, precision=hp.precision)
    assert predictor.artifact is not None
    manifest = predictor.artifact.manifest
    found = {name: evaluate(predictor, table) for name, table in data.items() if name != "train"}
    metrics = {name: one.as_dict() for name, one in found.items()}
    metrics["dev"] = {**manifest.metrics["dev"], **metrics["dev"]}
    rows = {name: told["rows"] for name, told in manifest.data.items()}
    results = {**metrics, "history": manifest.history, "rows": rows, "hparams": hp.as_dict()}
    with storing(output):
        write_json(output / "metrics.json", results)
        if "test" in found:
            found["test"].write_predictions(output / "test_predictions.jsonl")
        shutil.rmtree(output / REPORT, ignore_errors=True)  # of a run before
    if names := never_given(predictor.task.thresholds_by_label()):
        log.warning("no threshold reached on dev what threshold_for asks of %s: never given", names)
    folders = (model_dir / REPORT, output / REPORT) if hp.report else ()
    describe(model_dir, manifest, found, folders)
    return metrics


def describe(
    model_dir: Path, manifest: Manifest, found: Mapping[str, Evaluation], folders: Sequence[Path]
) -> None:
    """Write the card of a model directory, and the reports into each of ``folders``."""
    reported = bool(folders) and _written(lambda: _reports(found, manifest, folders))
    _written(lambda: card.write(model_dir, manifest, found, reported=reported))


def _written(write: Callable[[], None]) -> bool:
    """Whether it was: the model is safe by now, and must not be lost by what is wrong here."""
    try:
        write()
    except InstallError as error:
        log.warning("no report was written: %s", error)
    except Exception:
        log.exception("the card or a report could not be written")
    else:
        return True
    return False


def _reports(found: Mapping[str, Evaluation], manifest: Manifest, folders: Sequence[Path]) -> None:
    """One page for each split."""
    from tfserve.report import evaluation as report

    for name, one in found.items():
        told, notes = manifest.metrics.get(name, {}), []
        if "ece_uncalibrated" in told:
            notes.append(
                f"Temperatures took the calibration error on {name} from "
                f"{told['ece_uncalibrated']:.3f} to {told['ece']:.3f}."
            )
        page = report.page(one, title=f"How good is the model on {name}?", notes=notes)
        for folder in folders:
            page.write(folder / f"{name}.html")
