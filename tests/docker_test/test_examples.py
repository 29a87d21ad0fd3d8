"""The examples for AWS run: the notebook in local mode, the script against a stand-in for AWS."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path
from typing import Any

import tiny
from cloud import BUCKET, ROLE, Cloud
from environments import environment, variables
from machine import need

EXAMPLES = Path(__file__).parents[2] / "examples" / "aws"
NAME = "tfserve-example-tickets"
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def test_the_notebook_trains_deploys_transforms_and_cleans_up(
    training_image: str, inference_image: str, aws: Cloud, tmp_path: Path
) -> None:
    need("docker-compose")
    bin_folder, executed = environment("sdk-2"), tmp_path / "executed.ipynb"
    given = variables(
        bin_folder,
        **aws.variables,
        TRAINING_IMAGE=training_image,
        INFERENCE_IMAGE=inference_image,
        SAGEMAKER_ROLE=ROLE,
        PRETRAINED=str(tiny.model(tmp_path / "pretrained", initializer_range=0.1)),
        TABLES=str(tiny.data(tmp_path / "tables", "classif")),
    )
    command = [
        bin_folder / "python",
        "-c",
        RUN,
        EXAMPLES / "train_deploy_transform.ipynb",
        executed,
    ]
    done = subprocess.run(
        command, env=given, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers, lines = (_shown(executed, name) for name in ("answers", "lines"))
    assert [len(answer["scores"]) for answer in answers] == [2, 2]
    assert lines[0]["id"] == 1 and "pred" in lines[0]
    assert lines[1]["id"] == 2 and lines[1]["error"]["code"] == "record.text_empty"
    assert "Contents" not in aws.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"{NAME}/")


def _shown(notebook: Path, name: str) -> Any:
    """What the cell that ends with ``name`` shows."""
    for cell in json.loads(notebook.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code" and "".join(cell["source"]).endswith(f"\n{name}"):
            [shown] = [out for out in cell["outputs"] if out["output_type"] == "execute_result"]
            return ast.literal_eval("".join(shown["data"]["text/plain"]))
    raise AssertionError(name)


def script(aws: Cloud, *arguments: str) -> str:
    """What ``jobs_v3.py`` prints as its last line."""
    bin_folder = environment("sdk-3")
    done = subprocess.run(
        [bin_folder / "python", "-W", "ignore", EXAMPLES / "jobs_v3.py", *arguments],
        env=variables(bin_folder, **aws.variables), cwd=EXAMPLES,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout.splitlines()[-1]


def test_the_script_trains_transforms_and_cleans_up(aws: Cloud, tmp_path: Path) -> None:
    tables = str(tiny.data(tmp_path / "tables", "classif"))
    said = script(aws, "train", "--role", ROLE, "--bucket", BUCKET, "--no-wait", tables)
    job, model = said.split(": ")
    sagemaker = aws.client("sagemaker")
    found = sagemaker.describe_training_job(TrainingJobName=job)
    folder = found["OutputDataConfig"]["S3OutputPath"]
    assert model == f"{folder}/{job}/output/model.tar.gz"
    assert found["EnableManagedSpotTraining"] is True
    assert found["CheckpointConfig"]["S3Uri"] == f"s3://{BUCKET}/{NAME}/checkpoints"
    sagemaker.create_model(  # what `deploy` makes at AWS; the stand-in cannot take its request
        ModelName=NAME,
        PrimaryContainer={"Image": "tfserve", "ModelDataUrl": f"s3://{BUCKET}/model.tar.gz"},
        ExecutionRoleArn=ROLE,
        VpcConfig={"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
    )
    asked = tmp_path / "tickets.jsonl"
    asked.write_text('{"text": "late"}\n', "utf-8")
    said = script(aws, "transform", "--bucket", BUCKET, "--no-wait", str(asked))
    job, answered = said.split(": ")
    assert answered == f"s3://{BUCKET}/{NAME}/answered/tickets.jsonl.out"
    found = sagemaker.describe_transform_job(TransformJobName=job)
    source = found["TransformInput"]["DataSource"]["S3DataSource"]
    assert source["S3Uri"] == f"s3://{BUCKET}/{NAME}/asked/tickets.jsonl"
    assert script(aws, "clean-up", "--yes", "--bucket", BUCKET).startswith("deleted ")
    assert "Contents" not in aws.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"{NAME}/")
    assert NAME not in [model["ModelName"] for model in sagemaker.list_models()["Models"]]
