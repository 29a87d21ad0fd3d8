from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import assume, given
from hypothesis import strategies as st

from tfserve import tables, tasks
from tfserve.errors import DataError, Problem, RecordError, StorageError
from tfserve.samples import read_samples
from tfserve.tables import Table, Tables, find_files, read_table, read_tables
from tfserve.training import described

CLASSIF = tasks.get("classif")
MULTILABEL = tasks.get("multilabel-classif")
NER = tasks.get("ner")
REGRESSION = tasks.get("regression")

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(content, name)``: a file of that text or those bytes."""

    def make(content: str | bytes, name: str = "train.csv") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def cells(table: Table) -> list[tuple[str, Any]]:
    return [(row.record.text, row.label) for row in table.rows]


def problems_of(path: Path, task: Any = CLASSIF, use_bbox: bool = False) -> list[Problem]:
    with pytest.raises(DataError) as caught:
        read_table(path, task, use_bbox=use_bbox)
    return list(caught.value.problems)


def places(problems: list[Problem]) -> list[tuple[str, int | None, str | None]]:
    return [(problem.code, problem.line, problem.column) for problem in problems]


@pytest.mark.parametrize(
    "content",
    [
        'text\tlabels\nHe said "no\ta\n"Yes" she said\tb\n',
        'text\tlabels\r\nHe said "no\ta\r\n"Yes" she said\tb\r\n',
        '\ufefftext\tlabels\nHe said "no\ta\n"Yes" she said\tb',
        'text\tlabels\nHe said "no\t"a"\n\n"Yes" she said\t"b"\n\n',
        'text\tlabels\n"He said ""no"\ta\n"""Yes"" she said"\tb\n',
        '"labels"\t"text"\n"a"\t"He said ""no"\n"b"\t"""Yes"" she said"\n',
        'text,labels\n"He said ""no",a\n"""Yes"" she said",b\n',
        'text;labels\n"He said ""no";a\n"""Yes"" she said";b\n',
    ],
)
def test_every_way_of_writing_a_table(write: Write, content: str) -> None:
    table = read_table(write(content), CLASSIF)
    assert table.name == "train.csv"
    assert cells(table) == [('He said "no', "a"), ('"Yes" she said', "b")]
    assert (table.labels, [r.text for r in table.records]) == (
        ["a", "b"],
        ['He said "no', '"Yes" she said'],
    )


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("text\tlabels\na\tx\n\nb\ty\n", [2, 4]),
        ('text\tlabels\n"a\nb"\tx\n"c"\ty\n', [2, 4]),
    ],
)
def test_rows_know_the_line_where_they_begin(write: Write, content: str, lines: list[int]) -> None:
    assert [row.line for row in read_table(write(content), CLASSIF).rows] == lines


def test_other_columns_travel_with_the_record(write: Write) -> None:
    path = write("id\ttext\tlabels\tsource\n7\ta\tx\tweb\n", "train.tsv")
    record = read_table(path, CLASSIF).records[0]
    assert record.extra == {"id": "7", "labels": "x", "source": "web"}


def test_json_lines(write: Write) -> None:
    path = write(
        '\ufeff{"words": ["New York", "is", "big"], "labels": ["B-LOC", "O", "O"], "id": 1}\n'
        '{"text": "I am", "labels": "O O"}\r\n',
        "train.jsonl",
    )
    rows = read_table(path, NER).rows
    assert [row.record.words for row in rows] == [("New York", "is", "big"), ("I", "am")]
    assert [row.label for row in rows] == [("B-LOC", "O", "O"), ("O", "O")]
    assert [row.line for row in rows] == [1, 2]


@pytest.mark.parametrize("end", ["\n", "\n\n", "\n\n  \n", ""])
def test_blank_lines_at_the_end_of_json_lines_are_no_rows(write: Write, end: str) -> None:
    path = write('{"text": "a", "labels": "x"}' + end, "train.jsonl")
    assert cells(read_table(path, CLASSIF)) == [("a", "x")]


@pytest.mark.parametrize(
    ("task", "content", "label"),
    [
        (MULTILABEL, 'text\tlabels\na\t"My category","other"\n', ("My category", "other")),
        (MULTILABEL, "text\tlabels\na\tMy category,other\n", ("My category", "other")),
        (MULTILABEL, 'text\tlabels\na\t"""My category"",""other"""\n', ("My category", "other")),
        (MULTILABEL, 'text\tlabels\n"a"\t"My category,other"\n', ("My category", "other")),
        (MULTILABEL, "text\tlabels\na\t\n", ()),
        (NER, "text\tlabels\na b c\tB-X I-X O\n", ("B-X", "I-X", "O")),
        (NER, "text\tlabels\na b c\tI-X E-X S-X\n", ("B-X", "I-X", "B-X")),
        (REGRESSION, "text\tlabels\na\t-1.5e1\n", -15.0),
        (CLASSIF, 'text\tlabels\na\t"tech"\nb\t"\n', "tech"),
    ],
)
def test_labels_of_every_task(write: Write, task: Any, content: str, label: Any) -> None:
    assert read_table(write(content), task).labels[0] == label


def test_boxes_with_a_comma_missing_between_them(write: Write) -> None:
    content = (
        "text\tbbox\tlabels\n"
        "Total 31.00 EUR\t10 20 207 146 567 50 600 400, 1 2 3 4\tO B-TOTAL I-TOTAL\n"
    )
    box = read_table(write(content), NER, use_bbox=True).records[0].bbox
    assert box is not None
    assert box.tolist() == [[10, 20, 207, 146], [567, 50, 600, 400], [1, 2, 3, 4]]


PROBLEMS: list[tuple[str, str | bytes, Any, tuple[str, int | None, str | None], str]] = [
    ("empty file", "", CLASSIF, ("data.empty", None, None), "found no rows"),
    ("only a header", "text\tlabels\n", CLASSIF, ("data.empty", None, None), "found no rows"),
    ("only blank lines", "text\tlabels\n\n\n", CLASSIF, ("data.empty", None, None), "no rows"),
    ("missing text", "Sentence\tlabels\na\tx\n", CLASSIF, ("data.columns", 1, None),
     "found the columns 'Sentence', 'labels'; expected 'text' among them: rename 'Sentence'?"),
    ("missing labels", "text\tlabel\na\tx\n", CLASSIF, ("data.columns", 1, None),
     "expected 'labels' among them: rename 'label'?"),
    ("labels in capitals", "text\tLabels\na\tx\n", CLASSIF, ("data.columns", 1, None),
     "expected 'labels' among them: rename 'Labels'?"),
    ("no hint", "text\tfoo\na\tx\n", CLASSIF, ("data.columns", 1, None),
     "found the columns 'text', 'foo'; expected 'labels' among them"),
    ("column twice", "text\tlabels\ttext\na\tx\tb\n", CLASSIF, ("data.columns", 1, None), "twice"),
    ("extra cell", "text\tlabels\na\tx\ty\n", CLASSIF, ("record.columns", 2, None),
     "found 3 cells; expected 2 (text, labels)"),
    ("cell missing", "text\tlabels\na\n", CLASSIF, ("record.columns", 2, None), "found 1 cells"),
    ("not UTF-8", b"text\tlabels\ncaf\xe9\tx\n", CLASSIF, ("data.not_utf8", 2, None),
     "byte 4 of line 2"),
    ("not UTF-8 in a cell of two lines", b'text\tlabels\n"a\nb\xff"\tx\n', CLASSIF,
     ("data.not_utf8", 2, None), "byte 2 of line 3"),
    ("not UTF-8 in the header", b"text\tlabels\tcaf\xe9\na\tx\ty\n", CLASSIF,
     ("data.not_utf8", 1, None), "byte 16 of line 1"),
    ("UTF-16", "text\tlabels\na\tx\n".encode("utf-16"), CLASSIF, ("data.not_utf8", 1, None),
     "byte 1 of line 1; expected UTF-8: save the file with that encoding"),
    ("a picture", b"\x89PNG\r\n\x1a\n", CLASSIF, ("data.not_utf8", 1, None), "byte 1 of line 1"),
    ("empty text", "text\tlabels\n  \tx\n", CLASSIF, ("record.text_empty", 2, "text"), "blanks"),
    ("10 MB of text", "text\tlabels\n" + "word " * 2_000_000 + "\tx\n", CLASSIF,
     ("record.too_long", 2, "text"), "found 10,000,000 characters; expected at most 1,000,000"),
    ("no label", "text\tlabels\na\t\n", CLASSIF, ("label.empty", 2, "labels"), "empty cell"),
    ("no label in quotes", 'text\tlabels\na\t""\n', CLASSIF, ("label.empty", 2, "labels"), "one"),
    ("empty label", "text\tlabels\na\tx,,y\n", MULTILABEL, ("label.empty", 2, "labels"), "commas"),
    ("too few tags", "text\tlabels\na b c\tO O\n", NER, ("label.count", 2, "labels"),
     "found 2 tags for 3 words"),
    ("too many tags", "text\tlabels\na b\tO O O\n", NER, ("label.count", 2, "labels"),
     "found 3 tags for 2 words"),
    ("no tag", "text\tlabels\na b\tO PER\n", NER, ("label.tag", 2, "labels"),
     "found the tag 'PER' for word 1"),
    ("label on two lines", 'text,labels\na,"x\ny"\n', MULTILABEL,
     ("label.line_break", 2, "labels"), "expected labels on one line"),
    ("no number", "text\tlabels\na\thigh\n", REGRESSION, ("label.not_number", 2, "labels"),
     "found 'high'; expected a number"),
    ("decimal comma", "text\tlabels\na\t1,5\n", REGRESSION, ("label.not_number", 2, "labels"),
     "write decimals with a point"),
    ("empty number", "text\tlabels\na\t\n", REGRESSION, ("label.not_number", 2, "labels"), "''"),
    ("NaN", "text\tlabels\na\tNaN\n", REGRESSION, ("label.not_finite", 2, "labels"), "found nan"),
    ("infinite", "text\tlabels\na\t-inf\n", REGRESSION, ("label.not_finite", 2, "labels"), "-inf"),
    ("too large", "text\tlabels\na\t1e999\n", REGRESSION, ("label.not_finite", 2, "labels"), "inf"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "task", "place", "message"),
    [case[1:] for case in PROBLEMS],
    ids=[case[0] for case in PROBLEMS],
)
def test_a_problem_is_told_with_its_place(
    write: Write,
    content: str | bytes,
    task: Any,
    place: tuple[str, int | None, str | None],
    message: str,
) -> None:
    path = write(content)
    problems = problems_of(path, task)
    assert places(problems) == [place]
    assert message in problems[0].message
    assert problems[0].file == str(path)
    assert len(problems[0].message) < 200


@pytest.mark.parametrize(
    ("boxes", "code", "message"),
    [
        ("", "record.bbox_missing", "each of the 2 words"),
        ("1 2 3 4", "record.bbox_count", "found 4 numbers; expected 8, four for each of 2 words"),
        ("1 2 3 4, 5 6 7 8, 9 9 9 9", "record.bbox_count", "found 12 numbers; expected 8"),
        ("1 2 3 4, 5 6 7 x", "record.bbox_value", "no number"),
        ("1 2 3 4, 5 6 nan 8", "record.bbox_value", "5 6 nan 8 for word 1"),
        ("1 2 3 4, 5 6 1001 8", "record.bbox_value", "5 6 1001 8 for word 1"),
        ("1 2 3 4, 5 6 3 8", "record.bbox_value", "expected 0 <= x0 <= x1 <= 1000"),
        ("-1 2 3 4, 5 6 7 8", "record.bbox_value", "-1 2 3 4 for word 0"),
    ],
)
def test_a_problem_with_boxes(write: Write, boxes: str, code: str, message: str) -> None:
    path = write(f"text\tbbox\tlabels\na b\t{boxes}\tx\n")
    problems = problems_of(path, use_bbox=True)
    assert places(problems) == [(code, 2, "bbox")]
    assert message in problems[0].message
    assert read_table(path, CLASSIF).labels == ["x"]  # boxes that are not used are not looked at


def test_boxes_under_another_name_are_one_problem_with_the_name(write: Write) -> None:
    path = write("text\tboxes\tlabels\na\t1 2 3 4\tx\nb\t1 2 3 4\ty\n")
    problems = problems_of(path, use_bbox=True)
    assert places(problems) == [("data.columns", 1, None)]
    assert problems[0].message.endswith("expected 'bbox' among them: rename 'boxes'?")


def test_a_file_without_a_header_is_told_by_its_first_line(write: Write) -> None:
    problems = problems_of(write("a text\tx\nanother\ty\n"))
    assert places(problems) == [("data.columns", 1, None)]
    assert "expected 'text' among them" in problems[0].message


@pytest.mark.parametrize("content", ["\ntext\tlabels\na\tx\n", '\r\n\ntext\tlabels\na\t"x"\n'])
def test_blank_lines_before_the_header_are_skipped(write: Write, content: str) -> None:
    assert cells(read_table(write(content), CLASSIF)) == [("a", "x")]


def test_all_missing_columns_are_told_at_once(write: Write) -> None:
    problems = problems_of(write("sentence\tlabel\na\tx\n"))
    assert [problem.code for problem in problems] == ["data.columns"] * len(problems)
    told = " ".join(problem.message for problem in problems)
    assert "rename 'sentence'?" in told
    assert "rename 'label'?" in told


def test_all_problems_of_a_file_are_found_in_one_pass(write: Write) -> None:
    path = write(
        b"text\tbbox\tlabels\n"
        b"a b\t1 2 3 4, 5 6 7 8\tO O\n"
        b"a b\t1 2 3 4\tO O\n"
        b"a \xff\t1 2 3 4, 5 6 7 8\tO O\n"
        b"a b\t1 2 3 4, 5 6 7 8\tO\n"
        b"\n"
        b"a b\t1 2 3 4, 5 6 7 2000\tO O\n"
        b" \t\tO\n"
        b"a b\tO O\n"
        b"a b\t1 2 3 4, 5 6 7 8\tO X\n"
    )
    assert places(problems_of(path, NER, use_bbox=True)) == [
        ("record.bbox_count", 3, "bbox"),
        ("data.not_utf8", 4, None),
        ("label.count", 5, "labels"),
        ("record.bbox_value", 7, "bbox"),
        ("record.text_empty", 8, "text"),
        ("record.columns", 9, None),
        ("label.tag", 10, "labels"),
    ]
    table, problems = tables.scan_table(path, NER, use_bbox=True)
    assert [row.line for row in table.rows] == [2]
    assert len(problems) == 7


def test_all_problems_of_json_lines_are_found_in_one_pass(write: Write) -> None:
    path = write(
        b'{"text": "a", "labels": "x"}\n{"text": \n\n{"text": "\xff", "labels": "x"}\n'
        b'{"text": "a"}\n{"labels": "x"}\n{"text": "a", "labels": null}\n"a"\n[1]\n'
        b'{"text": 5, "labels": "x"}\n',
        "train.jsonl",
    )
    assert places(problems_of(path)) == [
        ("record.not_json", 2, None),
        ("record.blank_line", 3, None),
        ("record.not_json", 4, None),
        ("data.no_labels", 5, "labels"),
        ("record.field_missing", 6, "text"),
        ("label.empty", 7, "labels"),
        ("data.no_labels", 8, "labels"),
        ("record.type", 9, None),
        ("record.field_type", 10, "text"),
    ]


def test_the_problems_of_all_files_come_together(write: Write) -> None:
    files = {
        "train": write("text\tlabels\na\t\nb\tx\n"),
        "dev": write("text\tfoo\na\tx\n", "dev.csv"),
        "test": write("", "test.csv"),
    }
    with pytest.raises(DataError) as caught:
        read_tables(files, CLASSIF)
    assert [(p.file, p.code, p.line) for p in caught.value.problems] == [
        (str(files["train"]), "label.empty", 2),
        (str(files["dev"]), "data.columns", 1),
        (str(files["test"]), "data.empty", None),
    ]


@pytest.mark.parametrize(
    ("task", "labels", "code"),
    [
        (CLASSIF, ["x", "x", '"x"'], "label.one_only"),
        (MULTILABEL, ["", "", ""], "label.none"),
        (NER, ["O", "O", "O"], "label.none"),
        (REGRESSION, ["1.5", "1.5", "1.50"], "label.constant"),
    ],
)
def test_a_train_table_that_teaches_nothing(
    write: Write, task: Any, labels: list[str], code: str
) -> None:
    train = write("text\tlabels\n" + "".join(f"a\t{label}\n" for label in labels))
    dev = write("text\tlabels\na\t\tb\n", "dev.csv")
    with pytest.raises(DataError) as caught:
        read_tables({"train": train, "dev": dev}, task)
    assert places(list(caught.value.problems)) == [
        ("record.columns", 2, None),
        (code, None, "labels"),
    ]
    assert caught.value.problems[1].file == str(train)


def test_a_carriage_return_inside_a_cell_costs_its_row(write: Write) -> None:
    table, problems = tables.scan_table(write("text,labels\nfoo\rbar,x\nb,y\n"), CLASSIF)
    assert places(problems) == [("record.columns", 2, None)]
    assert cells(table) == [("b", "y")]


@pytest.mark.parametrize(
    "content",
    ["text,labels\ra,x\rb,y\r", "text\tlabels\ra\tx\rb\ty", 'text\tlabels\ra\tx\rb\t"y"'],
)
def test_line_ends_of_old_macs_are_told(write: Write, content: str) -> None:
    assert places(problems_of(write(content))) == [("data.columns", 1, None)]


@pytest.mark.parametrize("name", ["train.txt", "train.xlsx", "train", "train.csv.gz"])
def test_a_file_that_is_no_table(write: Write, name: str) -> None:
    problems = problems_of(write("text\tlabels\na\tx\n", name))
    assert places(problems) == [("data.suffix", None, None)]
    assert "expected one of .csv, .tsv, .jsonl" in problems[0].message


@pytest.mark.parametrize("name", ["none.csv", "none.jsonl"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError) as caught:
        read_table(tmp_path / name, CLASSIF)
    assert caught.value.code == "storage.read"
    assert str(tmp_path / name) in caught.value.message
    assert "No such file" in caught.value.message


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "text\tid\na\t1\nb\n"), ("a.jsonl", '{"text": "a", "id": "1"}\n{\n')],
)
def test_samples_without_labels(write: Write, name: str, content: str) -> None:
    samples = list(read_samples(write(content, name)))
    assert samples[0][1] == {"text": "a", "id": "1"}
    assert isinstance(samples[1][1], RecordError)
    assert samples[1][0] == samples[0][0] + 1


def test_samples_are_read_lazily(write: Write) -> None:
    path = write("text\tlabels\n" + "a\tx\n" * 100_000)
    samples = read_samples(path)
    assert [next(samples)[0] for _ in range(3)] == [2, 3, 4]


labels = st.text(st.characters(exclude_characters='"\t\n\r\0', exclude_categories=["Cs"]))
labels = labels.map(str.strip).filter(bool)
bare_labels = labels.filter(lambda label: "," not in label)
texts = st.text("\"ab, 'é").map(lambda text: f"x{text}")  # a text that is not empty


@given(st.lists(st.tuples(texts, st.lists(bare_labels, max_size=4)), min_size=1, max_size=5))
def test_a_multilabel_table_means_the_same_however_it_is_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, list[str]]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "spellings.csv"
    header = ("text", "labels")
    quoted = [(text, ",".join(f'"{label}"' for label in found)) for text, found in rows]
    bare = [(text, ",".join(found)) for text, found in rows]
    expected = [(text, tuple(sorted(set(found)))) for text, found in rows]

    for table in (quoted, bare):
        tiny.table(path, table, header)
        assert cells(read_table(path, MULTILABEL)) == expected
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
            file = io.StringIO(newline="")
            csv.writer(file, delimiter="\t", quoting=quoting).writerows([header, *table])
            path.write_bytes(file.getvalue().encode())
            assert cells(read_table(path, MULTILABEL)) == expected


@given(
    st.lists(st.tuples(st.text("ab \"\t\n'é,"), st.text("xy\"'")), min_size=1),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_texts_of_a_csv_writer_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], quoting: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    rows = [(f"a{text}", f"l{label}") for text, label in rows]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t", quoting=quoting).writerows([("text", "labels"), *rows])
    lines = file.getvalue().split("\n")
    # Lines that are all whole rows by themselves are read as such.
    assume("\n" not in "".join(t for t, _ in rows) or any(s.count("\t") != 1 for s in lines if s))
    path.write_bytes(file.getvalue().encode())
    assert cells(read_table(path, CLASSIF)) == rows


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        tiny.table(folder / name, [("a", "x"), ("b", "y")], ("text", "labels"))
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("train.csv",), {"train": "train.csv"}),
        (
            ("train.csv", "dev.csv", "test.csv"),
            {"train": "train.csv", "dev": "dev.csv", "test": "test.csv"},
        ),
        (("train.tsv", "validation.tsv"), {"train": "train.tsv", "dev": "validation.tsv"}),
        (("train.jsonl", "valid.csv"), {"train": "train.jsonl", "dev": "valid.csv"}),
        (("train.csv", "notes.txt", "other.csv"), {"train": "train.csv"}),
        (("reviews.csv",), {"train": "reviews.csv"}),
    ],
)
def test_one_folder_for_all_splits(
    tmp_path: Path, names: tuple[str, ...], found: dict[str, str]
) -> None:
    folder = folder_of(tmp_path / "data", *names)
    expected = {split: folder / name for split, name in found.items()}
    assert find_files({"train": folder}) == expected
    assert find_files({"train": str(folder), "dev": None, "test": None}) == expected


def test_a_channel_for_each_split(tmp_path: Path) -> None:
    train = folder_of(tmp_path / "train", "part-0.csv")
    dev = folder_of(tmp_path / "dev", "validation.csv")
    test = folder_of(tmp_path / "test", "test.jsonl") / "test.jsonl"
    assert find_files({"train": train, "dev": dev, "test": test}) == {
        "train": train / "part-0.csv",
        "dev": dev / "validation.csv",
        "test": test,
    }


@pytest.mark.parametrize("as_folder", [True, False])
def test_the_channel_validation_is_dev(tmp_path: Path, as_folder: bool) -> None:
    train = folder_of(tmp_path / "train", "train.csv")
    dev = folder_of(tmp_path / "validation", "part-0.csv")
    location = dev if as_folder else dev / "part-0.csv"
    assert find_files({"train": train, "validation": location}) == {
        "train": train / "train.csv",
        "dev": dev / "part-0.csv",
    }


def test_a_location_goes_before_what_lies_beside_train(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", "train.csv", "dev.csv")
    other = folder_of(tmp_path / "other", "mine.csv") / "mine.csv"
    assert find_files({"train": folder, "dev": other})["dev"] == other


def test_nothing_is_looked_for_beside_a_file(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", "train.csv", "dev.csv")
    assert find_files({"train": folder / "train.csv"}) == {"train": folder / "train.csv"}


def test_a_split_that_there_is_none_of_is_told(tmp_path: Path) -> None:
    train = folder_of(tmp_path / "train", "train.csv")
    with pytest.raises(DataError) as caught:
        find_files({"train": train, "eval": train})
    [problem] = caught.value.problems
    assert (problem.code, problem.file) == ("data.split", "eval")
    expected = "expected one of train, dev, validation, valid, test"
    assert problem.message == f"found the split 'eval'; {expected}"


def test_all_missing_locations_are_told_at_once(tmp_path: Path) -> None:
    empty = folder_of(tmp_path / "empty")
    many = folder_of(tmp_path / "many", "a.csv", "b.csv")
    with pytest.raises(DataError) as caught:
        find_files({"train": tmp_path / "none", "dev": empty, "test": many})
    assert [(p.code, p.file) for p in caught.value.problems] == [
        ("data.no_file", str(tmp_path / "none")),
        ("data.no_file", str(empty)),
        ("data.no_file", str(many)),
    ]
    messages = [problem.message for problem in caught.value.problems]
    assert messages[0] == "found nothing; expected a file or folder"
    assert messages[1] == "found no table; expected one file dev.csv or dev.jsonl"
    assert messages[2] == "found a.csv, b.csv; expected one file test.csv or test.jsonl"


@pytest.mark.parametrize("names", [("train.csv", "train.tsv"), ("train.csv", "train.jsonl")])
def test_two_train_tables_are_one_too_many(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        find_files({"train": folder_of(tmp_path / "data", *names)})
    assert caught.value.problems[0].code == "data.no_file"
    assert "found " + ", ".join(names) in caught.value.problems[0].message


@pytest.mark.parametrize("other", ["validation.csv", "dev.jsonl"])
def test_two_tables_of_one_split_are_not_chosen_from(other: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "train.csv", "dev.csv", other)
    with pytest.raises(DataError, match=r"expected one file dev\.csv") as caught:
        find_files({"train": folder})
    assert [problem.code for problem in caught.value.problems] == ["data.no_file"]
    assert find_files({"train": folder, "dev": folder / other})["dev"] == folder / other
    folder_of(tmp_path, "test.csv", "test.tsv")
    with pytest.raises(DataError) as caught:
        find_files({"train": folder})
    told = [problem.message for problem in caught.value.problems]
    assert ["dev.csv" in told[0], "test.csv, test.tsv" in told[1]] == [True, True]


@pytest.mark.parametrize(
    ("task", "label"), [("classif", "sad \ud83d"), ("multilabel-classif", ["fine", "sad \ud83d"]),
                        ("ner", ["O", "B-\ud83d"])],
)  # fmt: skip
def test_half_a_character_in_a_label_is_told_with_its_line(
    task: str, label: Any, tmp_path: Path
) -> None:
    lines = [{"text": "two words", "labels": label}] * 2
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    _, problems = tables.scan_table(tmp_path / "train.jsonl", tasks.get(task))
    assert [(p.code, p.line, p.column) for p in problems] == [
        ("label.invalid", 1, "labels"), ("label.invalid", 2, "labels"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["dev.csv", "validation.csv", "test.csv"])
def test_a_table_named_after_another_split_is_no_train_table(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        find_files({"train": folder_of(tmp_path / "data", name)})
    assert [problem.code for problem in caught.value.problems] == ["data.no_file"]


@pytest.mark.parametrize("splits", [(), ("dev",), ("test",)])
def test_without_a_train_table_nothing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splits: tuple[str, ...]
) -> None:
    folder = folder_of(tmp_path / "data", "train.csv", "dev.csv", "test.csv")
    monkeypatch.chdir(folder)  # the working folder is none of its business
    with pytest.raises(DataError) as caught:
        find_files({split: folder / f"{split}.csv" for split in splits})
    assert [problem.code for problem in caught.value.problems] == ["data.no_file"]


def test_given_splits_are_kept(tmp_path: Path) -> None:
    files = find_files({"train": tiny.data(tmp_path, "classif")})
    found = read_tables(files, CLASSIF)
    assert [name for name, _ in found.items()] == ["train", "dev", "test"]
    assert [len(table.rows) for _, table in found.items()] == [24, 8, 8]
    assert [table.name for _, table in found.items()] == ["train.csv", "dev.csv", "test.csv"]
    assert not found.dev_from_train


def split_of(path: Path, task: Any, rows: list[tuple[str, ...]], seed: int = 42) -> Tables:
    return read_tables({"train": tiny.table(path, rows, ("text", "labels"))}, task, seed=seed)


def texts_of(table: Table) -> list[str]:
    return [record.text for record in table.records]


@pytest.mark.parametrize("task", tasks.names())
def test_without_dev_a_tenth_of_train_is_held_out(tmp_path: Path, task: str) -> None:
    rows = tiny.rows(task, 200)
    found = split_of(tmp_path / "train.csv", tasks.get(task), rows)
    train, dev = texts_of(found.train), texts_of(found.dev)
    assert found.dev_from_train
    assert found.test is None
    assert found.dev.name == "train.csv (held out)"
    assert len(dev) == 20
    assert not set(train) & set(dev)
    assert sorted(train + dev) == sorted(text for text, _ in rows)
    whole = read_table(tmp_path / "train.csv", tasks.get(task))
    told = described(found, tasks.get(task).fit(found.train.labels))
    assert told["train"]["fingerprint_with_dev"] == whole.fingerprint
    assert len({whole.fingerprint, found.train.fingerprint, found.dev.fingerprint}) == 3
    order = {text: place for place, (text, _) in enumerate(rows)}
    assert train == sorted(train, key=order.__getitem__)
    assert dev == sorted(dev, key=order.__getitem__)


@pytest.mark.parametrize("task", tasks.names())
def test_the_held_out_share_follows_from_the_seed(tmp_path: Path, task: str) -> None:
    def held(seed: int) -> list[str]:
        made = split_of(tmp_path / "train.csv", tasks.get(task), tiny.rows(task, 100), seed)
        return texts_of(made.dev)

    assert held(1) == held(1)
    assert len({tuple(held(seed)) for seed in range(4)}) > 1


def test_the_held_out_share_is_stratified(tmp_path: Path) -> None:
    rows = [(f"a{n}", label) for label, count in [("x", 100), ("y", 40), ("z", 20), ("r", 1)]
            for n in range(count)]  # fmt: skip
    found = split_of(tmp_path / "train.csv", CLASSIF, [(f"{t} {n}", label)
                     for n, (t, label) in enumerate(rows)])  # fmt: skip
    assert Counter(found.dev.labels) == {"x": 10, "y": 4, "z": 2}
    assert Counter(found.train.labels) == {"x": 90, "y": 36, "z": 18, "r": 1}


def test_a_text_that_occurs_twice_stays_in_train(tmp_path: Path) -> None:
    rows = [(f"{'twice' if n < 80 else 'once'} {n // 2 if n < 80 else n}", "xy"[n % 2])
            for n in range(120)]  # fmt: skip
    found = split_of(tmp_path / "train.csv", CLASSIF, rows)
    assert Counter(found.dev.labels) == {"x": 6, "y": 6}
    assert not set(texts_of(found.train)) & set(texts_of(found.dev))
    doubled = split_of(tmp_path / "train.csv", CLASSIF, rows[:80])  # there are no others
    assert len(doubled.dev.labels) == 8


def test_a_held_out_share_of_a_number_has_low_and_high_ones(tmp_path: Path) -> None:
    rows = [(f"t{n}", str(n)) for n in range(100)]
    found = split_of(tmp_path / "train.csv", REGRESSION, rows)
    assert sorted(value // 10 for value in found.dev.labels) == list(range(10))


def test_many_rare_labels_do_not_empty_a_common_one(tmp_path: Path) -> None:
    rows = [(f"r{n}", f"rare{n:03}") for n in range(100)] + [(f"z{n}", "zz") for n in range(11)]
    found = split_of(tmp_path / "train.csv", CLASSIF, rows)
    assert Counter(found.train.labels)["zz"] > Counter(found.dev.labels)["zz"] > 0


@given(st.lists(st.sampled_from("abcdefg"), min_size=3, max_size=60), st.integers(0, 9))
def test_every_label_that_can_spare_a_row_stays_in_train(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str], seed: int
) -> None:
    assume(1 < len(set(labels)) < len(labels))
    path = tmp_path_factory.getbasetemp() / "held.csv"
    found = split_of(path, CLASSIF, [(f"t{n}", x) for n, x in enumerate(labels)], seed)
    assert len(found.dev.rows) >= 1
    assert sorted(found.train.labels + found.dev.labels) == sorted(labels)
    assert set(found.train.labels) == set(labels)


def test_two_rows_are_one_for_train_and_one_for_dev(tmp_path: Path) -> None:
    found = split_of(tmp_path / "train.csv", MULTILABEL, [("a", "x"), ("b", "x")])
    assert (len(found.train.rows), len(found.dev.rows)) == (1, 1)


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        (CLASSIF, [("a", "x"), ("b", "y")]),
        (MULTILABEL, [("a", "x"), ("b", "")]),
        (NER, [("a", "B-X"), ("b", "O")]),
        (REGRESSION, [("a", "1"), ("b", "2")]),
    ],
)
def test_what_is_left_of_train_can_always_be_learned_from(
    tmp_path: Path, task: Any, rows: list[tuple[str, ...]]
) -> None:
    for seed in range(8):
        try:
            found = split_of(tmp_path / "train.csv", task, rows, seed)
        except DataError as error:
            assert [problem.code for problem in error.problems] == ["data.too_few"]
        else:
            assert task.fit(found.train.labels).state()


def test_one_row_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        split_of(tmp_path / "train.csv", MULTILABEL, [("a", "x")])
    assert places(list(caught.value.problems)) == [("data.too_few", None, None)]
