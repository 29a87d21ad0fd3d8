"""classif: one label a text. Softmax and cross-entropy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tfserve.arrays import Array, softmax
from tfserve.calibration import (
    Aim,
    softmax_loss,
    temperature,
    thresholds,
    top_error,
)
from tfserve.errors import HParamsError, ParameterError, RecordError
from tfserve.hparams import HParams
from tfserve.parameters import Parameters
from tfserve.records import Record
from tfserve.tallies import Labels, Tally
from tfserve.tasks.base import Task, register
from tfserve.tasks.common import (
    IGNORED,
    LABEL_SCORES,
    MAX_BALANCED_WEIGHT,
    NUMBER,
    Answer,
    given_weights,
    object_of,
    ranked_scores,
    rounded,
    unquoted,
    weight_of,
)

if TYPE_CHECKING:
    from typing_extensions import Self


@register("classif")
@dataclass(frozen=True)
class Classif(Task):
    """Labels are strings, in sorted order; a label's place is its id.

    Attributes
    ----------
    temperature : divides logits
    positive : of two labels the one that thresholds are about: the rarer one in train
    threshold : probability from which ``positive`` is given; None: the likelier label is
    abstain : probability under which no label is given
    """

    problem_type = "single_label_classification"
    metric = "f1_macro"
    metric_names = ("accuracy", "f1_macro", "f1_weighted")
    parameters = ("top_k", "scores", "threshold", "abstain")
    choices = ("threshold_for", "positive_label", "abstain")
    answer_schema = object_of(
        ["pred", "proba"], pred={"type": ["string", "null"]}, proba=NUMBER, scores=LABEL_SCORES
    )

    labels: tuple[str, ...]
    temperature: float = 1.0
    positive: str | None = None
    threshold: float | None = None
    abstain: float | None = None

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
        counts = Counter(labels)
        space = tuple(sorted(counts))
        if len(space) < 2:
            raise RecordError(
                "label.one_only",
                f"found one label only, {space[0]!r}, in all rows of train; "
                "expected at least two to tell apart",
                field="labels",
            )
        positive = min(space, key=lambda label: counts[label]) if len(space) == 2 else None
        return cls(space, positive=positive)

    @classmethod
    def strata(cls, labels: Sequence[str]) -> Sequence[Hashable]:
        return labels

    @classmethod
    def label_counts(cls, labels: Sequence[str]) -> dict[str, float]:
        return dict(sorted(Counter(labels).items()))

    def unknown(self, labels: Sequence[str]) -> list[str]:
        return self.unseen(self.labels, labels)

    def state(self) -> dict[str, Any]:
        return {
            "labels": list(self.labels), "temperature": self.temperature,
            "positive": self.positive, "threshold": self.threshold, "abstain": self.abstain,
        }  # fmt: skip

    def thresholds_by_label(self) -> dict[str, float]:
        if self.positive is None or self.threshold is None:
            return {}
        return {self.positive: self.threshold}

    def target(self, label: str) -> Array:
        place = self.labels.index(label) if label in self.labels else IGNORED
        return np.asarray(place, np.int64)

    def normaliser(self, targets: Array, weights: Array | None) -> float:
        return weight_of(targets, weights)

    def loss_sum(self, logits: Any, targets: Any, weights: Any | None) -> Any:
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets, weights, reduction="sum", ignore_index=IGNORED)

    def decode(
        self, logits: Sequence[Array], records: Sequence[Record], parameters: Parameters
    ) -> list[Answer]:
        threshold = parameters.threshold
        if threshold is None or isinstance(threshold, Mapping):  # which `check` refuses
            threshold = self.threshold
        abstain = self.abstain if parameters.abstain is None else parameters.abstain
        positive = self.labels.index(self.positive or self.labels[-1])
        answers = []
        for row in softmax(np.stack(logits) / self.temperature):
            best = int(row.argmax())
            if threshold is not None and len(self.labels) == 2:
                best = positive if row[positive] >= threshold else 1 - positive
            given = abstain is None or row[best] >= abstain
            pred = self.labels[best] if given else None
            answer: Answer = {"pred": pred, "proba": rounded(row[best])}
            asked = parameters if given else replace(parameters, scores=True, top_k=None)
            if (scores := ranked_scores(self.labels, row, asked)) is not None:
                answer["scores"] = scores
            answers.append(answer)
        return answers

    @property
    def understood(self) -> tuple[str, ...]:
        return tuple(n for n in self.parameters if n != "threshold" or len(self.labels) == 2)

    def check(self, parameters: Parameters) -> None:
        super().check(parameters)
        if isinstance(parameters.threshold, Mapping):
            raise ParameterError(
                "parameters.value",
                "threshold: expected a number: there is one threshold, of one of two labels",
                field="threshold",
            )

    def check_hparams(self, hp: HParams) -> None:
        super().check_hparams(hp)
        for name in ("threshold_for", "positive_label"):
            if getattr(hp, name) is not None and len(self.labels) != 2:
                raise HParamsError(
                    "hparams.value",
                    f"{name}: expected none for {len(self.labels)} labels: a threshold decides "
                    "between two",
                )
        if hp.positive_label not in (None, *self.labels):
            raise HParamsError(
                "hparams.value",
                f"positive_label: found {hp.positive_label!r}; train has {', '.join(self.labels)}",
            )
        if hp.threshold_for is not None and hp.abstain is not None:
            raise HParamsError(
                "hparams.value",
                "abstain: expected none beside threshold_for: a label that the threshold gives "
                "may be unlikely, and would be taken back",
            )

    def calibrated(self, logits: Sequence[Array], labels: Sequence[str], hp: HParams) -> Self:
        rows, targets = self._known(logits, labels)
        chosen = replace(self, positive=hp.positive_label or self.positive, abstain=hp.abstain)
        if not len(rows):
            return chosen
        chosen = replace(chosen, temperature=temperature(softmax_loss(rows, targets)))
        if hp.threshold_for is None:
            return chosen
        place = self.labels.index(chosen.positive or self.labels[-1])
        given = softmax(rows / chosen.temperature)[:, [place]]
        [threshold] = thresholds(given, (targets == place)[:, None], Aim.parse(hp.threshold_for))
        return replace(chosen, threshold=threshold)

    def uncalibrated(self) -> Self:
        return replace(self, temperature=1.0, threshold=None, abstain=None)

    def calibration_error(self, logits: Sequence[Array], labels: Sequence[str]) -> float:
        rows, targets = self._known(logits, labels)
        return top_error(softmax(rows / self.temperature), targets)

    def _known(self, logits: Sequence[Array], labels: Sequence[str]) -> tuple[Array, Array]:
        """Logits and label ids of the rows whose label is known."""
        targets = np.array([self.target(label) for label in labels])
        return np.stack(logits)[targets != IGNORED], targets[targets != IGNORED]

    def tally(self, gold: Sequence[str], answers: Sequence[Answer]) -> Labels:
        # No label is never right.
        given = [{(answer["pred"],)} if answer["pred"] is not None else set() for answer in answers]
        return Labels([{(label,)} for label in gold], given)

    def measured(self, tally: Tally) -> dict[str, Any]:
        found = super().measured(tally)
        if self.abstain is not None and isinstance(tally, Labels):
            answered = np.array([bool(given) for given in tally.given])
            found["coverage"] = float(answered.mean())
            found["accuracy_answered"] = float(tally.right.sum() / max(1, answered.sum()))
        return found

    def class_weights(self, spec: str | Mapping[str, float], labels: Sequence[str]) -> Array:
        if not isinstance(spec, str):
            return given_weights(spec, self.labels)
        counts = Counter(labels)
        balanced = [len(labels) / (len(self.labels) * counts[label]) for label in self.labels]
        most = MAX_BALANCED_WEIGHT * min(balanced)
        return np.minimum(np.array(balanced, np.float32), most)
