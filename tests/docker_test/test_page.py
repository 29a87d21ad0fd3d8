"""The server's page in a real browser: every kind of answer, a file, wide and narrow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conformance import Served
from playwright.sync_api import Browser, Page
from servers import own_server

SHAPES = {
    "wide": {"width": 1100, "height": 800},
    "narrow": {"width": 360, "height": 700},
}


def opened(browser: Browser, url: str, shape: str, scheme: Any = "light") -> tuple[Page, list[str]]:
    """The page, ready to answer, and what its console says."""
    said: list[str] = []
    page = browser.new_page(viewport=SHAPES[shape], color_scheme=scheme)  # type: ignore[arg-type]
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    page.wait_for_selector("#example:not([hidden])", timeout=60_000)
    return page, said


def fits(page: Page) -> bool:
    """Nothing stands out on the right."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_every_answer_is_shown(served: Served, browser: Browser, tmp_path: Path) -> None:
    record = served.records[0]
    [answer] = served.predictor.predict([record])
    task = served.kind.removeprefix("boxed ")
    asked = json.dumps(record) if served.kind != task else record["text"]
    with own_server(served.model, tmp_path / "ml") as url:
        for shape, scheme in (("wide", "light"), ("narrow", "dark")):
            page, said = opened(browser, url, shape, scheme)
            page.fill("#text", asked)
            page.press("#text", "Control+Enter")
            page.wait_for_selector("#answer:not([hidden])")
            shown = page.inner_text("#answer")
            if task == "classif":
                assert page.inner_text("#answer h2") == answer["pred"]
                assert page.locator(".bars dt").count() == len(served.predictor.task.labels)
            elif task == "multilabel-classif":
                chips = page.locator(".chips li").all_inner_texts()
                assert [chip.rpartition(" ")[0] for chip in chips] == answer["pred"]
            elif task == "ner":
                marks = page.locator("mark").all_inner_texts()
                entities = answer["entities"]
                assert [mark.split("\n")[0] for mark in marks] == [
                    f"{entity['text']}{entity['label']}" for entity in entities
                ]
                text = page.locator(".text").evaluate(
                    "e => { const c = e.cloneNode(true); c.querySelectorAll('small')"
                    ".forEach(s => s.remove()); return c.textContent; }"
                )
                assert text == record["text"]
            else:
                assert f"{answer['pred']:.3g}"[:4] in shown
            boxes = page.locator(".page rect").count()
            assert boxes == (len(record["text"].split()) if served.kind != task else 0)
            assert "tokens" in shown
            command = page.text_content("#command") or ""
            assert f"{url}/predict" in command
            assert fits(page)
            page.fill(
                "#text", "\u200b" if served.kind == task else '{"text": "a b", "bbox": "1 2"}'
            )
            page.click("#ask [type=submit]")
            page.wait_for_selector("#error:not([hidden])")
            assert "expected" in page.inner_text("#error")
            assert not [line for line in said if "400" not in line], said
            page.close()


@pytest.mark.parametrize("served", ["classif"], indirect=True)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_a_file_is_answered(kind: str, served: Served, browser: Browser, tmp_path: Path) -> None:
    texts = [f'parcel {number}, "late"' for number in range(450)]
    file = tmp_path / f"asked.{kind}"
    if kind == "jsonl":
        lines = [json.dumps({"text": text}) for text in texts]
        lines[7] = "no JSON"
    else:
        sign = "," if kind == "csv" else "\t"
        quoted = (text.replace('"', '""') for text in texts)
        lines = [f"id{sign}text", *(f'{i}{sign}"{text}"' for i, text in enumerate(quoted))]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    with own_server(served.model, tmp_path / "ml") as url:
        page, said = opened(browser, url, "narrow")
        page.click("#tab-file")
        page.set_input_files("#file", file)
        page.wait_for_selector("#download:not([hidden])", timeout=60_000)
        with page.expect_download() as downloading:
            page.click("#download")
        answers = downloading.value.path().read_text("utf-8").splitlines()
        assert "450 of 450 answered" in page.inner_text("#count")
        assert page.locator("#rows tr").count() == 450
        assert fits(page)
        empty = tmp_path / "empty.csv"
        empty.write_text("title\tbody\na\tb\n")
        page.set_input_files("#file", empty)
        page.wait_for_selector("#file-error:not([hidden])")
        assert "expected a header with the column text" in page.inner_text("#file-error")
        assert not said
        page.close()
    found = [json.loads(line) for line in answers]
    expected = [answer["pred"] for answer in served.predictor.predict(texts)]
    if kind == "jsonl":
        assert found[7]["error"]["code"] == "record.not_json"
        del found[7], expected[7]
    assert [answer["pred"] for answer in found] == expected
