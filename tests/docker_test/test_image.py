"""Our own image on a real engine: trains, resumes, serves, stops."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import Served, conformance
from conftest import answered
from containers import Running, train, tree
from engine import docker, light_image
from servers import asker, get

from tfserve.export import export

READ_ONLY = ("--read-only", "--tmpfs", "/tmp")
"""As the file systems of serverless endpoints are."""


@pytest.fixture(scope="module")
def trained(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree after a training job."""
    ml = tree(tmp_path_factory.mktemp("image"), "classif")
    status, log = train(image, ml)
    assert status == 0, log
    return ml


def test_training_writes_what_sagemaker_takes(trained: Path) -> None:
    assert (trained / "model" / "code" / "inference.py").is_file()
    assert (trained / "output" / "data" / "metrics.json").is_file()
    assert not (trained / "output" / "failure").exists()


def test_a_job_that_is_stopped_goes_on(image: str, tmp_path: Path) -> None:
    ml = tree(tmp_path, "classif", max_steps=200, eval_steps=20)
    name = docker("run", "--detach", "--volume", f"{ml}:/opt/ml", image, "train")
    end = time.monotonic() + 120
    while not list((ml / "checkpoints").glob("checkpoint-*")):
        assert time.monotonic() < end, docker("logs", name)
        time.sleep(0.1)
    docker("stop", "--time", "60", name)
    assert int(docker("inspect", "--format", "{{.State.ExitCode}}", name)) == 143
    docker("rm", name)
    assert not (ml / "model" / "tfserve.json").exists()
    status, log = train(image, ml)
    assert status == 0, log
    first = next(line for line in log.splitlines() if line.startswith("{'loss'"))
    assert "'step': 20}" not in first
    assert (ml / "model" / "tfserve.json").is_file()


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"max_stepz": "3"}, "did you mean max_steps?"), ({"task_name": "clasif"}, "classif")],
)
def test_a_wrong_job_says_why(
    change: dict[str, str], reason: str, image: str, tmp_path: Path
) -> None:
    ml = tree(tmp_path, "classif", **change)
    status, _ = train(image, ml)
    assert status == 1
    assert reason in (ml / "output" / "failure").read_text("utf-8")


@pytest.fixture
def serve(image: str) -> Iterator[Any]:
    started: list[Running] = []

    def start(model: Path) -> Running:
        started.append(Running(image, model, *READ_ONLY))
        return started[-1]

    yield start
    for running in started:
        running.remove()


def test_the_model_of_a_job_is_served_as_python_answers(trained: Path, serve: Any) -> None:
    _asks(serve(trained / "model"), "job of our own image", answered("classif", trained / "model"))


def test_every_kind_of_model_is_served_as_python_answers(served: Served, serve: Any) -> None:
    _asks(serve(served.model), "our own image", served)


def test_an_exported_model_is_served_without_torch(
    served: Served, base: dict[str, str], tmp_path: Path
) -> None:
    image = light_image(base)
    found, _ = export(served.model, "openvino", output=tmp_path / "light")
    running = Running(image, found.path, *READ_ONLY)
    try:
        _asks(running, "an exported model on our light image", served)
    finally:
        running.remove()
    absent = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('transformers'))"
    assert docker("run", "--rm", image, "python", "-c", absent) == "None None"


def _asks(running: Running, surface: str, served: Served) -> None:
    running.wait()
    conformance.check(surface, served, asker(running.url))
    parameters = json.loads(get(running.url, "/execution-parameters").text)
    assert parameters["BatchStrategy"] == "MULTI_RECORD"
    user = docker("exec", running.name, "sh", "-c", "grep ^Uid: /proc/1/status")
    assert user.split()[1:] == ["990"] * 4
    docker("exec", running.name, "healthy")  # fails where it is not
    assert running.stop() == 0


def _tampered(model: Path) -> None:
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)


def _of_the_future(model: Path) -> None:
    manifest = json.loads((model / "tfserve.json").read_text("utf-8"))
    manifest["schema"] += 1
    (model / "tfserve.json").write_text(json.dumps(manifest), "utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_tampered, "is not the file that training wrote"),
        (_of_the_future, "found schema version 2"),
        (lambda model: (model / "tfserve.json").unlink(), "tfserve.json"),
        (lambda model: (model / "model.safetensors").unlink(), "model.safetensors"),
    ],
)
def test_a_damaged_model_never_becomes_healthy(
    damage: Any, said: str, trained: Path, serve: Any, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(trained / "model", tmp_path / "model"))
    damage(model)
    running = serve(model)
    assert said in running.wait(503)
    assert running.stop() == 0


def test_our_image_needs_no_code_folder(trained: Path, serve: Any, tmp_path: Path) -> None:
    model = Path(shutil.copytree(trained / "model", tmp_path / "model"))
    shutil.rmtree(model / "code")
    serve(model).wait()


def test_the_image_holds_no_compiler(image: str) -> None:
    found = docker("run", "--rm", image, "sh", "-c", "command -v gcc cc make pip || true")
    assert found == ""
