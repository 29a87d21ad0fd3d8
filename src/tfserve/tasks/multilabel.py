"""multilabel-classif: any number of labels a text. A sigmoid and binary cross-entropy each."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfserve.errors import RecordError
from tfserve.records import Record
from tfserve.tasks.base import (
    LABEL_SCORES,
    NUMBER,
    TEXT,
    Answer,
    Array,
    Parameters,
    Task,
    array_of,
    given_weights,
    object_of,
    ranked_scores,
    register,
    rounded,
)
from tfserve.tasks.classif import per_label, unquoted

if TYPE_CHECKING:
    from typing_extensions import Self

THRESHOLD = 0.5
MAX_BALANCED_WEIGHT = 20.0
"""A label in one row of a thousand would weigh a thousand times: then it is all that is learned."""


@register("multilabel-classif")
@dataclass(frozen=True)
class MultilabelClassif(Task):
    """Labels are strings, in sorted order; a row's label is the tuple of its labels."""

    problem_type = "multi_label_classification"
    metric = "f1_micro"
    metric_names = ("f1_micro", "f1_macro", "f1_samples", "subset_accuracy")
    parameters = ("top_k", "scores", "threshold")
    answer_schema = object_of(
        ["pred", "proba"], pred=array_of(TEXT), proba=array_of(NUMBER), scores=LABEL_SCORES
    )

    labels: tuple[str, ...]

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

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.labels)}

    def target(self, label: tuple[str, ...]) -> Array:
        return np.array([name in label for name in self.labels], dtype=np.float32)

    def normaliser(self, targets: Array, weights: Array | None) -> float:
        return float(targets.size)

    def loss_sum(self, logits: Any, targets: Any, weights: Any | None) -> Any:
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(
            logits, targets, pos_weight=weights, reduction="sum"
        )

    def decode(
        self, logits: Sequence[Array], records: Sequence[Record], parameters: Parameters
    ) -> list[Answer]:
        threshold = THRESHOLD if parameters.threshold is None else parameters.threshold
        answers = []
        for row in 1 / (1 + np.exp(-np.stack(logits).astype(np.float64))):
            chosen = [i for i in np.argsort(-row, kind="stable") if row[i] >= threshold]
            answer: Answer = {
                "pred": [self.labels[i] for i in chosen],
                "proba": [rounded(row[i]) for i in chosen],
            }
            if (scores := ranked_scores(self.labels, row, parameters)) is not None:
                answer["scores"] = scores
            answers.append(answer)
        return answers

    def metrics(self, gold: Sequence[tuple[str, ...]], answers: Sequence[Answer]) -> dict[str, Any]:
        from sklearn.metrics import accuracy_score, f1_score

        predicted = [answer["pred"] for answer in answers]
        space = sorted(set(self.labels).union(*gold))
        # A last column that is always empty and does not count: scikit-learn takes a single column
        # for another kind of problem.
        truth, guess = (
            np.array([[*(label in row for label in space), False] for row in rows], dtype=int)
            for rows in (gold, predicted)
        )

        def f1(average: str, empty: float = 0) -> float:
            labels = range(len(space))
            score = f1_score(truth, guess, labels=labels, average=average, zero_division=empty)
            return float(score)

        return {
            "f1_micro": f1("micro"),
            "f1_macro": f1("macro"),
            "f1_samples": f1("samples", empty=1),  # no label where there is none is right
            "subset_accuracy": float(accuracy_score(truth, guess)),
            "per_label": per_label(truth, guess, space),
        }

    def class_weights(
        self, spec: str | Mapping[str, float], labels: Sequence[tuple[str, ...]]
    ) -> Array:
        """The weight of a label's positive rows; balanced: negative over positive rows."""
        if not isinstance(spec, str):
            return given_weights(spec, self.labels)
        counts = self.label_counts(labels)
        ratios = [(len(labels) - counts[label]) / counts[label] for label in self.labels]
        return np.clip(ratios, 1.0, MAX_BALANCED_WEIGHT).astype(np.float32)


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
