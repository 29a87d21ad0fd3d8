"""Fixtures that several test files share: models are made once a session and never changed."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub's client is imported

import shutil
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest
import tiny

import tfserve
from tfserve import conversion
from tfserve.predictor import Predictor

# The suite tests the same examples every time; ``HYPOTHESIS_PROFILE=explore`` looks for new ones.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=5000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


class Trained(Protocol):
    """``trained(task, family, boxed=…, **hparams)``: the model directory of such a training.

    By default the family is bert, and boxes are used where the family knows them. It is shared: a
    test that changes the directory takes ``copied``, which is called likewise.
    """

    def __call__(
        self, task: str, family: str = "bert", *, boxed: bool | None = None, **hparams: Any
    ) -> Path: ...


class Loaded(Protocol):
    """Called as ``Trained``: the predictor of that model directory, in fp32."""

    def __call__(
        self, task: str, family: str = "bert", *, boxed: bool | None = None, **hparams: Any
    ) -> Predictor: ...


class PretrainedFolder(Protocol):
    """``pretrained(family)``: the folder of a tiny pretrained encoder."""

    def __call__(self, family: str = "bert") -> Path: ...


class Graph(Protocol):
    """``graph(engine, folder)``: the folder with the graph of a model directory, made here."""

    def __call__(self, engine: str, folder: Path) -> Path: ...


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> PretrainedFolder:
    made: dict[str, Path] = {}

    def make(family: str = "bert") -> Path:
        if family not in made:
            # With weights as small as transformers' own, all texts would get nearly one answer.
            folder = tmp_path_factory.mktemp("pretrained") / family
            made[family] = tiny.model(folder, family, initializer_range=0.2)
        return made[family]

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, pretrained: PretrainedFolder) -> Trained:
    made: dict[tuple[Any, ...], Path] = {}

    def make(task: str, family: str = "bert", *, boxed: bool | None = None, **hparams: Any) -> Path:
        boxed = family in tiny.BOXED if boxed is None else boxed
        key = (task, family, boxed, *sorted(hparams.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{task}-{family}")
            tfserve.train(
                tiny.hparams(task, pretrained(family), use_bbox=boxed, **hparams),
                train_dir=tiny.data(folder / "data", task, boxed),
                model_dir=folder / "model",
            )
            made[key] = folder / "model"
        return made[key]

    return make


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Trained:
    def make(task: str, family: str = "bert", *, boxed: bool | None = None, **hparams: Any) -> Path:
        source = trained(task, family, boxed=boxed, **hparams)
        return Path(shutil.copytree(source, tmp_path / "copied"))

    return make


@pytest.fixture(scope="session")
def loaded(trained: Trained) -> Loaded:
    made: dict[Path, Predictor] = {}

    def make(
        task: str, family: str = "bert", *, boxed: bool | None = None, **hparams: Any
    ) -> Predictor:
        folder = trained(task, family, boxed=boxed, **hparams)
        if folder not in made:
            made[folder] = tfserve.load(folder, precision="fp32")
        return made[folder]

    return make


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    made: dict[tuple[str, Path], Path] = {}

    def make(engine: str, folder: Path) -> Path:
        if (engine, folder) not in made:
            target = tmp_path_factory.mktemp(engine)
            conversion.main(engine, folder, target)
            made[engine, folder] = target
        return made[engine, folder]

    return make
