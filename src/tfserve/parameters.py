"""What a caller may ask for beside the records: for requests, flags, settings and the OpenAPI
document alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from tfserve.errors import ParameterError

Schema = dict[str, Any]
"""JSON Schema."""

COUNT: Schema = {"type": "integer", "minimum": 1}
FLAG: Schema = {"type": "boolean"}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
BY_LABEL: Schema = {"type": "object", "additionalProperties": SHARE,
                    "description": "those of some labels, by name"}  # fmt: skip
SHARES: Schema = {"anyOf": [SHARE, BY_LABEL]}
KINDS: dict[str, Any] = {"integer": int, "boolean": bool, "number": (int, float)}


def _asked(default: Any, schema: Schema, help: str) -> Any:
    return field(default=default, metadata={"schema": {**schema, "description": help}})


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request; each task understands some of them, and all ``on_error``."""

    top_k: int | None = _asked(None, COUNT, "the scores of so many labels, best first")
    scores: bool = _asked(False, FLAG, "the scores of all labels")
    threshold: float | Mapping[str, float] | None = _asked(
        None,
        SHARES,
        "the probability from which a label is given, instead of the model's own",
    )
    abstain: float | None = _asked(
        None, SHARE, "the probability under which no label is given: `pred` is null"
    )
    on_error: str = _asked(
        "raise",
        {"type": "string", "enum": ["raise", "record"]},
        "whether a bad record refuses the request, or is answered with its error",
    )

    @classmethod
    def parse(cls, raw: Mapping[str, Any], task: Any) -> Parameters:
        """Raises ParameterError for a name or value that ``task``, a class of task, does not
        understand."""
        known = (*task.parameters, "on_error")
        for name, value in raw.items():
            if name not in known:
                raise ParameterError(
                    "parameters.unknown",
                    f"found the parameter {str(name)[:40]!r}; {task.name} understands "
                    f"{', '.join(known)}",
                )
            valid, expected = RULES[name]
            if not (valid(value) or (value is None and name in OPTIONAL)):
                raise ParameterError("parameters.value", f"{name}: expected {expected}", field=name)
        return cls(**{name: value for name, value in raw.items() if value is not None})


def fits(schema: Schema, value: Any) -> bool:
    """Whether a value is one of a parameter's."""
    if "anyOf" in schema:
        return any(fits(one, value) for one in schema["anyOf"])
    if schema["type"] == "object":
        one = schema["additionalProperties"]
        return isinstance(value, Mapping) and all(fits(one, each) for each in value.values())
    if "enum" in schema:
        return value in schema["enum"]
    kind = KINDS[schema["type"]]
    if kind is bool or isinstance(value, bool) or not isinstance(value, kind):
        return kind is bool and isinstance(value, bool)
    return bool(schema["minimum"] <= value <= schema.get("maximum", math.inf))


def expected(schema: Schema) -> str:
    """What values there are, as errors say it."""
    if "anyOf" in schema:
        return ", or ".join(map(expected, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(schema["enum"])
    return {
        "boolean": "true or false",
        "integer": "a whole number of at least 1",
        "number": "a number from 0 to 1",
        "object": "an object of such numbers by label",
    }[schema["type"]]


def bare(schema: Schema) -> Schema:
    """Of a parameter that has several forms the first, which a flag or an address can hold."""
    first: Schema = schema.get("anyOf", [schema])[0]
    return {**first, "description": schema["description"]}


SCHEMAS: dict[str, Schema] = {f.name: f.metadata["schema"] for f in fields(Parameters)}
OPTIONAL = tuple(f.name for f in fields(Parameters) if f.default is None)

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value is one, and what is expected."""

RULES: dict[str, Rule] = {
    name: (partial(fits, schema), expected(schema)) for name, schema in SCHEMAS.items()
}
"""Of each parameter."""
