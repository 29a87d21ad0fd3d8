"""The surfaces that need nothing but this project: handlers, command line, our own server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conformance import LINES, Served, conformance
from servers import asker, own_server

from tfserve.handlers import input_fn, model_fn, output_fn, predict_fn


def test_the_handlers_answer_as_python_does(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFSERVE_PRECISION", "fp32")
    model = model_fn(str(served.model))

    def ask(body: str, content_type: str, accept: str) -> str:
        return str(output_fn(predict_fn(input_fn(body, content_type), model), accept))

    conformance.check("handlers in Python", served, ask)


def test_the_command_line_answers_as_python_does(served: Served, tmp_path: Path) -> None:
    def ask(body: str, content_type: str, accept: str) -> str:
        asked, answered = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        asked.write_text(body, "utf-8")
        command = [sys.executable, "-m", "tfserve", "predict", served.model, asked,
                   "--output", answered, "--precision", "fp32"]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        return answered.read_text("utf-8")

    conformance.check("`tfserve predict`", served, ask, [(LINES, LINES)])


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnx"])
def test_our_server_answers_as_python_does(engine: str, served: Served, tmp_path: Path) -> None:
    with own_server(served.model, tmp_path / "server", engine=engine) as url:
        conformance.check(f"`tfserve serve` by {engine}", served, asker(url))
