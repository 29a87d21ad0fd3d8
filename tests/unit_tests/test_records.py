from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfserve.errors import RecordError, RequestError, TooLargeError
from tfserve.records import MAX_CHARACTERS, Record, parse_boxes
from tfserve.strict_json import dumps

BLANKS = " \t\n\r\f\v"

coordinates = st.integers(0, 1000)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates).map(
    lambda box: (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)
numbers = st.integers(-10, 1010) | st.floats() | st.booleans() | st.text("0123456789.,- e")
raw_boxes = st.text("0123456789.,- e\t") | st.lists(numbers) | st.lists(st.lists(numbers))
raw_records = st.fixed_dictionaries(
    {},
    optional={
        "text": st.text() | anything,
        "words": st.lists(st.text()) | anything,
        "bbox": raw_boxes | anything,
        "id": anything,
    },
)


def refusal(raw: Any, use_bbox: bool = False) -> RequestError:
    with pytest.raises(RequestError) as caught:
        Record.parse(raw, use_bbox=use_bbox)
    return caught.value


def box_refusal(value: Any, words: int) -> RecordError:
    with pytest.raises(RecordError) as caught:
        parse_boxes(value, words)
    assert caught.value.place == {"field": "bbox"}
    return caught.value


@pytest.mark.parametrize("raw", ["Hello world", {"text": "Hello world"}])
def test_a_string_and_an_object_are_the_same_record(raw: Any) -> None:
    record = Record.parse(raw)
    assert record.text == "Hello world"
    assert record.words == ("Hello", "world")
    assert record.spans == ((0, 5), (6, 11))
    assert (record.given, record.bbox, record.extra) == (None, None, {})


def test_a_record_is_left_as_it_is() -> None:
    record = Record.parse("a")
    assert Record.parse(record) is record


def test_spans_are_offsets_in_the_callers_own_string() -> None:
    record = Record.parse("  a\t\tbc\n東京 d\u00a0e\u2003f ")
    assert record.text == "  a\t\tbc\n東京 d\u00a0e\u2003f "
    assert record.spans == ((2, 3), (5, 7), (8, 10), (11, 16))
    assert record.words == ("a", "bc", "東京", "d\u00a0e\u2003f")


def test_given_words_keep_their_spaces() -> None:
    record = Record.parse({"words": ["New York", "is", "", "big"]})
    assert record.text == "New York is  big"
    assert record.words == ("New York", "is", "", "big")
    assert record.spans == ((0, 8), (9, 11), (12, 12), (13, 16))


def test_words_go_before_text_and_null_words_are_none() -> None:
    assert Record.parse({"words": ["a", "b"], "text": "c"}).words == ("a", "b")
    assert Record.parse({"words": None, "text": "c d"}).words == ("c", "d")


def test_other_keys_travel_with_the_record() -> None:
    raw = {"text": "a", "id": 7, "labels": "x", "bbox": "1 1 2 2", "meta": {"k": [1]}}
    assert Record.parse(raw).extra == {"id": 7, "labels": "x", "meta": {"k": [1]}}


@pytest.mark.parametrize(("use_bbox", "read"), [(False, None), (True, [[1, 2, 3, 4]])])
def test_boxes_are_read_where_they_are_used(use_bbox: bool, read: Any) -> None:
    record = Record.parse({"text": "a", "bbox": "1 2 3 4"}, use_bbox=use_bbox)
    assert (None if record.bbox is None else record.bbox.tolist()) == read


def test_boxes_belong_to_given_words() -> None:
    record = Record.parse(
        {"words": ["New York", "x"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}, use_bbox=True
    )
    assert record.bbox is not None
    assert record.bbox.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (None, "record.type", None),
        (3, "record.type", None),
        (True, "record.type", None),
        (["a"], "record.type", None),
        ({}, "record.field_missing", "text"),
        ({"Text": "a"}, "record.field_missing", "text"),
        ({"text": None}, "record.field_type", "text"),
        ({"text": 5}, "record.field_type", "text"),
        ({"text": ["a"]}, "record.field_type", "text"),
        ({"words": "a b"}, "record.field_type", "words"),
        ({"words": ["a", 1]}, "record.field_type", "words"),
        ({"words": {}}, "record.field_type", "words"),
        ({"words": []}, "record.text_empty", "words"),
        ({"words": ["", " "]}, "record.text_empty", "words"),
        ("", "record.text_empty", "text"),
        (" \t\n\u00a0\u2003", "record.text_empty", "text"),
        ("\x00\x07\u200b", "record.text_empty", "text"),
        ("a \ud800", "record.text_invalid", "text"),
        ({"words": ["a", "\udfff"]}, "record.text_invalid", "words"),
    ],
)
def test_a_bad_record_is_refused_with_its_field(raw: Any, code: str, field: str | None) -> None:
    error = refusal(raw)
    assert isinstance(error, RecordError)
    assert (error.code, error.place.get("field")) == (code, field)
    assert error.status == 400


@pytest.mark.parametrize(
    ("raw", "found"),
    [(None, "null"), (True, "a boolean"), (1.5, "a number"), ([], "a list"), ((), "a list")],
)
def test_a_wrong_type_is_named_in_the_words_of_json(raw: Any, found: str) -> None:
    assert refusal(raw).message.startswith(f"found {found}; expected a string or an object")


@pytest.mark.parametrize(
    ("raw", "field"),
    [("x" * (MAX_CHARACTERS + 1), "text"), ({"words": ["x" * MAX_CHARACTERS, ""]}, "words")],
)
def test_a_record_over_the_limit_is_too_large(raw: Any, field: str) -> None:
    error = refusal(raw)
    assert isinstance(error, TooLargeError)
    assert (error.code, error.status, error.place) == ("record.too_long", 413, {"field": field})
    assert "1,000,001 characters" in error.message
    assert len(str(error)) < 200


def test_a_record_at_the_limit_is_read() -> None:
    assert len(Record.parse("x" * MAX_CHARACTERS).text) == MAX_CHARACTERS


@given(st.text())
def test_words_are_what_stands_between_ascii_blanks(text: str) -> None:
    try:
        record = Record.parse(text)
    except RecordError as error:
        assert error.code == "record.text_empty"
        assert not any(c.isprintable() and not c.isspace() for c in text)
        return
    assert record.text == text
    parts = text.translate(dict.fromkeys(map(ord, BLANKS), " ")).split(" ")
    assert list(record.words) == [part for part in parts if part]
    assert list(record.spans) == sorted(set(record.spans))


@given(st.lists(st.text(), min_size=1))
def test_given_words_are_given_back(words: list[str]) -> None:
    try:
        record = Record.parse({"words": words})
    except RecordError as error:
        assert error.code == "record.text_empty"
        return
    assert list(record.words) == words
    assert record.text == " ".join(words)


@given(raw_records | anything, st.booleans())
@example({"words": ["a"], "bbox": [[10**400, 0, 1, 1]]}, True)
@example({"text": "a", "bbox": [[[]], [], [1], [2, 3, 4]]}, True)
def test_arbitrary_values_raise_nothing_but_request_errors(raw: Any, use_bbox: bool) -> None:
    try:
        record = Record.parse(raw, use_bbox=use_bbox)
    except RequestError as error:
        assert error.code.startswith("record.")
        dumps(error.as_dict()).encode()
    else:
        assert (record.bbox is not None) == use_bbox
        assert record.bbox is None or record.bbox.shape == (len(record.spans), 4)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("1 2 207 146 567 50 600 400,1 2 3 4",
         [[1, 2, 207, 146], [567, 50, 600, 400], [1, 2, 3, 4]]),
        ("1 2 207 146 567 50 600 400", [[1, 2, 207, 146], [567, 50, 600, 400]]),
        ("1 2 3 4,5 6 7 8", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        (" 1  2\t3 4 ,\n", [[1, 2, 3, 4]]),
        ("1,2,3,4", [[1, 2, 3, 4]]),
        ("0 0 1000 1000", [[0, 0, 1000, 1000]]),
        ("5 5 5 5", [[5, 5, 5, 5]]),
        ([[1, 2, 3, 4], (5, 6, 7, 8)], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ([1, 2, 3, 4, 5, 6, 7, 8], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        (["1", "2", "3", "4"], [[1, 2, 3, 4]]),
        ([0.4, 1.6, 999.6, 1000.0], [[0, 2, 1000, 1000]]),
        ("0.4 1.6 999.6 1e3", [[0, 2, 1000, 1000]]),
    ],
)  # fmt: skip
def test_boxes_in_every_spelling(value: Any, words: list[list[int]]) -> None:
    read = parse_boxes(value, len(words))
    assert read.dtype == np.int64
    assert read.tolist() == words


@given(st.lists(boxes, min_size=1, max_size=8), st.data())
def test_commas_between_boxes_are_optional(
    given_boxes: list[tuple[int, ...]], data: st.DataObject
) -> None:
    written = " ".join(map(str, given_boxes[0]))
    for box in given_boxes[1:]:
        written += data.draw(st.sampled_from([" ", ",", ", ", " , ", "\t"]))
        written += " ".join(map(str, box))
    expected = [list(box) for box in given_boxes]
    flat = [number for box in given_boxes for number in box]
    for value in (written, given_boxes, expected, flat, [str(n) for n in flat]):
        assert parse_boxes(value, len(given_boxes)).tolist() == expected


@pytest.mark.parametrize(
    ("value", "words", "code"),
    [
        (None, 2, "record.bbox_missing"),
        ("", 2, "record.bbox_missing"),
        ([], 2, "record.bbox_missing"),
        (5, 2, "record.field_type"),
        ({"x0": 1}, 1, "record.field_type"),
        ("1 2 3", 1, "record.bbox_count"),
        ("1 2 3 4, 5 6 7 8", 1, "record.bbox_count"),
        ([[1, 2, 3, 4]], 2, "record.bbox_count"),
        ("1 2 3 x", 1, "record.bbox_value"),
        ("1 2 3 nan", 1, "record.bbox_value"),
        ("1 2 inf 4", 1, "record.bbox_value"),
        ([1, 2, math.nan, 4], 1, "record.bbox_value"),
        ([1, 2, 3, None], 1, "record.bbox_value"),
        ([1, 2, 3, True], 1, "record.bbox_value"),
        ([[1, 2, 3, [4]]], 1, "record.bbox_value"),
        ([1, 2, 10**400, 4], 1, "record.bbox_value"),
        ("-1 2 3 4", 1, "record.bbox_value"),
        ("1 2 1001 4", 1, "record.bbox_value"),
        ("1 2 3 1000.4", 1, "record.bbox_value"),
        ("3 2 1 4", 1, "record.bbox_value"),
        ("1 4 3 2", 1, "record.bbox_value"),
    ],
)
def test_bad_boxes(value: Any, words: int, code: str) -> None:
    assert box_refusal(value, words).code == code


def test_a_wrong_box_is_named_with_its_word() -> None:
    error = box_refusal("1 2 3 4, 5 6 1200 8, 9 9 9 9", 3)
    assert error.message.startswith("found the box 5 6 1200 8 for word 1; expected 0 <= x0 <= x1")


def test_a_wrong_number_of_boxes_says_how_many_are_expected() -> None:
    assert box_refusal("1 2 3 4 5", 2).message.startswith("found 5 numbers; expected 8, four for")


@given(raw_boxes | anything, st.integers(1, 4))
def test_arbitrary_boxes_raise_nothing_but_record_errors(value: Any, words: int) -> None:
    try:
        read = parse_boxes(value, words)
    except RecordError as error:
        assert error.place == {"field": "bbox"}
    else:
        assert read.shape == (words, 4)
        assert ((read >= 0) & (read <= 1000)).all()
        assert (read[:, :2] <= read[:, 2:]).all()
