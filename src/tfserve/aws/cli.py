"""``tfserve deploy`` and ``tfserve destroy``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tfserve.aws.stack.changes import Change


@click.command()
@click.argument("model")
@click.option("--stack", required=True, help="Its name, and that of the endpoint and the API.")
@click.option(
    "--parameters",
    type=click.Path(exists=True, dir_okay=False),
    help="A YAML file of the template's parameters (examples/aws/deploy.yaml).",
)
@click.option("--mode", type=click.Choice(["realtime", "serverless"]), help="Default: realtime.")
@click.option("--instance_type", help="realtime: of each instance. Default: ml.m5.xlarge.")
@click.option("--image", help="Of ECR. Default: the newest HuggingFace one of the SageMaker SDK.")
@click.option("--bucket", help="For the archive. Default: tfserve-ACCOUNT-REGION.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and leave nothing behind.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def deploy(
    model: str, stack: str, parameters: str | None, mode: str | None, instance_type: str | None,
    image: str | None, bucket: str | None, dry_run: bool, yes: bool,
) -> None:  # fmt: skip
    """Put MODEL (a directory or its model.tar.gz) behind a public API on AWS, or update it there.

    Shows the changes and what a month costs, asks, makes them, and asks the API the golden records;
    what fails is undone.
    """
    from tfserve.aws.operations import mapping
    from tfserve.aws.stack import deploy as run

    given: dict[str, Any] = mapping(Path(parameters)) if parameters else {}
    given |= {"Mode": mode} if mode else {}
    given |= {"InstanceType": instance_type} if instance_type else {}

    def agreed(_: list[Change]) -> bool:
        return yes or click.confirm("make these changes?")

    done = run(model, stack, parameters=given, image=image, bucket=bucket, dry_run=dry_run,
               agreed=agreed, say=click.echo)  # fmt: skip
    if done is not None:
        click.echo(f"url: {done.url}")
        if done.domain is not None:
            name, target = done.domain
            click.echo(f"url: https://{name}/predict, once DNS has {name} as a CNAME of {target}")
        click.echo(
            f"curl --header 'Content-Type: application/json' \\\n"
            f'    --header "x-api-key: $(aws apigateway get-api-key --api-key {done.api_key_id} '
            f'--region {done.region} --include-value --query value --output text)" \\\n'
            f'    --data \'{{"data": [{{"text": "…"}}]}}\' {done.url}'
        )


@click.command()
@click.argument("stack")
@click.option("--bucket", help="Of the files of a stack that is gone. Default: deploy's.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def destroy(stack: str, bucket: str | None, yes: bool) -> None:
    """Delete the STACK that `tfserve deploy` made and all that was uploaded for it."""
    from tfserve.aws.stack import destroy as run

    run(stack, bucket=bucket, agreed=lambda what: yes or click.confirm(what), say=click.echo)
