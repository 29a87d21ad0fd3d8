"""The reports in a real browser: silent, self-contained, with tables that sort."""

from __future__ import annotations

from pathlib import Path

from conformance import Served
from playwright.sync_api import Browser, Page

from tfserve import tables
from tfserve.evaluation import evaluate
from tfserve.evaluation.bootstrap import differences
from tfserve.exploration import explore
from tfserve.report import comparison, evaluation, exploration

SIZES = {"wide": (1300, 900), "narrow": (360, 700)}


def table_of(served: Served, split: str) -> tables.Table:
    """A table that the model was trained with."""
    file = served.model.parent / "data" / f"{split}.csv"
    encoder = served.predictor.encoder
    return tables.read_table(file, type(served.predictor.task), use_bbox=encoder.use_bbox)


def opened(browser: Browser, file: Path, size: str, scheme: str) -> Page:
    """The page, which says nothing, asks for nothing and fits."""
    said: list[str] = []
    width, height = SIZES[size]
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    page.goto(file.as_uri())
    assert [url for url in said if url != file.as_uri() and not url.startswith("data:")] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    return page


def test_every_page_opens(served: Served, browser: Browser, tmp_path: Path) -> None:
    task, boxed = served.predictor.task, served.predictor.encoder.use_bbox
    found = evaluate(served.predictor, table_of(served, "test"))
    differing = differences(found.tally, found.tally, task.metric_names)
    pages = {
        "evaluation": evaluation.page(found, title="How good?"),
        "comparison": comparison.page(found, found, ("one", "other"), differing),
        "exploration": exploration.page(
            explore(
                served.model.parent / "data", task.name, model_folder=served.model, use_bbox=boxed
            ),
            title="What is in it?",
        ),
    }
    for name, made in pages.items():
        file = tmp_path / f"{name}.html"
        made.write(file)
        for size, scheme in (("wide", "light"), ("narrow", "dark")):
            page = opened(browser, file, size, scheme)
            headings = page.locator("h2").all_inner_texts()
            assert headings == [section.title for section in made.sections]
            for figure in page.locator("figure svg").all():
                box = figure.bounding_box()
                assert box is not None and box["width"] > 100 and box["height"] > 50
            page.close()


def test_a_table_sorts_by_its_headings(served: Served, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    found = evaluate(served.predictor, table_of(served, "train"))
    evaluation.page(found, title="t").write(file)
    page = opened(browser, file, "wide", "light")
    column = "tbody td.n:nth-child(2)"
    grid = next(g for g in page.locator("table.sorts").all() if g.locator(column).count() > 1)
    numbers = grid.locator(column)
    for order in ("descending", "ascending"):
        grid.locator("th:nth-child(2) button").click()
        assert grid.locator("th:nth-child(2)").get_attribute("aria-sort") == order
        shown = [float(text.replace(",", "")) for text in numbers.all_inner_texts()]
        assert shown == sorted(shown, reverse=order == "descending")
    page.close()
