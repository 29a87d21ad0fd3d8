"""Environments with the packages of SageMaker's containers and SDKs, made once and kept.

They lie under ``CONTAINER_TESTS_CACHE`` (default ``~/.cache/tfserve-tests``), each named by a
digest of its requirements, so that a change of those makes another.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "environments"
CACHE = Path(os.environ.get("CONTAINER_TESTS_CACHE", "~/.cache/tfserve-tests")).expanduser()


def environment(name: str, described: Path = REQUIREMENTS) -> Path:
    """The ``bin`` folder of the environment that ``<name>.txt`` in ``described`` describes."""
    requirements = described / f"{name}.txt"
    key = requirements.read_bytes() + sys.version.encode()
    folder = CACHE / f"{name}-{hashlib.sha256(key).hexdigest()[:12]}"
    ready = folder / "ready"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--requirement", requirements], check=True)
        ready.touch()
    return folder / "bin"


def variables(bin_folder: Path, **more: str) -> dict[str, str]:
    """The variables of a process of that environment: its commands first, nothing of tfserve's."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TFSERVE_", "SM_"))}
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    return {**inherited, "PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}
