"""The examples' documents and notebooks, run word for word with a real encoder."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import snippets
from snippets import ROOT

EXAMPLES = ROOT / "examples"
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
place = {"metadata": {"path": sys.argv[3]}}
NotebookClient(notebook, timeout=900, kernel_name="python3", resources=place).execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return snippets.workplace(tmp_path)


def walk(example: str, place: Path) -> list[list[str]]:
    """What the snippets of an example print."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    ports = dict.fromkeys(("PORT", "REPORTS_PORT"), str(port))
    ran = snippets.run(f"examples/{example}/README.md", place, **ports)
    return [lines for _, lines in ran]


def metric(place: Path, evaluation: str, name: str) -> float:
    """On test, of an evaluation's folder."""
    found = json.loads((place / "build" / evaluation / "metrics.json").read_text("utf-8"))
    assert (place / "build" / evaluation / "report.html").stat().st_size > 10_000
    return float(found[name])


def test_hate_speech(place: Path) -> None:
    [said] = walk("hate_speech", place)
    assert metric(place, "hate_speech-evaluation", "accuracy") > 0.7
    plain, lowered = (json.loads(line)["predictions"] for line in said[-2:])
    assert plain[0]["pred"] == "fine"
    assert lowered[0]["pred"] == "hostile" and set(lowered[0]["scores"]) == {"fine", "hostile"}


def test_stack_overflow(place: Path) -> None:
    [said] = walk("stack_overflow", place)
    assert metric(place, "stack_overflow-evaluation", "accuracy") > 0.7
    assert (place / "build" / "questions.html").is_file()
    answers = (place / "build" / "tags.jsonl").read_text("utf-8").splitlines()
    assert len(answers) == 100 and {len(json.loads(a)["scores"]) for a in answers} == {3}
    assert "docker" in json.loads(said[-1])["scores"]


def test_long_documents(place: Path) -> None:
    walk("long_documents", place)
    found = json.loads((place / "build/reports-compared/metrics.json").read_text("utf-8"))
    windows, truncated = (model["accuracy"] for model in found["models"].values())
    assert windows > 0.7 > truncated  # what tells the place mostly stands beyond a first window
    assert found["differences"]["accuracy"]["significant"]
    answers = (place / "build" / "reports.jsonl").read_text("utf-8").splitlines()
    assert len(answers) == 56 and all("pred" in json.loads(answer) for answer in answers)


def test_receipts(place: Path) -> None:
    [said] = walk("receipts", place)
    assert metric(place, "receipts-evaluation", "f1") > 0.7
    assert len(json.loads(said[-1])["pred"]) == 4


def test_emotions(place: Path) -> None:
    _, [half, chosen, _] = walk("emotions", place)
    one, other = (float(re.findall(r"f1_micro ([\d.]+)", line)[0]) for line in (half, chosen))
    assert other > one
    assert other == pytest.approx(metric(place, "emotions-evaluation", "f1_micro"), abs=1e-3)


def test_entities(place: Path) -> None:
    _, [marked] = walk("entities", place)
    assert metric(place, "entities-evaluation", "f1") > 0.7
    assert "[blood oranges](PRODUCT)" in marked


@pytest.mark.parametrize("name", ["know_your_data", "know_your_model"])
def test_a_notebook_runs_to_its_end(name: str, tmp_path: Path) -> None:
    executed = tmp_path / "executed.ipynb"
    folder = EXAMPLES / "notebooks"
    done = subprocess.run(
        [sys.executable, "-c", RUN, folder / f"{name}.ipynb", executed, folder],
        env={**os.environ, "STEPS": "60"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads(executed.read_text("utf-8"))["cells"]
    pages = [
        "".join(output["data"]["text/html"])
        for cell in cells if cell["cell_type"] == "code"
        for output in cell["outputs"] if "text/html" in output.get("data", {})
    ]  # fmt: skip
    assert len(pages) == (1 if name == "know_your_data" else 2)
    for page in pages:
        assert page.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
