"""What the OpenAPI document says, tried with requests made from it, good ones and bad ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conformance import Served
from environments import environment, variables
from servers import own_server

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance", "unsupported_method",
)  # fmt: skip


@pytest.mark.parametrize("served", ["classif", "boxed ner"], indirect=True)
def test_nothing_answers_otherwise_than_it_says(served: Served, tmp_path: Path) -> None:
    bin_folder = environment("schemathesis")
    with own_server(served.model, tmp_path / "ml") as url:
        done = subprocess.run(
            [bin_folder / "st", "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS),
             "--max-examples", "60", "--generation-deterministic"],
            env=variables(bin_folder), cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    log = (tmp_path / "ml" / "log").read_text("utf-8")
    assert '"level":"error"' not in log
