"""Train, deploy, transform and clean up with version 3 of the SageMaker Python SDK.

    python jobs_v3.py train --role ROLE --bucket BUCKET ../data/support_tickets
    python jobs_v3.py deploy --role ROLE s3://…/model.tar.gz
    python jobs_v3.py ask "I was charged twice." "The parcel is late."
    python jobs_v3.py transform --bucket BUCKET tickets.jsonl
    python jobs_v3.py clean-up --bucket BUCKET

The same with version 2: train_deploy_transform.ipynb. What it costs and needs: README.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import boto3
import click

NAME = "tfserve-example-tickets"
"""Of all that is made: endpoint, configuration and model, and the folder in the bucket."""

HPARAMS = {
    "task_name": "classif",
    "model_name": "sentence-transformers/all-MiniLM-L6-v2",
    "num_train_epochs": 10,
}
role_option = click.option("--role", required=True, help="of SageMaker, with access to the bucket")
bucket_option = click.option("--bucket", required=True)
folder_type = click.Path(exists=True, file_okay=False, path_type=Path)
file_type = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """A model of support tickets, from a table to answers."""


@main.command()
@role_option
@bucket_option
@click.option("--instance_type", default="ml.g5.xlarge", show_default=True)
@click.option("--wait/--no-wait", default=True)
@click.argument("tables", type=folder_type)
def train(role: str, bucket: str, instance_type: str, wait: bool, tables: Path) -> None:
    """Check TABLES, upload them and train on Spot instances; prints where the model will be."""
    from sagemaker.core.shapes import OutputDataConfig

    from tfserve import checks
    from tfserve.aws import sdk3

    report = checks.check(tables, "classif")
    click.echo(checks.render(report))
    if not report.ok:
        raise SystemExit(1)
    s3 = boto3.client("s3")
    for file in sorted(tables.iterdir()):
        s3.upload_file(str(file), bucket, f"{NAME}/tables/{file.name}")
    trainer = sdk3.trainer(
        HPARAMS,
        role=role,
        instance_type=instance_type,
        spot=True,
        checkpoint_s3_uri=f"s3://{bucket}/{NAME}/checkpoints",
        base_job_name=NAME,
        output_data_config=OutputDataConfig(s3_output_path=f"s3://{bucket}/{NAME}/models"),
    )
    trainer.train(sdk3.channels({"train": f"s3://{bucket}/{NAME}/tables"}), wait=wait)
    job = trainer._latest_training_job.training_job_name
    click.echo(f"{job}: s3://{bucket}/{NAME}/models/{job}/output/model.tar.gz")


@main.command()
@role_option
@click.option("--instance_type", default="ml.m5.xlarge", show_default=True)
@click.argument("model_data")
def deploy(role: str, instance_type: str, model_data: str) -> None:
    """Make an endpoint of MODEL_DATA, the address of a job's model.tar.gz."""
    from tfserve.aws import sdk3

    builder = sdk3.builder(model_data, role=role, instance_type=instance_type)
    builder.build(model_name=NAME)
    builder.deploy(endpoint_name=NAME, instance_type=instance_type, initial_instance_count=1)


@main.command()
@click.argument("texts", nargs=-1, required=True)
def ask(texts: tuple[str, ...]) -> None:
    """Ask the endpoint."""
    from tfserve.aws import client

    for answer in client.predict(NAME, texts):
        click.echo(json.dumps(answer))


@main.command()
@bucket_option
@click.option("--instance_type", default="ml.m5.xlarge", show_default=True)
@click.option("--wait/--no-wait", default=True)
@click.argument("file", type=file_type)
def transform(bucket: str, instance_type: str, wait: bool, file: Path) -> None:
    """Answer FILE, JSON Lines, by a Batch Transform job with the model of the endpoint."""
    from tfserve.aws import sdk3

    key = f"{NAME}/asked/{file.name}"
    boto3.client("s3").upload_file(str(file), bucket, key)
    asked, answered = f"s3://{bucket}/{key}", f"s3://{bucket}/{NAME}/answered"
    job = sdk3.batch_transform(NAME, asked, answered, instance_type=instance_type, wait=wait)
    click.echo(f"{job.latest_transform_job.transform_job_name}: {answered}/{file.name}.out")


@main.command("clean-up")
@bucket_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean_up(bucket: str, yes: bool) -> None:
    """Delete the endpoint, its configuration, the model and the files in S3."""
    if not yes:
        click.confirm(f"delete the endpoint {NAME} and s3://{bucket}/{NAME}/?", abort=True)
    sagemaker = boto3.client("sagemaker")
    for kind, delete, name in (
        ("endpoint", "delete_endpoint", "EndpointName"),
        ("configuration", "delete_endpoint_config", "EndpointConfigName"),
        ("model", "delete_model", "ModelName"),
    ):
        try:
            getattr(sagemaker, delete)(**{name: NAME})
        except sagemaker.exceptions.ClientError as error:
            if "could not find" not in str(error).lower():
                raise click.ClickException(f"the {kind} {NAME} is left: {error}") from None
            click.echo(f"no {kind}")
        else:
            click.echo(f"deleted the {kind}")
    deleted = boto3.resource("s3").Bucket(bucket).objects.filter(Prefix=f"{NAME}/").delete()
    click.echo(f"deleted {sum(len(page.get('Deleted', [])) for page in deleted)} files")


if __name__ == "__main__":
    main()
