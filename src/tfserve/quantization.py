"""Products in int8: faster where the processor has them, kept where they cost little.

What they cost is measured: the dev metric of the graph before and after, and the time of both here.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfserve.artifact import Artifact
from tfserve.batching import plan
from tfserve.errors import ModelError
from tfserve.predictor import Predictor, assemble
from tfserve.tables import Table

MOST_LOST = 0.005
"""Of the dev metric, that int8 may cost: half a point, or that share of an error."""

CALIBRATION_ROWS, TIMED_ROWS, ROUNDS = 300, 500, 5


@dataclass(frozen=True)
class Quantized:
    """What int8 costs and gains.

    Attributes
    ----------
    metric : the task's own
    before, after : its value on dev
    precision : of what it is compared with
    faster : how many times, here
    """

    metric: str
    before: float
    after: float
    precision: str
    faster: float

    def __str__(self) -> str:
        return (
            f"{self.metric} on dev {self.after:.4f} in int8, {self.before:.4f} in "
            f"{self.precision}; {self.faster:.1f} times as fast on this machine"
        )


def quantize(found: Artifact, module: Any, table: Table, graph: Path, target: Path) -> Quantized:
    """Write ``graph`` in int8 into the folder ``target``.

    Parameters
    ----------
    module : of the engine
    table : dev: it calibrates, and says what int8 costs

    Raises
    ------
    ModelError
        ``model.int8``: it costs more than ``MOST_LOST``, or gains nothing.
    InstallError
        nncf is not installed.
    """
    before = assemble(found, module.load(graph))
    windows = before.preprocess(table.records[:CALIBRATION_ROWS]).windows
    rows = plan([len(window) for window in windows], before.engine.budget)
    module.quantize(graph, [before.batch([windows[i] for i in some]) for some in rows], target)
    after = assemble(found, module.load(target))
    task = before.task
    full, small = _metric(before, table), _metric(after, table)
    if task.greater_is_better(task.metric):
        worse = full - small > MOST_LOST
    else:
        worse = small > full * (1 + MOST_LOST)
    faster = _faster(before, after, table)
    result = Quantized(task.metric, full, small, before.engine.precision, faster)
    if worse or faster <= 1:
        raise ModelError(
            "model.int8",
            f"int8 is not worth it: {result}; expected to lose at most {MOST_LOST} and to be "
            "faster: export without int8",
        )
    return result


def _metric(predictor: Predictor, table: Table) -> float:
    answers = list(predictor.stream(table.records))
    return float(predictor.task.metrics(table.labels, answers)[predictor.task.metric])


def _faster(before: Predictor, after: Predictor, table: Table) -> float:
    """How many times as fast the second is: the median of rounds in which they take turns."""
    windows = before.preprocess(table.records[:TIMED_ROWS]).windows

    def seconds(predictor: Predictor) -> float:
        started = time.perf_counter()
        predictor.run(windows)
        return time.perf_counter() - started

    rounds = [seconds(before) / seconds(after) for _ in range(ROUNDS)]
    return statistics.median(rounds)
