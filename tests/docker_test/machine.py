"""What the tests need of a machine beside Python: Java, a compiler, a browser, a container
engine.

What is missing is installed where ``CONTAINER_TESTS_INSTALL=1`` says that the machine is there for
it (Debian, root); elsewhere the tests that need it are skipped, and say what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

PACKAGES = {
    "java": ["default-jre-headless"],
    "gcc": ["gcc", "libc6-dev"],
    "dockerd": ["docker.io"],
    "docker-compose": ["docker-compose"],
    "debootstrap": ["debootstrap"],
    "iptables": ["iptables"],
    "chromium": ["chromium"],
    "nginx": ["nginx-light"],
}
"""Command → Debian's packages that bring it."""

INSTALL = os.environ.get("CONTAINER_TESTS_INSTALL") == "1"


def need(*commands: str) -> None:
    """Have these commands, or skip the test."""
    missing = [command for command in commands if not shutil.which(command)]
    if not missing:
        return
    if not INSTALL:
        pytest.skip(f"needs {', '.join(missing)}: install it, or see tests/docker_test/README.md")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    packages = [package for command in missing for package in PACKAGES[command]]
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        subprocess.run(["apt-get", "-qq", *arguments], env=quiet, check=True)


def need_root() -> None:
    """Skip where this is not root."""
    if os.geteuid() != 0:
        pytest.skip("needs root: the inference toolkit writes its settings to /etc")
