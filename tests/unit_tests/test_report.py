"""Pages: that they hold what was measured, and nothing that was not meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
from tfserve.evaluation import Evaluation, evaluate
from tfserve.evaluation.bootstrap import differences, intervals
from tfserve.evaluation.items import Collector
from tfserve.exploration import explore
from tfserve.records import Record
from tfserve.report import comparison, evaluation, exploration, figures
from tfserve.report.page import Grid, Page, Plot, shown
from tfserve.tables import Row, Table
from tfserve.tallies import Labels, figure
from tfserve.training import card as cards

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
    metrics = {**task.measured(tally), "ece": items.calibration_error}
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
    history = [{"epoch": e, "loss": 1 / e, "eval_loss": 2 / e,
                f"eval_{predictor.task.metric}": 0.1 * e} for e in (1.0, 2.0)]  # fmt: skip
    page = evaluation.page(found, title="How good?", history=history,
                           frequencies=type(found.task).label_counts(table.labels))  # fmt: skip
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
        evaluation.page(found, title="t", frequencies=frequencies),
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
    found = replace(found, task=replace(task, positive="label 001", threshold=0.42))
    assert found.items is not None
    page = evaluation.page(found, title="t")
    [section] = [s for s in page.sections if s.title == "Precision and recall by threshold"]
    [grid] = section.parts
    assert isinstance(grid, Grid)
    scores, truth = found.items.probabilities[:, 1], found.items.truth[:, 1]
    for threshold, mark, given, precision, recall in grid.rows:
        assert given == (scores >= threshold).sum()
        assert precision == (pytest.approx(truth[scores >= threshold].mean()) if given else None)
        assert recall == pytest.approx((scores[truth] >= threshold).mean())
        assert bool(mark) == (threshold == 0.42)
    values = [figure(v) for v in (0.0, 0.91249, 0.00012345, 12345678.9, -999.9)]
    assert values == ["0.000", "0.912", "0.00012", "12,345,679", "-999.900"]
    never = replace(found, task=replace(task, positive="label 001", threshold=calibration.NEVER))
    assert "asks of label 001: never given" in read(evaluation.page(never, title="t"))


def test_a_table_without_an_error_says_how_many_it_could_hide() -> None:
    assert "up to 1.0% may be wrong" in read(evaluation.page(made_up(3, 300, wrong=0), title="t"))
    assert "rule of three" not in read(evaluation.page(made_up(3, 300), title="t"))


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
        {**found.task.metrics(gold, answers), "ece": 0.1}, found.intervals,
    )  # fmt: skip
    page = evaluation.page(one, title="t")
    read(page)
    assert "Thresholds" not in titles(page)


def test_a_page_of_many_rows_stays_small() -> None:
    html = evaluation.page(made_up(150, 20_000), title="t").html()
    assert 100_000 < len(html) < 5_000_000


@pytest.mark.parametrize("surest", [0.5, 1.0])
def test_abstaining_at_what_the_table_says_answers_as_many_as_it_says(surest: float) -> None:
    found = made_up(3, 200)
    answers = [{**a, "proba": min(a["proba"], surest)} for a in found.answers]  # most are alike
    page = evaluation.page(replace(found, answers=answers), title="t")
    [section] = [s for s in page.sections if s.title == "Abstaining"]
    [grid, _] = section.parts
    assert isinstance(grid, Grid)
    given = np.array([answer["proba"] for answer in answers])
    right = np.array([a["pred"] == r.label for a, r in zip(answers, found.table.rows, strict=True)])
    for share, abstain, accuracy in grid.rows:
        answered = given >= float(abstain)
        assert share == f"{answered.mean():.1%}"
        assert accuracy == pytest.approx(right[answered].mean())
    assert (len(grid.rows) == 1) == (surest == 0.5)


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
    assert "The 1,000 commonest of 5,000." in read(page) and len(page.html()) < 1_000_000


def test_two_models_that_differ_in_a_border_are_told_apart(loaded: Loaded, tmp_path: Path) -> None:
    predictor = loaded("ner")
    tiny.table(tmp_path / "t.csv", [("Ann Lee went home", "B-PER I-PER O O")], ("text", "labels"))
    table = tables.read_table(tmp_path / "t.csv", type(predictor.task))
    one = evaluate(predictor, table)

    def saying(*tags: str) -> Evaluation:
        answers = [{**one.answers[0], "pred": list(tags)}]
        return replace(one, answers=answers, tally=one.task.tally(table.labels, answers))

    right, wrong = saying("B-PER", "I-PER", "O", "O"), saying("B-PER", "O", "O", "O")
    apart = differences(right.tally, wrong.tally, right.task.metric_names)
    text = read(comparison.page(right, wrong, ("new", "old"), apart))
    assert "2 PER: Ann Lee PER: Ann Ann Lee went home" in text


def test_two_models_are_set_side_by_side() -> None:
    one, other = made_up(4, 400, wrong=0.1), made_up(4, 400, wrong=0.4)
    other = Evaluation(**{**vars(other), "table": one.table,
                          "tally": one.task.tally(one.table.labels, other.answers)})  # fmt: skip
    differing = differences(one.tally, other.tally, one.task.metric_names)
    text = read(comparison.page(one, other, ("new", "old"), differing))
    found = differing["accuracy"]
    assert f"accuracy {found.one:.3f} {found.other:.3f} {found.one - found.other:.3f}" in text
    assert "new or old?" in text and " yes" in text
    right = [one.answers[i]["pred"] == one.table.labels[i] for i in range(400)]
    old = [other.answers[i]["pred"] == one.table.labels[i] for i in range(400)]
    better = sum(a and not b for a, b in zip(right, old, strict=True))
    assert f"new is better {better}" in text


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
    assert "Dev chose the checkpoint" in (model / "report" / "dev.html").read_text("utf-8")
    low, high = metrics["test"]["intervals"]["accuracy"]
    card = (model / "README.md").read_text("utf-8")
    expected = f"{metrics['test']['accuracy']:.3f} ({shown(low)} to {high:.3f})"
    assert expected in card and "- `billing`: " in card
    assert tfserve.load(model).artifact is not None  # what was added is no damage


def test_a_card_is_in_the_hub_s_format(trained: Any) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(trained("ner") / "README.md")
    assert card.data.pipeline_tag == "token-classification"
    assert {result.metric_type for result in card.data.eval_results} >= {"f1", "word_accuracy"}
    assert "tfserve" in card.data.tags and "base_model" not in card.data.to_dict()


@pytest.mark.parametrize("name", ["bert-base-uncased", "answerdotai/ModernBERT-base"])
def test_a_card_names_a_public_encoder(name: str, trained: Any) -> None:
    predictor = tfserve.load(trained("classif"))
    manifest = predictor.artifact.manifest
    table = Table("dev.csv", (Row(Record("a text"), predictor.task.labels[0], 2),))
    found = {"dev": evaluate(predictor, table)}
    public = replace(manifest, hparams={**manifest.hparams, "model_name": name})
    head = cards.text(public, found).split("---")[1]
    assert f"base_model: {name}" in head
