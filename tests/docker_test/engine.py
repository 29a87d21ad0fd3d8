"""A container engine and the images that are tested.

The engine that runs already is taken. Where there is none, one is installed and started on a
machine that is there for it (``machine.py``), with a base image made of Debian's own packages, so
that no registry of images is needed.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from environments import CACHE, REQUIREMENTS
from machine import INSTALL, need

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
BASE = "tfserve-test-base"
PORT = 28_417
"""Always the same, because a build argument that changes spoils the cache of layers."""

LONGEST = 1200
"""Seconds of a build, or of a container that hangs."""


def docker(*arguments: str, **options: object) -> str:
    """What ``docker …`` prints; a failure shows its errors."""
    done = subprocess.run(
        ["docker", *arguments],
        capture_output=True, text=True, check=False, timeout=LONGEST, **options,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return str(done.stdout).strip()


def reachable() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


@contextmanager
def engine() -> Iterator[dict[str, str]]:
    """The build arguments for a base image on an engine that answers; skips where none can be."""
    if reachable():
        yield {}
        return
    if not INSTALL:
        pytest.skip("no container engine answers: start Docker, or see tests/docker_test/README.md")
    need("dockerd", "debootstrap", "iptables")
    folder = CACHE / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    socket = f"unix://{folder}/docker.sock"
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec",
             "--host", socket, "--pidfile", folder / "pid"],
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    os.environ["DOCKER_HOST"] = socket
    try:
        end = time.monotonic() + 60
        while not reachable():
            assert daemon.poll() is None, (folder / "log").read_text("utf-8")[-3000:]
            assert time.monotonic() < end, (folder / "log").read_text("utf-8")[-3000:]
            time.sleep(0.2)
        _make_base(folder)
        yield {"BASE_IMAGE": BASE}
    finally:
        daemon.terminate()
        daemon.wait(60)
        del os.environ["DOCKER_HOST"]


def _make_base(folder: Path) -> None:
    """A Debian with Python, from the mirror that this machine uses itself."""
    if docker("images", "--quiet", BASE):
        return
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    suite = "bookworm"
    command = ["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates",
               suite, root, *_mirror()]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.copyfile(CERTIFICATES, root / "etc/ssl/certs/ca-certificates.crt")
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as packed:
        docker("import", "--change", f"ENV PIP_CERT={CERTIFICATES}", "-", BASE, stdin=packed.stdout)
    assert packed.returncode == 0
    shutil.rmtree(root)


def _mirror() -> list[str]:
    for file in Path("/etc/apt/sources.list.d").glob("*.sources"):
        for line in file.read_text("utf-8").splitlines():
            if line.startswith("URIs:"):
                return [line.split()[1]]
    return []


@contextmanager
def wheels() -> Iterator[dict[str, str]]:
    """The folder that ``PIP_FIND_LINKS`` names, as a build can reach it: by HTTP on loopback."""
    folder = os.environ.get("PIP_FIND_LINKS", "")
    if not Path(folder).is_dir() or not folder:
        yield {name: os.environ[name] for name in ("PIP_FIND_LINKS",) if name in os.environ}
        return
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"PIP_FIND_LINKS": f"http://127.0.0.1:{server.server_port}/"}
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        """No line per request."""


def own_image(base: dict[str, str]) -> str:
    """Our own image; its name."""
    # The torch of this environment, so that one for CPUs stays one.
    torch = f"torch=={version('torch').partition('+')[0]}"
    return _build("tfserve-test", ROOT / "docker/Dockerfile", ROOT, {**base, "TORCH": torch})


def light_image(base: dict[str, str]) -> str:
    """Our own image without torch; its name."""
    return _build("tfserve-test-light", ROOT / "docker/Dockerfile.light", ROOT, base)


def stand_in(name: str, base: dict[str, str], packages: str, more: str = "") -> str:
    """An image with the packages of ``environments/<name>.txt``; its name.

    ``packages`` are Debian's that it needs, ``more`` are Python's that a job would install.
    """
    given = {**base, "REQUIREMENTS": f"{name}.txt", "PACKAGES": packages, "MORE": more}
    return _build(f"tfserve-test-{name}", HERE / "stand-in.Dockerfile", REQUIREMENTS, given)


def _build(tag: str, dockerfile: Path, context: Path, given: dict[str, str]) -> str:
    with wheels() as links:
        passed = {
            name: os.environ[name]
            for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
            if os.environ.get(name, "").startswith("http")
        }
        arguments = {**passed, **links, **given}
        flags = [part for k, v in arguments.items() for part in ("--build-arg", f"{k}={v}")]
        docker("build", "--network=host", "--file", str(dockerfile), "--tag", tag, *flags,
               str(context))  # fmt: skip
    return tag
