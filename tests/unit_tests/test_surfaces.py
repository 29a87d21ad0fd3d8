"""The same records get the same answers, whatever they are asked through."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ready
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserve import handlers
from tfserve.cli import main
from tfserve.predictor import Predictor, load
from tfserve.records import Record

Surface = Callable[[str, list[Any], dict[str, Any]], list[dict[str, Any]]]
JSON, LINES = "application/json", "application/jsonlines"

predictors: dict[str, Predictor] = {}


def predictor(kind: str) -> Predictor:
    """In fp32, with a lane for each of two cores."""
    if kind not in predictors:
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        predictors[kind] = load(ready.ready(kind).model, precision="fp32")
        torch.set_num_threads(before)
        assert predictors[kind].engine.lanes == 2
    return predictors[kind]


def handled(kind: str, body: Any, content_type: str, accept: str) -> list[dict[str, Any]]:
    request = handlers.input_fn(body, content_type)
    text = handlers.output_fn(handlers.predict_fn(request, predictor(kind)), accept)
    if accept == JSON:
        answers: list[dict[str, Any]] = json.loads(text)["predictions"]
        return answers
    return [json.loads(line) for line in text.splitlines()]


def by_predict(kind: str, records: list[Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
    return predictor(kind).predict(records, {**asked, "on_error": "record"})


def by_stream(kind: str, records: list[Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
    return list(predictor(kind).stream(iter(records), asked))


def by_json(kind: str, records: list[Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
    body = {"data": records, "parameters": {**asked, "on_error": "record"}}
    return handled(kind, json.dumps(body), JSON, JSON)


def by_json_to_lines(kind: str, records: list[Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
    body = {"instances": records, "parameters": {**asked, "on_error": "record"}}
    return handled(kind, json.dumps(body, ensure_ascii=False).encode("utf-8"), JSON, LINES)


def by_lines(kind: str, records: list[Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
    assert not asked
    body = "".join(json.dumps(record) + "\n" for record in records)
    return handled(kind, bytearray(body.encode("utf-8")), LINES, LINES)


def by_lines_to_json(kind: str, records: list[Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
    assert not asked
    body = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    return handled(kind, body, LINES, JSON)


@pytest.fixture
def by_command(tmp_path: Path) -> Surface:
    def ask(kind: str, records: list[Any], asked: dict[str, Any]) -> list[dict[str, Any]]:
        source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        flags = [
            part
            for name, value in asked.items()
            for part in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
        ]
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            main(["predict", str(ready.ready(kind).model), str(source), "--precision", "fp32",
                  "--output", str(output), *flags])  # fmt: skip
        finally:
            torch.set_num_threads(before)
        return [json.loads(line) for line in output.read_text("utf-8").splitlines()]

    return ask


def records(kind: str) -> list[Any]:
    """Good records in every form, long and short, repeated and new, and bad ones between them."""
    made = ready.ready(kind)
    rows = tiny.rows(made.task, 24, made.boxed)
    columns = ("text", "bbox") if made.boxed else ("text",)
    good: list[Any] = [dict(zip(columns, row, strict=False)) for row in rows]
    for i, record in enumerate(good):
        if i % 3 == 0:
            record |= {"id": i, "more": {"pages": [i, None], "é": "ü"}}
        if i % 4 == 1:
            record["words"] = record.pop("text").split()
    if made.boxed:
        numbers = [float(n) for n in good[2]["bbox"].split()]
        good[2]["bbox"] = [numbers[i : i + 4] for i in range(0, len(numbers), 4)]
        long_text = {"text": "parcel " * 150, "bbox": "1 2 3 4 " * 150}
        bad = [{"text": "no box", "id": "x"}, {"text": "one", "bbox": "1 2 3"},
               {"text": "one", "bbox": [[5, 5, 4, 9]], "id": 0}]  # fmt: skip
    else:
        good[3] = good[3]["text"]
        good.append("naïve café déjà vu straße 東京 привет 😀 e\u0301")
        long_text = {"text": "parcel and invoice " * 90, "id": "long"}
        bad = [{"text": ""}, {"text": "\u200b \t", "id": "x"}, {"words": ["a", 1], "id": 0}]
    bad += [None, 3, ["a"], {}, {"txt": "a", "id": "y"}, {"text": 5, "id": [1]}]
    mixed = [*good, long_text, good[0]]
    for i, record in enumerate(bad):
        mixed.insert(3 * i, record)
    return mixed


def comparable(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers without what surfaces call the place of a record: index or line."""
    found = []
    for number, answer in enumerate(answers):
        answer = dict(answer)
        if "error" in answer:
            error = dict(answer["error"])
            place = error.pop("index", None)
            place = error.pop("line") - 1 if place is None else place
            assert place == number
            answer["error"] = error
        found.append(answer)
    return found


@pytest.fixture(params=ready.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_records_that_surfaces_are_compared_on_are_good_and_bad(kind: str) -> None:
    answers = by_predict(kind, records(kind), {})
    assert [i for i, a in enumerate(answers) if "error" in a] == [0, 3, 6, 9, 12, 15, 18, 21, 24]
    assert len(answers) >= 35
    codes = {a["error"]["code"] for a in answers if "error" in a}
    assert len(codes) >= 4
    distinct = {json.dumps(a.get("pred")) for a in answers if "pred" in a}
    assert len(distinct) > 1
    cut = [a for a in answers if a.get("truncated")]
    assert len(cut) == (0 if kind.endswith("ner") else 1)


@pytest.mark.parametrize(
    "surface", [by_stream, by_json, by_json_to_lines, by_lines, by_lines_to_json],
    ids=lambda surface: surface.__name__,
)  # fmt: skip
def test_every_surface_gives_the_predictors_answers(surface: Surface, kind: str) -> None:
    expected = comparable(by_predict(kind, records(kind), {}))
    assert comparable(surface(kind, records(kind), {})) == expected


def test_the_command_line_gives_the_predictors_answers(kind: str, by_command: Surface) -> None:
    expected = comparable(by_predict(kind, records(kind), {}))
    assert comparable(by_command(kind, records(kind), {})) == expected


ASKED = [
    ("classif", {"scores": True}),
    ("classif", {"top_k": 2}),
    ("classif", {"abstain": 0.99}),
    ("multilabel-classif", {"scores": True, "threshold": 0.3}),
    ("multilabel-classif", {"top_k": 1, "threshold": 0.9}),
    ("ner", {"scores": True}),
    ("boxed ner", {"top_k": 2}),
]


@pytest.mark.parametrize(("kind", "asked"), ASKED)
@pytest.mark.parametrize("surface", [by_stream, by_json, by_json_to_lines],
                         ids=lambda surface: surface.__name__)  # fmt: skip
def test_parameters_mean_the_same_on_every_surface(
    surface: Surface, kind: str, asked: dict[str, Any]
) -> None:
    expected = comparable(by_predict(kind, records(kind), asked))
    # Of a model that abstains, the answers that it did not give tell their scores.
    telling = [a for a in expected if "pred" in a and ("abstain" not in asked or a["pred"] is None)]
    assert telling and all("scores" in answer for answer in telling)
    assert comparable(surface(kind, records(kind), asked)) == expected


@pytest.mark.parametrize(("kind", "asked"), ASKED)
def test_parameters_mean_the_same_on_the_command_line(
    kind: str, asked: dict[str, Any], by_command: Surface
) -> None:
    expected = comparable(by_predict(kind, records(kind), asked))
    assert comparable(by_command(kind, records(kind), asked)) == expected


def test_a_validated_record_is_answered_as_what_it_was_made_from(kind: str) -> None:
    raw = [r for r in records(kind) if isinstance(r, dict) and "id" in r and "more" in r]
    boxed = ready.ready(kind).boxed
    made = [Record.parse(record, use_bbox=boxed) for record in raw]
    assert predictor(kind).predict(made) == predictor(kind).predict(raw)
    assert list(predictor(kind).stream(made)) == list(predictor(kind).stream(raw))


def test_the_company_a_record_is_in_does_not_change_its_answer(kind: str) -> None:
    good = [r for r, a in zip(records(kind), by_predict(kind, records(kind), {}), strict=True)
            if "pred" in a]  # fmt: skip
    together = predictor(kind).predict(good)
    alone = [predictor(kind).predict([record])[0] for record in good[::4]]
    assert alone == ready.about(together[::4])
    assert predictor(kind).predict(good[::-1]) == ready.about(together[::-1])


@settings(max_examples=20)
@given(order=st.permutations(range(38)), cut=st.integers(1, 37))
def test_any_order_and_any_cut_into_requests_gives_the_same_answers(
    order: list[int], cut: int
) -> None:
    asked = records("ner")
    order = [i for i in order if i < len(asked)]
    expected = comparable(by_predict("ner", asked, {}))
    shuffled = [asked[i] for i in order]
    answers = [
        *comparable(by_lines("ner", shuffled[:cut], {})),
        *(comparable(by_json("ner", shuffled[cut:], {})) if cut < len(shuffled) else []),
    ]
    assert answers == ready.about([expected[i] for i in order])


GOOD = b'{"text": "where is my parcel", "id": 1}\n"great coffee friendly staff"\n'


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip(b"\n"),
        GOOD.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + GOOD,
        GOOD + b"\n\n",
        GOOD + b'\n{"broken\nnull\n[]\n{"id": 3}\n' + GOOD,
        GOOD + b'{"text": "caf\xe9"}\n' + GOOD,
        GOOD + b'{"text": NaN}\n{"text": "a", "deep": ' + b"[" * 200 + b"]" * 200 + b"}\n" + GOOD,
        GOOD + b'{"inputs": "cold food"}\n{"data": [{"text": "rude staff", "id": 4}]}\n',
        GOOD + b'{"inputs": ["a", "b"]}\n{"instances": []}\n',
    ],
    ids=[
        "good",
        "no line break at the end",
        "Windows line breaks",
        "byte order mark",
        "blank lines at the end",
        "bad lines",
        "no UTF-8",
        "NaN and too deep",
        "bodies of one record",
        "bodies of other than one record",
    ],
)
def test_a_file_of_lines_is_answered_as_a_body_of_lines(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    model = str(ready.ready("classif").model)
    main(["predict", model, str(tmp_path / "in.jsonl"), "--precision", "fp32", "--output",
          str(tmp_path / "out.jsonl")])  # fmt: skip
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").open(encoding="utf-8")]
    request = handlers.input_fn(bytearray(content), LINES)
    text = handlers.output_fn(handlers.predict_fn(request, predictor("classif")), LINES)
    assert answers == ready.about([json.loads(line) for line in text.splitlines()])


@pytest.mark.parametrize(
    "content",
    [
        "text\tid\nwhere is my parcel\t1\ngreat coffee\t2\n",
        'text,id\n"where, is my ""parcel""",1\ngreat coffee,2\n',
        'id;text\r\n1;"where is\r\nmy parcel"\r\n2;great coffee\r\n',
        '\ufefftext\tid\nHe said "no\t1\ngreat coffee\t2\n',
    ],
    ids=["tabs", "quoted", "quoted line breaks", "quotes in a text"],
)
def test_a_table_is_answered_as_a_body_of_csv(content: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(content, "utf-8", newline="")
    model = str(ready.ready("classif").model)
    main(["predict", model, str(tmp_path / "in.csv"), "--precision", "fp32", "--output",
          str(tmp_path / "out.jsonl")])  # fmt: skip
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").open(encoding="utf-8")]
    assert answers == ready.about(handled("classif", content, "text/csv", LINES))
    assert [answer["id"] for answer in answers] == ["1", "2"]
