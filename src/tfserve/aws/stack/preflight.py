"""What can be known to go wrong before anything is made: one clear line each."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from botocore import exceptions as boto

from tfserve import artifact, doctor
from tfserve.archive import unpack
from tfserve.artifact import Manifest
from tfserve.aws import images
from tfserve.aws.stack import template
from tfserve.aws.stack.place import FAILED, Place, told
from tfserve.errors import CloudError, ModelError, missing_extra

NAME = re.compile(r"(?=.{1,40}$)[A-Za-z](?:-?[A-Za-z0-9])*")
TAG = "tfserve"
"""Of the stacks that are ours."""

EMPTY = "REVIEW_IN_PROGRESS"
"""Of a stack that a change set proposed and that nobody made."""

RESTING = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
"""States from which a stack can be updated."""

FIXED = ("Mode", "InstanceType")
"""What SageMaker does not change of an endpoint whose instances follow the load."""

NEEDED = {
    "arn:{p}:iam::{a}:role/{s}-ModelRole-1": (
        "iam:CreateRole", "iam:PutRolePolicy", "iam:PassRole",
    ),
    "arn:{p}:lambda:{r}:{a}:function:{s}": ("lambda:CreateFunction",),
    "arn:{p}:sagemaker:{r}:{a}:endpoint/{s}": ("sagemaker:CreateEndpoint",),
    "arn:{p}:sagemaker:{r}:{a}:model/{s}-1": ("sagemaker:CreateModel",),
    "arn:{p}:cloudformation:{r}:{a}:stack/{s}/1": (
        "cloudformation:CreateChangeSet", "cloudformation:ExecuteChangeSet",
    ),
    "arn:{p}:apigateway:{r}::/restapis": ("apigateway:POST",),
    "arn:{p}:s3:::{b}/tfserve/{s}/1/model.tar.gz": ("s3:PutObject",),
}  # fmt: skip
"""Resource → actions on it without which the stack cannot be made; docs/aws.md has all."""


@dataclass(frozen=True)
class Stack:
    """One of ours that is there.

    Attributes
    ----------
    status : CloudFormation's
    template : its text
    parameters : by name
    """

    status: str
    template: str
    parameters: dict[str, str]


@dataclass(frozen=True)
class Bucket:
    """``exists`` says whether it has to be made first."""

    name: str
    exists: bool


def examined(archive: Path, image: str) -> Manifest:
    """The archive's manifest. Raises ModelError where it would not start in the image, and
    InstallError where this machine cannot tell."""
    for needed in ("torch", "transformers"):  # by which its entry point is tried
        if find_spec(needed) is None:
            raise missing_extra(needed, "train")
    with tempfile.TemporaryDirectory(prefix="tfserve-deploy-") as folder:
        unpack(archive, Path(folder))
        found = [f for f in doctor.examine(folder) if f.level == doctor.WRONG]
        # An image of one's own may have the engine that HuggingFace's lack.
        wrong = [f.message for f in found if f.topic != "engine" or images.HUGGINGFACE in image]
        if wrong:
            raise ModelError(
                "archive.doctor",
                f"{archive} would not work in a container: {'; '.join(wrong)} (`tfserve doctor`)",
            )
        return artifact.load(Path(folder)).manifest


def stack(place: Place, name: str) -> Stack | None:
    """The stack of that name, if it is there and is ours, in whatever state.

    Raises CloudError for a name that cannot be one, or is in use otherwise.
    """
    if not NAME.fullmatch(name):
        raise CloudError(
            "aws.stack_name",
            f"found the stack name {name!r}; expected a letter, then letters, digits and single "
            "hyphens, at most 40 characters",
        )
    cloudformation = place.client("cloudformation")
    with told("describe stacks"):
        try:
            [found] = cloudformation.describe_stacks(StackName=name)["Stacks"]
        except boto.ClientError as error:
            if "does not exist" not in str(error):
                raise
            return None
    status = found["StackStatus"]
    if status == EMPTY:
        return None
    if TAG not in {tag["Key"] for tag in found.get("Tags", [])}:
        raise CloudError(
            "aws.name_in_use", f"found a stack {name} that is not tfserve's; expected another name"
        )
    with told("read the stack's template"):
        text = cloudformation.get_template(StackName=name, TemplateStage="Original")["TemplateBody"]
    values = {p["ParameterKey"]: p["ParameterValue"] for p in found.get("Parameters", [])}
    return Stack(status, str(text), values)


def may_become(place: Place, name: str, found: Stack | None, given: Mapping[str, str]) -> None:
    """Raise CloudError where the stack cannot be made, or changed to what is given."""
    if found is None:
        _unused(place, name)
        return
    status = found.status
    if status.endswith("_IN_PROGRESS"):
        raise CloudError("aws.busy", f"the stack {name} is in {status}; ask again when it is done")
    if status == "UPDATE_ROLLBACK_FAILED":
        raise CloudError(
            "aws.broken",
            f"the stack {name} is in {status}, and still serves; expected it to be repaired by "
            f"`aws cloudformation continue-update-rollback --stack-name {name}`",
        )
    if status not in RESTING:
        raise CloudError(
            "aws.broken", f"the stack {name} is in {status}; `tfserve destroy {name}` removes it"
        )
    wanted = template.filled(given)
    for parameter in FIXED:
        before = found.parameters.get(parameter, wanted[parameter])
        if before != wanted[parameter]:
            raise CloudError(
                "aws.parameters",
                f"{parameter}: found {wanted[parameter]}, and {before} in {name}, which SageMaker "
                f"does not change: deploy under another name, then `tfserve destroy {name}`",
            )


def _unused(place: Place, name: str) -> None:
    """Raise CloudError where something outside the stack has a name that it would give."""
    asked: dict[str, Callable[[], Any]] = {
        "endpoint": partial(place.client("sagemaker").describe_endpoint, EndpointName=name),
        "Lambda function": partial(place.client("lambda").get_function, FunctionName=name),
    }
    for kind, ask in asked.items():
        with told(f"look for the {kind} {name}"):
            try:
                ask()
            except boto.ClientError as error:
                code = error.response["Error"]["Code"]
                if code in ("ValidationException", "ResourceNotFoundException", "ResourceNotFound"):
                    continue
                raise
        raise CloudError(
            "aws.name_in_use", f"found the {kind} {name} in {place.region}; expected another name"
        )
    logs = place.client("logs")
    for group in template.log_groups(name):
        with told(f"look for the log group {group}"):
            found = logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
        if any(one["logGroupName"] == group for one in found):
            raise CloudError(
                "aws.name_in_use",
                f"found the log group {group}, left by an earlier endpoint or function; expected "
                f"another name, or `aws logs delete-log-group --log-group-name {group}`",
            )


def bucket(place: Place, name: str | None, *, needed: bool = True) -> Bucket:
    """The bucket for the archive. Raises CloudError for one elsewhere or of somebody else, or that
    is not there though it is needed and has a name of its own."""
    own = f"tfserve-{place.account}-{place.region}"
    wanted = name or own
    with told(f"look at the bucket {wanted}"):
        try:
            answer = place.client("s3").head_bucket(
                Bucket=wanted, ExpectedBucketOwner=place.account
            )
        except boto.ClientError as error:
            answer = error.response
            if answer["ResponseMetadata"]["HTTPStatusCode"] not in (301, 400, 403, 404):
                raise
    status, headers = (answer["ResponseMetadata"][k] for k in ("HTTPStatusCode", "HTTPHeaders"))
    if status == 404 and (wanted == own or not needed):
        return Bucket(wanted, exists=False)
    if status == 404:
        raise CloudError(
            "aws.bucket", f"found no bucket {wanted}; expected one of yours in {place.region}"
        )
    if status == 403:
        raise CloudError(
            "aws.bucket",
            f"the bucket {wanted} is another account's, or this role may not see it",
        )
    region = headers.get("x-amz-bucket-region", place.region)
    if region != place.region:
        raise CloudError(
            "aws.bucket",
            f"the bucket {wanted} is in {region}; expected one in {place.region}, where the "
            "endpoint will be",
        )
    return Bucket(wanted, exists=True)


def permissions(place: Place, name: str, bucket_name: str) -> None:
    """Ask IAM whether the caller may do what is needed, if he may ask that."""
    iam, denied = place.client("iam"), list[str]()
    words = {"p": place.partition, "r": place.region, "a": place.account, "s": name}
    context = {
        "aws:RequestedRegion": place.region,
        "iam:PassedToService": "sagemaker.amazonaws.com",
    }
    try:
        source = place.caller
        if assumed := re.search(r":assumed-role/([^/]+)/", source):
            source = iam.get_role(RoleName=assumed[1])["Role"]["Arn"]
        for resource, actions in NEEDED.items():
            answers = iam.simulate_principal_policy(
                PolicySourceArn=source,
                ActionNames=list(actions),
                ResourceArns=[resource.format(**words, b=bucket_name)],
                ContextEntries=[
                    {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
                    for key, value in context.items()
                ],
            )
            denied += [
                answer["EvalActionName"]
                for answer in answers["EvaluationResults"]
                if answer["EvalDecision"] != "allowed" and not _depends(answer)
            ]
    except (boto.ClientError, *FAILED):  # then CloudFormation will say
        return
    if denied:
        raise CloudError(
            "aws.permission",
            f"{source} may not {', '.join(denied)}; docs/aws.md lists what it needs",
        )


def _depends(answer: Mapping[str, Any]) -> bool:
    """Whether the simulator was not told what the decision depends on, such as tags."""
    results = [answer, *answer.get("ResourceSpecificResults", [])]
    return any(result.get("MissingContextValues") for result in results)


def logs_role(place: Place, found: Stack | None) -> str:
    """Whether the stack makes the role for API Gateway's logs, which a region has once."""
    if found is not None:
        return found.parameters.get("CreateLogsRole", "false")
    with told("read the settings of API Gateway"):
        role = place.client("apigateway").get_account().get("cloudwatchRoleArn")
    return "false" if role and _exists(place, role) else "true"


def _exists(place: Place, role: str) -> bool:
    """Whether a role is there still; that of a deleted stack stays in API Gateway's settings."""
    try:
        place.client("iam").get_role(RoleName=role.rpartition("/")[2])
    except (boto.ClientError, *FAILED) as error:
        return "NoSuchEntity" not in str(error)
    return True
