"""One sample: its text or words, its boxes, and the keys that travel with it.

A *word* is a run of characters between ASCII white space, as in the tables; a caller who has
words already sends ``words`` and gets an answer for each, spaces inside a word included.
Every surface and every table reads samples through ``Record.parse``, so a sample that training
accepts is one that serving accepts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tfserve.errors import RecordError, RequestError, TfserveError, TooLargeError

MAX_CHARACTERS = 1_000_000
BOX_MAX = 1000
FIELDS = ("text", "words", "bbox")

_WORD = re.compile(r"[^ \t\n\r\f\v]+")
SURROGATE = re.compile("[\ud800-\udfff]")
_SEPARATOR = re.compile(r"[\s,]+")

Boxes = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Record:
    """One validated sample.

    Attributes
    ----------
    text : the caller's own string, or his words joined by one space
    spans : (start, end) of each word in ``text``, in characters
    bbox : ``(words, 4)`` boxes x0 y0 x1 y1 in 0..1000, or None
    extra : the other keys the record came with; they are given back with the answer
    """

    text: str
    given: tuple[str, ...] | None = None
    bbox: Boxes | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: Any, *, use_bbox: bool = False) -> Record:
        """A record from a string or an object with ``text`` or ``words``.

        Raises
        ------
        RecordError
            ``record.type``, ``record.field_missing``, ``record.field_type``, ``record.text_empty``,
            ``record.text_invalid``, ``record.bbox_missing``, ``record.bbox_value`` or
            ``record.bbox_count``, with the field.
        TooLargeError
            ``record.too_long``: over 1,000,000 characters.
        """
        if isinstance(raw, Record):
            return raw
        if isinstance(raw, str):
            raw = {"text": raw}
        if not isinstance(raw, Mapping):
            raise RecordError(
                "record.type",
                f"found {_kind(raw)}; expected a string or an object with the key text "
                'such as {"text": "…"}',
            )
        given = None
        if raw.get("words") is not None:
            given = _words(raw["words"])
            text = " ".join(given)
        else:
            text = _text(raw)
        _check_text(text, "text" if given is None else "words")
        extra = {key: value for key, value in raw.items() if key not in FIELDS}
        record = cls(text=text, given=given, extra=extra)
        if use_bbox:
            boxes = parse_boxes(raw.get("bbox"), len(record.spans))
            record = cls(text=text, given=given, bbox=boxes, extra=extra)
        return record

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where each word stands in ``text``: (start, end) in characters."""
        if self.given is None:
            return tuple(match.span() for match in _WORD.finditer(self.text))
        spans, start = [], 0
        for word in self.given:
            spans.append((start, start + len(word)))
            start += len(word) + 1
        return tuple(spans)

    @property
    def words(self) -> tuple[str, ...]:
        """The words, one per tag and per box."""
        return tuple(self.text[start:end] for start, end in self.spans)


@dataclass(frozen=True, eq=False)
class Rejected:
    """A sample that cannot be answered: why, and the keys that go back with the error."""

    error: TfserveError
    extra: dict[str, Any] = field(default_factory=dict)


def parse(raw: Any, *, use_bbox: bool, **place: int) -> Record | Rejected:
    """A record, or why it is none; ``place`` (``line`` or ``index``) goes into the error."""
    if isinstance(raw, (Record, Rejected)):
        return raw
    extra = {k: v for k, v in raw.items() if k not in FIELDS} if isinstance(raw, Mapping) else {}
    try:
        if isinstance(raw, RequestError):
            raise raw
        return Record.parse(raw, use_bbox=use_bbox)
    except RequestError as error:
        known = "line" in error.place
        return Rejected(error if known else error.at(**place), extra)


def parse_boxes(value: Any, words: int) -> Boxes:
    """Boxes from ``"x0 y0 x1 y1, …"`` (commas optional), ``[[x0, y0, x1, y1], …]`` or a flat list.

    Returns an int64 array of shape (words, 4). What counts is four numbers a word, 0..1000,
    x0 <= x1 and y0 <= y1.
    """
    if value is None or (isinstance(value, (str, list)) and not value):
        raise RecordError(
            "record.bbox_missing",
            f"found no bbox; expected four numbers x0 y0 x1 y1 for each of the {words} words",
            field="bbox",
        )
    if isinstance(value, str):
        numbers: list[Any] = [part for part in _SEPARATOR.split(value) if part]
    elif isinstance(value, (list, tuple)):
        nested = [box if isinstance(box, (list, tuple)) else [box] for box in value]
        numbers = [number for box in nested for number in box]
    else:
        raise RecordError(
            "record.field_type", f"found {_kind(value)}; expected a list of boxes", field="bbox"
        )
    if len(numbers) != 4 * words:
        raise RecordError(
            "record.bbox_count",
            f"found {len(numbers)} numbers; expected {4 * words}, four for each of {words} words",
            field="bbox",
        )
    try:
        if any(isinstance(n, bool) or not isinstance(n, (int, float, str)) for n in numbers):
            raise ValueError
        boxes = np.array([float(number) for number in numbers]).reshape(-1, 4)
    except (ValueError, OverflowError):
        raise RecordError(
            "record.bbox_value", "found something that is no number; expected numbers", field="bbox"
        ) from None
    inside = np.isfinite(boxes).all(1) & (boxes >= 0).all(1) & (boxes <= BOX_MAX).all(1)
    ordered = (boxes[:, 0] <= boxes[:, 2]) & (boxes[:, 1] <= boxes[:, 3])
    wrong = np.flatnonzero(~(inside & ordered))
    if wrong.size:
        box = " ".join(f"{number:g}" for number in boxes[wrong[0]])
        raise RecordError(
            "record.bbox_value",
            f"found the box {box} for word {wrong[0]}; expected 0 <= x0 <= x1 <= {BOX_MAX} and "
            f"0 <= y0 <= y1 <= {BOX_MAX} (pixels times {BOX_MAX} over the page's width or height)",
            field="bbox",
        )
    return np.asarray(boxes.round(), np.int64)


def _text(raw: Mapping[Any, Any]) -> str:
    if "text" not in raw:
        names = ", ".join(str(key)[:30] for key in list(raw)[:5]) or "no key at all"
        raise RecordError(
            "record.field_missing", f"found {names}; expected the key text", field="text"
        )
    if not isinstance(raw["text"], str):
        raise RecordError(
            "record.field_type", f"found {_kind(raw['text'])}; expected a string", field="text"
        )
    return raw["text"]


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) for word in value):
        raise RecordError(
            "record.field_type", f"found {_kind(value)}; expected a list of strings", field="words"
        )
    return tuple(value)


def _check_text(text: str, name: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise TooLargeError(
            "record.too_long",
            f"found {len(text):,} characters; expected at most {MAX_CHARACTERS:,}: split the text",
            field=name,
        )
    if not any(c.isprintable() and not c.isspace() for c in text):
        kind = "only blanks or control characters" if text else "an empty text"
        raise RecordError(
            "record.text_empty",
            f"found {kind}; expected at least one visible character",
            field=name,
        )
    if SURROGATE.search(text):
        raise RecordError(
            "record.text_invalid",
            "found half of a surrogate pair, which is no character; expected Unicode text",
            field=name,
        )


def plain(text: str) -> str:
    """A text without what hardly counts: case, and how many spaces stand between words."""
    return " ".join(text.casefold().split())


def _kind(value: Any) -> str:
    """What a value is, in JSON's words; never the value itself, which is the client's."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    return names.get(type(value), "a list" if isinstance(value, (list, tuple)) else "no JSON value")
