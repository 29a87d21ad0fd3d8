"""docker/compose.yaml on a real engine: our image behind nginx, as one host runs them."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest
from conformance import Served, conformance
from engine import ROOT, docker
from machine import need
from servers import asker, free_port, get

NGINX = """
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get -qq update && apt-get -qq install -y --no-install-recommends nginx-light
"""


def nginx_image(base: dict[str, str]) -> str:
    """nginx from Debian's packages."""
    name, image = "tfserve-test-nginx", base.get("BASE_IMAGE", "python:3.12-slim")
    docker("build", "--network=host", "--tag", name, "--build-arg", f"BASE_IMAGE={image}", "-",
           input=NGINX)  # fmt: skip
    return name


@pytest.mark.parametrize("served", ["classif"], indirect=True)
def test_the_server_behind_nginx(served: Served, image: str, base: dict[str, str]) -> None:
    need("docker-compose")
    port = free_port()
    changed = {
        "IMAGE": image,
        "NGINX_IMAGE": nginx_image(base),
        "MODEL": str(served.model),
        "HTTP_PORT": str(port),
        "HTTPS_PORT": str(free_port()),
        "COMPOSE_PROJECT_NAME": "tfservetest",
    }
    given = {**os.environ, **changed}
    compose = ["docker-compose", "--file", str(ROOT / "docker" / "compose.yaml")]

    def run(*arguments: str) -> str:
        done = subprocess.run([*compose, *arguments], env=given, capture_output=True, text=True,
                              check=False, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    try:
        run("up", "--detach")
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while True:
            try:
                if get(url, "/ping").status == 200:
                    break
            except OSError:
                pass
            assert time.monotonic() < end, run("logs")
            time.sleep(0.5)
        conformance.check("our own image behind nginx", served, asker(url))
        for name in ("tfserve", "nginx"):
            [container] = docker("ps", "--quiet", "--filter", f"name=tfservetest_{name}").split()
            user = docker("exec", container, "sh", "-c", "grep ^Uid: /proc/1/status").split()[1]
            assert user != "0"
        info = json.loads(get(url, "/info").text)
        assert info["task_name"] == "classif"
        run("stop")
        states = docker("ps", "--all", "--format", "{{.Names}} {{.Status}}").splitlines()
        ended = [state for state in states if state.startswith("tfservetest")]
        assert len(ended) == 2 and all("Exited (0)" in state for state in ended), states
    finally:
        run("down")
