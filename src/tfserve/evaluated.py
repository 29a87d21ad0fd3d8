"""What `tfserve evaluate` tells and writes: of one model, or of two side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tfserve.errors import InstallError
from tfserve.evaluation import Evaluation
from tfserve.evaluation.bootstrap import Difference, differences
from tfserve.files import storing, write_json

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

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """What sets two models apart."""
        one, other = self.found
        return differences(one.tally, other.tally, one.task.metric_names)

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
        names = [Path(model).resolve().name for model in self.models]
        if len(self.found) == 1:
            page = evaluation.page(self.found[0], title=f"How good is {names[0]}?")
        else:
            one, other = self.found
            first, second = names if names[0] != names[1] else self.models
            page = comparison.page(one, other, (first, second), self.differences)
        page.write(folder / REPORT)
