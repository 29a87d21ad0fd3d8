"""The software of the HuggingFace inference containers as it is: MMS with the toolkit."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance import Served, conformance
from serving import asker, toolkit


@pytest.mark.parametrize("version", ["4", "5"])
def test_the_inference_toolkit_answers_as_python_does(
    version: str, served: Served, tmp_path: Path
) -> None:
    with toolkit(version, served.model, tmp_path / "ml") as url:
        conformance.check(f"inference toolkit, transformers {version}", served, asker(url))
