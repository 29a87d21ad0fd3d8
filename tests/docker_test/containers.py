"""Containers that train on a tree like SageMaker's ``/opt/ml``, and containers that serve."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from conftest import hyperparameters, sources
from engine import docker
from servers import Reply, free_port, get, post

PRETRAINED = "/opt/ml/input/data/model"
NETWORK = "tfserve-test-inside"
"""A network that leads nowhere: containers in it are reached from this host only."""


def inside() -> str:
    if not docker("network", "ls", "--quiet", "--filter", f"name={NETWORK}"):
        docker("network", "create", "--internal", NETWORK)
    return NETWORK


def tree(folder: Path, kind: str, **changed: Any) -> Path:
    """What SageMaker mounts at /opt/ml for a training job of our own image."""
    pretrained, data = sources(kind, folder / "sources")
    channels, config = folder / "ml" / "input" / "data", folder / "ml" / "input" / "config"
    config.mkdir(parents=True)
    shutil.copytree(pretrained, channels / "model")
    shutil.copytree(data, channels / "train")
    hparams = {**hyperparameters(kind, PRETRAINED), **changed}
    values = {name: json.dumps(str(value)) for name, value in hparams.items()}
    (config / "hyperparameters.json").write_text(json.dumps(values), "utf-8")
    return folder / "ml"


def train(image: str, ml: Path) -> tuple[int, str]:
    """Exit status and log of a training job without a way out."""
    name = docker("run", "--detach", "--network", inside(), "--hostname", "algo-1",
                  "--volume", f"{ml}:/opt/ml", image, "train")  # fmt: skip
    status = int(docker("wait", name))
    log = docker("logs", name)
    docker("rm", name)
    return status, log


class Running:
    """A container that serves a model."""

    def __init__(self, image: str, model: Path, *flags: str, offline: bool = False) -> None:
        port = free_port()
        network = ["--network", inside()] if offline else ["--publish", f"127.0.0.1:{port}:8080"]
        self.name = docker(
            "run", "--detach", *network, "--volume", f"{model}:/opt/ml/model:ro",
            "--env", "TFSERVE_PRECISION=fp32", *flags, image, "serve",
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{port}"
        if offline:
            where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
            self.url = f"http://{docker('inspect', '--format', where, self.name)}:8080"

    def wait(self, status: int = 200) -> str:
        """Until ``/ping`` has that status; its text."""
        return self._until(lambda: get(self.url, "/ping"), status)

    def wait_for_model(self) -> None:
        """Until a request is answered, where ``/ping`` tells nothing of the model."""
        self._until(lambda: post(self.url, json.dumps({"data": []})), 200)

    def _until(self, ask: Any, status: int) -> str:
        end, found = time.monotonic() + 120, None
        while time.monotonic() < end:
            try:
                found = ask()
            except OSError:
                found = None
            if isinstance(found, Reply) and found.status == status and "loading" not in found.text:
                return found.text
            time.sleep(0.1)
        raise AssertionError(f"{found}: {docker('logs', self.name)}")

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        docker("stop", "--time", "30", self.name)
        return int(docker("inspect", "--format", "{{.State.ExitCode}}", self.name))

    def remove(self) -> None:
        docker("rm", "--force", self.name)
