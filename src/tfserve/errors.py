"""Every error that a user of tfserve can meet, in one tree.

    TfserveError
    ├── HParamsError        a hyperparameter is unknown or has a wrong value
    ├── DataError           tables with problems, all of them at once
    ├── ModelError          a model or a model directory that cannot be used
    ├── SettingsError       a TFSERVE_… variable of the environment
    ├── InstallError        an optional part of tfserve is not installed
    ├── StorageError        a file cannot be read or written
    ├── StoppedError        training was asked to stop and did, its state saved
    ├── EndpointError       a server or an endpoint on AWS that does not answer
    ├── CloudError          an account on AWS in which something cannot be done
    ├── ServingError        a server that cannot answer, for a reason of its own
    │   ├── UnavailableError    not now: its model is being loaded, or it is stopping
    │   └── BusyError           not in time: too much waits already
    └── RequestError        what a client sent
        ├── BodyError           the body as a whole
        ├── RecordError         one record of it
        ├── ParameterError      a parameter beside the records
        ├── MediaTypeError      Content-Type
        ├── NotAcceptableError  Accept
        ├── AccessError         a key that is missing or wrong
        └── TooLargeError       a limit was passed

An error has a stable ``code`` (dotted words that programs may compare), an HTTP ``status``, a
message that names what was found, what was expected and the cure, and the place as fields.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_PROBLEMS_SHOWN = 20


class TfserveError(Exception):
    """Base of all errors of this library."""

    status: ClassVar[int] = 500

    def __init__(self, code: str, message: str, **place: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.place = {key: value for key, value in place.items() if value is not None}

    def at(self, **place: Any) -> Self:
        """A copy of this error that also knows ``place`` (``index``, ``line``, ``field``, …)."""
        error = copy.copy(self)
        error.place = {**self.place, **{k: v for k, v in place.items() if v is not None}}
        return error

    def as_dict(self) -> dict[str, Any]:
        """The error as it stands in an answer: ``code``, ``message`` and the place."""
        return {"code": self.code, "message": self.message, **self.place}

    def __str__(self) -> str:
        where = ", ".join(f"{key} {value}" for key, value in self.place.items())
        return f"{self.message} ({where})" if where else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.code, self.message, self.place))


def _rebuild(kind: type[TfserveError], code: str, message: str, place: dict[str, Any]) -> Any:
    error = kind.__new__(kind)
    TfserveError.__init__(error, code, message, **place)
    return error


class HParamsError(TfserveError):
    """A hyperparameter is unknown, missing or has a value it cannot have."""


class SettingsError(TfserveError):
    """A setting in the environment is unknown or has a value it cannot have."""


class ModelError(TfserveError):
    """A model, a tokenizer or a model directory cannot be used."""


class InstallError(TfserveError):
    """An optional part is missing; the message names the extra that brings it."""


class StorageError(TfserveError):
    """A file could not be read or written."""


class StoppedError(TfserveError):
    """Training stopped on request (SIGTERM, SIGINT); its checkpoint is complete.

    ``exit_status`` is not 0, so that no script goes on as if training had finished.
    """

    exit_status = 128 + 15


class EndpointError(TfserveError):
    """A server or an endpoint of SageMaker does not answer."""


class CloudError(TfserveError):
    """Something cannot be done in an account on AWS."""


class ServingError(TfserveError):
    """The server failed; the client did nothing wrong."""


class UnavailableError(ServingError):
    """The server cannot answer now."""

    status = 503


class BusyError(ServingError):
    """Too much waits to be answered in time; ``retry_after`` are the seconds to wait."""

    status = 429


class RequestError(TfserveError):
    """What a client sent cannot be answered."""

    status = 400


class BodyError(RequestError):
    """The body cannot be read; ``position`` says where."""


class RecordError(RequestError):
    """One record cannot be answered; ``index`` or ``line`` and ``field`` say which."""


class ParameterError(RequestError):
    """A parameter beside the records is unknown or has a wrong value."""


class MediaTypeError(RequestError):
    """A Content-Type or Content-Encoding that cannot be read."""

    status = 415


class NotAcceptableError(RequestError):
    """An Accept that cannot be served."""

    status = 406


class AccessError(RequestError):
    """A key is wanted, and none of those that are known was sent."""

    status = 401


class TooLargeError(RequestError):
    """A body or a record is over a limit."""

    status = 413


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a table; the message says what was found, expected and the cure."""

    code: str
    message: str
    file: str
    line: int | None = None
    column: str | None = None

    @classmethod
    def of(cls, error: RequestError, file: object, line: int | None = None) -> Self:
        """What a record's error is in a file."""
        return cls(error.code, error.message, str(file), line, error.place.get("field"))

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        column = f" {self.column}:" if self.column else ""
        return f"{place}:{column} {self.message} [{self.code}]"


class DataError(TfserveError):
    """Tables with problems: every problem found in one pass is in ``problems``."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:MAX_PROBLEMS_SHOWN]]
        more = len(self.problems) - len(lines)
        if more:
            lines.append(f"… and {more} more of the same kinds")
        count = f"{len(self.problems)} problem{'s' * (len(self.problems) != 1)} in the data"
        super().__init__("data.problems", "\n".join([count, *(f"  {line}" for line in lines)]))

    def __reduce__(self) -> tuple[Any, ...]:
        return (DataError, (self.problems,))


def one_line(said: object) -> str:
    """What another library says, in a line of ours."""
    return " ".join(str(said).split())[:300]


def last_line(said: str, otherwise: str = "it said nothing") -> str:
    """What a process says last, as one that fails does."""
    return (said.strip().splitlines() or [otherwise])[-1]


def missing_extra(package: str, extra: str) -> InstallError:
    """The error for an import that fails because an extra was not installed."""
    return InstallError(
        "install.missing_extra",
        f"this needs the package {package}, which is not installed; the extra {extra} brings it: "
        f"pip install '.[{extra}]' in a checkout of tfserve",
    )
