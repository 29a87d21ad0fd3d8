"""Documents' snippets, run word for word as a new user would, in their order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SNIPPET = re.compile(r"^```(bash|python)\n(.*?)^```", re.M | re.S)


def workplace(folder: Path) -> Path:
    """Where snippets find the examples and leave what they write."""
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def run(document: str, folder: Path, **variables: str) -> list[tuple[str, list[str]]]:
    """Kind and printed lines of every snippet of a document."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = []
    for kind, code in SNIPPET.findall((ROOT / document).read_text("utf-8")):
        command = ["bash", "-euc", code] if kind == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "PATH": path, **variables},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        found.append((kind, done.stdout.splitlines()))
    return found
