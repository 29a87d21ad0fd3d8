"""The software of the HuggingFace inference containers as it is: MMS with the toolkit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conformance import JSON, LINES, Served, conformance
from servers import asker, post, toolkit

WRONG = (
    ('{"data": [', JSON, JSON, 400, "body.not_json"),
    ('{"data": [{"text": ""}]}', JSON, JSON, 400, "record.text_empty"),
    ("a,b", "image/png", JSON, 415, "content_type.unsupported"),
    ('{"text": "late"}', LINES, "image/png", 406, "accept.unsupported"),
)
"""Body, its type, that of the answer; the status and the code of the error."""


@pytest.mark.parametrize("version", ["4", "5"])
def test_the_inference_toolkit_answers_as_python_does(
    version: str, served: Served, tmp_path: Path
) -> None:
    with toolkit(version, served.model, tmp_path / "ml") as url:
        conformance.check(f"inference toolkit, transformers {version}", served, asker(url))
        for body, media_type, accept, status, code in WRONG:
            reply = post(url, body, media_type, accept)
            assert (reply.status, json.loads(reply.text)["code"]) == (status, code), reply.text
