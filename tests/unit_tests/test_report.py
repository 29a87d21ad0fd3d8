"""Pages: that they hold what was measured, and nothing that was not meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from conftest import Loaded, PretrainedFolder

import tfserve
from tfserve import calibration, tables, tasks
from tfserve.artifact import Manifest
from tfserve.evaluation import Evaluation, evaluate
from tfserve.evaluation.bootstrap import differences, intervals
from tfserve.evaluation.items import Collector, Items
from tfserve.exploration import explore
from tfserve.records import Record
from tfserve.report import (
    comparison,
    confusion,
    evaluation,
    exploration,
    figures,
    mistakes,
    probabilities,
)
from tfserve.report.page import Grid, Matrix, Page, Plot, Section, shown
from tfserve.tables import Row, Table
from tfserve.tallies import Labels, Numbers, figure

VOID = {"meta", "link", "br", "path", "use", "image", "rect"}


class Reader(HTMLParser):
    """Checks that tags are closed; keeps the text and what is referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(
                ("#", "data:")
            ):
                self.outside.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.handle_starttag(tag, attrs)
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "script" not in self.open:
            self.text.append(data.strip())


def read(page: Page) -> str:
    """The text of a page that is sound and needs nothing from elsewhere."""
    html = page.html()
    reader = Reader()
    reader.feed(html)
    assert not reader.open and not reader.outside
    assert not re.search(r"@import|url\((?!#)", html)
    assert "nan" not in re.findall(r"[a-z]+", " ".join(reader.text).lower())
    return " ".join(filter(None, reader.text))


def titles(page: Page) -> list[str]:
    return [section.title for section in page.sections]


def grids(sections: Sequence[Section], title: str) -> list[Grid]:
    """The tables under a title; none where there is no such section."""
    parts = [part for section in sections if section.title == title for part in section.parts]
    return [part for part in parts if isinstance(part, Grid)]


def evaluated(task: Any, labelled: list[tuple[str, Any]], answers: list[Any]) -> Evaluation:
    """Of texts with their labels, from line 2 on, and what a model made of them."""
    rows = [Row(Record(text), label, i) for i, (text, label) in enumerate(labelled, 2)]
    table = Table("made_up.csv", tuple(rows))
    tally = task.tally(table.labels, answers)
    tokens = np.array([len(row.record.spans) for row in rows])
    measured = task.measured(tally)
    return Evaluation(task, table, answers, [], None, tokens, 64, tally, measured, {})


def tagged(*rows: tuple[str, str, str, Sequence[float]]) -> Evaluation:
    """Of words with their tags, the tags that a model gave, and its probabilities."""
    labelled = [(text, tuple(gold.split())) for text, gold, _, _ in rows]
    answers = [{"pred": given.split(), "proba": list(proba)} for _, _, given, proba in rows]
    return evaluated(tasks.get("ner").fit([gold for _, gold in labelled]), labelled, answers)


def numbered(gold: Sequence[float], given: Sequence[float]) -> Evaluation:
    """Of targets, and the numbers that a model gave: the texts are ``text 0``, ``text 1``, …"""
    labelled = [(f"text {i}", target) for i, target in enumerate(gold)]
    answers = [{"pred": number} for number in given]
    return evaluated(tasks.get("regression").fit(list(gold)), labelled, answers)


def manifest(**told: Any) -> Manifest:
    """Of a model directory that was never written."""
    return Manifest(
        task="classif", task_state={}, model_type="bert", pad_token_id=0, max_length=64, stride=16,
        **told,
    )  # fmt: skip


def trained_on(labels: dict[str, float]) -> Manifest:
    """Of a model whose train has so many rows of each label."""
    return manifest(data={"train": {"labels": labels}})


def made_up(
    labels: int,
    rows: int,
    seed: int = 0,
    wrong: float = 0.2,
    abstain: float | None = None,
    name: str = "label {:03d}",
) -> Evaluation:
    """An evaluation of a model that is wrong in some rows, without the model."""
    rng = np.random.default_rng(seed)
    names = [name.format(i) for i in range(labels)]
    task: Any = replace(tasks.get("classif").fit(names), abstain=abstain)  # type: ignore[type-var]
    gold = [names[i] for i in rng.integers(0, labels, rows)]
    answers = []
    for label in gold:
        said = names[rng.integers(labels)] if rng.random() < wrong else label
        scores = rng.random(labels) * 0.1
        scores[names.index(said)] = 2
        scores /= scores.sum()
        pairs = dict(zip(names, scores.tolist(), strict=True))
        given = said if abstain is None or pairs[said] >= abstain else None
        answers.append({"pred": given, "proba": pairs[said], "scores": pairs})
    texts = [f"text <b>{i}</b> & more of it" for i in range(rows)]
    table = Table("made_up.csv", tuple(Row(Record(t), g, i + 2) for i, (t, g) in
                                       enumerate(zip(texts, gold, strict=True))))  # fmt: skip
    collector = Collector(task)
    answers = list(collector.without_scores(answers))
    items, tally = collector.items(gold), task.tally(gold, answers)
    assert items is not None
    errors = {"ece": items.calibration_error, "ece_chance": items.chance_error}
    metrics = {**task.measured(tally), **errors}
    found = intervals(tally, task.metric_names)
    tokens = rng.integers(5, 100, rows)
    return Evaluation(
        task, table, answers, collector.decided, items, tokens, 64, tally, metrics, found
    )


@pytest.mark.parametrize("task", tasks.names())
def test_a_model_s_report_shows_its_metrics(task: str, loaded: Loaded, tmp_path: Path) -> None:
    predictor = loaded(task)
    table = tables.read_table(tiny.data(tmp_path, task) / "train.csv", type(predictor.task))
    found = evaluate(predictor, table)
    page = evaluation.page(found, title="How good?")
    text = read(page)
    for name in predictor.task.metric_names:
        low, high = found.intervals[name]
        assert f"{name} {shown(found.metrics[name])} {shown(low)} to {shown(high)}" in text
    expected = {
        "classif": {"Confusion", "Thresholds", "Probabilities", "Abstaining", "Errors", "Labels"},
        "multilabel-classif": {"Thresholds", "Probabilities", "Errors", "Labels"},
        "ner": {"Probabilities", "Errors", "Labels"},
        "regression": {"Answers and labels", "Residuals", "Largest residuals"},
    }[task]
    assert expected <= set(titles(page)) and {"Summary", "Training"} <= set(titles(page))


@pytest.mark.parametrize(("chosen", "kept"), [(None, 3.0), ("accuracy", 2.0), ("eval_loss", 1.0)])
def test_a_training_is_drawn_with_the_epoch_that_was_kept(
    chosen: str | None, kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ((1.0, 0.5, 0.6, 0.6), (2.0, 0.6, 0.9, 0.7), (3.0, 0.7, 0.9, 0.8))
    names = ("epoch", "eval_loss", "eval_accuracy", "eval_f1_macro")
    history = [{**dict(zip(names, entry, strict=True)), "loss": 0.1} for entry in values]
    hparams = {"metric_for_best_model": chosen}
    found = replace(made_up(2, 30), manifest=manifest(history=history, hparams=hparams))
    drawn: list[Any] = []
    plain = figures.lines
    monkeypatch.setattr(figures, "lines", lambda *a, **k: drawn.append((a, k)) or plain(*a, **k))
    page = evaluation.page(found, title="t")
    assert titles(page)[-1] == "Training"
    [panels], options = drawn[-1]
    assert options["marks"] == {"kept": kept}
    assert panels[1][0] == ("accuracy" if chosen == "accuracy" else "f1_macro")
    without = replace(found, manifest=manifest(history=history[:1]))
    assert "Training" not in titles(evaluation.page(without, title="t"))


def test_a_model_that_is_silent_where_it_is_wrong_has_no_errors_in_what_it_answers() -> None:
    found = right_but_for({0, 1}, 3, 10)
    answers = [{**a, "pred": None} if i < 2 else a for i, a in enumerate(found.answers)]
    task: Any = replace(found.task, abstain=0.5)  # type: ignore[type-var]
    tally = task.tally(found.table.labels, answers)
    metrics = {**found.metrics, **task.measured(tally)}
    page = evaluation.page(
        replace(found, task=task, answers=answers, tally=tally, metrics=metrics), title="t"
    )
    assert "Errors There are none in what it answers." in read(page)


def test_lengths_far_below_what_the_model_sees_stand_on_a_logarithmic_axis() -> None:
    lengths, seen = {"train": np.arange(5, 20)}, {"the model sees 512": 512.0}
    assert ">100<" in figures.histogram(lengths, "tokens", marks=seen, log=True)
    assert ">500<" in figures.histogram(lengths, "tokens", marks=seen, log=True)
    assert ">18<" in figures.histogram(lengths, "tokens", log=True)


def test_a_confusion_has_labels_down_and_answers_across() -> None:
    task: Any = tasks.get("classif").fit(["a", "b"])
    gold, given = "aaab", ("a", "b", "b", None)
    labelled = [(f"text {i}", label) for i, label in enumerate(gold)]
    found = evaluated(task, labelled, [{"pred": label, "proba": 0.9} for label in given])
    assert isinstance(found.tally, Labels)
    [section] = confusion.sections(found.tally)
    matrix, worst = section.parts
    assert isinstance(matrix, Matrix) and isinstance(worst, Grid)
    assert (matrix.names, matrix.columns) == (["a", "b"], ["a", "b", "(none)"])
    assert matrix.counts.tolist() == [[1, 2, 0], [0, 0, 1]]
    assert worst.rows == [("a", "b", 2, pytest.approx(2 / 3)), ("b", "(none)", 1, 1)]


def test_labels_that_are_confused_stand_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"label {i:02d}" for i in range(30)]
    task: Any = tasks.get("classif").fit(names)
    mixed = {names[i]: names[i + 15] for i in range(15)}
    rows = [(label, given) for label in names for given in (label, mixed.get(label, label))]
    labelled = [(f"text {i}", label) for i, (label, _) in enumerate(rows)]
    found = evaluated(task, labelled, [{"pred": given, "proba": 0.9} for _, given in rows])
    drawn: list[Any] = []
    plain = figures.heat
    monkeypatch.setattr(figures, "heat", lambda *a: drawn.append(a) or plain(*a))
    assert isinstance(found.tally, Labels)
    confusion.sections(found.tally)
    [(shares, down, across, *_)] = drawn
    assert down == across and sorted(down) == names
    assert all(abs(down.index(a) - down.index(b)) == 1 for a, b in mixed.items())
    assert all(shares[down.index(a), across.index(b)] == 0.5 for a, b in mixed.items())


def test_of_many_labels_the_worst_and_the_best_have_curves() -> None:
    rng = np.random.default_rng(0)
    names = tuple("abcdef")
    truth = rng.random((400, 6)) < 0.3
    apart = np.array([0.0, 3.0, 0.5, 2.0, 1.0, 1.5])  # how well each is told apart
    scores = 1 / (1 + np.exp(-(truth * apart + rng.normal(size=truth.shape))))
    some = probabilities.curves(Items(names, False, scores, truth))
    assert [name for name, _ in some] == ["all labels", "a", "c", "d", "b"]


@pytest.mark.parametrize("labels", [4, 5])
def test_that_some_labels_are_not_drawn_is_said_where_it_is_so(labels: int) -> None:
    text = read(evaluation.page(made_up(labels, 200), title="t"))
    assert ("Of many labels the two" in text) == (labels > 4)


def test_a_rare_label_s_curve_is_drawn_where_its_rows_are() -> None:
    """Of 20,000 rows of which the best 150 hold all that have the label."""
    truth = np.zeros(20_000, bool)
    truth[np.random.default_rng(0).permutation(150)[:100]] = True
    scores = np.linspace(1, 0, 20_000)
    recall, _ = probabilities.precision_recall(truth, scores)
    assert len(recall) > 90 and recall.max() == 1 and recall.min() == 0
    assert len(np.unique(recall.round(2))) > 80


@pytest.mark.parametrize("labels", [2, 30, 200])
def test_confusions_can_be_read_with_any_number_of_labels(labels: int) -> None:
    found = made_up(labels, 1000)
    page = evaluation.page(found, title="t")
    text = read(page)
    assert "Confusion" in titles(page)
    assert ("The 150 labels that are confused most" in text) == (labels == 200)
    assert ("Labels that are confused stand side by side" in text) == (labels > 2)
    pair = max(
        ((a, b) for a, b in confusions(found)),
        key=lambda pair: list(confusions(found)).count(pair),
    ) if labels == 2 else None  # fmt: skip
    if pair is not None:
        assert f"{pair[0]} {pair[1]} {list(confusions(found)).count(pair)}" in text


def confusions(found: Evaluation) -> Iterator[tuple[str, str]]:
    for label, answer in zip(found.table.labels, found.answers, strict=True):
        if label != answer["pred"]:
            yield label, answer["pred"]


def test_errors_are_ranked_by_how_sure_they_are_and_their_texts_are_text() -> None:
    found = made_up(3, 300)
    page = evaluation.page(found, title="<script>alert(1)</script>")
    html = page.html()
    assert "<script>alert(1)" not in html and "text <b>" not in html
    assert "&lt;b&gt;" in html
    [section] = [section for section in page.sections if section.title == "Errors"]
    [grid] = section.parts
    assert isinstance(grid, Grid)
    wrong = sum(1 for _ in confusions(found))
    assert len(grid.rows) == min(wrong, 100)
    values = [row[0] for row in grid.rows]
    assert values == sorted(values, reverse=True)
    probability, label, given, line, text = grid.rows[0]
    assert found.table.rows[line - 2].label == label != given
    assert found.answers[line - 2] == {"pred": given, "proba": probability}
    assert found.table.rows[line - 2].record.text == text


@pytest.mark.parametrize("labels", [2, 3, 30])
def test_names_of_labels_and_models_are_text(labels: int) -> None:
    found, other = (made_up(labels, 300, wrong=w, name="<img src=x>{:02d}") for w in (0.1, 0.4))
    frequencies = {label: i + 1.0 for i, label in enumerate(found.task.labels)}
    apart = differences(found.tally, other.tally, found.task.metric_names)
    for page in (
        evaluation.page(replace(found, manifest=trained_on(frequencies)), title="t"),
        comparison.page(found, replace(other, table=found.table), ("<b>one</b>", "other"), apart),
    ):
        html = page.html()
        assert "<img src=x" not in html and "<b>one" not in html
        assert "&lt;img src=x&gt;00" in html
        read(page)


@pytest.mark.parametrize("known", [True, False])
def test_labels_that_the_model_does_not_know_are_errors(
    known: bool, loaded: Loaded, tmp_path: Path
) -> None:
    predictor = loaded("classif")
    rows = tiny.rows("classif", 6) if known else []
    strange = [("a text of another kind", "never heard of")] * 4
    tiny.table(tmp_path / "other.csv", [*rows, *strange], ("text", "labels"))
    table = tables.read_table(tmp_path / "other.csv", type(predictor.task))
    page = evaluation.page(evaluate(predictor, table), title="t")
    [errors] = [section for section in page.sections if section.title == "Errors"]
    [grid] = errors.parts
    assert isinstance(grid, Grid)
    assert sum(row[1] == "never heard of" for row in grid.rows) == 4
    assert "does not know 1 of the labels (never heard of)" in read(page)
    [labels] = [section for section in page.sections if section.title == "Labels"]
    # Where nothing is right there is nothing to draw.
    assert [part.kind for part in labels.parts] == (["plot"] * known + ["grid"])


def test_what_abstaining_buys_does_not_depend_on_whether_the_model_abstains() -> None:
    plain, found = made_up(3, 300), made_up(3, 300, abstain=0.95)
    silent = np.array([answer["pred"] is None for answer in found.answers])
    assert 30 < silent.sum() < 270 and "coverage" not in plain.metrics
    assert found.metrics["coverage"] == pytest.approx(1 - silent.mean())
    assert isinstance(plain.tally, Labels)
    answered = plain.tally.right[~silent].mean()
    assert found.metrics["accuracy_answered"] == pytest.approx(answered)
    pages = [evaluation.page(one, title="t") for one in (plain, found)]
    grids = [
        section.parts[0] for page in pages for section in page.sections
        if section.title == "Abstaining"
    ]  # fmt: skip
    assert len(grids) == 2 and grids[0] == grids[1]
    [errors] = [section for section in pages[1].sections if section.title == "Errors"]
    [grid] = errors.parts
    assert isinstance(grid, Grid) and len(grid.rows) == (~silent & ~plain.tally.right).sum()


def test_thresholds_of_two_labels_are_a_table() -> None:
    found = made_up(2, 400)
    task: Any = found.task
    assert found.items is not None
    scores = np.array([0.02, 0.1, 0.3, 0.42, 0.5, 0.8, 0.9, 0.93])
    truth = np.array([False, False, True, False, True, True, False, True])
    items = replace(found.items, probabilities=np.stack([1 - scores, scores], -1),
                    truth=np.stack([~truth, truth], -1))  # fmt: skip
    chosen = replace(task, positive="label 001", threshold=0.42)
    page = evaluation.page(replace(found, task=chosen, items=items), title="t")
    [grid] = grids(page.sections, "Precision and recall by threshold")
    assert grid.rows == [
        (0.05, "", 7, 4 / 7, 1), (0.1, "", 7, 4 / 7, 1), (0.2, "", 6, 4 / 6, 1),
        (0.3, "", 6, 4 / 6, 1), (0.4, "", 5, 3 / 5, 3 / 4), (0.42, "the model's", 5, 3 / 5, 3 / 4),
        (0.5, "", 4, 3 / 4, 3 / 4), (0.6, "", 3, 2 / 3, 2 / 4), (0.7, "", 3, 2 / 3, 2 / 4),
        (0.8, "", 3, 2 / 3, 2 / 4), (0.9, "", 2, 1 / 2, 1 / 4), (0.95, "", 0, None, 0),
    ]  # fmt: skip
    values = [figure(v) for v in (0.0, 0.91249, 0.00012345, 12345678.9, -999.9)]
    assert values == ["0.000", "0.912", "0.00012", "12,345,679", "-999.900"]
    never = replace(found, task=replace(task, positive="label 001", threshold=calibration.NEVER))
    text = read(evaluation.page(never, title="t"))
    assert "No threshold of label 001 met threshold_for" in text and "it is never given" in text


def test_a_table_without_an_error_says_how_many_it_could_hide() -> None:
    assert "up to 1.0% may be wrong" in read(evaluation.page(made_up(3, 300, wrong=0), title="t"))
    assert "rule of three" not in read(evaluation.page(made_up(3, 300), title="t"))


def right_but_for(wrong: set[int], labels: int, rows: int) -> Evaluation:
    """An evaluation of a model that is wrong in these rows alone."""
    found = made_up(labels, rows, wrong=0)
    names, gold = found.task.labels, found.table.labels
    answers = list(found.answers)
    for i in wrong:
        answers[i] = {**answers[i], "pred": names[names.index(gold[i]) - 1]}
    tally = found.task.tally(gold, answers)
    return replace(found, answers=answers, decided=[a["pred"] for a in answers], tally=tally)


def test_accuracy_is_told_by_length() -> None:
    tokens = np.array([80, 5, 5, 6, 7, 8, 9, 10, 20, 70])  # the model sees 64
    found = replace(right_but_for({0, 3, 6, 7, 9}, 3, 10), tokens=tokens)
    [grid] = grids(evaluation.page(found, title="t").sections, "Where it is good")
    assert grid.header == ["tokens", "rows", "accuracy"]
    assert grid.rows == [
        ("5 to 6", 3, pytest.approx(2 / 3)), ("7 to 8", 2, 1), ("9 to 9", 1, 0),
        ("10 to 20", 2, 0.5), ("65 to 80", 2, 0),
    ]  # fmt: skip


def test_a_part_without_anything_to_find_has_no_metric() -> None:
    texts, gold = ("we left", "Ann left us", "they all went home"), ("O O", "B-PER O O", "O O O O")
    found = tagged(*zip(texts, gold, gold, ([1.0] * 2, [1.0] * 3, [1.0] * 4), strict=True))
    told = intervals(found.tally, found.task.metric_names)
    found = replace(found, tokens=np.array([2, 3, 4]), intervals=told)
    [grid] = grids(evaluation.page(found, title="t").sections, "Where it is good")
    assert [row[2] for row in grid.rows] == [pytest.approx(1), None]


def test_texts_of_one_length_have_no_part_that_is_better() -> None:
    found = replace(made_up(3, 30), tokens=np.full(30, 9))
    assert "Where it is good" not in titles(evaluation.page(found, title="t"))


def test_f1_is_told_by_how_often_a_label_is_in_train() -> None:
    found = made_up(9, 90)
    names, rows = found.task.labels, (1200, 1, 20, 3, 300, 4, 50, 9, 0)
    by_label = {
        name: {"precision": 0.0, "recall": 0.0, "f1": i / 10, "support": 0.0 if i == 7 else 5.0}
        for i, name in enumerate(names)
    }
    frequencies = {name: float(count) for name, count in zip(names, rows, strict=True)}
    found = replace(found, metrics={**found.metrics, "per_label": by_label}, tokens=np.full(90, 9))
    page = evaluation.page(replace(found, manifest=trained_on(frequencies)), title="t")
    [grid] = grids(page.sections, "Where it is good")
    assert grid.header == ["rows in train", "labels", "mean F1"]
    assert grid.rows == [
        ("1 to 3", 2, pytest.approx(0.2)), ("4 to 20", 2, pytest.approx(0.35)),
        ("50 to 50", 1, 0.6), ("300 to 300", 1, 0.4), ("1,200 to 1,200", 1, 0),
    ]  # fmt: skip
    few = replace(found, manifest=trained_on(dict.fromkeys(names[:2], 5.0)))
    few = evaluation.page(few, title="t")
    assert grids(few.sections, "Where it is good") == []


def test_a_table_of_one_class_has_no_empty_plot() -> None:
    found = made_up(2, 50)
    some = [i for i, row in enumerate(found.table.rows) if row.label == "label 000"]
    answers = [found.answers[i] for i in some]
    gold = [found.table.labels[i] for i in some]
    assert found.items is not None
    one = Evaluation(
        found.task, Table("one.csv", tuple(found.table.rows[i] for i in some)), answers,
        [found.decided[i] for i in some],
        type(found.items)(found.items.labels, True, found.items.probabilities[some],
                          found.items.truth[some]),
        found.tokens[some], 64, found.task.tally(gold, answers),
        {**found.task.metrics(gold, answers), "ece": 0.1, "ece_chance": 0.1}, found.intervals,
    )  # fmt: skip
    page = evaluation.page(one, title="t")
    read(page)
    assert "Thresholds" not in titles(page)


def test_a_page_of_many_rows_stays_small() -> None:
    html = evaluation.page(made_up(150, 20_000), title="t").html()
    assert 100_000 < len(html) < 5_000_000


@pytest.mark.parametrize(
    ("surest", "shares"),
    [(0.5, ["100.0%"]), (1.0, ["100.0%", "95.0%", "90.0%", "80.0%", "70.0%", "50.0%"])],
)
def test_abstaining_at_what_the_table_says_answers_as_many_as_it_says(
    surest: float, shares: list[str]
) -> None:
    found = made_up(3, 200)
    answers = [{**a, "proba": min(a["proba"], surest)} for a in found.answers]  # most are alike
    page = evaluation.page(replace(found, answers=answers), title="t")
    [section] = [s for s in page.sections if s.title == "Abstaining"]
    [grid, _] = section.parts
    assert isinstance(grid, Grid)
    given = np.array([answer["proba"] for answer in answers])
    right = np.array([a["pred"] == r.label for a, r in zip(answers, found.table.rows, strict=True)])
    assert [row[0] for row in grid.rows] == shares
    for share, abstain, accuracy in grid.rows:
        answered = given >= float(abstain)
        assert share == f"{answered.mean():.1%}"
        assert accuracy == pytest.approx(right[answered].mean())


def test_the_surest_error_of_a_row_is_of_a_label_that_is_wrong(
    loaded: Loaded, tmp_path: Path
) -> None:
    predictor = loaded("multilabel-classif")
    table = tables.read_table(
        tiny.data(tmp_path, "multilabel-classif") / "train.csv", type(predictor.task)
    )
    found = evaluate(predictor, table)
    assert found.items is not None and isinstance(found.tally, Labels)
    # Of the first row the first label is right by a low threshold, and the second is wrong.
    names, probabilities = found.items.labels, found.items.probabilities.copy()
    truth, gold, given = found.items.truth.copy(), list(found.tally.gold), list(found.tally.given)
    gold[0], given[0], truth[0] = {(names[0],)}, {(names[0],), (names[1],)}, False
    truth[0, 0], probabilities[0] = True, 0.1
    probabilities[0, :2] = 0.3, 0.6
    made = replace(
        found, items=replace(found.items, probabilities=probabilities, truth=truth),
        tally=replace(found.tally, gold=gold, given=given),
    )  # fmt: skip
    [section] = [s for s in evaluation.page(made, title="t").sections if s.title == "Errors"]
    [grid] = section.parts
    assert isinstance(grid, Grid)
    [sureness] = [row[0] for row in grid.rows if row[3] == table.rows[0].line]
    assert sureness == pytest.approx(0.6)


TAGGED = (
    ("Ann Lee met Bob", "B-PER I-PER O B-PER", "B-PER O O B-ORG", (0.9, 0.8, 0.7, 0.6)),
    ("we saw Rome, not Oslo", "O O B-LOC O O", "O O O O B-LOC", (0.5, 0.5, 0.3, 0.5, 0.4)),
    ("Mary Ann left", "B-PER I-PER O", "O B-ORG I-ORG", (0.5, 0.8, 0.6)),
    ("Eve <b>", "B-PER O", "O O", (0.95, 0.5)),
    ("Cy came", "B-PER O", "B-PER O", (0.99, 0.99)),
)


def test_errors_of_entities_are_counted_by_kind() -> None:
    [errors] = mistakes.sections(tagged(*TAGGED))
    plot, counts = errors.parts[:2]
    assert isinstance(plot, Plot) and isinstance(counts, Grid)
    # By the type that is right, or if there is none by that given; the most errors first.
    assert re.findall(">(PER|LOC|ORG)<", plot.svg) == ["PER", "LOC"]
    assert [(kind, count) for kind, _, count in counts.rows] == [
        ("boundary", 1), ("type", 1), ("both", 1), ("missed", 2), ("invented", 1)
    ]  # fmt: skip
    [counts] = grids(mistakes.sections(tagged(TAGGED[-1])), "Errors")
    assert [count for *_, count in counts.rows] == [0] * 5


def test_words_of_errors_of_entities_are_marked_the_surest_error_first() -> None:
    [_, errors] = grids(mistakes.sections(tagged(*TAGGED)), "Errors")
    gold, given = '<mark class="gold">{}</mark>'.format, '<mark class="given">{}</mark>'.format
    both = gold(given("Ann"))
    assert [(round(row[0], 6), *row[1:]) for row in errors.rows] == [
        (0.95, "missed", "PER", None, 5, f"{gold('Eve')} &lt;b&gt;"),
        (0.9, "boundary", "PER", "PER", 2, f"{both} {gold('Lee')} met Bob"),
        (0.7, "both", "PER", "ORG", 4, f"{gold('Mary')} {both} {given('left')}"),
        (0.6, "type", "PER", "ORG", 2, f"Ann Lee met {gold(given('Bob'))}"),
        (0.4, "invented", None, "LOC", 3, f"we saw Rome, not {given('Oslo')}"),
        (0.3, "missed", "LOC", None, 3, f"we saw {gold('Rome,')} not Oslo"),
    ]


def test_of_a_long_text_the_words_about_an_error_are_shown() -> None:
    words = [str(i) for i in range(40)]
    tags = ["B-PER" if i == 20 else "O" for i in range(40)]
    found = tagged((" ".join(words), " ".join(tags), " ".join("O" * 40), [0.5] * 40))
    [_, errors] = grids(mistakes.sections(found), "Errors")
    before, after = " ".join(words[8:20]), " ".join(words[21:33])
    assert errors.rows[0][-1] == f'… {before} <mark class="gold">20</mark> {after} …'


def test_residuals_are_told_and_the_largest_come_first() -> None:
    found = numbered([1, 2, 3, 4], [1.5, 2, 1, 4.5])
    [grid] = grids(mistakes.sections(found), "Largest residuals")
    assert grid.header == ["residual", "label", "answer", "line", "text"]
    assert grid.rows == [
        (-2, 3, 1, 4, "text 2"), (0.5, 1, 1.5, 2, "text 0"), (0.5, 4, 4.5, 5, "text 3"),
        (0, 2, 2, 3, "text 1"),
    ]  # fmt: skip
    assert isinstance(found.tally, Numbers)
    told = {section.title: section.text for section in mistakes.residuals(found.tally)}
    assert told["Residuals"] == "Answer less label: mean -0.250, deviation 1.031."


@pytest.mark.parametrize(
    ("values", "widths"),
    [
        (np.arange(5, 76), {2.0}),
        (np.arange(1, 30), {1.0}),
        (np.array([3.0, 3.0]), {1.0}),
        (np.array([1.2 - 1.5, 3.2 - 3.5]), {1.0}),
    ],
)
def test_bins_of_whole_numbers_hold_as_many_numbers_each(values: Any, widths: set[float]) -> None:
    edges = figures._edges(values.astype(float))
    assert set(np.diff(edges)) == widths
    assert edges[0] < values.min() and edges[-1] > values.max()
    figures.histogram({"x": values}, "x")
    figures.density(values, values, "x", "y")


def test_bins_of_lengths_grow_with_the_lengths() -> None:
    edges = figures._ratios(np.array([3.0, 9_000.0]))
    widths = np.diff(edges)
    assert (np.diff(widths) >= 0).all() and widths[0] == 1 and edges[-1] > 9_000
    assert (edges % 1 == 0.5).all() and len(edges) < 100


def test_names_alike_are_all_drawn_and_named() -> None:
    found = made_up(3, 300, name="_a name that is longer than fits {}")
    html = evaluation.page(found, title="t").html()
    [section] = [s for s in evaluation.page(found, title="t").sections if s.title == "Thresholds"]
    [plot] = section.parts
    assert isinstance(plot, Plot)
    assert plot.svg.count("_a name that is longer than") == 6 and "all labels (" in html


def test_long_words_and_spans_and_many_labels_leave_pages_small(
    loaded: Loaded, tmp_path: Path
) -> None:
    predictor = loaded("ner")
    word, many = "x" * 100_000, 3000
    rows = [
        (f"{word} is here", "B-PER O O"),
        ("one " * many, " ".join(["B-PER", *["I-PER"] * (many - 1)])),
    ]
    tiny.table(tmp_path / "ner.csv", rows, ("text", "labels"))
    found = evaluate(predictor, tables.read_table(tmp_path / "ner.csv", type(predictor.task)))
    assert len(evaluation.page(found, title="t").html()) < 200_000
    texts = [(f"text number {i} of many", f"{i} {'label ' * 10}") for i in range(5000)]
    tiny.table(tmp_path / "labels" / "train.csv", texts, ("text", "labels"))
    page = exploration.page(explore(tmp_path / "labels", "classif"), title="t")
    assert "The first 1,000 of 5,000." in read(page) and len(page.html()) < 1_000_000
    several = loaded("classif")
    table = tables.read_table(tmp_path / "labels" / "train.csv", type(several.task))
    found = evaluate(several, table)
    for page in (
        evaluation.page(found, title="t"),
        comparison.page(found, found, ("one", "other"), {}),
    ):
        assert "The first 1,000 of 5,00" in read(page) and len(page.html()) < 1_000_000


def test_problems_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    rows = [("fine", "a"), ("good", "b"), *[("no label", "")] * 25]
    tiny.table(tmp_path / "train.csv", rows, ("text", "labels"))
    page = exploration.page(explore(tmp_path, "classif"), title="t")
    assert len(page.notes) == 21 and page.notes[-1] == "… and 5 more problems."


def test_long_rows_of_words_with_tags_are_read_whole(
    tmp_path: Path, pretrained: PretrainedFolder
) -> None:
    for task, odd in (("classif", ("the " * 80 + "end", "a")),
                      ("ner", ("the " * 80 + "end", "O " * 80 + "B-X"))):  # fmt: skip
        page = explored(tmp_path / task, task, [odd], pretrained())
        text = read(page)
        assert ("longer than the model sees" in text) is (task == "classif")
        assert ("rows of train read in windows" in text) is (task == "ner")
        assert ("rows of train too long, without windows" in text) is (task == "classif")


@pytest.mark.parametrize("task", tasks.names())
def test_a_table_is_explored(task: str, tmp_path: Path, pretrained: PretrainedFolder) -> None:
    data = tiny.data(tmp_path / "data", task, boxed=True)
    found = explore(data, task, model_folder=pretrained("layoutlm"), use_bbox=True)
    page = exploration.page(found, title="What is in it?")
    text = read(page)
    kind = {"ner": "Entities", "multilabel-classif": "Labels together"}.get(task)
    names = {"Summary", "Lengths", "Boxes", "Target" if task == "regression" else "Labels"}
    assert names | ({kind} if kind else set()) <= set(titles(page))
    assert "train 24" in text


def test_what_is_wrong_with_a_table_stands_on_its_page(tmp_path: Path) -> None:
    tiny.table(tmp_path / "train.csv", [("one", "a"), ("", "b"), ("Ã©tÃ© two", "b"), ("x y", "a")],
               ("text", "labels"))  # fmt: skip
    found = explore(tmp_path, "classif")
    text = read(exploration.page(found, title="t"))
    assert str(found.check.problems[0]) in text
    assert "broken characters" in text and "a single word" in text


BOX, BACK = "0 0 10 9 20 0 30 9 40 0 50 9", "0 40 10 49 20 0 30 9 40 0 50 9"
SAME = "5 5 9 9 5 5 9 9 5 5 9 9"
BROKEN = ("all is \ufffd", "Ã©tÃ© is over", "itâ€™s all good")
FINE = {
    "classif": ["a", "b", "a", "b"],
    "multilabel-classif": ["a", "a,b", "", "b"],
    "ner": ["B-X O O", "B-Y O O", "O O B-X", "B-Y I-Y O"],
    "regression": ["1", "2", "3", "4"],
}


def explored(
    folder: Path, task: str, odd: Sequence[tuple[str, ...]], model: Path | None = None
) -> Page:
    """The page of four rows with nothing wrong, and of some behind them: from line 6 on."""
    boxed = any(len(row) > 2 for row in odd)
    texts = ("one good text", "some other words", "yet another line", "the last row")
    rows: list[tuple[str, ...]] = list(zip(texts, FINE[task], strict=True))
    if boxed:
        rows = [(text, BOX, label) for text, label in rows]
    columns = ("text", "bbox", "labels") if boxed else ("text", "labels")
    tiny.table(folder / "train.csv", [*rows, *odd], columns)
    return exploration.page(explore(folder, task, model_folder=model, use_bbox=boxed), title="t")


@pytest.mark.parametrize(
    ("why", "task", "odd", "label"),
    [
        ("longer than the model sees", "classif", ("the " * 80 + "end", "a"), "a"),
        ("very long", "classif", ("the " * 80 + "end", "a"), "a"),
        ("a single word", "classif", ("word", "a"), "a"),
        *(("broken characters", "classif", (text, "a"), "a") for text in BROKEN),
        ("not in reading order", "classif", ("one two three", BACK, "a"), "a"),
        ("all boxes the same", "classif", ("one two three", SAME, "a"), "a"),
        ("a target far from the others", "regression", ("this is much", "100"), "100.0"),
        ("a rare label", "classif", ("of its own", "c"), "c"),
        ("a rare label", "multilabel-classif", ("of its own", "a,c"), "a; c"),
        ("a rare label", "ner", ("of its own", "O O B-Z"), "Z: own"),
        ("a rare label", "ner", ("of its own", "O O B"), "own"),
    ],
)
def test_a_row_that_stands_out_is_to_be_looked_at(
    why: str,
    task: str,
    odd: tuple[str, ...],
    label: str,
    tmp_path: Path,
    pretrained: PretrainedFolder,
) -> None:
    model = pretrained() if why == "longer than the model sees" else None
    [grid] = grids(explored(tmp_path, task, [odd], model).sections, "Rows to look at first")
    assert grid.header == ["why", "line", "label", "text"]
    assert grid.rows == [(why, 6, label, odd[0][:300])]


@pytest.mark.parametrize("task", FINE)
def test_rows_among_which_none_stands_out_are_not_listed(
    task: str, tmp_path: Path, pretrained: PretrainedFolder
) -> None:
    for model in (None, pretrained()):
        assert "Rows to look at first" not in titles(explored(tmp_path, task, [], model))


def test_of_many_rows_that_stand_out_the_longest_ten_are_listed(
    tmp_path: Path, pretrained: PretrainedFolder
) -> None:
    lengths = [70, 90, 75, 72, 71, 80, 90, 74, 73, 78, 77, 76]
    page = explored(tmp_path, "classif", [("# " * n, "a") for n in lengths], pretrained())
    [grid] = grids(page.sections, "Rows to look at first")
    assert [row[1] for row in grid.rows] == [7, 12, 11, 15, 16, 17, 8, 13, 14, 9]


def test_how_far_words_are_in_reading_order_is_told_by_split(tmp_path: Path) -> None:
    columns, boxes = ("text", "bbox", "labels"), (BOX, BACK, BOX, BOX)
    rows: list[tuple[str, ...]] = [
        ("one two three", box, "ab"[i % 2]) for i, box in enumerate(boxes)
    ]
    tiny.table(tmp_path / "train.csv", rows, columns)
    tiny.table(tmp_path / "dev.csv", rows[:1], columns)
    page = exploration.page(explore(tmp_path, "classif", use_bbox=True), title="t")
    [grid] = grids(page.sections, "Boxes")
    assert grid.header == ["split", "words that go back", "in the worst row", "its line"]
    assert grid.rows == [("train", 0.125, 0.5, 3), ("dev", 0, 0, 2)]


def test_rows_of_nearly_the_same_text_stand_side_by_side(tmp_path: Path) -> None:
    text, columns = "where is the parcel that you sent on monday", ("text", "labels")
    rows: list[tuple[str, ...]] = [(text, "a"), (text.upper(), "b"), ("another matter", "a")]
    tiny.table(tmp_path / "train.csv", rows, columns)
    tiny.table(tmp_path / "dev.csv", [("nothing like it", "b"), (text, "a")], columns)
    sections = exploration.page(explore(tmp_path, "classif"), title="t").sections
    [twice], [before], [repeated] = (
        grids(sections, title) for title in ("Labelled twice", "Seen before", "Repeated")
    )
    first = [1, "train", 2, "a", text]
    assert twice.rows == [[*first, "train", 3, "b", text.upper()]]
    assert before.rows == [[*first, "dev", 3, "a", text]]
    assert repeated.rows == twice.rows
    alone = explored(tmp_path / "alone", "classif", [])
    assert not {"Labelled twice", "Seen before", "Repeated"} & set(titles(alone))


def test_of_many_twins_the_first_fifty_are_shown(tmp_path: Path) -> None:
    [grid] = grids(
        explored(tmp_path, "classif", [("one good text", "a")] * 60).sections, "Repeated"
    )
    assert [row[6] for row in grid.rows] == list(range(6, 56))
    assert grid.caption == "The first 50 of 60."


def test_training_leaves_reports_and_a_card(tmp_path: Path, pretrained: PretrainedFolder) -> None:
    hparams = tiny.hparams("classif", pretrained(), report=True)
    model = tmp_path / "model"
    metrics = tfserve.train(
        hparams, train_dir=tiny.data(tmp_path / "data", "classif"), model_dir=model
    )
    for folder in (model / "report", tmp_path / "model-output" / "report"):
        assert sorted(file.name for file in folder.iterdir()) == ["dev.html", "test.html"]
    html = (model / "report" / "test.html").read_text("utf-8")
    assert f"{metrics['test']['accuracy']:.3f}" in html and "Training" in html
    assert "which chose its checkpoint" in (model / "report" / "dev.html").read_text("utf-8")
    low, high = metrics["test"]["intervals"]["accuracy"]
    card = (model / "README.md").read_text("utf-8")
    expected = f"{metrics['test']['accuracy']:.3f} ({shown(low)} to {high:.3f})"
    assert expected in card and "- `billing`: " in card
    assert tfserve.load(model).artifact is not None  # what was added is no damage
