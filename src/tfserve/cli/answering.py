"""From IN to OUTPUT: what ``tfserve predict`` and ``call`` share."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import jsonlines
from tqdm import tqdm

from tfserve import records
from tfserve.cli.outputs import Output, question
from tfserve.codecs import read_lines
from tfserve.errors import StorageError
from tfserve.files import storing
from tfserve.samples import read_samples
from tfserve.strict_json import dumps


def answer(
    source: str,
    output: str | None,
    resume: bool,
    asked: tuple[str, dict[str, Any]],
    answers: Callable[[Iterable[tuple[int, Any]]], Iterator[dict[str, Any]]],
) -> None:
    """Write ``answers`` to the samples of ``source``; ``asked`` is whom, and with what settings."""
    samples = _samples(source)
    if output is None:
        bad = _write(answers(samples), sys.stdout)
    else:
        written = Output(output, question(source, *asked))
        with storing(Path(output)):
            done = written.done(lambda: _count(source)) if resume else 0
            if done is None:
                click.echo(f"{output} is complete", err=True)
                return
            if Path(output).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            answered = answers(islice(samples, done, None))
            with written.open(done) as file:
                bad = _write(answered, file, start=done)
    if bad:
        click.echo(f"{bad:,} records could not be answered; their lines hold the error", err=True)


def _samples(source: str) -> Iterator[tuple[int, Any]]:
    """Line and raw record, or its error, lazily."""
    if source == "-":
        return enumerate(read_lines(sys.stdin.buffer), 1)
    if not Path(source).is_file():
        raise StorageError(
            "storage.read",
            f"found no file {source}; expected a .jsonl, .csv or .tsv file, or - for standard "
            "input",
        )
    return read_samples(source)


def _count(source: str) -> int | None:
    return None if source == "-" else sum(1 for _ in _samples(source))


def parsed(samples: Iterable[tuple[int, Any]], predictor: Any) -> Iterator[Any]:
    """Records validated here, where the line is known."""
    for line, raw in samples:
        yield records.parse(raw, use_bbox=predictor.encoder.use_bbox, line=line)


def _write(answers: Iterable[dict[str, Any]], file: Any, start: int = 0) -> int:
    """Write answers as JSON Lines; returns how many are errors."""
    bad = 0
    with jsonlines.Writer(file, dumps=dumps) as lines:
        for answer in progress(answers, start=start):
            bad += "pred" not in answer  # a key `error` of the record travels along
            lines.write(answer)
    return bad


def progress(items: Iterable[Any], total: int | None = None, start: int = 0) -> Iterable[Any]:
    """The items, with a bar on a terminal."""
    bar: Iterable[Any] = tqdm(items, total=total, initial=start, unit=" records", disable=None)
    return bar
