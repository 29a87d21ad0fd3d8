"""Our own image on a real engine: trains, resumes, serves, stops."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Served, answered, difference, hyperparameters, sources
from engine import build, docker, engine
from serving import JSON, LINES, free_port, get, post

CLOSE = 1e-4


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with engine() as base:
        yield build(base)


def tree(folder: Path, kind: str, **changed: Any) -> Path:
    """What SageMaker mounts at /opt/ml for a training job."""
    pretrained, data = sources(kind, folder / "sources")
    channels, config = folder / "ml" / "input" / "data", folder / "ml" / "input" / "config"
    config.mkdir(parents=True)
    shutil.copytree(pretrained, channels / "model")
    shutil.copytree(data, channels / "train")
    hparams = {**hyperparameters(kind, "/opt/ml/input/data/model"), **changed}
    values = {name: json.dumps(str(value)) for name, value in hparams.items()}
    (config / "hyperparameters.json").write_text(json.dumps(values), "utf-8")
    return folder / "ml"


def train(image: str, ml: Path, *flags: str) -> tuple[int, str]:
    """Exit status and log of a training job without a network."""
    name = docker("run", "--detach", "--network=none", *flags, "--volume", f"{ml}:/opt/ml",
                  image, "train")  # fmt: skip
    status = int(docker("wait", name))
    log = docker("logs", name)
    docker("rm", name)
    return status, log


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
    ml = tree(tmp_path, "classif", max_steps=600, eval_steps=50)
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
    assert "'step': 50}" not in first
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


class Running:
    """The image serving a model, read-only but for /tmp, as serverless endpoints are."""

    def __init__(self, image: str, model: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.name = docker(
            "run", "--detach", "--read-only", "--tmpfs", "/tmp", "--publish",
            f"127.0.0.1:{port}:8080", "--volume", f"{model}:/opt/ml/model:ro",
            "--env", "TFSERVE_PRECISION=fp32", image, "serve",
        )  # fmt: skip

    def wait(self, status: int = 200) -> str:
        """Until ``/ping`` has that status; its text."""
        end, found = time.monotonic() + 120, None
        while time.monotonic() < end:
            try:
                found = get(self.url, "/ping")
            except OSError:
                found = None
            if found is not None and found.status == status and "loading" not in found.text:
                return found.text
            time.sleep(0.1)
        raise AssertionError(f"{found}: {docker('logs', self.name)}")

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        docker("stop", "--time", "30", self.name)
        return int(docker("inspect", "--format", "{{.State.ExitCode}}", self.name))

    def remove(self) -> None:
        docker("rm", "--force", self.name)


@pytest.fixture
def serve(image: str) -> Iterator[Any]:
    started: list[Running] = []

    def start(model: Path) -> Running:
        started.append(Running(image, model))
        return started[-1]

    yield start
    for running in started:
        running.remove()


def test_the_model_of_a_job_is_served_as_python_answers(trained: Path, serve: Any) -> None:
    made = answered("classif", trained / "model")
    _asks(serve(made.model), made)


def test_every_kind_of_model_is_served_as_python_answers(served: Served, serve: Any) -> None:
    _asks(serve(served.model), served)


def _asks(running: Running, made: Served) -> None:
    running.wait()
    asked = json.dumps({"data": made.records, "parameters": made.parameters})
    lines = "".join(json.dumps(record) + "\n" for record in made.records)
    for body, content_type, expected in (
        (asked, JSON, made.scored),
        (lines, LINES, made.answers),
    ):
        for accept in (JSON, LINES):
            reply = post(running.url, body, content_type, accept)
            assert (reply.status, reply.media_type) == (200, accept), reply.text
            found = (
                json.loads(reply.text)["predictions"]
                if accept == JSON
                else [json.loads(line) for line in reply.text.splitlines()]
            )
            assert difference(found, expected) < CLOSE
    parameters = json.loads(get(running.url, "/execution-parameters").text)
    assert parameters["BatchStrategy"] == "MULTI_RECORD"
    user = docker("exec", running.name, "sh", "-c", "grep ^Uid: /proc/1/status")
    assert user.split()[1:] == ["990"] * 4
    docker("exec", running.name, "healthy")  # fails where it is not
    assert running.stop() == 0


def test_a_damaged_model_never_becomes_healthy(trained: Path, serve: Any, tmp_path: Path) -> None:
    model = Path(shutil.copytree(trained / "model", tmp_path / "model"))
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    running = serve(model)
    assert "is not the file that training wrote" in running.wait(503)
    assert running.stop() == 0


def test_the_image_holds_no_compiler(image: str) -> None:
    found = docker("run", "--rm", image, "sh", "-c", "command -v gcc cc make pip || true")
    assert found == ""
