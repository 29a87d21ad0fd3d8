"""Settings of serving, from the environment: a Batch Transform request has no parameters.

TFSERVE_ENGINE      auto, torch, openvino or onnx
TFSERVE_PRECISION   auto, fp32, bf16 or fp16
TFSERVE_TOP_K, TFSERVE_SCORES, TFSERVE_THRESHOLD, TFSERVE_ABSTAIN, TFSERVE_ON_ERROR
                    the parameters of every request that does not give its own
TFSERVE_MAX_BODY_MB, TFSERVE_MAX_RECORDS
                    larger requests are refused with 413

and for our own server:

TFSERVE_DEADLINE_S  a request that would take longer is refused; 60, as endpoints of SageMaker
                    allow, but 3600 where SAGEMAKER_BATCH tells of Batch Transform
TFSERVE_MAX_QUEUE_TOKENS
                    tokens that may wait; more are refused with 429; a hundred times as many in
                    Batch Transform
TFSERVE_API_KEYS, TFSERVE_API_KEYS_FILE
                    keys, separated by commas or one a line, of which a request must bring one
TFSERVE_CORS_ORIGINS
                    origins, separated by commas, whose pages may ask
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tfserve import engines
from tfserve.engines import PRECISIONS
from tfserve.errors import SettingsError, TooLargeError
from tfserve.parameters import COUNT, RULES, Rule, expected, fits
from tfserve.strict_json import plain_value

PREFIX = "TFSERVE_"

BATCH = {"deadline_s": 3600, "max_queue_tokens": 100_000_000}
"""In Batch Transform: the longest that a job waits for an answer, and its large requests."""


@dataclass(frozen=True)
class Settings:
    """How a surface without a command line serves.

    Attributes
    ----------
    engine : what computes; ``auto`` lets the surface choose
    precision : of the matrix products
    parameters : of every request that does not give its own
    max_body_mb : megabytes of a request's body; Batch Transform sends at most 100
    max_records : records of a request
    deadline_s : seconds in which a request is answered, or refused
    max_queue_tokens : that may wait to be computed
    api_keys : of which a request must bring one; none where it is empty
    cors_origins : of pages that may ask
    """

    engine: str = "auto"
    precision: str = "auto"
    parameters: dict[str, Any] = field(default_factory=dict)
    max_body_mb: int = 100
    max_records: int = 1_000_000
    deadline_s: int = 60
    max_queue_tokens: int = 1_000_000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()

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
        if "api_keys_file" in given:
            given["api_keys"] = _read_keys(given.pop("api_keys_file"))
        if environment.get("SAGEMAKER_BATCH", "").lower() == "true":
            given = BATCH | given
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
                f"found more than {self.max_records:,} records; expected at most so many a request "
                "(TFSERVE_MAX_RECORDS)",
            )


ENGINES = ("auto", *engines.names())
_RULES: dict[str, Rule] = {
    **RULES,
    "engine": (lambda v: v in ENGINES, ", ".join(ENGINES)),
    "precision": (lambda v: v in PRECISIONS, ", ".join(PRECISIONS)),
    **dict.fromkeys(
        ("max_body_mb", "max_records", "deadline_s", "max_queue_tokens"),
        (partial(fits, COUNT), expected(COUNT)),
    ),
    "api_keys": (bool, "keys separated by commas"),
    "api_keys_file": (lambda v: Path(v).is_file(), "a file with a key a line"),
    "cors_origins": (bool, "origins separated by commas"),
}
_TEXTS = ("engine", "precision", "on_error", "api_keys_file")
_LISTS = ("api_keys", "cors_origins")


def _value(variable: str, name: str, text: str) -> Any:
    valid, wanted = _RULES[name]
    value: Any = text
    if name in _LISTS:
        value = _parts(text.split(","))
    elif name not in _TEXTS:
        value = plain_value(text)
    if not valid(value):
        found = "none" if name == "api_keys" else repr(text)
        raise SettingsError("settings.value", f"{variable}: found {found}; expected {wanted}")
    return value


def _read_keys(file: str) -> tuple[str, ...]:
    keys = _parts(Path(file).read_text("utf-8").splitlines())
    if not keys:
        raise SettingsError("settings.value", f"found no key in {file}; expected a key a line")
    return keys


def _parts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(stripped for text in texts if (stripped := text.strip()))
