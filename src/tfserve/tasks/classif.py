"""classif: one label a text. Softmax and cross-entropy."""

from __future__ import annotations

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
    given_weights,
    object_of,
    ranked_scores,
    register,
    rounded,
    softmax,
)

if TYPE_CHECKING:
    from typing_extensions import Self

IGNORED = -100
"""The target of a row whose label train lacks: no loss, and an error in the metrics."""


@register("classif")
@dataclass(frozen=True)
class Classif(Task):
    """Labels are strings, in sorted order; a label's place is its id."""

    problem_type = "single_label_classification"
    metric = "f1_macro"
    metric_names = ("accuracy", "f1_macro", "f1_weighted")
    parameters = ("top_k", "scores")
    answer_schema = object_of(["pred", "proba"], pred=TEXT, proba=NUMBER, scores=LABEL_SCORES)

    labels: tuple[str, ...]

    @classmethod
    def parse_label(cls, cell: Any, record: Record) -> str:
        label = unquoted(cell) if isinstance(cell, str) else cell
        if isinstance(label, int):
            label = str(label).lower() if isinstance(label, bool) else str(label)
        if not isinstance(label, str) or not label:
            found = "an empty cell" if label == "" else type(label).__name__
            raise RecordError("label.empty", f"found {found}; expected one label", field="labels")
        return label

    @classmethod
    def fit(cls, labels: Sequence[str]) -> Self:
        space = tuple(sorted(set(labels)))
        if len(space) < 2:
            raise RecordError(
                "label.one_only",
                f"found one label only, {space[0]!r}, in all rows of train; "
                "expected at least two to tell apart",
                field="labels",
            )
        return cls(space)

    @classmethod
    def strata(cls, labels: Sequence[str]) -> Sequence[Hashable]:
        return labels

    @classmethod
    def label_counts(cls, labels: Sequence[str]) -> dict[str, float]:
        return dict(sorted(Counter(labels).items()))

    def unknown(self, labels: Sequence[str]) -> list[str]:
        return self.unseen(self.labels, labels)

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.labels)}

    def target(self, label: str) -> Array:
        return np.int64(self.labels.index(label) if label in self.labels else IGNORED)  # type: ignore[return-value]

    def normaliser(self, targets: Array, weights: Array | None) -> float:
        kept = targets[targets != IGNORED]
        return float(len(kept) if weights is None else weights[kept].sum())

    def loss_sum(self, logits: Any, targets: Any, weights: Any | None) -> Any:
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets, weights, reduction="sum", ignore_index=IGNORED)

    def decode(
        self, logits: Sequence[Array], records: Sequence[Record], parameters: Parameters
    ) -> list[Answer]:
        answers = []
        for row in softmax(np.stack(logits)):
            best = int(row.argmax())
            answer: Answer = {"pred": self.labels[best], "proba": rounded(row[best])}
            if (scores := ranked_scores(self.labels, row, parameters)) is not None:
                answer["scores"] = scores
            answers.append(answer)
        return answers

    def metrics(self, gold: Sequence[str], answers: Sequence[Answer]) -> dict[str, Any]:
        from sklearn.metrics import accuracy_score, f1_score

        predicted = [answer["pred"] for answer in answers]
        return {
            "accuracy": float(accuracy_score(gold, predicted)),
            "f1_macro": float(f1_score(gold, predicted, average="macro", zero_division=0)),
            "f1_weighted": float(f1_score(gold, predicted, average="weighted", zero_division=0)),
            "per_label": per_label(gold, predicted, sorted({*gold, *predicted})),
        }

    def class_weights(self, spec: str | Mapping[str, float], labels: Sequence[str]) -> Array:
        if not isinstance(spec, str):
            return given_weights(spec, self.labels)
        counts = Counter(labels)
        balanced = [len(labels) / (len(self.labels) * counts[label]) for label in self.labels]
        return np.array(balanced, dtype=np.float32)


def unquoted(cell: str) -> str:
    """A cell without the double quotes that a CSV writer puts around it."""
    cell = cell.strip()
    if len(cell) >= 2 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"').strip()
    return cell


def per_label(truth: Any, predicted: Any, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support by label; truth holds labels or is an indicator matrix."""
    from sklearn.metrics import precision_recall_fscore_support

    keys: Any = labels if isinstance(truth[0], str) else range(len(labels))
    columns = precision_recall_fscore_support(truth, predicted, labels=keys, zero_division=0)
    names = ("precision", "recall", "f1", "support")
    return {
        label: dict(zip(names, map(float, row), strict=True))
        for label, row in zip(labels, zip(*columns, strict=True), strict=True)
    }
