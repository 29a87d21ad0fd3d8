"""Bodies and media types: what a client sends becomes a ``Request``, answers become a body.

Requests are read from JSON, JSON Lines, CSV and plain text; answers are written as JSON or JSON
Lines. The registry is the dict ``DECODERS``: a new media type is one function in it.

JSON is one document: where it is wrong, the whole request is refused with the position. JSON
Lines and CSV are many: a line that is wrong costs that line alone, and its error stands in the
answer where its prediction would, so that line N of the answer always belongs to line N of the
input.
"""

from __future__ import annotations

import codecs as charsets
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import jsonlines

from tfserve import delimited
from tfserve.errors import (
    BodyError,
    MediaTypeError,
    NotAcceptableError,
    RecordError,
    RequestError,
)
from tfserve.strict_json import dumps, loads, reason

JSON = "application/json"
JSON_LINES = "application/jsonlines"
JSON_LINES_NAMES = (
    JSON_LINES,
    "application/x-jsonlines",
    "application/jsonl",
    "application/ndjson",
    "application/x-ndjson",
)
CONTAINERS = ("data", "inputs", "instances", "X")
BESIDE = ("parameters", "options")
# Python's registry also holds codecs that are no charsets, such as base64 and unicode-escape.
_CHARSETS = re.compile(
    r"ascii|utf-(8|16|32)(-(le|be|sig))?|iso8859-\d+|cp\d+|koi8-[ru]|mac-\w+"
    r"|gb\w+|big5\w*|shift_jis\w*|euc_\w+|iso2022_\w+|tis-620"
)


@dataclass(frozen=True)
class Request:
    """The records of one body, not yet validated; a line that could not be read is its error.

    ``lines`` are the numbers of the lines where the items stand, for a request by lines.
    """

    items: Sequence[Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    lines: Sequence[int] | None = None

    @property
    def by_line(self) -> bool:
        """Whether a line that is wrong costs that line alone."""
        return self.lines is not None


def decode(
    body: bytes | bytearray | str, content_type: str | None = None, most: int | None = None
) -> Request:
    """Decode a request body.

    Of lines and rows ``most + 1`` are read: one more than is allowed is enough to refuse it.

    Raises
    ------
    MediaTypeError
        415: the content type or its charset is unknown.
    BodyError
        400: the body is empty, is not in its charset or is not JSON; ``position`` in characters.
    """
    media_type, charset = _parse_content_type(content_type)
    decoder = DECODERS.get(media_type)
    if decoder is None:
        raise MediaTypeError(
            "content_type.unsupported",
            f"found Content-Type {media_type[:100]!r}; expected one of {', '.join(DECODERS)}",
        )
    if not body.strip():
        raise BodyError("body.empty", "found an empty body; expected at least one record")
    text: str | bytes
    if isinstance(body, str):
        text = body.removeprefix("\ufeff")
    elif decoder is _decode_lines and charset == "utf-8":
        text = bytes(body)  # line by line, so that a bad byte costs its line alone
    else:
        text = _to_text(bytes(body), charset)
    return decoder(text, None if most is None else most + 1)


def negotiate(accept: str | None) -> str:
    """The media type to answer in: JSON or JSON Lines, by an Accept header.

    Raises NotAcceptableError (406) when the header allows neither.
    """
    ranges = [part.strip() for part in (accept or "*/*").split(",")]
    weighted = []
    for order, part in enumerate(ranges):
        name, *options = (piece.strip().lower() for piece in part.split(";"))
        quality = next((o[2:] for o in options if o.startswith("q=")), "1")
        try:
            weighted.append((-float(quality), order, name))
        except ValueError:
            weighted.append((-1.0, order, name))
    for refusal, _, name in sorted(weighted):
        if refusal == 0:  # q=0: not acceptable
            continue
        if name in JSON_LINES_NAMES:
            return name
        if name in (JSON, "*/*", "application/*", ""):
            return JSON
    raise NotAcceptableError(
        "accept.unsupported",
        f"found Accept {str(accept)[:100]!r}; expected {JSON} or {JSON_LINES}",
    )


def encode(answers: Iterable[dict[str, Any]], accept: str | None = None) -> str:
    """Answers as one JSON document ``{"predictions": […]}`` or as JSON Lines, by ``accept``."""
    if negotiate(accept) == JSON:
        return dumps({"predictions": list(answers)})
    return "".join(f"{dumps(answer)}\n" for answer in answers)


def read_lines(lines: Iterable[str] | Iterable[bytes], *, blank_end: bool = True) -> Iterator[Any]:
    """JSON Lines, lazily: each line's value, or the RecordError that it is.

    Blank lines at the end are skipped; without ``blank_end`` each is an error, as one before a line
    that is not blank is in any case. A line may hold a whole body of one record, as clients of the
    JSON form write it.
    """
    bare = (
        line.rstrip("\r\n") if isinstance(line, str) else line.rstrip(b"\r\n") for line in lines
    )
    reader = jsonlines.Reader(bare, loads=loads)
    number, blank = 0, 0
    while True:
        number += 1
        try:
            value: Any = _unwrap(reader.read(allow_none=True), number)
        except EOFError:
            return
        except jsonlines.InvalidLineError as error:
            if not error.line.strip():
                if blank_end:
                    blank += 1
                else:
                    yield _blank(number)
                continue
            if isinstance(error.__cause__, UnicodeDecodeError):
                why = f"a byte that is not UTF-8 at position {error.__cause__.start}"
            else:
                why = f"no JSON: {reason(error.__cause__)}"
            value = RecordError(
                "record.not_json", f"found {why}; expected one JSON value", line=number
            )
        yield from map(_blank, range(number - blank, number))
        blank = 0
        yield value


def _blank(line: int) -> RecordError:
    return RecordError("record.blank_line", "found an empty line; expected a record", line=line)


def _decode_json(body: str, most: int | None) -> Request:
    try:
        value = loads(body)
    except ValueError as error:
        hint = ""
        if "Extra data" in str(error):
            hint = f"; for several lines of JSON send Content-Type: {JSON_LINES}"
        raise BodyError(
            "body.not_json",
            f"the body is not JSON: {reason(error)}{hint}",
            position=getattr(error, "pos", None),
        ) from None
    return _request(value)


def _request(value: Any) -> Request:
    """The request in a JSON value, in any of the forms that clients of this field send."""
    if isinstance(value, list):
        return Request(value)
    if not isinstance(value, dict) or "text" in value or "words" in value:
        parameters = value.pop("parameters", None) if isinstance(value, dict) else None
        return Request([value], _parameters(parameters))
    found = [name for name in CONTAINERS if name in value]
    if not found:
        return Request([value], {})  # the record's own validation says what is missing
    unknown = [name for name in value if name not in (found[0], *BESIDE)]
    if unknown:
        raise BodyError(
            "body.unknown_key",
            f"found {', '.join(repr(str(name)[:30]) for name in unknown[:5])} beside {found[0]!r}; "
            "expected only parameters there",
        )
    data = value[found[0]]
    items = data if isinstance(data, list) else [data]
    return Request(items, _parameters(value.get("parameters")))


def _parameters(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BodyError("body.parameters", "parameters: expected an object of names and values")
    return value


def _decode_lines(body: str | bytes, most: int | None) -> Request:
    lines = io.StringIO(body.rstrip(), "\n") if isinstance(body, str) else io.BytesIO(body.rstrip())
    items = list(islice(read_lines(lines, blank_end=False), most))
    return Request(items, lines=range(1, len(items) + 1))


def _unwrap(value: Any, line: int) -> Any:
    if not isinstance(value, dict) or not any(name in value for name in CONTAINERS):
        return value
    if "text" in value or "words" in value:
        return value
    try:
        request = _request(value)
    except RequestError as error:
        return RecordError(error.code, error.message, line=line)
    if len(request.items) != 1 or request.parameters:
        return RecordError(
            "record.not_one",
            f"found {len(request.items)} records or parameters in one line; expected one record "
            "a line (parameters for all lines are settings of the server)",
            line=line,
        )
    return request.items[0]


def _decode_csv(body: str, most: int | None) -> Request:
    """Rows of a header's columns or, without a header, one text a row."""
    body = body.rstrip("\r\n")
    dialect = delimited.sniff(io.StringIO(body, "\n"))
    rows = delimited.rows(io.StringIO(body, "\n"), dialect, blank=True)
    header: Sequence[str] = ["text" if name == "inputs" else name for name in dialect.columns]
    if "text" in header or "words" in header:
        next(row for _, row in rows if row != [])
    else:
        header = ["text"]
    found = [(line, _csv_row(row, header, line)) for line, row in islice(rows, most)]
    return Request([row for _, row in found], lines=[line for line, _ in found])


def _csv_row(row: list[str] | None, header: Sequence[str], line: int) -> Any:
    if row == []:
        return _blank(line)
    if row is None or len(row) != len(header):
        found = "a row that is no CSV" if row is None else f"{len(row)} columns"
        return RecordError(
            "record.columns",
            f"found {found}; expected {len(header)} ({', '.join(header)}): "
            "put a text that holds the delimiter in double quotes",
            line=line,
        )
    return dict(zip(header, row, strict=True))


def _decode_plain(body: str, most: int | None) -> Request:
    return Request([body])


DECODERS: dict[str, Callable[[Any, int | None], Request]] = {
    JSON: _decode_json,
    **dict.fromkeys(JSON_LINES_NAMES, _decode_lines),
    "text/csv": _decode_csv,
    "text/tab-separated-values": _decode_csv,
    "text/plain": _decode_plain,
}


def _parse_content_type(header: str | None) -> tuple[str, str]:
    name, *options = (part.strip() for part in (header or JSON).split(";"))
    charset = next(
        (o[8:].strip("\"' ") for o in options if o.lower().startswith("charset=")), "utf-8"
    )
    try:
        found = charsets.lookup(charset).name
    except (LookupError, ValueError):
        found = ""
    if not _CHARSETS.fullmatch(found):
        raise MediaTypeError(
            "content_type.charset", f"found charset {charset[:40]!r}; expected utf-8"
        )
    return name.lower() or JSON, found


def _to_text(body: bytes, charset: str) -> str:
    try:
        return body.decode("utf-8-sig" if charset == "utf-8" else charset)
    except (UnicodeError, LookupError) as error:
        raise BodyError(
            "body.charset",
            f"the body is not {charset}: save it as UTF-8 or name its charset in Content-Type",
            position=getattr(error, "start", None),
        ) from None
