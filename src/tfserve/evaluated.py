"""What `tfserve evaluate` tells and writes: of one model, or of two side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonlines

from tfserve.artifact import Manifest, storing, write_json
from tfserve.codecs import dumps
from tfserve.errors import InstallError
from tfserve.evaluation import Evaluation
from tfserve.evaluation.bootstrap import Difference, differences

log = logging.getLogger("tfserve")

METRICS, PREDICTIONS, REPORT = "metrics.json", "predictions.jsonl", "report.html"


def compared(names: Sequence[str], found: Sequence[Evaluation]) -> dict[str, Any]:
    """The metrics of two models on one table, and what sets them apart."""
    one, other = found
    return {
        "models": {name: each.as_dict() for name, each in zip(names, found, strict=True)},
        "differences": {
            name: {**asdict(difference), "significant": difference.significant}
            for name, difference in differences(
                one.tally, other.tally, one.task.metric_names
            ).items()
        },
    }


def write(
    folder: Path,
    told: Mapping[str, Any],
    names: Sequence[str],
    found: Sequence[Evaluation],
    manifest: Manifest,
) -> None:
    """Write metrics, the first model's predictions, and the report if its extra is installed.

    Parameters
    ----------
    told : what ``metrics.json`` holds
    manifest : of the first model

    Raises
    ------
    StorageError
        Something cannot be written.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / METRICS, told)
        with jsonlines.open(folder / PREDICTIONS, "w", dumps=dumps) as lines:
            lines.write_all(found[0].answers)
    try:
        from tfserve.report import comparison, evaluation
    except InstallError as error:
        log.warning("no report was written: %s", error)
        return
    short = [Path(name).resolve().name for name in names]
    if len(found) == 1:
        page = evaluation.page(
            found[0],
            title=f"How good is {short[0]}?",
            frequencies=manifest.data.get("train", {}).get("labels"),
            history=manifest.history,
        )
    else:
        differing = {
            name: Difference(**{k: v for k, v in difference.items() if k != "significant"})
            for name, difference in told["differences"].items()
        }
        distinct = short if len(set(short)) == len(short) else names
        page = comparison.page(found[0], found[1], (distinct[0], distinct[1]), differing)
    page.write(folder / REPORT)
