"""The tables of docs/quality.md are those of what was measured."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from snippets import ROOT


def test_the_document_has_the_tables_of_the_results(tmp_path: Path) -> None:
    document = shutil.copy(ROOT / "docs" / "quality.md", tmp_path)
    folder = ROOT / "benchmarks" / "quality"
    command = [sys.executable, folder / "summary.py", folder / "results.jsonl", document]
    subprocess.run(command, check=True, capture_output=True)
    made, kept = (
        # The machine is the one that measured.
        re.sub(r"(?s)(<!-- machine: begin -->).*?(<!-- machine: end -->)", r"\1\2", text)
        for text in ((tmp_path / "quality.md").read_text("utf-8"),
                     (ROOT / "docs" / "quality.md").read_text("utf-8"))
    )  # fmt: skip
    assert made == kept
