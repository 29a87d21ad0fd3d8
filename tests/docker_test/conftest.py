"""The kinds of models that every surface must serve alike, what they are asked, and stand-ins."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit_tests"))  # for the tiny models

import tiny  # noqa: E402
from cloud import Cloud, cloud  # noqa: E402
from conformance import KINDS, Served, conformance  # noqa: E402
from engine import engine, own_image, stand_in  # noqa: E402
from machine import need  # noqa: E402
from playwright.sync_api import Browser, sync_playwright  # noqa: E402

import tfserve  # noqa: E402
from tfserve.aws.source import requirements  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance", type=Path, help="write the table of surfaces into this file")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    terminalreporter.section("the largest difference from Python's answers")
    terminalreporter.write(conformance.table())
    if file := config.getoption("--conformance"):
        conformance.write(file)


def records(kind: str) -> list[dict[str, Any]]:
    """Short and long ones, with a key that comes back."""
    boxed = kind.startswith("boxed ")
    columns = ("text", "bbox") if boxed else ("text",)
    rows = tiny.rows(kind.removeprefix("boxed "), 12, boxed)
    made: list[dict[str, Any]] = [dict(zip(columns, row, strict=False)) for row in rows]
    long_text: dict[str, Any] = {"text": "parcel and invoice " * 60}
    if boxed:
        long_text["bbox"] = "1 2 3 4 " * 180
    return [{**record, "id": i} for i, record in enumerate([*made, long_text])]


def hyperparameters(kind: str, pretrained: Path | str) -> dict[str, Any]:
    """Of a short run that learns something."""
    task = kind.removeprefix("boxed ")
    return tiny.hparams(
        task, Path(pretrained), max_steps=40, eval_steps=20, learning_rate=4e-3,
        use_bbox=kind.startswith("boxed "),
    )  # fmt: skip


def sources(kind: str, folder: Path) -> tuple[Path, Path]:
    """A tiny pretrained model and tables for it."""
    boxed = kind.startswith("boxed ")
    family = "layoutlm" if boxed else "bert"
    return (
        tiny.model(folder / "pretrained", family, initializer_range=0.1),
        tiny.data(folder / "data", kind.removeprefix("boxed "), boxed),
    )


def answered(kind: str, model: Path) -> Served:
    """A model directory with the answers that this Python gives."""
    return Served.load(kind, model, records(kind))


@pytest.fixture(scope="session", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    kind = request.param
    folder = tmp_path_factory.mktemp(kind.replace(" ", "-"))
    pretrained, data = sources(kind, folder)
    hparams = hyperparameters(kind, pretrained)
    tfserve.train(hparams, train_dir=data, model_dir=folder / "model")
    return answered(kind, folder / "model")


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A stand-in for AWS."""
    with cloud(tmp_path_factory.mktemp("cloud")) as found:
        yield found


@pytest.fixture(scope="session")
def base() -> Iterator[dict[str, str]]:
    """Build arguments for images on the engine."""
    with engine() as found:
        yield found


@pytest.fixture(scope="session")
def image(base: dict[str, str]) -> str:
    """Our own image."""
    return own_image(base)


@pytest.fixture(scope="session")
def inference_image(base: dict[str, str]) -> str:
    """Stands in for the HuggingFace inference image with transformers 4."""
    return stand_in("inference-4", base, "default-jre-headless")


@pytest.fixture(scope="session")
def training_image(base: dict[str, str]) -> str:
    """Stands in for the HuggingFace training image with transformers 4."""
    compiler = "gcc g++ libc6-dev python3-dev"
    return stand_in("training-4", base, compiler, more=" ".join(requirements()))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need("chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield found
        found.close()
