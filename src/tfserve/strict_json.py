"""JSON, strictly as the standard has it (RFC 8259): what clients send is read so, answers are
written so."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

from tfserve.records import SURROGATE

MAX_DEPTH = 100
"""Deeper JSON is refused: no record needs it, and it costs a parser stack."""


def loads(text: str | bytes) -> Any:
    """``json.loads``, strict: no NaN or Infinity, bounded depth, ValueError for all that fails."""
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    return value


def dumps(value: Any) -> str:
    """Compact JSON on one line, characters as they are, never NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half a pair, in a key that travels along: UTF-8 has no bytes for it.
    if SURROGATE.search(text):
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text


def plain_value(text: str) -> Any:
    """A value as people write it into a setting or an address: JSON, or else the text itself;
    ``True`` is true."""
    with suppress(ValueError):
        return loads(text.lower() if text.lower() in ("true", "false") else text)
    return text


def reason(error: BaseException | None) -> str:
    """A JSON error's reason and column, without the document."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    return str(error) if isinstance(error, ValueError) else "unreadable"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (list, dict))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"nested over {MAX_DEPTH} levels")
