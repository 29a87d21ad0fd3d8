"""multilabel-classif: any number of labels a text. A sigmoid and binary cross-entropy each."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tfserve.arrays import Array
from tfserve.calibration import (
    Aim,
    calibration_error,
    sigmoid_loss,
    temperature,
    thresholds,
)
from tfserve.errors import ParameterError, RecordError
from tfserve.hparams import HParams
from tfserve.parameters import Parameters
from tfserve.records import Record
from tfserve.tallies import Labels
from tfserve.tasks.base import Task, register
from tfserve.tasks.common import (
    LABEL_SCORES,
    MAX_BALANCED_WEIGHT,
    NUMBER,
    TEXT,
    Answer,
    array_of,
    given_weights,
    object_of,
    ranked_scores,
    rounded,
    unquoted,
)

if TYPE_CHECKING:
    from typing_extensions import Self

THRESHOLD = 0.5
AIM = "f1_micro"
"""Of thresholds, unless a run has another; it is the task's metric."""


@register("multilabel-classif")
@dataclass(frozen=True)
class MultilabelClassif(Task):
    """Labels are strings, in sorted order; a row's label is the tuple of its labels.

    Attributes
    ----------
    temperatures, thresholds : of each label, in their order; none: 1, and 0.5
    """

    problem_type = "multi_label_classification"
    exclusive = False
    metric = "f1_micro"
    metric_names = ("f1_micro", "f1_macro", "f1_samples", "subset_accuracy")
    parameters = ("top_k", "scores", "threshold")
    choices = ("threshold_for",)
    answer_schema = object_of(
        ["pred", "proba"], pred=array_of(TEXT), proba=array_of(NUMBER), scores=LABEL_SCORES
    )

    labels: tuple[str, ...]
    temperatures: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()

    @classmethod
    def parse_label(cls, cell: Any, record: Record) -> tuple[str, ...]:
        labels = split_labels(cell) if isinstance(cell, str) else cell
        if labels is None:
            return ()
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise RecordError(
                "label.type", "expected a string or a list of strings", field="labels"
            )
        labels = [label.strip() for label in labels]
        if "" in labels:
            raise RecordError(
                "label.empty",
                "found an empty label between commas; expected labels such as "
                '"My category","other"',
                field="labels",
            )
        return tuple(sorted(set(labels)))

    @classmethod
    def fit(cls, labels: Sequence[tuple[str, ...]]) -> Self:
        space = tuple(sorted({label for row in labels for label in row}))
        if not space:
            raise RecordError(
                "label.none", "found no label in any row of train; expected some", field="labels"
            )
        return cls(space)

    @classmethod
    def strata(cls, labels: Sequence[tuple[str, ...]]) -> Sequence[Hashable]:
        counts = Counter(label for row in labels for label in row)
        return [min(row, key=lambda label: (counts[label], label), default="") for row in labels]

    @classmethod
    def label_counts(cls, labels: Sequence[tuple[str, ...]]) -> dict[str, float]:
        return dict(sorted(Counter(label for row in labels for label in row).items()))

    @classmethod
    def label_names(cls, label: tuple[str, ...]) -> set[str]:
        return set(label)

    @classmethod
    def label_text(cls, label: Sequence[str], record: Record) -> str:
        return "; ".join(label)

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "temperatures": list(self.temperatures),
                "thresholds": list(self.thresholds)}  # fmt: skip

    def thresholds_by_label(self) -> dict[str, float]:
        return dict(zip(self.labels, self.thresholds, strict=True)) if self.thresholds else {}

    def target(self, label: tuple[str, ...]) -> Array:
        return np.array([name in label for name in self.labels], dtype=np.float32)

    def normaliser(self, targets: Array, weights: Array | None) -> float:
        return float(targets.size)

    def loss_sum(self, logits: Any, targets: Any, weights: Any | None) -> Any:
        from torch.nn.functional import binary_cross_entropy_with_logits

        if weights is not None:  # which multiply a label's odds: the logits stay without
            logits = logits + weights.log()
        return binary_cross_entropy_with_logits(
            logits, targets, pos_weight=weights, reduction="sum"
        )

    def head_bias(self, labels: Sequence[tuple[str, ...]]) -> Array:
        """The log-odds of each label (Lin et al., "Focal loss for dense object detection", 2017,
        section 4.1): otherwise the first steps teach the encoder only that labels are rare."""
        counts = self.label_counts(labels)
        given = np.array([counts.get(label, 0) for label in self.labels])
        odds = (given + 0.5) / (len(labels) - given + 0.5)
        return np.log(odds).astype(np.float32)

    def decode(
        self, logits: Sequence[Array], records: Sequence[Record], parameters: Parameters
    ) -> list[Answer]:
        threshold = self._asked(parameters.threshold)
        answers = []
        for row in self._probabilities(logits):
            given = row >= threshold
            chosen = [i for i in np.argsort(-row, kind="stable") if given[i]]
            answer: Answer = {
                "pred": [self.labels[i] for i in chosen],
                "proba": [rounded(row[i]) for i in chosen],
            }
            if (scores := ranked_scores(self.labels, row, parameters)) is not None:
                answer["scores"] = scores
            answers.append(answer)
        return answers

    def check(self, parameters: Parameters) -> None:
        super().check(parameters)
        asked = parameters.threshold
        unknown = set(asked) - set(self.labels) if isinstance(asked, Mapping) else ()
        for name in unknown:
            raise ParameterError(
                "parameters.value",
                f"threshold: found the label {str(name)[:40]!r}; the model has "
                f"{', '.join(self.labels[:20])}",
                field="threshold",
            )

    def _asked(self, threshold: float | Mapping[str, float] | None) -> Array:
        """The threshold of each label: the one that is asked for, or the model's own."""
        own = np.array(self.thresholds or [THRESHOLD] * len(self.labels))
        if threshold is None:
            return own
        if not isinstance(threshold, Mapping):
            return np.full(len(own), threshold)
        pairs = zip(self.labels, own, strict=True)
        return np.array([threshold.get(label, usual) for label, usual in pairs])

    def calibrated(
        self, logits: Sequence[Array], labels: Sequence[tuple[str, ...]], hp: HParams
    ) -> Self:
        rows, truth = np.stack(logits), np.stack([self.target(label) for label in labels])
        usual = temperature(sigmoid_loss(rows, truth))
        heats = tuple(
            temperature(sigmoid_loss(*column), usual)
            for column in zip(rows.T, truth.T, strict=True)
        )
        aim = Aim.parse(hp.threshold_for or AIM)
        chosen = thresholds(sigmoid(rows / np.array(heats)), truth, aim)
        return replace(self, temperatures=heats, thresholds=tuple(chosen))

    def uncalibrated(self) -> Self:
        return replace(self, temperatures=(), thresholds=())

    def calibration_error(
        self, logits: Sequence[Array], labels: Sequence[tuple[str, ...]]
    ) -> float:
        """Over all labels of all rows."""
        truth = np.stack([self.target(label) for label in labels])
        return calibration_error(self._probabilities(logits).ravel(), truth.ravel())

    def _probabilities(self, logits: Sequence[Array]) -> Array:
        return sigmoid(np.stack(logits) / np.array(self.temperatures or 1.0))

    def tally(self, gold: Sequence[tuple[str, ...]], answers: Sequence[Answer]) -> Labels:
        given = [{(label,) for label in answer["pred"]} for answer in answers]
        space = sorted({*self.labels, *(label for row in gold for label in row)})
        return Labels([{(label,) for label in row} for row in gold], given, tuple(space))

    def class_weights(
        self, spec: str | Mapping[str, float], labels: Sequence[tuple[str, ...]]
    ) -> Array:
        """The weight of a label's positive rows; balanced: negative over positive rows."""
        if not isinstance(spec, str):
            return given_weights(spec, self.labels)
        counts = self.label_counts(labels)
        ratios = [(len(labels) - counts[label]) / counts[label] for label in self.labels]
        return np.clip(ratios, 1.0, MAX_BALANCED_WEIGHT).astype(np.float32)


def sigmoid(logits: Array) -> Array:
    """In float64."""
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))


def split_labels(cell: str) -> list[str]:
    """Labels of a cell in any of its three spellings.

    Quoted (``"a","b"``), bare (``a,b``) and CSV-escaped (the quoted form with every quote doubled
    and quotes around it) all mean a and b; an empty cell is no label. Quoted labels may hold
    commas.
    """
    cell = cell.strip()
    inner = cell[1:-1]
    quoted = cell.startswith('"') and cell.endswith('"')
    if quoted and '""' in inner and '"' not in inner.replace('""', ""):
        cell = unquoted(cell)
    if not cell or cell == '""':
        return []
    try:
        return next(csv.reader([cell], skipinitialspace=True))
    except csv.Error:
        raise RecordError(
            "label.line_break", "found a line break; expected labels on one line", field="labels"
        ) from None
