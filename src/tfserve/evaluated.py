"""What `tfserve evaluate` tells and writes: of one model, or of two side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfserve.errors import InstallError, ModelError
from tfserve.evaluation import Evaluation, evaluate
from tfserve.evaluation.bootstrap import Difference, differences
from tfserve.files import storing, write_json
from tfserve.predictor import load
from tfserve.tables import read_table
from tfserve.tallies import figure
from tfserve.tasks.common import Answer

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("tfserve")

METRICS, PREDICTIONS, REPORT = "metrics.json", "predictions.jsonl", "report.html"


@dataclass(frozen=True)
class Evaluated:
    """One model on a table, or two side by side.

    Attributes
    ----------
    models : the model directories
    found : what each makes of the table
    """

    models: Sequence[str]
    found: Sequence[Evaluation]

    @classmethod
    def of(
        cls,
        models: Sequence[str],
        file: str,
        *,
        engine: str = "auto",
        precision: str = "auto",
        watched: Callable[[Iterable[Answer], int], Iterable[Answer]] = lambda answers, _: answers,
    ) -> Self:
        """Have one model directory, or two, answer a labelled file.

        Parameters
        ----------
        engine, precision : as ``tfserve.load`` takes them
        watched : passes a model's answers on as they come, such as a progress bar; with the rows

        Raises
        ------
        ModelError
            ``model.other_task``: the two are for different tasks; and what ``tfserve.load`` raises.
        DataError
            The file cannot be read as a table of that task.
        """
        predictors = [load(model, engine=engine, precision=precision) for model in models]
        tasks = [predictor.task for predictor in predictors]
        if tasks[0].name != tasks[-1].name:
            raise ModelError(
                "model.other_task",
                f"{models[0]} is a model for {tasks[0].name}, {models[-1]} one for "
                f"{tasks[-1].name}; expected two for one task",
            )
        boxed = any(predictor.encoder.use_bbox for predictor in predictors)
        table = read_table(file, type(tasks[0]), use_bbox=boxed)
        rows = len(table.rows)
        return cls(
            models,
            [evaluate(one, table, watched=lambda told: watched(told, rows)) for one in predictors],
        )

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """What sets two models apart."""
        one, other = self.found
        return differences(one.tally, other.tally, one.task.metric_names)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What the models are called: by their folders, where these differ."""
        short = [Path(model).resolve().name for model in self.models]
        return tuple(short if len(set(short)) == len(short) else self.models)

    def render(self) -> str:
        """The metrics for a terminal; those of single labels are for the report."""
        first = self.found[0]
        rows = self._metrics() if len(self.found) == 1 else self._differences()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{first.task.name}: {len(first.answers):,} rows of {first.table.name}"]
        for row in rows:
            cells = zip(row, widths, strict=True)
            lines.append("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
        return "\n".join(lines)

    def _metrics(self) -> list[list[str]]:
        [found] = self.found
        rows = [["metric", self.names[0], "95% interval"]]
        for name, value in found.metrics.items():
            if isinstance(value, float):
                rows.append([name, figure(value), _between(found.intervals.get(name, ()))])
        return rows

    def _differences(self) -> list[list[str]]:
        rows = [["metric", *self.names, "difference", "95% interval", "p"]]
        for name, each in self.differences.items():
            values = map(figure, (each.one, each.other, each.one - each.other))
            p = figure(each.p) + (", significant" if each.significant else "")
            rows.append([name, *values, _between(each.interval), p])
        one, other = (each.metrics for each in self.found)
        for name in [*one, *(name for name in other if name not in one)]:
            found = [one.get(name), other.get(name)]
            if name not in self.differences and any(isinstance(value, float) for value in found):
                shown = ["" if value is None else figure(value) for value in found]
                rows.append([name, *shown, "", "", ""])
        return rows

    def as_dict(self) -> dict[str, Any]:
        """What ``metrics.json`` holds."""
        if len(self.found) == 1:
            return self.found[0].as_dict()
        pairs = zip(self.models, self.found, strict=True)
        return {
            "models": {model: each.as_dict() for model, each in pairs},
            "differences": {
                name: {**asdict(difference), "significant": difference.significant}
                for name, difference in self.differences.items()
            },
        }

    def write(self, folder: Path) -> None:
        """Write metrics, the first model's predictions, and the report if its extra is installed.

        Raises StorageError.
        """
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / METRICS, self.as_dict())
            self.found[0].write_predictions(folder / PREDICTIONS)
        try:
            from tfserve.report import comparison, evaluation
        except InstallError as error:
            log.warning("no report was written: %s", error)
            return
        if len(self.found) == 1:
            page = evaluation.page(self.found[0], title=f"How good is {self.names[0]}?")
        else:
            one, other = self.found
            page = comparison.page(one, other, self.names, self.differences)
        page.write(folder / REPORT)


def _between(interval: Sequence[float]) -> str:
    return " to ".join(map(figure, interval))
