from __future__ import annotations

import inspect
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ready
import tiny
from conftest import Trained
from hypothesis import given
from hypothesis import strategies as st

from tfserve import handlers
from tfserve.errors import (
    BodyError,
    MediaTypeError,
    ModelError,
    NotAcceptableError,
    ParameterError,
    RecordError,
    TfserveError,
    TooLargeError,
)

JSON, LINES = "application/json", "application/jsonlines"
TEXT, OTHER = "where is my parcel", "great coffee friendly staff"
SECRET = "Zanzibar"


@dataclass
class Context:
    """What the container hands over: it keeps the statuses it was told."""

    statuses: list[tuple[int, str, int]] = field(default_factory=list)

    def set_response_status(self, code: int, phrase: str, index: int) -> None:
        self.statuses.append((code, phrase, index))


@pytest.fixture(scope="module", autouse=True)
def _one_core() -> Iterator[None]:
    with ready.one_core():
        yield


@pytest.fixture(params=ready.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def records(kind: str, count: int = 3) -> list[dict[str, Any]]:
    made = ready.ready(kind)
    columns = ("text", "bbox") if made.boxed else ("text",)
    rows = tiny.rows(made.task, count, made.boxed)
    return [dict(zip(columns, row, strict=False)) for row in rows]


def ask(
    body: bytes | bytearray | str,
    content_type: str | None = JSON,
    accept: str | None = JSON,
    *,
    kind: str = "classif",
    context: Context | None = None,
) -> str:
    """One request through the handlers, as the container makes it."""
    request = handlers.input_fn(body, content_type, context)
    answers = handlers.predict_fn(request, ready.predictor(kind), context)
    return handlers.output_fn(answers, accept, context)


def predictions(body: Any, kind: str = "classif", **more: Any) -> list[dict[str, Any]]:
    answer = json.loads(ask(json.dumps(body), kind=kind, **more))
    assert list(answer) == ["predictions"]
    found: list[dict[str, Any]] = answer["predictions"]
    return found


def one(text: str = TEXT) -> dict[str, Any]:
    """What the classif model answers to a text, to compare with."""
    answer: dict[str, Any] = ready.about(ready.predictor("classif").predict([text])[0])
    return answer


# --- what the container demands -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (handlers.model_fn, ["model_dir", "context"]),
        (handlers.input_fn, ["data", "content_type", "context"]),
        (handlers.predict_fn, ["data", "model", "context"]),
        (handlers.output_fn, ["prediction", "accept", "context"]),
    ],
)
def test_each_function_has_the_parameters_that_the_container_counts(
    function: Callable[..., Any], parameters: list[str]
) -> None:
    found = inspect.signature(function).parameters
    assert list(found) == parameters
    assert {p.kind for p in found.values()} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_transform_fn_is_not_mixed_with_the_others() -> None:
    assert not hasattr(handlers, "transform_fn")


def test_the_entry_point_in_the_model_directory_has_just_these_functions() -> None:
    names: dict[str, Any] = {}
    source = (ready.ready("classif").model / "code" / "inference.py").read_text("utf-8")
    exec(compile(source, "inference.py", "exec"), names)
    for name in ("model_fn", "input_fn", "predict_fn", "output_fn"):
        assert names[name] is getattr(handlers, name)
    assert "transform_fn" not in names


def test_without_a_context_the_functions_answer_too() -> None:
    model = handlers.model_fn(str(ready.ready("classif").model))
    request = handlers.input_fn(json.dumps({"data": [{"text": TEXT}]}), JSON)
    answers = handlers.predict_fn(request, model)
    assert [answer["pred"] for answer in answers] == [one()["pred"]]
    assert json.loads(handlers.output_fn(answers, JSON)) == {"predictions": answers}


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "silent"),
    [
        ({"data": [TEXT]}, JSON, JSON, True),
        ({"data": [TEXT]}, JSON, LINES, True),
        (TEXT, LINES, LINES, True),
        ({"data": [TEXT], "parameters": {"abstain": 0.0}}, JSON, JSON, False),
    ],
)
def test_a_model_that_abstains_gives_null_and_all_scores(
    body: Any, content_type: str, accept: str, silent: bool, trained: Trained
) -> None:
    model = handlers.model_fn(str(trained("classif", abstain=0.99)))
    request = handlers.input_fn(json.dumps(body), content_type)
    said = json.loads(handlers.output_fn(handlers.predict_fn(request, model), accept))
    answer = said["predictions"][0] if accept == JSON else said
    assert (answer["pred"] is None) is silent
    assert ("scores" in answer) is silent


# --- bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [bytes, bytearray, lambda body: body.decode("utf-8")],
                         ids=["bytes", "bytearray", "str"])  # fmt: skip
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, '{"data": [{"text": "naïve café 東京"}]}'),
        (None, '{"data": [{"text": "naïve café 東京"}]}'),
        ("", '{"data": [{"text": "naïve café 東京"}]}'),
        ("application/json; charset=utf-8", '{"data": [{"text": "naïve café 東京"}]}'),
        ("Application/JSON;charset=UTF-8", '\ufeff["naïve café 東京"]'),
        (LINES, '{"text": "naïve café 東京"}\n'),
        (LINES, '\ufeff{"text": "naïve café 東京"}\r\n'),
        ("application/x-ndjson", '"naïve café 東京"'),
        ("application/x-jsonlines; charset=utf-8", '"naïve café 東京"\n\n'),
        ("text/csv", "text\nnaïve café 東京\n"),
        ("text/csv", "inputs\r\nnaïve café 東京\r\n"),
        ("text/csv; charset=utf-8", "naïve café 東京"),
        ("text/tab-separated-values", "text\tid\nnaïve café 東京\t7"),
        ("text/plain", "naïve café 東京"),
        ("text/plain; charset=utf-8", "\ufeffnaïve café 東京"),
    ],
)
def test_a_body_is_read_whatever_python_type_it_has(
    content_type: str | None, body: str, make: Callable[[bytes], Any]
) -> None:
    answers = json.loads(ask(make(body.encode("utf-8")), content_type))["predictions"]
    assert len(answers) == 1
    assert {k: answers[0][k] for k in ("pred", "proba")} == one("naïve café 東京")


def test_another_charset_is_read_where_it_is_named() -> None:
    body = '{"text": "naïve café"}'.encode("latin-1")
    found = json.loads(ask(body, "application/json; charset=latin-1"))["predictions"]
    assert found == [one("naïve café")]


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"text": TEXT}, {"text": OTHER}]},
        {"data": [TEXT, OTHER]},
        {"data": [{"words": TEXT.split()}, {"words": OTHER.split()}]},
        {"inputs": [TEXT, OTHER]},
        {"inputs": [{"text": TEXT}, {"text": OTHER}], "parameters": {}},
        {"instances": [{"text": TEXT}, OTHER], "parameters": None},
        {"X": [TEXT, {"text": OTHER}], "options": {}},
        [{"text": TEXT}, {"text": OTHER}],
        [TEXT, OTHER],
    ],
    ids=json.dumps,
)
def test_every_form_of_a_request_for_two_gets_two_answers(body: Any) -> None:
    assert predictions(body) == [one(TEXT), one(OTHER)]


@pytest.mark.parametrize(
    "body",
    [
        {"text": TEXT},
        {"words": TEXT.split()},
        TEXT,
        {"inputs": TEXT},
        {"inputs": {"text": TEXT}},
        {"data": {"text": TEXT}},
        {"instances": TEXT},
        {"X": [TEXT]},
        {"text": TEXT, "parameters": {}},
    ],
    ids=json.dumps,
)
def test_every_form_of_a_request_for_one_gets_a_list_of_one_answer(body: Any) -> None:
    assert predictions(body) == [one(TEXT)]


@pytest.mark.parametrize("body", [{"data": []}, [], {"inputs": []}], ids=json.dumps)
def test_a_request_for_nothing_gets_nothing(body: Any) -> None:
    assert predictions(body) == []


def test_keys_of_a_record_come_back_with_its_answer() -> None:
    more = {"id": 7, "source": {"page": [1, 2]}, "note": None}
    assert predictions({"text": TEXT, **more}) == [{**one(), **more}]
    csv = ask(f'text,id\n"{TEXT}",7\n', "text/csv")
    assert json.loads(csv)["predictions"] == [{**one(), "id": "7"}]


def test_what_the_model_says_wins_over_a_key_of_the_same_name() -> None:
    assert predictions({"text": TEXT, "pred": "mine", "proba": 2}) == [one()]


@pytest.mark.parametrize(
    ("parameters", "kind", "expected"),
    [
        ({"top_k": 2}, "classif", 2),
        ({"scores": True}, "classif", 4),
        ({"top_k": 1}, "multilabel-classif", 1),
        ({"top_k": 99}, "multilabel-classif", 4),
    ],
)
def test_parameters_beside_the_records_are_heeded(
    parameters: dict[str, Any], kind: str, expected: int
) -> None:
    for container in ("data", "inputs", "instances", "X"):
        (answer,) = predictions({container: [TEXT], "parameters": parameters}, kind)
        assert len(answer["scores"]) == expected
        assert sorted(answer["scores"].values(), reverse=True) == list(answer["scores"].values())
    assert predictions({"text": TEXT, "parameters": parameters}, kind) == [ready.about(answer)]


def test_a_threshold_of_zero_gives_every_label() -> None:
    body = {"data": [TEXT], "parameters": {"threshold": 0}}
    (answer,) = predictions(body, "multilabel-classif")
    assert sorted(answer["pred"]) == ["angry", "money", "order", "parcel"]
    assert len(answer["proba"]) == 4


# --- JSON and JSON Lines, in and out ------------------------------------------------------------


@pytest.mark.parametrize("accept", [JSON, LINES, "application/x-ndjson"])
@pytest.mark.parametrize("content_type", [JSON, LINES, "application/jsonl"])
def test_json_and_json_lines_go_in_and_out_for_every_model(
    kind: str, content_type: str, accept: str
) -> None:
    asked = records(kind)
    expected = ready.about(ready.predictor(kind).predict(asked))
    body = (
        json.dumps({"data": asked})
        if content_type == JSON
        else "".join(json.dumps(record) + "\n" for record in asked)
    )
    given: Any = body if content_type == JSON else bytearray(body.encode("utf-8"))
    text = ask(given, content_type, accept, kind=kind)
    if accept == JSON:
        assert json.loads(text) == {"predictions": expected}
    else:
        assert text.endswith("\n")
        assert [json.loads(line) for line in text.splitlines()] == expected


SHAPES: dict[str, set[str]] = {
    "classif": {"pred", "proba"},
    "multilabel-classif": {"pred", "proba"},
    "ner": {"pred", "proba", "entities"},
    "regression": {"pred"},
    "boxed ner": {"pred", "proba", "entities"},
}


def test_the_answers_of_every_model_have_the_keys_that_are_promised(kind: str) -> None:
    answers = predictions({"data": records(kind)}, kind)
    assert [set(answer) for answer in answers] == [SHAPES[kind]] * 3


@pytest.mark.parametrize(
    ("accept", "is_lines"),
    [
        (None, False), ("", False), ("*/*", False), ("application/*", False),
        ("text/csv;q=0.9, */*", False), (f"{LINES}, {JSON};q=0.5", True),
        (f"{JSON};q=0.5, {LINES};q=0.9", True), ("Application/JSONLines", True),
        (f"{LINES};q=0, */*;q=0.1", False),
    ],
)  # fmt: skip
def test_accept_chooses_the_form_of_the_answer(accept: str | None, is_lines: bool) -> None:
    text = ask(json.dumps([TEXT, OTHER]), JSON, accept)
    lines = [json.loads(line) for line in text.splitlines()]
    expected = [one(TEXT), one(OTHER)]
    assert lines == (expected if is_lines else [{"predictions": expected}])


BAD_LINES: list[tuple[str, str, str]] = [
    ('{"text": "', "record.not_json", ""),
    ("", "record.blank_line", ""),
    ("null", "record.type", ""),
    ("17", "record.type", ""),
    ("[1, 2]", "record.type", ""),
    ("{}", "record.field_missing", "text"),
    ('{"text": 3}', "record.field_type", "text"),
    ('{"text": ""}', "record.text_empty", "text"),
    ('{"text": " \\t\\u0000"}', "record.text_empty", "text"),
    ('{"words": []}', "record.text_empty", "words"),
    ('{"words": "no list"}', "record.field_type", "words"),
    ('{"text": "a\\ud800"}', "record.text_invalid", "text"),
    ('{"text": NaN}', "record.not_json", ""),
    ('{"data": ["a", "b"]}', "record.not_one", ""),
    ('{"data": ["a"], "parameters": {"top_k": 1}}', "record.not_one", ""),
    ('{"text": "' + "a" * 1_000_001 + '"}', "record.too_long", "text"),
    ("[" * 5000, "record.not_json", ""),
    ('{"text": "a", "deep": ' + "[" * 200 + "]" * 200 + "}", "record.not_json", ""),
    ('{"text": "a", "number": ' + "1" * 5000 + "}", "record.not_json", ""),
]


@pytest.mark.parametrize("accept", [JSON, LINES])
@pytest.mark.parametrize(("line", "code", "name"), BAD_LINES, ids=[c[1] for c in BAD_LINES])
def test_a_bad_line_costs_that_line_alone(line: str, code: str, name: str, accept: str) -> None:
    body = f'{{"text": "{TEXT}", "id": 1}}\n{line}\n"{OTHER}"\n'
    text = ask(bytearray(body.encode("utf-8")), LINES, accept)
    answers = (
        json.loads(text)["predictions"]
        if accept == JSON
        else [json.loads(answer) for answer in text.splitlines()]
    )
    assert answers[0] == {**one(TEXT), "id": 1}
    assert answers[2] == one(OTHER)
    assert len(answers) == 3
    error = answers[1]["error"]
    assert set(answers[1]) == {"error"}
    assert error["code"] == code
    assert error["line"] == 2
    assert error.get("field", "") == name
    assert error["message"]


def test_a_byte_that_is_no_utf8_costs_its_line_alone() -> None:
    body = bytearray(b'"' + TEXT.encode() + b'"\n{"text": "caf\xe9"}\n"' + OTHER.encode() + b'"')
    lines = [json.loads(line) for line in ask(body, LINES, LINES).splitlines()]
    assert [lines[0], lines[2]] == [one(TEXT), one(OTHER)]
    assert lines[1]["error"]["code"] == "record.not_json"
    assert "not UTF-8" in lines[1]["error"]["message"]


def test_a_body_of_bad_lines_only_is_answered_line_by_line() -> None:
    lines = [json.loads(line) for line in ask("x\n\n{}\n", LINES, LINES).splitlines()]
    assert [line["error"]["line"] for line in lines] == [1, 2, 3]


def test_a_bad_line_keeps_its_other_keys() -> None:
    (line,) = ask('{"id": 7, "text": ""}', LINES, LINES).splitlines()
    assert json.loads(line)["id"] == 7
    assert json.loads(line)["error"]["code"] == "record.text_empty"


@pytest.mark.parametrize(
    "bad",
    ["text,id\na,1\nb\nc,3\n", "text,id\na,1\nb,2,3\nc,3\n", 'text,id\na,1\n"",2\nc,3\n'],
)
def test_a_bad_row_of_csv_costs_that_row_alone(bad: str) -> None:
    answers = json.loads(ask(bad, "text/csv"))["predictions"]
    assert ["error" in answer for answer in answers] == [False, True, False]
    assert [answer.get("id") for answer in (answers[0], answers[2])] == ["1", "3"]


def test_on_error_record_gives_a_bad_record_of_json_an_answer_of_its_own() -> None:
    body = {"data": [TEXT, {"text": 4}, OTHER], "parameters": {"on_error": "record"}}
    answers = predictions(body)
    assert [answers[0], answers[2]] == [one(TEXT), one(OTHER)]
    assert answers[1]["error"]["index"] == 1
    assert answers[1]["error"]["field"] == "text"


def test_boxes_are_demanded_line_by_line() -> None:
    good, other = records("boxed ner", 2)
    lines = [
        good,
        {"text": "no boxes"},
        {"text": "one box", "bbox": "1 2 3 4"},
        {"text": "wrong", "bbox": [[9, 9, 3, 3]]},
        other,
    ]
    body = "\n".join(json.dumps(line) for line in lines)
    answers = [json.loads(a) for a in ask(body, LINES, LINES, kind="boxed ner").splitlines()]
    assert [answer["error"]["code"] for answer in answers if "error" in answer] == [
        "record.bbox_missing", "record.bbox_count", "record.bbox_value",
    ]  # fmt: skip
    expected = ready.predictor("boxed ner").predict([good, other])
    assert [answers[0], answers[4]] == ready.about(expected)


# --- errors -------------------------------------------------------------------------------------

ERRORS: list[tuple[str | bytes, str | None, str | None, type[TfserveError], str, int, str]] = [
    ("", JSON, JSON, BodyError, "body.empty", 400, "empty"),
    (" \n", LINES, JSON, BodyError, "body.empty", 400, "empty"),
    ("{", JSON, JSON, BodyError, "body.not_json", 400, "line 1 column 2"),
    ('{"text": "a"}\n{"text": "b"}', JSON, JSON, BodyError, "body.not_json", 400, LINES),
    ("[NaN]", JSON, JSON, BodyError, "body.not_json", 400, "NaN"),
    ("[" * 100_000, JSON, JSON, BodyError, "body.not_json", 400, "nested"),
    (b"\xff\xfe", JSON, JSON, BodyError, "body.charset", 400, "utf-8"),
    ('{"data": ["a"], "other": 1}', JSON, JSON, BodyError, "body.unknown_key", 400, "other"),
    ('{"data": ["a"], "parameters": 3}', JSON, JSON, BodyError, "body.parameters", 400, "object"),
    ("a", "image/png", JSON, MediaTypeError, "content_type.unsupported", 415, "image/png"),
    ("a", "text/plain; charset=klingon", JSON, MediaTypeError, "content_type.charset", 415,
     "klingon"),
    ('["a"]', JSON, "text/html", NotAcceptableError, "accept.unsupported", 406, "text/html"),
    ('["a", null]', JSON, JSON, RecordError, "record.type", 400, "null"),
    ('{"data": [{"text": ""}]}', JSON, JSON, RecordError, "record.text_empty", 400, "visible"),
    ('{"foo": "a"}', JSON, JSON, RecordError, "record.field_missing", 400, "key text"),
    ('{"text": "' + "a" * 1_000_001 + '"}', JSON, JSON, TooLargeError, "record.too_long", 413,
     "1,000,000"),
    ('{"data": ["a"], "parameters": {"top": 3}}', JSON, JSON, ParameterError,
     "parameters.unknown", 400, "top_k"),
    ('{"data": ["a"], "parameters": {"top_k": 0}}', JSON, JSON, ParameterError,
     "parameters.value", 400, "at least 1"),
    ('{"data": ["a"], "parameters": {"threshold": 0.5}}', JSON, JSON, ParameterError,
     "parameters.value", 400, "threshold: expected none for 4 labels"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "content_type", "accept", "error", "code", "status", "says"),
    ERRORS,
    ids=[f"{e[4]}-{e[6]}" for e in ERRORS],
)
def test_an_error_has_its_status_and_is_json_with_code_and_message(
    body: str | bytes, content_type: str | None, accept: str | None, error: type[TfserveError],
    code: str, status: int, says: str,
) -> None:  # fmt: skip
    context = Context()
    text = ask(body, content_type, accept, context=context)
    assert context.statuses == [(status, code, 0)]
    told = json.loads(text)
    assert told["code"] == code
    assert says in told["message"]
    assert len(text) < 1000
    with pytest.raises(error) as caught:
        ask(body, content_type, accept)
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.as_dict()) == (status, told)


def test_an_error_in_a_record_says_which_and_where() -> None:
    told = json.loads(ask(json.dumps({"data": [TEXT, OTHER, {"text": 4}]}), context=Context()))
    assert (told["index"], told["field"]) == (2, "text")


def test_an_answer_sets_no_status() -> None:
    context = Context()
    ask(json.dumps([TEXT]), context=context)
    ask("null\n{", LINES, LINES, context=context)
    assert context.statuses == []


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda folder: shutil.rmtree(folder), "model.not_found"),
        (lambda folder: (folder / "tfserve.json").unlink(), "model.no_manifest"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "model.no_file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "model.tampered"),
    ],
    ids=["no folder", "no manifest", "no tokenizer", "other weights"],
)
def test_a_model_directory_that_cannot_be_used_is_reported_as_json(
    spoil: Callable[[Path], Any], code: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(ready.ready("classif").model, tmp_path / "model"))
    spoil(folder)
    with pytest.raises(ModelError) as caught:
        handlers.model_fn(folder, Context())
    assert json.loads(str(caught.value))["code"] == code


# --- nothing that a client sends gets through ---------------------------------------------------


@pytest.mark.parametrize("accept", [JSON, LINES])
@pytest.mark.parametrize("extra", ['"\\ud800"', '["\\udfff"]', '{"\\ud800": 1}'])
def test_half_a_surrogate_pair_in_another_key_is_answered_in_utf8(extra: str, accept: str) -> None:
    body = f'{{"text": "{TEXT}", "id": {extra}}}\n"{OTHER}"'
    encoded = ask(body, LINES, accept).encode("utf-8")
    if accept == LINES:
        assert json.loads(encoded.splitlines()[1]) == one(OTHER)
    else:
        assert json.loads(encoded)["predictions"][1] == one(OTHER)


@pytest.mark.parametrize("accept", [JSON, LINES])
@pytest.mark.parametrize("extra", ["1e999", "[-1e999]", '{"a": 1e400}'])
def test_a_number_too_large_in_another_key_does_not_break_the_answer(
    extra: str, accept: str
) -> None:
    body = f'{{"text": "{TEXT}", "id": {extra}}}\n"{OTHER}"'
    text = ask(body, LINES, accept)
    assert "Infinity" not in text
    if accept == LINES:
        assert json.loads(text.splitlines()[1]) == one(OTHER)
    else:
        assert json.loads(text)["predictions"][1] == one(OTHER)


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["text", "words", "bbox", "data", "inputs", "instances", "X", "parameters", "options",
             "id", "pred", "error", "top_k", "scores", "on_error"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(value=anything)
@pytest.mark.parametrize("kind", ["classif", "boxed ner"])
def test_any_json_is_answered_or_refused_with_a_status_under_500(kind: str, value: Any) -> None:
    context = Context()
    told = json.loads(ask(json.dumps(value), kind=kind, context=context).encode("utf-8"))
    if context.statuses:
        [(status, code, _)] = context.statuses
        assert 400 <= status < 500
        assert told["code"] == code
    else:
        assert list(told) == ["predictions"]


@given(values=st.lists(anything, min_size=1, max_size=6))
def test_any_lines_get_one_line_each(values: list[Any]) -> None:
    body = "".join(json.dumps(value) + "\n" for value in values).encode("utf-8")
    lines = [json.loads(line) for line in ask(bytearray(body), LINES, LINES).splitlines()]
    assert len(lines) == len(values)
    for number, line in enumerate(lines, 1):
        assert ("pred" in line) != ("error" in line)
        if "error" in line:
            assert line["error"]["line"] == number


@given(body=st.binary(min_size=1, max_size=60), content_type=st.sampled_from(
    [JSON, LINES, "text/csv", "text/tab-separated-values", "text/plain", None]
))  # fmt: skip
def test_any_bytes_are_answered_or_refused_with_a_status_under_500(
    body: bytes, content_type: str | None
) -> None:
    context = Context()
    text = ask(bytearray(body), content_type, LINES, context=context)
    if context.statuses:
        assert [400 <= status < 500 for status, *_ in context.statuses] == [True]
        assert set(json.loads(text.encode("utf-8"))) >= {"code", "message"}


LEAKS: list[tuple[str, str | None, str | None]] = [
    (f'{{"data": ["{SECRET}"]}}', JSON, JSON),
    (f'{{"data": [{{"text": {{"{SECRET}": 1}}}}]}}', JSON, JSON),
    (f'{{"{SECRET}": 1}}', JSON, JSON),
    (f'{{"data": ["a"], "{SECRET}": 1}}', JSON, JSON),
    (f'{{"data": ["a"], "parameters": {{"{SECRET}": 1}}}}', JSON, JSON),
    (f'{{"text": "{SECRET}', JSON, JSON),
    (f'"{SECRET}"\n{{"text": "{SECRET}"\n{{"{SECRET}": 2}}', LINES, LINES),
    (f'text,id\n"{SECRET}",1\n{SECRET}', "text/csv", JSON),
    (SECRET, "text/plain", JSON),
    (SECRET, f"text/{SECRET}", JSON),
    (SECRET, "text/plain", f"text/{SECRET}"),
]


@pytest.mark.parametrize(("body", "content_type", "accept"), LEAKS)
def test_no_text_of_a_client_is_logged(
    body: str, content_type: str | None, accept: str | None, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    assert ask(body, content_type, accept, context=Context())
    assert SECRET.lower() not in caplog.text.lower()
    assert SECRET.lower() not in "".join(capfd.readouterr()).lower()
