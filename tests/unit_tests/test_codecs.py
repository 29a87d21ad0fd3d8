from __future__ import annotations

import csv
import io
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfserve import codecs
from tfserve.codecs import (
    CONTAINERS,
    DECODERS,
    JSON,
    JSON_LINES,
    JSON_LINES_NAMES,
    decode,
    encode,
    negotiate,
)
from tfserve.errors import BodyError, MediaTypeError, NotAcceptableError, RecordError, RequestError
from tfserve.strict_json import MAX_DEPTH, dumps, loads

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
keys = st.text().filter(lambda key: key not in CONTAINERS)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=8
)
answers = st.lists(st.dictionaries(keys, values, min_size=1, max_size=3), min_size=1, max_size=4)


def items(body: bytes | str, content_type: str | None = None) -> list[Any]:
    return list(decode(body, content_type).items)


def refusal(body: bytes | str, content_type: str | None = None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(body, content_type)
    return caught.value


def plain(item: Any) -> Any:
    """An item that can be compared: an error as its code and line."""
    return (item.code, item.place.get("line")) if isinstance(item, RecordError) else item


@pytest.mark.parametrize(
    ("body", "records", "parameters"),
    [
        ({"data": [{"text": "a"}, {"text": "b"}]}, [{"text": "a"}, {"text": "b"}], {}),
        ({"data": [{"text": "a"}], "parameters": {"top_k": 2}}, [{"text": "a"}], {"top_k": 2}),
        ({"data": {"text": "a"}}, [{"text": "a"}], {}),
        ({"data": []}, [], {}),
        ({"data": [{"text": "a"}], "parameters": None}, [{"text": "a"}], {}),
        ({"inputs": "a"}, ["a"], {}),
        ({"inputs": ["a", "b"], "parameters": {"scores": True}}, ["a", "b"], {"scores": True}),
        ({"inputs": ["a"], "options": {"use_cache": False}}, ["a"], {}),
        ({"inputs": {"text": "a"}}, [{"text": "a"}], {}),
        ({"instances": [{"text": "a"}]}, [{"text": "a"}], {}),
        ({"X": ["a"]}, ["a"], {}),
        ({"text": "a", "id": 1}, [{"text": "a", "id": 1}], {}),
        ({"text": "a", "parameters": {"top_k": 1}}, [{"text": "a"}], {"top_k": 1}),
        ({"words": ["a", "b"]}, [{"words": ["a", "b"]}], {}),
        ({"text": "a", "data": 5}, [{"text": "a", "data": 5}], {}),
        ([{"text": "a"}, "b"], [{"text": "a"}, "b"], {}),
        ([], [], {}),
        ("a", ["a"], {}),
        (None, [None], {}),
        ({"sentence": "a"}, [{"sentence": "a"}], {}),
    ],
)
def test_every_form_of_a_json_request(body: Any, records: Any, parameters: Any) -> None:
    for form in (json.dumps(body), json.dumps(body).encode(), bytearray(json.dumps(body), "utf-8")):
        request = decode(form, JSON)  # type: ignore[arg-type]
        assert list(request.items) == records
        assert request.parameters == parameters
        assert not request.by_line


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        JSON,
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json ; version=1; Charset=utf8",
        "; charset=utf-8",
    ],
)
def test_json_under_all_its_names(content_type: str | None) -> None:
    assert items('["é"]'.encode(), content_type) == ["é"]


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [("iso-8859-1", "latin-1"), ("latin1", "latin-1"), ("utf-16", "utf-16"),
     ("windows-1252", "cp1252"), ("utf-8-sig", "utf-8-sig")],
)  # fmt: skip
@pytest.mark.parametrize(
    ("media_type", "text", "expected"),
    [
        (JSON, '["café"]', ["café"]),
        (JSON_LINES, '"café"\n"b"\n', ["café", "b"]),
        ("text/plain", "café", ["café"]),
        ("text/csv", "text\ncafé", [{"text": "café"}]),
    ],
)
def test_charsets(
    charset: str, encoding: str, media_type: str, text: str, expected: list[Any]
) -> None:
    assert items(text.encode(encoding), f"{media_type}; charset={charset}") == expected


@pytest.mark.parametrize("charset", ["utf-9", "", "x" * 1000, "\0", "none"])
def test_an_unknown_charset_is_a_415(charset: str) -> None:
    error = refusal(b"[]", f"application/json; charset={charset}")
    assert (error.code, error.status) == ("content_type.charset", 415)
    assert "expected utf-8" in error.message
    assert len(error.message) < 100


@pytest.mark.parametrize(
    "charset", ["base64", "hex", "rot13", "undefined", "punycode", "idna", "unicode_escape"]
)
def test_a_codec_of_python_that_is_no_charset_is_a_415(charset: str) -> None:
    error = refusal(rb'["\d"]', f"application/json; charset={charset}")
    assert (error.code, error.status) == ("content_type.charset", 415)


@pytest.mark.parametrize("content_type", ["image/png", "application/xml; charset=utf-8", "json"])
def test_an_unknown_content_type_is_a_415_that_names_the_known_ones(content_type: str) -> None:
    error = refusal(b"[]", content_type)
    assert isinstance(error, MediaTypeError)
    assert (error.code, error.status) == ("content_type.unsupported", 415)
    assert JSON in error.message
    assert JSON_LINES in error.message


@pytest.mark.parametrize("media_type", DECODERS)
@pytest.mark.parametrize("body", [b"", b" \n\t", "", " \r\n"])
def test_an_empty_body_is_a_400(body: bytes | str, media_type: str) -> None:
    error = refusal(body, media_type)
    assert isinstance(error, BodyError)
    assert (error.code, error.status) == ("body.empty", 400)


@pytest.mark.parametrize(
    ("body", "position"),
    [('["é", x]', 6), ('{"data": [', 10), ("{'text': 'a'}", 1), ('"a" "b"', 4), ('["a\tb"]', 3)],
)
def test_a_body_that_is_not_json_is_a_400_with_the_position_in_characters(
    body: str, position: int
) -> None:
    for form in (body, body.encode()):
        error = refusal(form, JSON)
        assert isinstance(error, BodyError)
        assert (error.code, error.status) == ("body.not_json", 400)
        assert error.place == {"position": position}


def test_several_lines_of_json_are_told_from_json_lines() -> None:
    error = refusal('{"text": "a"}\n{"text": "b"}\n', JSON)
    assert error.code == "body.not_json"
    assert error.place == {"position": 14}
    assert error.message.endswith(f"for several lines of JSON send Content-Type: {JSON_LINES}")


@pytest.mark.parametrize("media_type", [JSON, "text/plain", "text/csv"])
def test_bytes_outside_the_charset_are_a_400_with_the_position(media_type: str) -> None:
    error = refusal(b'["caf\xe9"]', media_type)
    assert (error.code, error.status) == ("body.charset", 400)
    assert error.place == {"position": 5}


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_numbers_that_json_does_not_have_are_refused(constant: str) -> None:
    assert refusal(f'{{"text": "a", "id": {constant}}}', JSON).code == "body.not_json"
    item = items(f'{{"text": "a", "id": {constant}}}', JSON_LINES)[0]
    assert plain(item) == ("record.not_json", 1)


@pytest.mark.parametrize("extra", [1, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_json_over_the_depth_limit_is_refused(opening: str, closing: str, extra: int) -> None:
    depth = MAX_DEPTH + extra - 1  # the scalar inside is a level too
    error = refusal(opening * depth + "1" + closing * depth, JSON)
    assert error.code == "body.not_json"
    assert "nested" in error.message


def test_json_at_the_depth_limit_is_read() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert loads(text) == json.loads(text)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"data": ["a"], "inputs": ["b"]}, "body.unknown_key"),
        ({"data": ["a"], "top_k": 1}, "body.unknown_key"),
        ({"inputs": "a", "parameters": [1]}, "body.parameters"),
        ({"text": "a", "parameters": "x"}, "body.parameters"),
    ],
)
def test_a_body_of_the_wrong_shape_is_a_400(body: Any, code: str) -> None:
    error = refusal(json.dumps(body), JSON)
    assert isinstance(error, BodyError)
    assert (error.code, error.status) == (code, 400)


@pytest.mark.parametrize("media_type", JSON_LINES_NAMES)
def test_json_lines_under_all_their_names(media_type: str) -> None:
    request = decode(b'{"text": "a"}\n"b"\n', media_type)
    assert list(request.items) == [{"text": "a"}, "b"]
    assert request.by_line
    assert request.parameters == {}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"data": [{"text": "a"}]}', {"text": "a"}),
        ('{"data": {"text": "a"}}', {"text": "a"}),
        ('{"inputs": "a"}', "a"),
        ('{"instances": ["a"], "parameters": {}}', "a"),
        ('{"text": "a", "data": 1}', {"text": "a", "data": 1}),
        ('{"data": ["a", "b"]}', ("record.not_one", 2)),
        ('{"data": []}', ("record.not_one", 2)),
        ('{"data": ["a"], "parameters": {"top_k": 1}}', ("record.not_one", 2)),
        ('{"data": ["a"], "more": 1}', ("body.unknown_key", 2)),
        ('{"inputs": "a", "parameters": 1}', ("body.parameters", 2)),
        ("null", None),
        ("[1]", [1]),
    ],
)
def test_a_line_may_be_a_whole_body_of_one_record(line: str, expected: Any) -> None:
    read = items(f'"first"\n{line}\n"last"', JSON_LINES)
    assert [plain(item) for item in read] == ["first", expected, "last"]


def test_a_bad_line_says_what_is_wrong_and_where() -> None:
    errors = items(b'{"text": }\n\n{"a": "\xff"}\n"ok"', JSON_LINES)[:3]
    assert [str(error) for error in errors] == [
        "found no JSON: Expecting value at line 1 column 10; expected one JSON value (line 1)",
        "found an empty line; expected a record (line 2)",
        "found a byte that is not UTF-8 at position 7; expected one JSON value (line 3)",
    ]


good_lines = values.map(lambda value: (json.dumps(value, ensure_ascii=False), value)).map(
    lambda pair: (pair[0].encode(), pair[1])
)
odd_lines = st.sampled_from([
    ('"line\u2028separator\u2029\u0085\u000b"'.replace("\u000b", "\\u000b").encode(),
     "line\u2028separator\u2029\u0085\u000b"),
    (b"null", None),
    (b'  {"text":\t"a"}  ', {"text": "a"}),
    (b'{"inputs": "a"}', "a"),
    (b"", "record.blank_line"),
    (b" \t ", "record.blank_line"),
    (b"{", "record.not_json"),
    (b"nope", "record.not_json"),
    (b"NaN", "record.not_json"),
    (b'{"a":1}{"b":2}', "record.not_json"),
    (b'"a\x0bb"', "record.not_json"),
    (b"[" * 200, "record.not_json"),
    (b'"\xff"', "record.not_json"),
    (b"\xc3", "record.not_json"),
])  # fmt: skip
ends = st.sampled_from([b"\n", b"\r\n"])


@given(
    st.lists(st.tuples(good_lines | odd_lines, ends), min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
)
@example([((b'"a"', "a"), b"\r\n"), ((b"", "record.blank_line"), b"\r\n")], True, True)
def test_there_is_one_item_for_every_line(
    lines: list[tuple[tuple[bytes, Any], bytes]], bom: bool, final: bool
) -> None:
    while lines and not lines[-1][0][0].strip():  # blank lines at the end are no lines
        lines.pop()
    lines = lines or [((b"1", 1), b"\n")]
    body = b"".join(line + end for (line, _), end in lines)
    body = body if final else body.removesuffix(lines[-1][1])
    body = b"\xef\xbb\xbf" + body if bom else body
    expected = [
        (value, number) if isinstance(value, str) and value.startswith("record.") else value
        for number, ((_, value), _) in enumerate(lines, 1)
    ]
    assert [plain(item) for item in items(body, JSON_LINES)] == expected
    assert [plain(item) for item in items(body + b"\n \r\n", JSON_LINES)] == expected
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return
    assert [plain(item) for item in items(text, JSON_LINES)] == expected


@given(values)
def test_json_round_trip_on_one_line(value: Any) -> None:
    text = dumps(value)
    assert "\n" not in text
    assert loads(text) == value
    assert loads(text.encode()) == value


@given(answers)
def test_answers_come_back_from_both_encodings(given_answers: list[dict[str, Any]]) -> None:
    assert loads(encode(given_answers, JSON)) == {"predictions": given_answers}
    lines = encode(given_answers, JSON_LINES)
    assert lines.count("\n") == len(given_answers)
    assert [loads(line) for line in lines.split("\n")[:-1]] == given_answers


def test_answers_keep_their_characters() -> None:
    assert (
        encode([{"pred": "é", "proba": 0.5}], JSON) == '{"predictions":[{"pred":"é","proba":0.5}]}'
    )
    assert encode([{"pred": "é"}, {"pred": "b"}], JSON_LINES) == '{"pred":"é"}\n{"pred":"b"}\n'
    assert encode([], JSON) == '{"predictions":[]}'
    assert encode([], JSON_LINES) == ""


def test_nan_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"proba": float("nan")})


@given(st.text('{}[]":,\\u0123456789abdeEfnrt.+- ', min_size=1))
@example('"\\ud800"')
@example('{"\\ud800": 1}')
@example('"\\ud83d\\ude00"')
@example("1e400")
@example("[-1e400]")
@example("1" * 5000)
def test_whatever_is_read_can_be_written_as_utf_8(text: str) -> None:
    try:
        value = loads(text)
    except ValueError:
        return
    assert loads(dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("application/jsonlines", JSON_LINES),
        ("application/x-ndjson", "application/x-ndjson"),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("application/json;q=0.5, application/jsonlines", JSON_LINES),
        ("application/jsonlines;q=0.5, application/json;q=0.9", JSON),
        ("application/jsonlines, application/json", JSON_LINES),
        ("application/json;q=0, application/jsonlines;q=0.1", JSON_LINES),
        ("application/json;q=high", JSON),
    ],
)
def test_accept(accept: str | None, media_type: str) -> None:
    assert negotiate(accept) == media_type


@pytest.mark.parametrize(
    "accept", ["text/html", "image/*", "application/json;q=0", "text/csv", "x" * 1000]
)
def test_an_accept_that_cannot_be_served_is_a_406(accept: str) -> None:
    for call in (lambda: negotiate(accept), lambda: encode([{"pred": "a"}], accept)):
        with pytest.raises(NotAcceptableError) as caught:
            call()
        assert (caught.value.code, caught.value.status) == ("accept.unsupported", 406)
        assert f"expected {JSON} or {JSON_LINES}" in caught.value.message
        assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("text\na\nb\n", [{"text": "a"}, {"text": "b"}]),
        ("\ufefftext\na\n", [{"text": "a"}]),
        ("inputs\na\n", [{"text": "a"}]),
        ("text,id\na,1\r\nb,2\r\n", [{"text": "a", "id": "1"}, {"text": "b", "id": "2"}]),
        ("id;text\n1;a, b\n", [{"id": "1", "text": "a, b"}]),
        ("text\tid\nHe said \"no\t1\n", [{"text": 'He said "no', "id": "1"}]),
        ('text,id\n"a, ""b""\nc",1\n', [{"text": 'a, "b"\nc', "id": "1"}]),
        ('"text","id"\n"a","1"\n', [{"text": "a", "id": "1"}]),
        ("just a text\nanother", [{"text": "just a text"}, {"text": "another"}]),
        ('"Hello, world"\n"b"\n', [{"text": "Hello, world"}, {"text": "b"}]),
        ("text\ta\n" + "x" * 200_000 + "\t1", [{"text": "x" * 200_000, "a": "1"}]),
    ],
)  # fmt: skip
def test_csv(body: str, expected: list[Any]) -> None:
    for media_type in ("text/csv", "text/tab-separated-values"):
        request = decode(body.encode(), media_type)
        assert list(request.items) == expected
        assert request.by_line


@pytest.mark.parametrize(
    "body", ['text,id\na,1\n\n,2\n"two\nlines",3\nb\n\n\n', "text\tid\na\t1\n\n\t2\nb\n\n"]
)
def test_a_row_of_csv_is_known_by_its_line(body: str) -> None:
    request = decode(body.encode(), "text/csv")
    quoted = "," in body
    assert list(request.lines or ()) == ([2, 3, 4, 5, 7] if quoted else [2, 3, 4, 5])
    blank, wrong = request.items[1], request.items[-1]
    assert isinstance(blank, RecordError) and isinstance(wrong, RecordError)
    assert (blank.code, blank.place["line"]) == ("record.blank_line", 3)
    assert (wrong.code, wrong.place["line"]) == ("record.columns", 7 if quoted else 5)


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        (JSON_LINES, b"\n" * 1_000_000 + b'"x"'),
        (JSON_LINES, b'"x"\n' * 300_000),
        ("text/csv", b"text,id\n" + b"\n" * 1_000_000 + b"a,1"),
        ("text/csv", b"text\tid\n" + b"a\t1\n" * 300_000),
    ],
)
def test_of_too_many_lines_no_more_are_read_than_say_so(media_type: str, body: bytes) -> None:
    tracemalloc.start()
    request = decode(body, media_type, most=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(request.items) == 101
    assert peak < 12 * len(body)  # a text of four bytes a character twice


def test_a_csv_row_of_the_wrong_width_costs_itself_alone() -> None:
    read = items(b"text,id\na,1\nHello, world,2\nb,3\n", "text/csv")
    assert [read[0], read[2]] == [{"text": "a", "id": "1"}, {"text": "b", "id": "3"}]
    assert isinstance(read[1], RecordError)
    assert read[1].code == "record.columns"
    assert read[1].message.startswith("found 3 columns; expected 2 (text, id)")


@pytest.mark.parametrize("body", ["text,id\nfoo\rbar,1\nb,2", "id,text\n1,foo\rbar\n2,b"])
def test_a_carriage_return_inside_a_csv_cell_costs_its_row(body: str) -> None:
    read = items(body, "text/csv")
    assert [plain(item) for item in read] == [("record.columns", 2), {"text": "b", "id": "2"}]


@given(
    st.lists(st.tuples(st.text("ab\",;\t\n' é"), st.text("ab\",;\t\n' é")), min_size=1),
    st.sampled_from([",", ";"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_a_csv_writer_wrote_is_read_back(
    rows: list[tuple[str, str]], delimiter: str, quoting: int
) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([("text", "id"), *rows])
    read = items(file.getvalue(), "text/csv")
    assert read == [{"text": text, "id": key} for text, key in rows]


def test_plain_text_is_one_record() -> None:
    assert items(b"a\nb\n", "text/plain; charset=utf-8") == ["a\nb\n"]
    assert items("\ufeffé".encode(), "text/plain") == ["é"]


@given(
    st.binary() | st.text('{}[]"\n\r,;\tab:0 ').map(str.encode),
    st.sampled_from([*DECODERS, "text/csv; charset=latin-1", "text/plain; charset=utf-16", "*/*"]),
)
def test_arbitrary_bodies_raise_nothing_but_request_errors(body: bytes, content_type: str) -> None:
    try:
        request = decode(body, content_type)
    except RequestError as error:
        assert error.status in (400, 415)
        dumps(error.as_dict()).encode()
    else:
        for item in request.items:
            dumps(item.as_dict() if isinstance(item, RequestError) else item).encode()


@given(st.text())
@example("application/json; charset=\u00e9")
@example("application/json; charset=\ud800")
@example("application/json;q=\u0663")
def test_arbitrary_headers_raise_nothing_but_media_type_errors(header: str) -> None:
    for call in (lambda: decode(b"[1]", header), lambda: negotiate(header)):
        try:
            call()
        except RequestError as error:
            assert error.status in (400, 406, 415)


def test_lines_are_read_lazily() -> None:
    def endless() -> Any:
        while True:
            yield b'{"text": "a"}\n'
            yield b"{\n"

    reader = codecs.read_lines(endless())
    assert [plain(next(reader)) for _ in range(4)] == [
        {"text": "a"},
        ("record.not_json", 2),
        {"text": "a"},
        ("record.not_json", 4),
    ]
