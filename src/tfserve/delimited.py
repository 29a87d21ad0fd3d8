"""Delimited text: rows of a table, whether or not a CSV writer quoted them.

Tables of texts come in two kinds that look alike. In *plain* ones a double quote is a character
like any other (``He said "no``), and reading them as CSV eats lines up to the next quote. In
*quoted* ones, written by a CSV writer, a quote opens a cell that may hold delimiters and line
breaks, and doubled quotes stand for one. ``sniff`` decides from the whole file: it is quoted when
every quote in it is where a CSV writer would put one.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

DELIMITERS = "\t,;"

_UNQUOTED = re.compile(r'[^"\t]*(?=\t|$)')
_TO_CLOSING_QUOTE = re.compile(r'[^"]*(?:""[^"]*)*"(?=\t|$)')
_NO_CLOSING_QUOTE = re.compile(r'[^"]*(?:""[^"]*)*$')

# The default of 131,072 characters would refuse long documents. Cells are bounded by the reader
# of the records, with a message that says the limit.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a table is written: its delimiter, its kind, and the names in its first row."""

    delimiter: str
    quoted: bool
    columns: tuple[str, ...]


def sniff(lines: Iterable[str]) -> Dialect:
    """The dialect of a table, from all of its lines (with or without their line ends)."""
    lines = iter(lines)
    header = next((line for line in map(_strip, lines) if line), "")
    delimiter = next((d for d in DELIMITERS if d in header), "\t")
    if delimiter != "\t":
        return Dialect(delimiter, True, _header(header, delimiter, True))
    plain = Dialect("\t", False, _header(header, "\t", False))
    quoted = Dialect("\t", True, _header(header, "\t", True))
    return quoted if _is_quoted(header, lines) else plain


def rows(
    lines: Iterable[str], dialect: Dialect, *, blank: bool = False
) -> Iterator[tuple[int, list[str] | None]]:
    """The rows with the number of the line (from 1) where each begins.

    Blank lines are skipped, or with ``blank`` rows without cells. A row that no CSV reader can make
    sense of is None.
    """
    if not dialect.quoted:
        for number, line in enumerate(lines, 1):
            line = _strip(line)
            if line or blank:
                yield number, line.split(dialect.delimiter) if line else []
        return
    reader = csv.reader((_strip(line) + "\n" for line in lines), delimiter=dialect.delimiter)
    while True:
        start = reader.line_num + 1
        try:
            row: list[str] | None = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = None
        if blank or row != []:
            yield start, row


def _is_quoted(header: str, lines: Iterator[str]) -> bool:
    """Whether every quote of a tab-separated table stands where a CSV writer would put it."""
    width = header.count("\t")
    any_quote = '"' in header
    spans = False  # a quoted cell holds a delimiter, or goes on in the next line
    rectangular = True  # every line has the header's number of tabs
    inside = False
    for line in lines:
        line = _strip(line)
        if line and line.count("\t") != width:
            rectangular = False
        if not inside and '"' not in line:
            continue
        any_quote = True
        position = 0
        while True:
            if not inside and line[position : position + 1] == '"':
                inside, position = True, position + 1
            match = (_TO_CLOSING_QUOTE if inside else _UNQUOTED).match(line, position)
            if match is None:
                if inside and _NO_CLOSING_QUOTE.match(line, position):
                    spans = True
                    break
                return False
            spans = spans or (inside and "\t" in match.group())
            inside, position = False, match.end() + 1
            if position > len(line):
                break
    # Cells that would hold tabs or line breaks, in a file whose lines are all whole rows: quotes of
    # the texts that happen to pair up.
    return any_quote and not inside and not (spans and rectangular)


def _header(line: str, delimiter: str, quoted: bool) -> tuple[str, ...]:
    cells = line.split(delimiter)
    if quoted:
        with contextlib.suppress(csv.Error):
            cells = next(csv.reader([line], delimiter=delimiter), [""])
    return tuple(cell.strip().strip('"') for cell in cells)


def _strip(line: str) -> str:
    return line.rstrip("\r\n")
