"""The README's snippets, run word for word as a new user would, in their order."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import snippets
from snippets import ROOT


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return snippets.workplace(tmp_path_factory.mktemp("readme"))


def test_every_snippet_of_the_readme_runs(workplace: Path) -> None:
    ran = snippets.run("README.md", workplace)
    assert [kind for kind, _ in ran] == ["bash", "python", "python", "bash"]
    outputs = [lines for _, lines in ran]
    shell, python, handlers, archive = outputs
    assert shell[-1].startswith('{"pred":"') and shell[-1].endswith('"id":7}')
    answers = (workplace / "answers.jsonl").read_text("utf-8").splitlines()
    table = (ROOT / "examples/data/support_tickets/test.csv").read_text("utf-8").splitlines()
    assert len(answers) == len(table) - 1
    labels = {line.rsplit("\t", 1)[1] for line in table[1:]}
    assert {json.loads(line)["pred"] for line in answers} <= labels
    accuracy = next(float(line) for line in python if line.startswith("0."))
    assert accuracy > 0.5  # six labels; a few steps suffice to be far from chance
    assert json.loads(handlers[-1])["predictions"][0]["pred"] in labels
    assert archive[0].startswith("model.tar.gz: ")
    assert [line.split()[:2] for line in archive[1:]] == [
        ["ok", topic] for topic in ("archive", "model", "versions", "start", "answers")
    ]


def test_the_readme_names_every_column_task_and_document(workplace: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    from tfserve import tasks

    for name in tasks.names():
        assert f"| `{name}` |" in readme
    for link in re.findall(r"\]\(([\w./-]+)\)", readme):
        assert (ROOT / link).is_file(), link
