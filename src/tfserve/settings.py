"""Settings of serving, from the environment: a Batch Transform request has no parameters.

TFSERVE_PRECISION   auto, fp32, bf16 or fp16
TFSERVE_TOP_K, TFSERVE_SCORES, TFSERVE_THRESHOLD, TFSERVE_ON_ERROR
                    the parameters of every request that does not give its own
TFSERVE_MAX_BODY_MB, TFSERVE_MAX_RECORDS
                    larger requests are refused with 413
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tfserve.engines import PRECISIONS
from tfserve.errors import SettingsError, TooLargeError
from tfserve.tasks.base import RULES, is_count

PREFIX = "TFSERVE_"


@dataclass(frozen=True)
class Settings:
    """How a surface without a command line serves.

    Attributes
    ----------
    precision : of the matrix products
    parameters : of every request that does not give its own
    max_body_mb : megabytes of a request's body; Batch Transform sends at most 100
    max_records : records of a request
    """

    precision: str = "auto"
    parameters: dict[str, Any] = field(default_factory=dict)
    max_body_mb: int = 100
    max_records: int = 1_000_000

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read ``TFSERVE_…``. Raises SettingsError for an unknown name or a wrong value."""
        given: dict[str, Any] = {}
        for variable, text in environment.items():
            name = variable.removeprefix(PREFIX).lower()
            if not variable.startswith(PREFIX) or not text:
                continue
            if name not in _RULES:
                near = difflib.get_close_matches(name, _RULES, n=1)
                hint = f"did you mean {PREFIX}{near[0].upper()}?" if near else ", ".join(_RULES)
                raise SettingsError("settings.unknown", f"found {variable}: {hint}")
            given[name] = _value(variable, name, text)
        parameters = {name: given.pop(name) for name in RULES if name in given}
        return cls(parameters=parameters, **given)

    def check_body(self, size: int) -> None:
        """Raise TooLargeError for a body of so many bytes."""
        if size > self.max_body_mb * 1_000_000:
            raise TooLargeError(
                "body.too_large",
                f"found a body of {size:,} bytes; expected at most {self.max_body_mb} MB "
                "(TFSERVE_MAX_BODY_MB): send fewer records a request",
            )

    def check_records(self, count: int) -> None:
        """Raise TooLargeError for so many records."""
        if count > self.max_records:
            raise TooLargeError(
                "body.too_many",
                f"found {count:,} records; expected at most {self.max_records:,} a request "
                "(TFSERVE_MAX_RECORDS)",
            )


_RULES = {
    **RULES,
    "precision": (lambda v: v in PRECISIONS, ", ".join(PRECISIONS)),
    "max_body_mb": (is_count, "a whole number above 0"),
    "max_records": (is_count, "a whole number above 0"),
}


def _value(variable: str, name: str, text: str) -> Any:
    valid, expected = _RULES[name]
    value: Any = text
    if name not in ("precision", "on_error"):
        with suppress(ValueError):  # numbers and booleans are JSON
            value = json.loads(text.lower())
    if not valid(value):
        raise SettingsError("settings.value", f"{variable}: found {text!r}; expected {expected}")
    return value
