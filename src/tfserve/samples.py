"""The rows of a file, one after the other, before anything is known of what they mean."""

from __future__ import annotations

import codecs as charsets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfserve import delimited
from tfserve.codecs import read_lines
from tfserve.errors import DataError, Problem, RecordError, StorageError

SUFFIXES = (".csv", ".tsv", ".jsonl")

_NEAR = {"label": "labels", "class": "labels", "target": "labels", "tags": "labels",
         "sentence": "text", "content": "text", "boxes": "bbox"}  # fmt: skip


def read_samples(path: Path | str, columns: Sequence[str] = ("text",)) -> Iterator[tuple[int, Any]]:
    """The rows of a file as (line, raw record or RequestError), lazily: memory stays flat.

    ``columns`` are those that a delimited file must have.

    Raises DataError for a suffix that is no table's and for missing columns, StorageError where
    the file cannot be read.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        message = f"found the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}"
        raise DataError([Problem("data.suffix", message, str(path))])
    try:
        if path.suffix == ".jsonl":
            with path.open("rb") as file:
                yield from enumerate(read_lines(file), 1)
            return
        with path.open("rb") as file:
            dialect = delimited.sniff(_Lines(file))
        with path.open("rb") as file:
            yield from _delimited_samples(path, _Lines(file), dialect, columns)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise StorageError("storage.read", f"cannot read {path}: {reason}") from None


class _Lines:
    """Decoded lines of a binary file; where bytes are not UTF-8, ``bad`` has the place."""

    def __init__(self, file: Any) -> None:
        self.file, self.bad = file, dict[int, int]()

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self.file, 1):
            if number == 1:
                line = line.removeprefix(charsets.BOM_UTF8)
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                self.bad[number] = error.start
                yield line.decode("utf-8", errors="replace")


def _delimited_samples(
    path: Path, lines: _Lines, dialect: delimited.Dialect, wanted: Sequence[str]
) -> Iterator[tuple[int, Any]]:
    columns, header = dialect.columns, True
    for line, cells in delimited.rows(lines, dialect):
        bad = sorted(lines.bad.items())
        lines.bad.clear()
        if bad:
            error = RecordError(
                "data.not_utf8",
                f"found a byte that is not UTF-8, byte {bad[0][1] + 1} of line {bad[0][0]}; "
                "expected UTF-8: save the file with that encoding",
            )
            if header:
                raise DataError([Problem.of(error, path, line)])
            yield line, error
        elif header and (wrong := _wrong_columns(columns, wanted)):
            raise DataError([Problem.of(wrong, path, line)])
        elif not header and (cells is None or len(cells) != len(columns)):
            found = "a row that is no CSV" if cells is None else f"{len(cells)} cells"
            yield (
                line,
                RecordError(
                    "record.columns",
                    f"found {found}; expected {len(columns)} ({', '.join(columns)}): "
                    "a delimiter, quote or line break out of place?",
                ),
            )
        elif not header and cells is not None:
            yield line, dict(zip(columns, cells, strict=True))
        header = False


def _wrong_columns(columns: tuple[str, ...], wanted: Sequence[str]) -> RecordError | None:
    if len(set(columns)) != len(columns):
        return RecordError("data.columns", "found a column name twice; expected each once")
    expected = []
    for name in wanted:
        if name not in columns:
            near = next((c for c in columns if _NEAR.get(c.lower(), c.lower()) == name), None)
            hint = f": rename {near!r}?" if near else ""
            expected.append(f"expected {name!r} among them{hint}")
    if not expected:
        return None
    found = ", ".join(repr(c[:30]) for c in columns[:8])
    return RecordError("data.columns", f"found the columns {found}; {'; '.join(expected)}")
