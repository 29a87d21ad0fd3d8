"""The software of the HuggingFace containers, as it is: MMS with the inference toolkit, and
sagemaker-training, on transformers 4 and 5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Served, difference
from serving import JSON, LINES, post, toolkit

CLOSE = 1e-4


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("version", ["4", "5"])
def test_the_inference_toolkit_answers_as_python_does(
    version: str, served: Served, tmp_path: Path
) -> None:
    asked = json.dumps({"data": served.records, "parameters": served.parameters})
    as_lines = "".join(json.dumps(record) + "\n" for record in served.records)
    with toolkit(version, served.model, tmp_path / "ml") as url:
        reply = post(url, asked)
        assert (reply.status, reply.media_type) == (200, JSON), reply.text
        assert difference(json.loads(reply.text)["predictions"], served.scored) < CLOSE
        assert difference(lines(post(url, asked, JSON, LINES).text), served.scored) < CLOSE
        for accept in (JSON, LINES):
            reply = post(url, as_lines, LINES, accept)
            assert (reply.status, reply.media_type) == (200, accept), reply.text
            found = lines(reply.text) if accept == LINES else json.loads(reply.text)["predictions"]
            assert difference(found, served.answers) < CLOSE
