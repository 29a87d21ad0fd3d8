"""Whether a surface answers as Python does, and a table of those that were seen to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tfserve
from tfserve.predictor import Predictor

KINDS = ("classif", "multilabel-classif", "ner", "regression", "boxed ner")
JSON, LINES = "application/json", "application/jsonlines"
WAYS = ((JSON, JSON), (JSON, LINES), (LINES, JSON), (LINES, LINES))
CLOSE = 1e-4
BEGIN, END = "<!-- conformance: begin -->\n", "<!-- conformance: end -->"

Ask = Callable[[str, str, str], str]
"""Body, its media type and that of the answer to the answer's body."""


@dataclass(frozen=True)
class Served:
    """A model that was trained here, records for it and their answers in Python, in fp32.

    Attributes
    ----------
    answers : to ``records`` without parameters
    scored : the same with all scores that the task has
    """

    kind: str
    model: Path
    predictor: Predictor
    records: list[dict[str, Any]]
    answers: list[dict[str, Any]]
    scored: list[dict[str, Any]]

    @classmethod
    def load(cls, kind: str, model: Path, records: list[dict[str, Any]]) -> Served:
        predictor = tfserve.load(model, precision="fp32")
        scored = predictor.predict(records, predictor.task.all_scores)
        return cls(kind, model, predictor, records, predictor.predict(records), scored)

    def request(self, media_type: str) -> tuple[str, list[dict[str, Any]]]:
        """A body with all records, and the answers to expect."""
        if media_type == LINES:
            return "".join(json.dumps(record) + "\n" for record in self.records), self.answers
        parameters = self.predictor.task.all_scores
        return json.dumps({"data": self.records, "parameters": parameters}), self.scored


def answers(text: str, media_type: str) -> list[Any]:
    """The answers in a body."""
    if media_type == LINES:
        return [json.loads(line) for line in text.splitlines()]
    found: list[Any] = json.loads(text)["predictions"]
    return found


def difference(one: Any, other: Any) -> float:
    """The largest difference of a number in two JSON values; infinite where else they differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other)
    return 0.0 if one == other else math.inf


class Conformance:
    """What was seen: the largest difference of each surface, kind of model and pair of media."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, dict[tuple[str, str], float]]] = {}

    def check(
        self, surface: str, served: Served, ask: Ask, ways: Iterable[tuple[str, str]] = WAYS
    ) -> None:
        """Ask in every way; fails where an answer differs from Python's by 1e-4 or more."""
        for content_type, accept in ways:
            body, expected = served.request(content_type)
            found = answers(ask(body, content_type, accept), accept)
            off = difference(found, expected)
            assert off < CLOSE, (surface, content_type, accept, found, expected)
            kinds = self.seen.setdefault(surface, {})
            kinds.setdefault(served.kind, {})[content_type, accept] = off

    def table(self) -> str:
        """In Markdown: a line per surface."""
        header = ["surface", *KINDS, "media"]
        lines = [header, ["---"] * len(header)]
        for surface, kinds in self.seen.items():
            cells = [_worst(kinds.get(kind, {})) for kind in KINDS]
            ways = {way for found in kinds.values() for way in found}
            lines.append([surface, *cells, _media(ways)])
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)

    def write(self, file: Path) -> None:
        """Put the table between its marks in ``file``."""
        text = file.read_text("utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        file.write_text(f"{before}{BEGIN}{self.table()}{END}{after}", "utf-8")


def _worst(found: dict[tuple[str, str], float]) -> str:
    if not found:
        return "-"
    worst = max(found.values())
    return f"{worst:.0e}" if worst else "0"


def _media(ways: set[tuple[str, str]]) -> str:
    if ways == set(WAYS):
        return "JSON and JSON Lines, both ways"
    names = {JSON: "JSON", LINES: "JSON Lines"}
    return ", ".join(f"{names[a]} to {names[b]}" for a, b in WAYS if (a, b) in ways)


conformance = Conformance()
"""Of this session."""
