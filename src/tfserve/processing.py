"""What stands before and behind a model: requests become windows, logits become answers.

``Predictor`` runs a model in between; the server's batcher puts the windows of many requests
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from tfserve import records
from tfserve.arrays import Array
from tfserve.codecs import Request
from tfserve.encoding import Encoded, Encoder, Window
from tfserve.errors import ModelError, TfserveError
from tfserve.parameters import Parameters
from tfserve.records import Record, Rejected
from tfserve.tasks import Task
from tfserve.tasks.common import Answer

Item = Record | Rejected

TOLD = ("error", "truncated")
OURS = (*TOLD, "pred", "proba", "scores", "entities")
"""Keys of a record that do not travel along: into any answer, and into an error in its place."""


@dataclass(frozen=True)
class Prepared:
    """Encoded records, and their windows without those that the model cannot tell apart.

    Attributes
    ----------
    windows : each once
    places : for each record the indices of its windows in ``windows``
    """

    encoded: Sequence[Encoded]
    windows: list[Window]
    places: list[list[int]]

    @classmethod
    def of(cls, encoded: Sequence[Encoded]) -> Prepared:
        unique: dict[bytes, int] = {}
        windows: list[Window] = []
        places: list[list[int]] = []
        for record in encoded:
            places.append([])
            for window in record.windows:
                place = unique.setdefault(window.key, len(windows))
                if place == len(windows):
                    windows.append(window)
                places[-1].append(place)
        return cls(encoded, windows, places)


class Processor:
    """Reads requests for one model and answers them from its logits.

    Attributes
    ----------
    parameters : of every request that does not give its own
    """

    def __init__(self, task: Task, encoder: Encoder) -> None:
        self.task, self.encoder = task, encoder
        self.parameters: dict[str, Any] = {}

    def asked(self, *given: Mapping[str, Any]) -> Parameters:
        """The parameters of a request; later ones win. Raises ParameterError."""
        merged = {name: value for some in given for name, value in some.items()}
        parameters = Parameters.parse(merged, type(self.task))
        self.task.check(parameters)
        return parameters

    def read(self, request: Request) -> tuple[list[Item], Parameters]:
        """The items of a decoded body, validated.

        In a request by lines a bad line is an item of its own, elsewhere the first bad record is
        raised, unless ``on_error`` says otherwise.
        """
        default = {"on_error": "record" if request.by_line else "raise"}
        asked = self.asked(default, self.parameters, request.parameters)
        if request.lines is None:
            return self.parse(enumerate(request.items), "index", asked), asked
        return self.parse(zip(request.lines, request.items, strict=True), "line", asked), asked

    def parse(self, items: Iterable[tuple[int, Any]], place: str, asked: Parameters) -> list[Item]:
        """Each item validated; the first bad one is raised where the caller wants that."""
        parsed = []
        for number, item in items:
            record = records.parse(item, use_bbox=self.encoder.use_bbox, **{place: number})
            if isinstance(record, Rejected) and asked.on_error == "raise":
                raise record.error
            parsed.append(record)
        return parsed

    def preprocess(self, items: Sequence[Item]) -> Prepared:
        """The windows of those items that are records."""
        return Prepared.of(self.encoder.encode([i for i in items if isinstance(i, Record)]))

    def computed(self, window: Window, output: Array) -> Array:
        """Of an engine's output for one window what counts: that of its words' first tokens.

        Raises ModelError where the model computed no numbers.
        """
        if not np.isfinite(output).all():
            raise ModelError(
                "model.not_finite",
                "the model computed NaN or infinity; expected numbers: "
                "load it with precision fp32, or train it with a lower learning rate",
            )
        return output[window.places] if self.task.per_word else output

    def tried(self, window: Window, output: Array) -> Array | TfserveError:
        """What ``computed`` gives, or its error."""
        try:
            return self.computed(window, output)
        except ModelError as error:
            return error

    def settled(
        self,
        items: Sequence[Item],
        prepared: Prepared,
        tried: Sequence[Array | TfserveError],
        asked: Parameters,
    ) -> list[Answer]:
        """An answer for each item; a window that failed fails its records alone, where that is
        asked, and is raised elsewhere."""
        failed = {i: one for i, one in enumerate(tried) if isinstance(one, TfserveError)}
        if failed:
            if asked.on_error == "raise":
                raise next(iter(failed.values()))
            items, prepared = _without(items, prepared, failed)
        return self.postprocess(items, prepared, cast("Sequence[Array]", tried), asked)

    def logits(self, prepared: Prepared, computed: Sequence[Array]) -> list[Array]:
        """Logits of each record: ``(labels,)``, or ``(words, labels)`` for a task per word.

        ``computed`` holds what ``self.computed`` gave for each window.
        """
        merge = _words if self.task.per_word else _pooled
        return [
            merge(record, [computed[i] for i in chosen])
            for record, chosen in zip(prepared.encoded, prepared.places, strict=True)
        ]

    def postprocess(
        self,
        items: Sequence[Item],
        prepared: Prepared,
        computed: Sequence[Array],
        asked: Parameters,
    ) -> list[Answer]:
        """An answer for each item, in order."""
        found = [item for item in items if isinstance(item, Record)]
        logits = self.logits(prepared, computed)
        decoded = iter(self.task.decode(logits, found, asked) if found else [])
        cut = iter(prepared.encoded)
        answers: list[Answer] = []
        for item in items:
            if isinstance(item, Rejected):
                extra = {name: v for name, v in item.extra.items() if name not in OURS}
                answers.append({**extra, "error": item.error.as_dict()})
                continue
            answer = next(decoded)
            if next(cut).truncated:
                answer["truncated"] = True
            extra = {name: v for name, v in item.extra.items() if name not in TOLD}
            answers.append(answer | extra | answer)  # ours come first, and win
        return answers


def _without(
    items: Sequence[Item], prepared: Prepared, failed: Mapping[int, TfserveError]
) -> tuple[list[Item], Prepared]:
    """The items with those rejected that have a window which failed, and what is left of them."""
    kept: list[Item] = []
    encoded, places = [], []
    pairs = zip(prepared.encoded, prepared.places, strict=True)
    for item in items:
        if isinstance(item, Record):
            record, windows = next(pairs)
            error = next((failed[place] for place in windows if place in failed), None)
            if error is not None:
                kept.append(Rejected(error, item.extra))
                continue
            encoded.append(record)
            places.append(windows)
        kept.append(item)
    return kept, Prepared(encoded, prepared.windows, places)


def _pooled(record: Encoded, logits: Sequence[Array]) -> Array:
    """One answer of a record's windows: their mean."""
    return logits[0] if len(logits) == 1 else np.mean(logits, axis=0)


def _words(record: Encoded, logits: Sequence[Array]) -> Array:
    """A row of logits for each word, from the window that owns it; NaN where no token stands."""
    rows = np.full((record.words, logits[0].shape[-1]), np.nan, np.float32)
    for window, values in zip(record.windows, logits, strict=True):
        rows[window.words[window.owned]] = values[window.owned]
    return rows
