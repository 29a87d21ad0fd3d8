"""The output file of ``tfserve predict`` and ``call``: whole under its name, or partial and gone on
with.

Until all answers are there, ``OUTPUT`` is called ``OUTPUT.partial``, and ``OUTPUT.partial.json``
says what is asked of which model, so that no other command goes on with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tfserve.artifact import MANIFEST
from tfserve.errors import StorageError
from tfserve.files import sha256, write_json


class Output:
    """Answers on their way into a file.

    Parameters
    ----------
    path : of the whole output
    asked : what ``question`` gave
    """

    def __init__(self, path: Path | str, asked: Mapping[str, Any]) -> None:
        self.path, self.asked = Path(path), dict(asked)
        self.partial = Path(f"{path}.partial")
        self.note = Path(f"{path}.partial.json")

    def done(self, records: Callable[[], int | None]) -> int | None:
        """How many answers an interrupted output holds; None where it is complete.

        ``records`` counts what was asked, None where that is not known. Raises StorageError for an
        interrupted output of another command, or a whole one of another length: what a whole one
        answers is not kept beside it.
        """
        if self.partial.exists():
            if self._noted() != self.asked:
                raise self._other(f"{self.partial}, which answers another input, model or setting")
            return _complete_lines(self.partial)
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            count = sum(1 for _ in file)
        if (asked := records()) not in (None, count):
            raise self._other(f"{self.path} with {count:,} answers to {asked:,} records")
        return None

    @contextmanager
    def open(self, done: int = 0) -> Iterator[TextIO]:
        """The file for the answers behind the first ``done``; it gets its name at the end."""
        if not done:
            write_json(self.note, self.asked)
        try:
            with self.partial.open("a" if done else "w", encoding="utf-8", newline="\n") as file:
                yield file
            os.replace(self.partial, self.path)
        finally:  # an error before the first answer leaves nothing to go on with
            if self.partial.exists() and not self.partial.stat().st_size:
                self.partial.unlink()
            if not self.partial.exists():
                self.note.unlink(missing_ok=True)

    def _noted(self) -> Any:
        try:
            return json.loads(self.note.read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def _other(self, found: str) -> StorageError:
        return StorageError(
            "storage.other_output",
            f"found {found}; expected an interrupted output of this command: without --resume it "
            "is begun anew",
        )


def question(source: str, model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an output answers: the input and the model's manifest, or the server, and settings."""
    manifest = Path(model) / MANIFEST
    return {
        "input": source if source == "-" else sha256(Path(source)),
        "model": sha256(manifest) if manifest.is_file() else model,
        "settings": dict(settings),
    }


def _complete_lines(partial: Path) -> int:
    """How many whole lines an interrupted output holds; half a line at its end is cut off."""
    count = end = 0
    with partial.open("rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                count, end = count + 1, end + len(line)
        file.truncate(end)
    return count
