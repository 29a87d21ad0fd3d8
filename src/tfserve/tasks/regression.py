"""regression: a number a text. Mean squared error on standardised targets.

The model learns targets of mean 0 and deviation 1, whatever the user's unit; the answer is
scaled back. The scale stays beside the model instead of being folded into its last layer, where
bf16 would round a target of 1,000 to multiples of 4.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfserve.arrays import Array
from tfserve.errors import RecordError
from tfserve.parameters import Parameters
from tfserve.records import Record
from tfserve.tallies import Numbers
from tfserve.tasks.base import Task, register
from tfserve.tasks.common import NUMBER, Answer, object_of

if TYPE_CHECKING:
    from typing_extensions import Self


@register("regression")
@dataclass(frozen=True)
class Regression(Task):
    """A target's mean and standard deviation in train."""

    problem_type = "regression"
    exclusive, numeric = False, True
    metric = "rmse"
    metric_names = ("rmse", "mse", "mae", "r2", "pearson", "spearman")
    errors = ("rmse", "mse", "mae")

    mean: float
    std: float

    answer_schema = object_of(["pred"], pred=NUMBER)
    labels = ("target",)

    @classmethod
    def parse_label(cls, cell: Any, record: Record) -> float:
        try:
            if isinstance(cell, bool) or (isinstance(cell, str) and "_" in cell):
                raise ValueError
            value = float(cell.strip().strip('"') if isinstance(cell, str) else cell)
        except (ValueError, TypeError, OverflowError):
            hint = ": write decimals with a point" if isinstance(cell, str) and "," in cell else ""
            raise RecordError(
                "label.not_number",
                f"found {str(cell)[:40]!r}; expected a number{hint}",
                field="labels",
            ) from None
        if not math.isfinite(value):
            raise RecordError(
                "label.not_finite", f"found {value}; expected a finite number", field="labels"
            )
        return value

    @classmethod
    def fit(cls, labels: Sequence[float]) -> Self:
        mean, std = float(np.mean(labels)), float(np.std(labels))
        if not (math.isfinite(std) and std > 1e-9 * abs(mean)):
            raise RecordError(
                "label.constant",
                f"found the same target {mean:g} in all rows of train; expected values that differ",
                field="labels",
            )
        return cls(mean, std)

    @classmethod
    def strata(cls, labels: Sequence[float]) -> Sequence[Hashable]:
        deciles = np.quantile(labels, np.linspace(0.1, 0.9, 9))
        return [int(key) for key in np.searchsorted(deciles, labels)]

    @classmethod
    def label_counts(cls, labels: Sequence[float]) -> dict[str, float]:
        points = {"min": 0, "p25": 25, "median": 50, "p75": 75, "max": 100}
        quantiles = {name: float(np.percentile(labels, p)) for name, p in points.items()}
        return {"mean": float(np.mean(labels)), "std": float(np.std(labels)), **quantiles}

    @classmethod
    def spread(cls, labels: Sequence[float]) -> float:
        """Their standard deviation."""
        return float(np.std(labels))

    @classmethod
    def differ(
        cls, one: float, other: float, records: tuple[Record, Record], spread: float
    ) -> bool:
        return abs(one - other) > spread

    @classmethod
    def unseen(cls, train: Sequence[float], other: Sequence[float]) -> list[str]:
        return []

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std}

    def target(self, label: float) -> Array:
        return np.asarray((label - self.mean) / self.std, np.float32)

    def normaliser(self, targets: Array, weights: Array | None) -> float:
        return float(len(targets))

    def loss_sum(self, logits: Any, targets: Any, weights: Any | None) -> Any:
        from torch.nn.functional import mse_loss

        return mse_loss(logits[:, 0], targets, reduction="sum")

    def decode(
        self, logits: Sequence[Array], records: Sequence[Record], parameters: Parameters
    ) -> list[Answer]:
        values = np.stack(logits)[:, 0].astype(np.float64) * self.std + self.mean
        return [{"pred": float(f"{value:.7g}")} for value in values]

    def tally(self, gold: Sequence[float], answers: Sequence[Answer]) -> Numbers:
        return Numbers(np.array(gold), np.array([answer["pred"] for answer in answers]))

    def distance(self, one: Answer, other: Answer) -> float:
        """In standard deviations of the target."""
        return float(abs(one["pred"] - other["pred"]) / self.std)
