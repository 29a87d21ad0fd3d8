"""The architecture of docs/design.md: a module imports only from rooms above its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from snippets import ROOT

PACKAGE = ROOT / "src/tfserve"
TABLE = re.compile(r"^\| (`[^|]+) \|", re.MULTILINE)
TOP = ("__init__", "__main__")
"""What users import, and what starts: these stand above all rooms."""


def rooms() -> dict[str, int]:
    """Room → its place, from the top."""
    text = (ROOT / "docs/design.md").read_text("utf-8").split("## Rooms")[1].split("\n## ")[0]
    rows = [re.findall(r"`([\w]+)(?:\.py|/)`", row) for row in TABLE.findall(text)]
    return {name: place for place, row in enumerate(rows) for name in row}


def room(module: str) -> str:
    """Of a dotted name within the package."""
    return module.split(".")[0]


def imports(file: Path) -> Iterator[str]:
    """Modules of tfserve that a file imports, anywhere in it, without the package's name."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name[8:] for a in node.names if a.name.startswith("tfserve."))
        elif isinstance(node, ast.ImportFrom) and node.module == "tfserve":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tfserve."):
            yield str(node.module)[8:]


FILES = sorted(
    file for file in PACKAGE.rglob("*.py") if file.stem not in TOP or file.parent != PACKAGE
)


def test_every_module_has_a_room() -> None:
    names = {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES}
    assert names == set(rooms())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_imports_from_rooms_above_its_own(file: Path) -> None:
    places = rooms()
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imports(file):
        if room(module) != own and room(module) in places:
            assert places[room(module)] <= places[own], f"{own} imports {module}"
