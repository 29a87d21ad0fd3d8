"""docs/reference.md holds every code, metric and parameter that there is, and no other."""

from __future__ import annotations

import importlib
import re

import pytest
from snippets import ROOT

from tfserve import codecs, strict_json, tasks
from tfserve.cli import cli
from tfserve.parameters import RULES
from tfserve.records import MAX_CHARACTERS, Record

FAMILIES = "body|record|parameters|accept|content_type|server|access|data|label|answer"
OTHERS = "hparams|settings|model|archive|storage|training|install|endpoint|aws"
FILES = (".json", ".onnx", ".safetensors", ".xml", ".yaml")
REFERENCE = (ROOT / "docs/reference.md").read_text("utf-8")


def part(title: str) -> str:
    """What stands under a heading."""
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def raised(families: str) -> set[str]:
    """The codes in the source."""
    files = [*(ROOT / "src/tfserve").rglob("*.py"), *(ROOT / "src/tfserve").rglob("*.yaml")]
    code = re.compile(rf'"((?:{families})\.[a-z0-9_]+)"')
    found = {name for file in files for name in code.findall(file.read_text("utf-8"))}
    return {name for name in found if not name.endswith(FILES)}


def test_every_code_of_requests_and_tables_is_explained() -> None:
    said = set(re.findall(rf"`((?:{FAMILIES})\.[a-z0-9_]+)`", REFERENCE))
    assert said == raised(FAMILIES)


def test_every_other_family_of_codes_is_named() -> None:
    said = set(re.findall(r"`(\w+)\.(?:…|\w+)`", part("Problems of tables")))
    families = {code.split(".")[0] for code in raised(OTHERS)}
    assert families == set(OTHERS.split("|"))
    assert families <= said


def test_every_command_is_named_with_its_python() -> None:
    row = r"^\| (`[a-z]+`(?:, `[a-z]+`)*) \| .* \| `(tfserve[\w.]+)` \| "
    rows = re.findall(row, part("Commands"), re.MULTILINE)
    assert {name for names, _ in rows for name in re.findall(r"\w+", names)} == set(cli.commands)
    for _, dotted in rows:
        module, name = dotted.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), name)), dotted


def test_every_metric_is_named_with_the_one_that_chooses() -> None:
    rows = re.findall(r"^\| ([\w-]+) \| (`.*) \|$", part("Metrics"), re.MULTILINE)
    said = {name: re.findall(r"`(\w+)`(\*?)", cell) for name, cell in rows}
    assert said.pop("all") == [("loss", "")]
    kinds = {name: tasks.get(name) for name in tasks.names()}
    assert said == {
        name: [(metric, "*" * (metric == kind.metric)) for metric in kind.metric_names]
        for name, kind in kinds.items()
    }


def test_every_parameter_and_media_type_is_named() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| ", part("Requests"), re.MULTILINE)) == set(RULES)
    assert set(re.findall(r"`(\w+/[\w-]+)`", part("Requests"))) - set(codecs.DECODERS) == {
        "application/x-www-form-urlencoded"
    }
    assert set(codecs.DECODERS) <= set(re.findall(r"`(\w+/[\w-]+)`", part("Requests")))


@pytest.mark.parametrize("name", tasks.names())
def test_the_keys_of_answers_are_those_of_the_schema(name: str) -> None:
    row = re.search(rf"^\| {name} \| (.*) \|$", part("Answers"), re.MULTILINE)
    assert row is not None
    schema = tasks.get(name).answer_schema
    assert set(schema["required"]) <= set(re.findall(r"`(\w+)`", row[1]))


def test_limits_are_those_of_the_code() -> None:
    assert f"{MAX_CHARACTERS:,} characters" in part("Records")
    assert f"{strict_json.MAX_DEPTH} levels deep" in part("Requests")


NESTED = [[0, 0, 10, 10], [10, 0, 20, 10]]


@pytest.mark.parametrize("boxes", [NESTED, [*NESTED[0], *NESTED[1]], "0 0 10 10, 10 0 20 10"])
def test_boxes_may_be_written_as_it_says(boxes: object) -> None:
    record = Record.parse({"text": "two words", "bbox": boxes}, use_bbox=True)
    assert record.bbox is not None
    assert record.bbox.tolist() == NESTED
