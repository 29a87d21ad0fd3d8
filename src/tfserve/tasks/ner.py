"""ner: a tag a word, and the entities that the tags spell.

Tags are kept and answered in IOB2. Tables in IOB1, BIOES, BILOU or with bare ``B``/``I``/``O``
are read to the same tags, so that one label space holds whatever way a table was written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
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
    softmax,
)
from tfserve.tasks.classif import IGNORED

if TYPE_CHECKING:
    from typing_extensions import Self

OUTSIDE = "O"
_TAG = re.compile(r"O|([BIESLU])(-\S+)?")
_LAST = "SUEL"  # in BIOES and BILOU: the last word of an entity, or its only one
_IOB = {"B": "B", "U": "B", "S": "B", "I": "I", "E": "I", "L": "I"}


ENTITY = object_of(
    ["label", "text", "start", "end", "proba"],
    label=TEXT,
    text=TEXT,
    start={"type": "integer"},
    end={"type": "integer"},
    proba=NUMBER,
)


@register("ner")
@dataclass(frozen=True)
class Ner(Task):
    """Labels are ``O`` and, for each type in sorted order, ``B-type`` and ``I-type``."""

    auto_model = "AutoModelForTokenClassification"
    per_word = True
    metric = "f1"
    metric_names = ("f1", "precision", "recall", "word_accuracy")
    parameters = ("top_k", "scores")
    answer_schema = object_of(
        ["pred", "proba", "entities"],
        pred=array_of(TEXT),
        proba=array_of(NUMBER),
        entities=array_of(ENTITY),
        scores=array_of(LABEL_SCORES),
    )

    labels: tuple[str, ...]

    @classmethod
    def parse_label(cls, cell: Any, record: Record) -> tuple[str, ...]:
        tags = cell.split() if isinstance(cell, str) else cell
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise RecordError("label.type", "expected tags separated by spaces", field="labels")
        if len(tags) != len(record.spans):
            raise RecordError(
                "label.count",
                f"found {len(tags)} tags for {len(record.spans)} words; expected one tag for each "
                "word between spaces",
                field="labels",
            )
        for place, tag in enumerate(tags):
            if not _TAG.fullmatch(tag):
                raise RecordError(
                    "label.tag",
                    f"found the tag {tag[:40]!r} for word {place}; expected O, B-TYPE or I-TYPE",
                    field="labels",
                )
        return tuple(to_iob2(tags))

    @classmethod
    def fit(cls, labels: Sequence[tuple[str, ...]]) -> Self:
        types = sorted({tag[1:] for tags in labels for tag in tags if tag != OUTSIDE})
        if not types:
            raise RecordError(
                "label.none", "found only O tags in train; expected some entities", field="labels"
            )
        return cls((OUTSIDE, *(f"{prefix}{kind}" for kind in types for prefix in "BI")))

    @classmethod
    def strata(cls, labels: Sequence[tuple[str, ...]]) -> Sequence[Hashable]:
        counts = Counter(tag[1:] for tags in labels for tag in tags if tag[0] == "B")
        kinds = [{tag[1:] for tag in tags if tag != OUTSIDE} for tags in labels]
        return [min(row, key=lambda kind: (counts[kind], kind), default="") for row in kinds]

    @classmethod
    def label_counts(cls, labels: Sequence[tuple[str, ...]]) -> dict[str, float]:
        """Entities by type."""
        begun = Counter(tag.partition("-")[2] for tags in labels for tag in tags if tag[0] == "B")
        return dict(sorted(begun.items()))

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.labels)}

    def target(self, label: tuple[str, ...]) -> Array:
        ids = {tag: i for i, tag in enumerate(self.labels)}
        return np.array([ids.get(tag, IGNORED) for tag in label], dtype=np.int64)

    def normaliser(self, targets: Array, weights: Array | None) -> float:
        kept = targets[targets != IGNORED]
        return float(len(kept) if weights is None else weights[kept].sum())

    def loss_sum(self, logits: Any, targets: Any, weights: Any | None) -> Any:
        from torch.nn.functional import cross_entropy

        # Words are few among the tokens of a batch: pick them before the softmax.
        kept = targets != IGNORED
        return cross_entropy(logits[kept], targets[kept], weights, reduction="sum")

    def decode(
        self, logits: Sequence[Array], records: Sequence[Record], parameters: Parameters
    ) -> list[Answer]:
        return [
            self._decode(row, record, parameters)
            for row, record in zip(logits, records, strict=True)
        ]

    def _decode(self, logits: Array, record: Record, parameters: Parameters) -> Answer:
        unseen = np.asarray(np.isnan(logits).any(-1))
        probabilities = softmax(np.where(unseen[:, None], 0.0, logits))
        best = np.where(unseen, self.labels.index(OUTSIDE), probabilities.argmax(-1))
        tags = to_iob2([self.labels[i] for i in best])
        # A word of which the model saw no token is outside, with no confidence in it.
        chosen = np.where(unseen, 0.0, probabilities[np.arange(len(best)), best])
        probas = [rounded(value) for value in chosen]
        answer: Answer = {"pred": tags, "proba": probas, "entities": []}
        for first, last, kind in entities(tags):
            start, end = record.spans[first][0], record.spans[last - 1][1]
            proba = rounded(sum(probas[first:last]) / (last - first))
            answer["entities"].append(
                {"label": kind, "text": record.text[start:end], "start": start, "end": end,
                 "proba": proba}
            )  # fmt: skip
        if parameters.scores or parameters.top_k is not None:
            answer["scores"] = [
                ranked_scores(self.labels, row, parameters) for row in probabilities
            ]
        return answer

    def metrics(self, gold: Sequence[tuple[str, ...]], answers: Sequence[Answer]) -> dict[str, Any]:
        """Entity-level scores by seqeval's strict definition: type and both borders right."""
        from seqeval.metrics import classification_report
        from seqeval.scheme import IOB2

        truth, guess = [list(tags) for tags in gold], [answer["pred"] for answer in answers]
        words = [
            a == b for x, y in zip(truth, guess, strict=True) for a, b in zip(x, y, strict=True)
        ]
        accuracy = float(np.mean(words))
        if not any(tag != OUTSIDE for tags in (*truth, *guess) for tag in tags):
            # Nothing to find and nothing found; seqeval cannot report on no entity.
            return {"precision": 0.0, "recall": 0.0, "f1": 0.0, "word_accuracy": accuracy,
                    "per_type": {}}  # fmt: skip
        report = classification_report(
            truth, guess, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
        )
        micro, names = report["micro avg"], ("precision", "recall", "f1-score", "support")
        return {
            "precision": float(micro["precision"]),
            "recall": float(micro["recall"]),
            "f1": float(micro["f1-score"]),
            "word_accuracy": accuracy,
            "per_type": {
                kind: {name.removesuffix("-score"): float(row[name]) for name in names}
                for kind, row in report.items()
                if not kind.endswith(" avg")  # no type holds a space
            },
        }

    def class_weights(
        self, spec: str | Mapping[str, float], labels: Sequence[tuple[str, ...]]
    ) -> Array:
        """Per tag; a given weight may name a tag or a type, which is both of its tags."""
        if isinstance(spec, str):
            counts = Counter(tag for tags in labels for tag in tags)
            share = sum(counts.values()) / len(self.labels)
            weights = [share / counts[tag] if counts[tag] else 1.0 for tag in self.labels]
            return np.array(weights, dtype=np.float32)
        by_tag = {}
        for name, weight in spec.items():
            tags = [tag for tag in self.labels if tag[2:] == name and tag != OUTSIDE] or [name]
            by_tag.update(dict.fromkeys(tags, weight))
        return given_weights(by_tag, self.labels)


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Tags of any scheme as IOB2: an entity begins with B, and I only ever goes on with one."""
    fixed: list[str] = []
    going_on: str | None = None  # the type of an entity that the next word may belong to
    for tag in tags:
        kind = None if tag == OUTSIDE else tag[1:]
        inside = kind is not None and _IOB[tag[0]] == "I" and going_on == kind
        fixed.append(tag if kind is None else f"{'I' if inside else 'B'}{kind}")
        going_on = None if tag[0] in _LAST else kind
    return fixed


def entities(tags: Sequence[str]) -> Iterator[tuple[int, int, str | None]]:
    """The entities of IOB2 tags: (first word, one past the last word, type or None)."""
    first: int | None = None
    for place, tag in enumerate((*tags, OUTSIDE)):
        if first is not None and not tag.startswith("I"):
            yield first, place, tags[first][2:] or None
            first = None
        if tag.startswith("B"):
            first = place
