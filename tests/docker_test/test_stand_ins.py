"""Images like those of HuggingFace on SageMaker: they train and, without a network, they serve."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conformance import Served, conformance
from conftest import answered
from containers import Running, train, tree
from engine import docker
from servers import asker

from tfserve.aws.source import source_dir

NETWORKS = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"


def test_the_inference_image_serves_every_kind_of_model_without_a_network(
    served: Served, inference_image: str
) -> None:
    running = Running(inference_image, served.model, offline=True)
    try:
        running.wait_for_model()
        [network] = docker("inspect", "--format", NETWORKS, running.name).split()
        assert docker("network", "inspect", "--format", "{{.Internal}}", network) == "true"
        surface = "image like HuggingFace's for inference, no network"
        conformance.check(surface, served, asker(running.url))
    finally:
        running.remove()


def job(folder: Path, **changed: str) -> Path:
    """What SageMaker mounts for a job of the training toolkit."""
    ml = tree(folder, "classif", **changed)
    (ml / "output").mkdir()
    shutil.copytree(source_dir(folder / "source"), ml / "input" / "data" / "code")
    config = ml / "input" / "config"
    values = json.loads((config / "hyperparameters.json").read_text("utf-8"))
    values |= {
        "sagemaker_program": '"train.py"',
        "sagemaker_submit_directory": '"/opt/ml/input/data/code"',
        "sagemaker_region": '"eu-west-1"',
    }
    channels = {name: {"TrainingInputMode": "File"} for name in ("train", "model")}
    for name, content in (
        ("hyperparameters", values),
        ("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"]}),
        ("inputdataconfig", channels),
    ):
        (config / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return ml


def test_the_training_image_trains_a_model_that_the_inference_image_serves(
    training_image: str, inference_image: str, tmp_path: Path
) -> None:
    ml = job(tmp_path)
    status, log = train(training_image, ml)
    assert status == 0, log[-3000:]
    made = answered("classif", ml / "model")
    running = Running(inference_image, ml / "model", offline=True)
    try:
        running.wait_for_model()
        surface = "job of an image like HuggingFace's, no network"
        conformance.check(surface, made, asker(running.url))
    finally:
        running.remove()


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"task_name": "clasif"}, "classif"), ({"model_name": "/opt/ml/none"}, "/opt/ml/none")],
)
def test_a_wrong_job_leaves_its_reason(
    change: dict[str, str], reason: str, training_image: str, tmp_path: Path
) -> None:
    ml = job(tmp_path, **change)
    status, _ = train(training_image, ml)
    assert status != 0
    assert reason in (ml / "output" / "failure").read_text("utf-8")
