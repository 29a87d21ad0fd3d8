"""``Predictor``: records in, answers out. Every surface calls it, and nothing else predicts.

Records are validated, encoded, cut into batches of like lengths, run, put back into order and
decoded. Windows that the model cannot tell apart are computed once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np

from tfserve import artifact, engines, records, tasks
from tfserve.artifact import Artifact
from tfserve.batching import collate, plan
from tfserve.codecs import Request
from tfserve.encoding import Encoded, Encoder, Window
from tfserve.engines import Engine
from tfserve.errors import ModelError
from tfserve.records import Record, Rejected
from tfserve.tasks import Parameters, Task
from tfserve.tasks.base import Answer, Array

log = logging.getLogger("tfserve")

CHUNK_RECORDS = (64, 512, 4096)
CHUNK_CHARACTERS = 250_000
"""A stream is answered in chunks under both bounds: enough to sort by length, flat in memory, and
few answers are lost where it breaks off. The first chunks are smaller: whoever waits sees answers.
"""

TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.05}
"""How far a golden answer's probabilities may be off before an engine is held to be wrong."""


class Predictor:
    """A model ready to answer.

    Parameters
    ----------
    task, encoder, engine : what it asks, how it reads, what computes
    pad_id : the token that fills a batch
    artifact : the model directory it came from, if any

    Attributes
    ----------
    parameters : of every request that does not give its own
    """

    def __init__(
        self,
        task: Task,
        encoder: Encoder,
        engine: Engine,
        *,
        pad_id: int = 0,
        artifact: Artifact | None = None,
    ) -> None:
        self.task, self.encoder, self.engine = task, encoder, engine
        self.pad_id, self.artifact = pad_id, artifact
        self.parameters: dict[str, Any] = {}
        self._lanes = ThreadPoolExecutor(engine.lanes, "tfserve-lane")

    def predict(self, records: Any, parameters: Mapping[str, Any] | None = None) -> list[Answer]:
        """Answers to a list of records (strings, objects with ``text`` or ``words``), in order.

        Raises
        ------
        RecordError, TooLargeError
            For the first bad record, with its ``index``; with ``on_error="record"`` its answer is
            ``{"error": …}`` instead and the others are answered.
        ParameterError
            For a parameter that the task does not know.
        """
        if isinstance(records, (str, Mapping, Record)):
            records = [records]
        return self.answer(Request(list(records), dict(parameters or {})))

    def stream(
        self, records: Iterable[Any], parameters: Mapping[str, Any] | None = None
    ) -> Iterator[Answer]:
        """Answers to records of any number, in order and in flat memory.

        A bad record is answered with ``{"error": …}`` unless ``on_error`` is ``raise``.
        """
        given = {"on_error": "record"} | self.parameters | dict(parameters or {})
        asked = Parameters.parse(given, type(self.task))
        numbered = enumerate(records)
        sizes = chain(CHUNK_RECORDS, repeat(CHUNK_RECORDS[-1]))
        chunks = iter(lambda: self._parse(_chunk(numbered, next(sizes)), "index", asked), [])
        with ThreadPoolExecutor(1, "tfserve-encode") as ahead:
            # The next chunk is read and encoded while the model works on this one.
            pending = ahead.submit(self._next, chunks)
            while (ready := pending.result()) is not None:
                pending = ahead.submit(self._next, chunks)
                yield from self._answers(*ready, asked)

    def answer(self, request: Request) -> list[Answer]:
        """Answers to a decoded request body, one an item.

        In a request by lines a bad line is answered with its error, elsewhere the first bad
        record is raised, unless ``on_error`` says otherwise.
        """
        default = {"on_error": "record" if request.by_line else "raise"}
        given = default | self.parameters | request.parameters
        asked = Parameters.parse(given, type(self.task))
        place = "line" if request.by_line else "index"
        items = self._parse(enumerate(request.items), place, asked)
        return self._answers(items, self._encode(items), asked)

    def logits(self, encoded: Sequence[Encoded]) -> list[Array]:
        """Logits of each record: ``(labels,)``, or ``(words, labels)`` for a task per word."""
        unique: dict[bytes, int] = {}
        windows: list[Window] = []
        places: list[list[int]] = []  # of each record's windows among the unique ones
        for record in encoded:
            places.append([])
            for window in record.windows:
                place = unique.setdefault(window.key, len(windows))
                if place == len(windows):
                    windows.append(window)
                places[-1].append(place)
        computed = self._run(windows)
        merge = _words if self.task.per_word else _pooled
        return [
            merge(record, [computed[i] for i in chosen])
            for record, chosen in zip(encoded, places, strict=True)
        ]

    def _run(self, windows: Sequence[Window]) -> list[Array]:
        """The engine's logits for each window, of its words' first tokens where they count."""
        batches = plan([len(window) for window in windows], self.engine.budget)
        alone = len(batches) == 1 or self.engine.lanes == 1
        results: list[Array] = [np.empty(0)] * len(windows)

        def run(rows: Sequence[int]) -> None:
            chosen = [windows[row] for row in rows]
            logits = self.engine.run(collate(chosen, self.pad_id), alone=alone)
            if not np.isfinite(logits).all():
                raise ModelError(
                    "model.not_finite",
                    f"the model computed NaN or infinity in {self.engine.precision}; expected "
                    "numbers: load it with precision fp32, or train it with a lower learning rate",
                )
            for row, window, output in zip(rows, chosen, logits, strict=True):
                results[row] = output[window.places] if self.task.per_word else output

        submit: Callable[..., Iterable[None]] = map if alone else self._lanes.map
        for _ in submit(run, batches):
            pass
        return results

    def _parse(
        self, items: Iterable[tuple[int, Any]], place: str, asked: Parameters
    ) -> list[Record | Rejected]:
        """Each item validated; the first bad one is raised where the caller wants that."""
        parsed = []
        for number, item in items:
            here = {place: number + (place == "line")}
            record = records.parse(item, use_bbox=self.encoder.use_bbox, **here)
            if isinstance(record, Rejected) and asked.on_error == "raise":
                raise record.error
            parsed.append(record)
        return parsed

    def _encode(self, items: Sequence[Any]) -> list[Encoded]:
        return self.encoder.encode([item for item in items if isinstance(item, Record)])

    def _next(self, chunks: Iterator[list[Any]]) -> tuple[list[Any], list[Encoded]] | None:
        items = next(chunks, None)
        return None if items is None else (items, self._encode(items))

    def _answers(
        self, items: Sequence[Any], encoded: Sequence[Encoded], asked: Parameters
    ) -> list[Answer]:
        records = [item for item in items if isinstance(item, Record)]
        decoded = iter(self.task.decode(self.logits(encoded), records, asked) if records else [])
        cut = iter(encoded)
        answers: list[Answer] = []
        for item in items:
            if isinstance(item, Rejected):
                answers.append({**item.extra, "error": item.error.as_dict()})
                continue
            answer = next(decoded)
            if next(cut).truncated:
                answer["truncated"] = True
            answers.append(answer | item.extra | answer)  # ours come first, and win
        return answers


def load(
    path: Path | str,
    *,
    engine: str = "torch",
    precision: str = "auto",
    parameters: Mapping[str, Any] | None = None,
) -> Predictor:
    """Load a model directory and check that it answers its golden records as training did.

    Parameters
    ----------
    engine : what computes; see ``tfserve.engines.names()``
    precision : ``auto`` (bf16 where it is the faster, unless the golden answers forbid it),
        ``fp32``, ``bf16`` or ``fp16``
    parameters : of every request that does not give its own

    Raises
    ------
    ModelError
        The directory is no model directory, is damaged or was tampered with.
    ParameterError
        Its task does not understand one of ``parameters``.
    """
    found = artifact.load(path)
    Parameters.parse(parameters or {}, tasks.get(found.manifest.task))
    predictor = _load(found, engine, precision)
    off = golden_distance(predictor)
    if off > TOLERANCE[predictor.engine.precision] and precision == "auto":
        log.warning("golden answers differ by %.3f in %s", off, predictor.engine.precision)
        predictor = _load(found, engine, "fp32")
        off = golden_distance(predictor)
    if off > TOLERANCE[predictor.engine.precision]:
        log.warning(
            "%s answers its golden records differently from when it was trained, by %.3f: "
            "compare the library versions in %s", path, off, artifact.MANIFEST
        )  # fmt: skip
    predictor.parameters = dict(parameters or {})
    return predictor


def golden_distance(predictor: Predictor) -> float:
    """The largest difference between the manifest's golden answers and the engine's, 0..1.

    Infinite where the engine computes no numbers.
    """
    golden = predictor.artifact.manifest.golden if predictor.artifact else []
    if not golden:
        return 0.0
    try:
        answers = predictor.predict([pair["record"] for pair in golden], predictor.task.all_scores)
    except ModelError:
        return math.inf
    pairs = zip(golden, answers, strict=True)
    return max(predictor.task.distance(pair["answer"], answer) for pair, answer in pairs)


def _load(found: Artifact, engine: str, precision: str) -> Predictor:
    loaded = engines.load(engine, found.path, precision)
    pad_id = found.manifest.pad_token_id
    return Predictor(found.task(), found.encoder(), loaded, pad_id=pad_id, artifact=found)


def _pooled(record: Encoded, logits: Sequence[Array]) -> Array:
    """One answer of a record's windows: their mean."""
    return logits[0] if len(logits) == 1 else np.mean(logits, axis=0)


def _words(record: Encoded, logits: Sequence[Array]) -> Array:
    """A row of logits for each word, from the window that owns it; NaN where no token stands."""
    rows = np.full((record.words, logits[0].shape[-1]), np.nan, np.float32)
    for window, values in zip(record.windows, logits, strict=True):
        rows[window.words[window.owned]] = values[window.owned]
    return rows


def _chunk(numbered: Iterator[tuple[int, Any]], size: int) -> Iterator[tuple[int, Any]]:
    """The next items of a stream, up to the bounds of one chunk."""
    characters = 0
    for number, item in islice(numbered, size):
        yield number, item
        text = item.text if isinstance(item, Record) else item
        text = text.get("text", text.get("words")) if isinstance(text, Mapping) else text
        text = " ".join(map(str, text)) if isinstance(text, (list, tuple)) else text
        characters += len(text) if isinstance(text, str) else 1
        if characters >= CHUNK_CHARACTERS:
            return
