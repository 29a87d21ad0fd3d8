"""sagemaker-training as it is: its ``train`` runs our entry point as an Estimator would have it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conformance import KINDS, conformance
from conftest import answered, hyperparameters, sources
from environments import environment, variables
from machine import need
from servers import asker, toolkit

from tfserve.aws.source import source_dir


def layout(base: Path, kind: str, **changed: Any) -> Path:
    """What SageMaker mounts, for a job with one channel per split."""
    pretrained, data = sources(kind, base / "sources")
    config = base / "input" / "config"
    config.mkdir(parents=True)
    (base / "output").mkdir()
    for split, channel in (("train", "train"), ("dev", "validation"), ("test", "test")):
        folder = base / "input" / "data" / channel
        folder.mkdir(parents=True)
        shutil.copyfile(data / f"{split}.csv", folder / f"{split}.csv")
    code = source_dir(base / "job")
    hparams = {**hyperparameters(kind, pretrained), **changed}
    values = {
        **hparams,
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": str(code),
        "sagemaker_region": "eu-west-1",
    }
    files = {
        "hyperparameters": {name: json.dumps(value) for name, value in values.items()},
        "resourceconfig": {"current_host": "localhost", "hosts": ["localhost"]},
        "inputdataconfig": {
            channel: {"TrainingInputMode": "File"} for channel in ("train", "validation", "test")
        },
    }
    for name, content in files.items():
        (config / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return base


def run(base: Path) -> subprocess.CompletedProcess[str]:
    """``train`` of sagemaker-training on transformers 4."""
    need("gcc")
    bin_folder = environment("training-4")
    given = variables(bin_folder, SAGEMAKER_BASE_DIR=str(base))
    return subprocess.run(
        [bin_folder / "train"], env=given, cwd=base, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[-1]])
def test_a_model_trained_under_transformers_4_serves_under_5(kind: str, tmp_path: Path) -> None:
    base = layout(tmp_path / "ml", kind)
    done = run(base)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (base / "output" / "failure").exists()
    assert list((base / "output" / "tensorboard").glob("events.*"))
    metrics = json.loads((base / "output" / "data" / "metrics.json").read_text("utf-8"))
    assert metrics["rows"] == {"train": 24, "dev": 8, "test": 8}
    version = json.loads((base / "model" / "tfserve.json").read_text("utf-8"))["versions"]
    assert version["transformers"].startswith("4.")
    with toolkit("5", base / "model", tmp_path / "served") as url:
        made = answered(kind, base / "model")
        conformance.check("trained under transformers 4, served under 5", made, asker(url))


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"max_stepz": 3}, "did you mean max_steps?"), ({"learning_rate": "fast"}, "a number")],
)
def test_a_wrong_job_ends_with_its_reason(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    base = layout(tmp_path / "ml", "classif", **change)
    assert run(base).returncode != 0
    assert reason in (base / "output" / "failure").read_text("utf-8")
