"""The source directory that a training job carries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfserve.aws.source import requirements, source_dir
from tfserve.errors import StorageError


def test_it_holds_all_that_a_container_lacks(tmp_path: Path) -> None:
    folder = source_dir(tmp_path / "source")
    for name in ("train.py", "tfserve/job.py", "jsonlines/__init__.py", "attr/__init__.py"):
        assert (folder / name).is_file(), name
    assert not list(folder.rglob("__pycache__"))


def test_its_requirements_leave_a_container_s_torch_alone() -> None:
    names = {line.split(">")[0].split("=")[0].split("<")[0] for line in requirements()}
    assert {"accelerate", "scipy", "matplotlib", "click", "tqdm"} <= names
    assert not names & {"torch", "transformers", "tokenizers", "numpy", "safetensors", "pytest"}


def test_its_entry_point_runs_its_own_tfserve(tmp_path: Path) -> None:
    folder = source_dir(tmp_path / "source")
    mark = 'raise SystemExit("the tfserve beside the entry point")\n'
    (folder / "tfserve" / "job.py").write_text(mark, "utf-8")
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=folder,
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "the tfserve beside the entry point" in done.stderr


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(StorageError, match="expected a new or empty folder"):
        source_dir(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
