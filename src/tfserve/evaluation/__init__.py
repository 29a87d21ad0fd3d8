"""How good is a model? Its answers to rows whose labels are known, and what they amount to.

``evaluate`` asks and scores; ``bootstrap`` says how far a metric can be trusted and whether two
models differ, ``items`` holds the probability of every choice, ``spans`` says what is wrong with
entities, ``notes`` what is to be known before figures are believed. ``tfserve.report`` shows all of
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonlines
import numpy as np

from tfserve.arrays import Array
from tfserve.artifact import Manifest
from tfserve.encoding import token_counts
from tfserve.evaluation.bootstrap import Interval, intervals
from tfserve.evaluation.items import Collector, Items
from tfserve.predictor import Predictor
from tfserve.strict_json import dumps
from tfserve.tables import Table
from tfserve.tallies import Tally
from tfserve.tasks import Task
from tfserve.tasks.common import Answer

__all__ = ["Evaluation", "Items", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a labelled table.

    Attributes
    ----------
    answers : one a row, without scores where there is a label
    decided : what they would be if the model never abstained; nothing for a task without scores
    items : every choice with its probabilities; None for a task without
    tokens : of each row, before it is cut, ``(rows,)``
    capacity : tokens that the model sees at once
    metrics : by name; ``per_label`` holds those of each label, ``ece`` the calibration error, of
        which ``ece_chance`` is to be expected of so few rows in any case
    intervals : 95% of each metric
    manifest : of the model directory, None without one
    """

    task: Task
    table: Table
    answers: list[Answer]
    decided: list[Any]
    items: Items | None
    tokens: Array
    capacity: int
    tally: Tally
    metrics: dict[str, Any]
    intervals: dict[str, Interval]
    manifest: Manifest | None = None

    @property
    def known_as(self) -> str | None:
        """What the manifest calls a table of these rows, in any order; None for others."""
        if self.manifest is None:
            return None
        read = self.table if self.manifest.use_bbox else self.table.unboxed
        return self.manifest.known_as(read.fingerprint)

    def as_dict(self) -> dict[str, Any]:
        """What ``metrics.json`` holds."""
        pairs = {name: list(interval) for name, interval in self.intervals.items()}
        return {**self.metrics, "intervals": pairs}

    def write_predictions(self, file: Path) -> None:
        """A JSON line a row: its text, its answer, and the label that is right."""
        with jsonlines.open(file, "w", dumps=dumps) as lines:
            for row, answer in zip(self.table.rows, self.answers, strict=True):
                lines.write({"text": row.record.text, **answer, "labels": row.label})


def evaluate(
    predictor: Predictor,
    table: Table,
    *,
    watched: Callable[[Iterable[Answer]], Iterable[Answer]] = iter,
) -> Evaluation:
    """Have a model answer a table and score it.

    Parameters
    ----------
    watched : passes the answers on as they come, such as a progress bar
    """
    task, records = predictor.task, table.records
    collector = Collector(task)
    # Figures of some of the rows would be of something else.
    asked = {**task.all_scores, "on_error": "raise"}
    stream = collector.without_scores(predictor.stream(records, asked))
    answers = list(watched(stream))
    tally = task.tally(table.labels, answers)
    items = collector.items(table.labels)
    metrics = task.measured(tally)
    if items is not None and (error := items.calibration_error) is not None:
        metrics |= {"ece": error, "ece_chance": items.chance_error}
    return Evaluation(
        task=task,
        table=table,
        answers=answers,
        decided=collector.decided,
        items=items,
        tokens=np.array(token_counts(predictor.encoder.tokenizer, records)),
        capacity=predictor.encoder.max_length,
        tally=tally,
        metrics=metrics,
        intervals=intervals(tally, task.metric_names),
        manifest=None if predictor.artifact is None else predictor.artifact.manifest,
    )
