from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tfserve import delimited
from tfserve.delimited import Dialect

HEADER = ["text", "labels"]

# Cells are mostly made of what may be mistaken: quotes, delimiters, and the line breaks of Unicode,
# which are none here. A carriage return belongs to the line ends and is not kept inside cells.
tricky = st.text('"" ,;ab\'\\\u2028\u2029\u0085\u000b\u000c\u001cé東')
ordinary = st.text(st.characters(exclude_characters='"\t\n\r\0', exclude_categories=["Cs"]))
plain_cells = tricky | ordinary
csv_cells = plain_cells | st.text('"\t\n ab')


def tables(cells: st.SearchStrategy[str]) -> st.SearchStrategy[list[list[str]]]:
    return st.lists(st.lists(cells, min_size=2, max_size=2), min_size=1, max_size=6)


def lines_of(text: str) -> Iterator[str]:
    return iter(io.StringIO(text, newline="\n"))


def read(text: str) -> list[list[str]]:
    """The cells below the header."""
    dialect = delimited.sniff(lines_of(text))
    return [cells for _, cells in delimited.rows(lines_of(text), dialect)][1:]


def written_plainly(table: list[list[str]], end: str = "\n") -> str:
    return "".join("\t".join(cells) + end for cells in [HEADER, *table])


def written_as_csv(table: list[list[str]], quoting: int, end: str = "\n") -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t", quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerows([HEADER, *table])
    return file.getvalue()


def looks_quoted(table: list[list[str]]) -> bool:
    """Whether a plain file is one that a CSV writer could have written too.

    Then nothing but a guess tells ``"word"`` with its quotes from ``word`` in CSV quotes, and the
    guess is CSV: that is the documented ambiguity.
    """
    quoted = [cell for cells in table for cell in cells if '"' in cell]
    return bool(quoted) and all(re.fullmatch(r'"(?:[^"]|"")*"', cell) for cell in quoted)


@given(tables(plain_cells), st.sampled_from(["\n", "\r\n"]))
@example([['He said "no', "a"], ['"Yes" she said', "b"], ['both "', '"x","y"']], "\n")
@example([['"opens', "a"], ['closes"', "b"]], "\n")
def test_a_plain_table_keeps_every_quote(table: list[list[str]], end: str) -> None:
    assume(not looks_quoted(table))
    assert read(written_plainly(table, end)) == table


@given(tables(csv_cells), st.sampled_from(["\n", "\r\n"]))
@example([["one\ntwo", "a"], ['"word"', "b"], ["tab\there", '"a","b"']], "\n")
def test_a_table_in_which_a_csv_writer_quoted_all_cells_is_read_back(
    table: list[list[str]], end: str
) -> None:
    text = written_as_csv(table, csv.QUOTE_ALL, end)
    assume(not every_line_is_a_row(table, text))
    assert read(text) == table


@given(tables(csv_cells), st.sampled_from(["\n", "\r\n"]))
@example([["one\ntwo", "a"], ['"word"', "b"], ["tab\there", '"a","b"']], "\n")
def test_a_table_in_which_a_csv_writer_quoted_what_it_must_is_read_back(
    table: list[list[str]], end: str
) -> None:
    text = written_as_csv(table, csv.QUOTE_MINIMAL, end)
    assume(not every_line_is_a_row(table, text))
    assert read(text) == table


def every_line_is_a_row(table: list[list[str]], text: str) -> bool:
    """Whether cells span lines or cells in a file whose lines are all whole rows by themselves.

    Such a file is read as plain: more often it is one in which quotes of the texts pair up.
    """
    spans = any(c in cell for cells in table for cell in cells for c in "\t\n")
    return spans and all(line.count("\t") == 1 for line in text.split("\n") if line)


@given(tables(plain_cells))
def test_quoting_all_cells_changes_nothing(table: list[list[str]]) -> None:
    minimal = read(written_as_csv(table, csv.QUOTE_MINIMAL))
    assert minimal == read(written_as_csv(table, csv.QUOTE_ALL)) == table


def test_the_documented_ambiguity_is_read_as_csv() -> None:
    assert looks_quoted([['"word"', "a"]])
    assert read('text\tlabels\n"word"\ta\n') == [["word", "a"]]


@pytest.mark.parametrize(
    "beside", ['say "no', '"no" he said', '12" disc', 'a "b" c', '"', 'x"']
)  # fmt: skip
def test_one_quote_out_of_place_makes_the_whole_file_plain(beside: str) -> None:
    assert read(f'text\tlabels\n"word"\ta\n{beside}\tb\n') == [['"word"', "a"], [beside, "b"]]


def test_quotes_that_pair_up_over_lines_of_whole_rows_are_plain() -> None:
    text = 'text\tlabels\n"opens here\ta\nother\tb\nends here"\tc\n'
    assert read(text) == [['"opens here', "a"], ["other", "b"], ['ends here"', "c"]]


def test_quotes_that_pair_up_over_cells_of_whole_rows_are_plain() -> None:
    text = 'text\tlabels\n"opens here\tends here"\nother\tb\n'
    assert read(text) == [['"opens here', 'ends here"'], ["other", "b"]]


def test_an_unclosed_quote_makes_a_file_plain() -> None:
    assert read('text\tlabels\na\tb\n"open\tc\nmore') == [["a", "b"], ['"open', "c"], ["more"]]


def test_multilabel_cells_of_both_kinds() -> None:
    assert read('text\tlabels\na\t"x","y"\n') == [["a", '"x","y"']]
    assert read('text\tlabels\na\t"""x"",""y"""\n') == [["a", '"x","y"']]


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ("text\tlabels\na\tb\n", Dialect("\t", False, ("text", "labels"))),
        ('text\tlabels\na\t"b"\n', Dialect("\t", True, ("text", "labels"))),
        ('"text"\t"labels"\na\tb\n', Dialect("\t", True, ("text", "labels"))),
        ("text,labels\na,b\n", Dialect(",", True, ("text", "labels"))),
        ("text;labels\na;b\n", Dialect(";", True, ("text", "labels"))),
        ("text\tlabels, all\na\tb\n", Dialect("\t", False, ("text", "labels, all"))),
        ("a;b,c\n", Dialect(",", True, ("a;b", "c"))),
        (" text \tlabels\r\n", Dialect("\t", False, ("text", "labels"))),
        ("text\n", Dialect("\t", False, ("text",))),
        ("", Dialect("\t", False, ("",))),
    ],
)
def test_sniff(text: str, dialect: Dialect) -> None:
    assert delimited.sniff(lines_of(text)) == dialect
    assert delimited.sniff(text.split("\n")) == dialect


def test_rows_of_a_plain_table_know_their_lines() -> None:
    rows = delimited.rows(["a\tb\n", "\n", "c\td\r\n", "", "e\tf"], Dialect("\t", False, ()))
    assert list(rows) == [(1, ["a", "b"]), (3, ["c", "d"]), (5, ["e", "f"])]


def test_rows_of_a_quoted_table_know_the_line_where_they_begin() -> None:
    lines = ["a\tb\n", '"c\n', "\n", 'c"\td\n', "\n", "e\tf\n"]
    rows = delimited.rows(lines, Dialect("\t", True, ()))
    assert list(rows) == [(1, ["a", "b"]), (2, ["c\n\nc", "d"]), (6, ["e", "f"])]


@pytest.mark.parametrize("quoted", [False, True])
def test_a_long_cell_is_read(quoted: bool) -> None:
    cell = "x" * 1_000_000
    quote = '"' if quoted else ""
    assert read(f"text\tlabels\n{quote}{cell}{quote}\ta\n") == [[cell, "a"]]


@pytest.mark.parametrize("blank", ["", "\n", "\r\n"])
def test_blank_lines_are_no_rows(blank: str) -> None:
    assert read(f'text\tlabels\n{blank}a\t"b"\n{blank}{blank}') == [["a", "b"]]
    assert read(f"text\tlabels\n{blank}a\tb\n{blank}{blank}") == [["a", "b"]]


def test_rows_are_read_lazily() -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "a\tb\n"

    rows = delimited.rows(endless(), Dialect("\t", True, ()))
    assert [next(rows) for _ in range(3)] == [(n, ["a", "b"]) for n in (1, 2, 3)]
