"""``Predictor``: records in, answers out, for every surface but the server, which batches itself.

Records are validated, encoded, cut into batches of like lengths, run, put back into order and
decoded. Windows that the model cannot tell apart are computed once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, cast

import numpy as np

from tfserve import artifact, engines, tasks
from tfserve.arrays import Array
from tfserve.artifact import TOLERANCE, Artifact
from tfserve.batching import Batch, collate, plan
from tfserve.codecs import Request
from tfserve.conversion import convert
from tfserve.encoding import Encoder, Window
from tfserve.engines import Engine
from tfserve.errors import InstallError, ModelError, TfserveError
from tfserve.parameters import Parameters
from tfserve.processing import Item, Prepared, Processor
from tfserve.records import Record
from tfserve.tasks import Task
from tfserve.tasks.common import Answer

log = logging.getLogger("tfserve")

CHUNK_RECORDS = (64, 512, 4096)
CHUNK_CHARACTERS = 250_000
"""A stream is answered in chunks under both bounds: enough to sort by length, flat in memory, and
few answers are lost where it breaks off. The first chunks are smaller: whoever waits sees answers.
"""


class Predictor(Processor):
    """A model ready to answer.

    Parameters
    ----------
    task, encoder, engine : what it asks, how it reads, what computes
    artifact : the model directory it came from, if any
    """

    def __init__(
        self,
        task: Task,
        encoder: Encoder,
        engine: Engine,
        *,
        artifact: Artifact | None = None,
    ) -> None:
        super().__init__(task, encoder)
        self.engine, self.artifact = engine, artifact
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
        asked = self.asked({"on_error": "record"}, self.parameters, parameters or {})
        numbered = enumerate(records)
        sizes = chain(CHUNK_RECORDS, repeat(CHUNK_RECORDS[-1]))
        chunks = iter(lambda: self.parse(_chunk(numbered, next(sizes)), "index", asked), [])

        def ready() -> tuple[list[Item], Prepared] | None:
            items = next(chunks, None)
            return None if items is None else (items, self.preprocess(items))

        with ThreadPoolExecutor(1, "tfserve-encode") as ahead:
            # The next chunk is read and encoded while the model works on this one.
            pending = ahead.submit(ready)
            while (chunk := pending.result()) is not None:
                pending = ahead.submit(ready)
                items, prepared = chunk
                yield from self.settled(items, prepared, self._tried(prepared.windows), asked)

    def answer(self, request: Request) -> list[Answer]:
        """Answers to a decoded request body, one an item."""
        items, asked = self.read(request)
        prepared = self.preprocess(items)
        return self.settled(items, prepared, self._tried(prepared.windows), asked)

    def batch(self, windows: Sequence[Window]) -> Batch:
        """Windows as the engine wants them padded, but never longer than the model sees."""
        wanted = self.engine.rounded(max(len(window) for window in windows))
        return collate(windows, self.encoder.pad_token_id, min(wanted, self.encoder.max_length))

    def run(self, windows: Sequence[Window]) -> list[Array]:
        """What the model computes for each window (see ``Processor.computed``)."""
        tried = self._tried(windows)
        for one in tried:
            if isinstance(one, TfserveError):
                raise one
        return cast("list[Array]", tried)

    def _tried(self, windows: Sequence[Window]) -> list[Array | TfserveError]:
        batches = plan([len(window) for window in windows], self.engine.budget)
        alone = len(batches) == 1 or self.engine.lanes == 1
        results: list[Array | TfserveError] = [np.empty(0)] * len(windows)

        def run(rows: Sequence[int]) -> None:
            chosen = [windows[row] for row in rows]
            logits = self.engine.run(self.batch(chosen), alone=alone)
            for row, window, output in zip(rows, chosen, logits, strict=True):
                results[row] = self.tried(window, output)

        submit: Callable[..., Iterable[None]] = map if alone else self._lanes.map
        for _ in submit(run, batches):
            pass
        return results


def load(
    path: Path | str,
    *,
    engine: str = "auto",
    precision: str = "auto",
    parameters: Mapping[str, Any] | None = None,
) -> Predictor:
    """Load a model directory and check that it answers its golden records as training did.

    Parameters
    ----------
    engine : what computes: one of ``tfserve.engines.names()``, or ``auto``: on a CPU the one whose
        graph was exported into the directory, elsewhere torch
    precision : ``auto`` (bf16 where it is faster, unless the golden answers forbid it),
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
    found.task().check(Parameters.parse(parameters or {}, tasks.get(found.manifest.task)))
    names = [engine]
    if engine == "auto":
        names = engines.candidates(found.graphs, weights=found.weights)
    predictor = _first_sound(found, names, precision)
    predictor.parameters = dict(parameters or {})
    return predictor


def golden_distance(predictor: Predictor) -> float:
    """The largest difference between the manifest's golden answers and the engine's, 0..1.

    Infinite where the engine computes no numbers.
    """
    if predictor.artifact is None:
        return 0.0
    manifest = predictor.artifact.manifest
    asked = manifest.golden_request()
    try:
        answers = predictor.predict(asked["data"], asked["parameters"])
    except ModelError:
        return math.inf
    return manifest.golden_difference(answers)


def _first_sound(found: Artifact, names: Sequence[str], precision: str) -> Predictor:
    """With the first of the engines that answers the golden records as training did."""
    for number, name in enumerate(names, 1):
        try:
            with _runnable(found, name) as folder:
                predictor, sound = _loaded(found, name, folder, precision)
        except (ModelError, InstallError) as error:
            if number == len(names):
                raise
            log.warning("%s", error)
            continue
        if sound:
            break
    return predictor


@contextlib.contextmanager
def _runnable(found: Artifact, engine: str) -> Iterator[Path]:
    """The folder that an engine loads; the graph is made for the moment where there is none."""
    if engine in found.graphs:
        yield found.path / engine
        return
    if not found.weights:
        raise ModelError(
            "model.engine",
            f"{found.path} was exported for {', '.join(sorted(found.graphs))} and cannot be run by "
            f"{engine}: export it for {engine}, or take the directory that training wrote",
        )
    if not engines.runs_graphs(engine):
        yield found.path
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as graph:
        convert(engine, found.path, Path(graph))
        yield Path(graph)


def _loaded(found: Artifact, name: str, folder: Path, precision: str) -> tuple[Predictor, bool]:
    """In a precision that answers the golden records as training did, if there is one."""
    for tried in ("auto", "fp32") if precision == "auto" else (precision,):
        predictor = assemble(found, engines.load(name, folder, tried))
        off, used = golden_distance(predictor), predictor.engine.precision
        if off <= TOLERANCE[used]:
            return predictor, True
        log.warning(
            "%s answers its golden records differently from when it was trained, by %.3f with %s "
            "in %s: compare the library versions in %s",
            found.path, off, name, used, artifact.MANIFEST,
        )  # fmt: skip
        if used in ("fp32", "int8"):
            break
    return predictor, False


def assemble(found: Artifact, engine: Engine) -> Predictor:
    """The predictor of a model directory with this engine."""
    return Predictor(found.task(), found.encoder(), engine, artifact=found)


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
