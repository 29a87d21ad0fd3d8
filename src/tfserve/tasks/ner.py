"""ner: a tag a word, and the entities that the tags spell.

Tags are kept and answered in IOB2. Tables in IOB1, BIOES, BILOU or with bare ``B``/``I``/``O``
are read to the same tags, so that one label space holds whatever way a table was written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from tfserve.arrays import Array, softmax
from tfserve.calibration import softmax_loss, temperature, top_error
from tfserve.errors import RecordError
from tfserve.hparams import HParams
from tfserve.parameters import Parameters
from tfserve.records import Record, plain
from tfserve.tallies import Labels
from tfserve.tasks.base import Task, register
from tfserve.tasks.common import (
    IGNORED,
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
    weight_of,
)

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
    """Labels are ``O`` and, for each type in sorted order, ``B-type`` and ``I-type``.

    Attributes
    ----------
    temperatures : that divides a word's logits, by the tag that is its likeliest; none: 1
    """

    auto_model, pipeline_tag = "AutoModelForTokenClassification", "token-classification"
    unit = "entities"
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
    temperatures: tuple[float, ...] = ()

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

    @classmethod
    def label_names(cls, label: Sequence[str]) -> set[str]:
        """The types."""
        return {kind or "" for _, _, kind in entities(label)}

    @classmethod
    def label_text(cls, label: Sequence[str], record: Record) -> str:
        """The entities."""
        found = mentioned(label, record)
        return "; ".join(f"{kind}: {text}" if kind else text for kind, text in found)

    @classmethod
    def differ(
        cls,
        one: Sequence[str],
        other: Sequence[str],
        records: tuple[Record, Record],
        spread: float,
    ) -> bool:
        """Whether other entities are marked, or where the texts differ entities of other types."""
        alike = plain(records[0].text) == plain(records[1].text)
        sides = [
            Counter((kind, plain(text) if alike else "") for kind, text in mentioned(tags, record))
            for tags, record in zip((one, other), records, strict=True)
        ]
        return sides[0] != sides[1]

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "temperatures": list(self.temperatures)}

    def target(self, label: tuple[str, ...]) -> Array:
        ids = {tag: i for i, tag in enumerate(self.labels)}
        return np.array([ids.get(tag, IGNORED) for tag in label], dtype=np.int64)

    def normaliser(self, targets: Array, weights: Array | None) -> float:
        return weight_of(targets, weights)

    def loss_sum(self, logits: Any, targets: Any, weights: Any | None) -> Any:
        from torch.nn.functional import cross_entropy

        # Words are few among the tokens of a batch: pick them before the softmax.
        kept = targets != IGNORED
        return cross_entropy(logits[kept], targets[kept], weights, reduction="sum")

    def head_bias(self, labels: Sequence[tuple[str, ...]]) -> Array:
        """The logarithm of each tag's share of the words: otherwise the first steps teach the
        encoder only that most words are outside."""
        counts = Counter(chain.from_iterable(labels))
        words = np.array([counts[tag] + 0.5 for tag in self.labels])
        return np.asarray(np.log(words / words.sum()), np.float32)

    def decode(
        self, logits: Sequence[Array], records: Sequence[Record], parameters: Parameters
    ) -> list[Answer]:
        return [
            self._decode(row, record, parameters)
            for row, record in zip(logits, records, strict=True)
        ]

    def _decode(self, logits: Array, record: Record, parameters: Parameters) -> Answer:
        unseen = np.asarray(np.isnan(logits).any(-1))
        probabilities = softmax(self._cooled(np.where(unseen[:, None], 0.0, logits)))
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

    def _cooled(self, logits: Array) -> Array:
        if not self.temperatures:
            return logits
        return np.asarray(logits / np.array(self.temperatures)[logits.argmax(-1)][:, None])

    def calibrated(
        self, logits: Sequence[Array], labels: Sequence[tuple[str, ...]], hp: HParams
    ) -> Self:
        rows, targets = self._known(logits, labels)
        usual, likeliest = temperature(softmax_loss(rows, targets)), rows.argmax(-1)
        alike = [likeliest == tag for tag in range(len(self.labels))]
        heats = [temperature(softmax_loss(rows[some], targets[some]), usual) for some in alike]
        return replace(self, temperatures=tuple(heats))

    def uncalibrated(self) -> Self:
        return replace(self, temperatures=())

    def calibration_error(
        self, logits: Sequence[Array], labels: Sequence[tuple[str, ...]]
    ) -> float:
        """Over all words."""
        rows, targets = self._known(logits, labels)
        return top_error(softmax(self._cooled(rows)), targets)

    def _known(
        self, logits: Sequence[Array], labels: Sequence[tuple[str, ...]]
    ) -> tuple[Array, Array]:
        """Logits and tag ids of the words that the model saw and whose tag is known."""
        rows, targets = np.concatenate(logits), np.concatenate([self.target(row) for row in labels])
        known = (targets != IGNORED) & ~np.isnan(rows).any(-1)
        return rows[known], targets[known]

    def tally(self, gold: Sequence[tuple[str, ...]], answers: Sequence[Answer]) -> Labels:
        """An entity is right where its type and both its borders are."""
        given = [answer["pred"] for answer in answers]
        words = [
            (sum(a == b for a, b in zip(*pair, strict=True)), len(pair[0]))
            for pair in zip(gold, given, strict=True)
        ]
        return Labels(list(map(_units, gold)), list(map(_units, given)), words=np.array(words))

    def class_weights(
        self, spec: str | Mapping[str, float], labels: Sequence[tuple[str, ...]]
    ) -> Array:
        """Per tag; a given weight may name a tag or a type, which is both of its tags."""
        if isinstance(spec, str):
            counts = Counter(tag for tags in labels for tag in tags)
            share = sum(counts.values()) / len(self.labels)
            weights = [share / counts[tag] if counts[tag] else 1.0 for tag in self.labels]
            most = MAX_BALANCED_WEIGHT * min(weights)
            return np.minimum(np.array(weights, np.float32), most)
        by_tag = {}
        for name, weight in spec.items():
            tags = [tag for tag in self.labels if tag[2:] == name and tag != OUTSIDE] or [name]
            by_tag.update(dict.fromkeys(tags, weight))
        return given_weights(by_tag, self.labels)


def _units(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    return {(kind or "", first, last) for first, last, kind in entities(tags)}


def mentioned(tags: Sequence[str], record: Record) -> Iterator[tuple[str, str]]:
    """Type and text of each entity."""
    for first, last, kind in entities(tags):
        yield kind or "", record.text[record.spans[first][0] : record.spans[last - 1][1]]


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
