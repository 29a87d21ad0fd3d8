"""The stack: what its template allows, and what is said before anything is made."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError, UnauthorizedSSOTokenError
from botocore.stub import ANY, Stubber
from conftest import Trained

from tfserve.archive import package
from tfserve.aws import boto3_client, images, operations, stack
from tfserve.aws.stack import changes, preflight, prices, smoke, template, uploads
from tfserve.aws.stack.place import Place, account, told
from tfserve.errors import CloudError, ModelError, TfserveError

HUGGINGFACE = "763104351884.dkr.ecr.eu-west-1.amazonaws.com/huggingface-pytorch-inference:2"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "aws"

NO_RESOURCES = {
    "cloudwatch:PutMetricData", "ec2:DescribeDhcpOptions", "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs",
    "ecr:GetAuthorizationToken",
}  # fmt: skip
"""Actions that AWS's service authorization reference lists without resource types."""

UNNAMED = re.compile(
    r":(network-interface|subnet|security-group)/\*$"
    r"|/tfserve/\$\{AWS::StackName\}/\*$|:alarm:\$\{AWS::StackName\}-update-\*$"
)
"""Resources that do not exist when the policy is written."""

PARTS = ("RestApi", "Resource", "Method", "Model", "RequestValidator", "GatewayResponse")
"""What a deployment of API Gateway is a snapshot of."""


def resources(kind: str) -> dict[str, Any]:
    found = template.parsed()["Resources"]
    return {name: r["Properties"] for name, r in found.items() if r["Type"] == kind}


def statements(value: Any) -> Iterator[dict[str, Any]]:
    """Every statement of every policy, those under conditions too."""
    if isinstance(value, dict):
        if "Effect" in value:
            yield value
        for inner in value.values():
            yield from statements(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from statements(inner)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_no_policy_holds_a_wildcard_that_could_be_avoided() -> None:
    found = [s for role in resources("AWS::IAM::Role").values() for s in statements(role)]
    assert len(found) > 8
    managed = [
        arn for r in resources("AWS::IAM::Role").values() for arn in r.get("ManagedPolicyArns", [])
    ]
    assert [arn["Fn::Sub"].rpartition("/")[2] for arn in managed] == [
        "AmazonAPIGatewayPushToCloudWatchLogs"
    ]
    [metrics] = (s for s in found if s["Action"] == "cloudwatch:PutMetricData")
    assert list(metrics["Condition"]) == ["StringEquals"]
    for statement in found:
        assert not any(key.startswith("Not") for key in statement)
        actions = as_list(statement["Action"])
        assert not any("*" in action for action in actions), actions
        for resource in as_list(statement.get("Resource", [])):
            text = json.dumps(resource)
            if "*" in text:
                named = UNNAMED.search(next(iter(resource.values())) if resource != "*" else "")
                assert named or (resource == "*" and set(actions) <= NO_RESOURCES), statement


def test_the_deployment_is_named_by_what_it_holds() -> None:
    held = {name: p for part in PARTS for name, p in resources(f"AWS::ApiGateway::{part}").items()}
    digest = hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:8]
    [name] = resources("AWS::ApiGateway::Deployment")
    assert name == f"Deployment{digest}", "rename it, or an update would not change the API"
    waits = template.parsed()["Resources"][name]["DependsOn"]
    kinds = ("Method", "GatewayResponse")
    assert sorted(waits) == sorted(
        n for kind in kinds for n in resources(f"AWS::ApiGateway::{kind}")
    )


def test_what_api_gateway_refuses_is_an_error_object() -> None:
    for response in resources("AWS::ApiGateway::GatewayResponse").values():
        text = response["ResponseTemplates"]["application/json"]
        filled = text.replace("$context.error.messageString", '"said"')
        error = json.loads(filled)["error"]
        assert error["code"] and error["message"] and error["request_id"] == "$context.requestId"


def test_no_text_of_a_client_is_logged() -> None:
    [stage] = resources("AWS::ApiGateway::Stage").values()
    [settings] = stage["MethodSettings"]
    assert settings["DataTraceEnabled"] is False and settings["LoggingLevel"] == "OFF"
    logged = json.loads(stage["AccessLogSetting"]["Format"])
    assert not any("body" in value or "querystring" in value for value in logged.values())


def test_the_dashboard_is_one() -> None:
    [dashboard] = resources("AWS::CloudWatch::Dashboard").values()
    widgets = json.loads(dashboard["DashboardBody"]["Fn::Sub"])["widgets"]
    shown = [arn.rpartition(":alarm:")[2] for arn in widgets[-1]["properties"]["alarms"]]
    alarms = resources("AWS::CloudWatch::Alarm")
    updating = {"UpdateErrors", "UpdateRefusals", "UpdateLatency"}  # nothing at other times
    names = [a["AlarmName"]["Fn::Sub"] for name, a in alarms.items() if name not in updating]
    assert sorted(shown) == sorted(names)


def test_an_update_is_rolled_back_by_alarms_of_the_new_fleet_alone() -> None:
    alarms = resources("AWS::CloudWatch::Alarm")
    [endpoint] = resources("AWS::SageMaker::Endpoint").values()
    rollback = endpoint["DeploymentConfig"]["Fn::If"][1]["AutoRollbackConfiguration"]["Alarms"]
    named = [alarm["AlarmName"]["Ref"] for alarm in rollback]
    assert sorted(named) == sorted(name for name in alarms if name.startswith("Update"))
    for name in named:
        stats = [m["MetricStat"] for m in alarms[name].get("Metrics", []) if "MetricStat" in m]
        for metric in [stat["Metric"] for stat in stats] or [alarms[name]]:
            dimensions = {d["Name"]: d["Value"] for d in metric["Dimensions"]}
            assert dimensions["EndpointConfigName"] == {
                "Fn::GetAtt": ["EndpointConfig", "EndpointConfigName"]
            }
        # Another alarm for every fleet: one that tripped for the last would undo the next.
        called = alarms[name]["AlarmName"]["Fn::Sub"]
        assert re.fullmatch(
            r"\$\{AWS::StackName\}-update-\w+-\$\{EndpointConfig.EndpointConfigName\}", called
        )


def test_the_template_fits_into_a_request() -> None:
    assert len(template.template().encode()) < 51_200


def test_parameters_are_checked_before_aws_is_asked() -> None:
    given = {"MaxInstances": 8, "Subnets": ["a", "b"], "SecurityGroups": ["s"], "KmsKey": None}
    assert template.parameters(given) == {
        "MaxInstances": "8", "Subnets": "a,b", "SecurityGroups": "s"
    }  # fmt: skip
    for bad, said in (
        ({"Image": "x"}, "found the parameter 'Image'; expected AlarmTopic, Certificate"),
        ({"Mode": "batch"}, "Mode: found 'batch'; expected one of realtime, serverless"),
        ({"MaxInstances": "many"}, "found 'many'; expected a whole number from 1 to 1000000000"),
        ({"LatencyAlarm": 2500.5}, "LatencyAlarm: found '2500.5'; expected a whole number"),
        ({"ServerlessConcurrency": 201}, "expected a whole number from 1 to 200"),
        ({"DomainName": "api.example.org"}, "DomainName and Certificate: expected both"),
        ({"Subnets": ["a", "b"]}, "Subnets and SecurityGroups: expected both"),
        ({"Subnets": ["a"], "SecurityGroups": ["s"]}, "expected two, in two zones"),
        ({"MinInstances": 9}, "found MinInstances above MaxInstances"),
        ({"KmsKey": "1234"}, "KmsKey: found '1234'; expected an ARN, or none"),
    ):
        with pytest.raises(CloudError, match=re.escape(said)) as caught:
            template.parameters(bad)
        assert caught.value.code == "aws.parameters"


def test_the_example_holds_every_parameter_with_its_default() -> None:
    given = operations.mapping(EXAMPLES / "deploy.yaml")
    known = template.parsed()["Parameters"]
    assert set(given) == set(known) - set(template.FOUND_OUT)
    for name, value in template.parameters(given).items():
        assert value == str(known[name]["Default"]), name


def test_jobs_are_read_from_files(tmp_path: Path) -> None:
    job = operations.training(EXAMPLES / "training.yaml")
    assert job["spot"] is True and job["hparams"]["task_name"] == "classif"
    search = operations.tuning(EXAMPLES / "tuning.yaml")
    assert search["search"][0] == "learning_rate" and "metric" not in search
    file = tmp_path / "job.yaml"
    for text, said in (
        ("- a\n", "expected lines such as"),
        ("a: [", "cannot read"),
        ("\x00", "cannot read"),
        ("instance: ml.g5.xlarge", "found 'instance'; expected hparams, instance_type"),
        ("max_run: soon", "max_run: found 'soon'; expected int"),
        ("instance_count: true", "instance_count: found True; expected int"),
        ("hparams: {task_name: classify, model_name: m}", "did you mean classif"),
        ("spot: true", "task_name is missing"),
    ):
        file.write_text(text, "utf-8")
        with pytest.raises(TfserveError, match=re.escape(said)):
            operations.training(file)
    with pytest.raises(CloudError, match="cannot read"):
        operations.tuning(tmp_path / "none.yaml")
    file.write_text("search: [seed]", "utf-8")
    with pytest.raises(TfserveError, match="found 'seed'"):
        operations.tuning(file)


class Session:
    """One whose clients are stubbed: each answers what it was told to, and nothing else."""

    region_name = "eu-west-1"

    def __init__(self) -> None:
        self.stubs: dict[str, Stubber] = {}

    def client(self, service: str, **_: Any) -> Any:
        return self[service].client

    def __getitem__(self, service: str) -> Stubber:
        if service not in self.stubs:
            keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
            client = boto3.client(service, region_name=self.region_name, **keys)
            self.stubs[service] = Stubber(client)
            self.stubs[service].activate()
        return self.stubs[service]


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def place(session: Session, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Where nothing waits between two looks."""
    monkeypatch.setattr(changes, "POLL", 0.0)
    caller = "arn:aws:sts::123456789012:assumed-role/team/engineer"
    return Place(session, "123456789012", session.region_name, "aws", caller)


def test_no_region_and_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CloudError, match="found no region; expected AWS_REGION") as caught:
        account()
    assert caught.value.code == "aws.region"
    with pytest.raises(CloudError, match="found no region; expected AWS_REGION"):
        boto3_client("sagemaker-runtime")
    with monkeypatch.context() as here:
        here.setenv("AWS_REGION", "eu-west-1")
        assert boto3_client("sagemaker-runtime").meta.region_name == "eu-west-1"
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        with monkeypatch.context() as here:
            here.setenv(name, "eu-west-1")
            with pytest.raises(CloudError, match="found no usable credentials") as caught:
                account()
            assert caught.value.code == "aws.credentials"


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        ("ExpiredToken", "aws.credentials"),
        ("AccessDenied", "aws.permission"),
        ("LimitExceeded", "aws.refused"),
        ("ExpiredTokenException", "aws.credentials"),
    ],
)
def test_what_aws_refuses_is_one_of_ours(code: str, ours: str, session: Session) -> None:
    session["cloudformation"].add_client_error("describe_stacks", code, "no\nway")
    with pytest.raises(CloudError) as caught, told("describe stacks"):
        session.client("cloudformation").describe_stacks(StackName="tickets")
    assert caught.value.code == ours and "\n" not in str(caught.value)


def test_credentials_that_have_ended_and_uploads_that_are_denied() -> None:
    with pytest.raises(CloudError, match="UnauthorizedSSOTokenError") as caught, told("look"):
        raise UnauthorizedSSOTokenError
    assert caught.value.code == "aws.credentials"
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")
    with pytest.raises(CloudError, match="this role may not upload: no") as caught, told("upload"):
        try:
            raise denied
        except ClientError:
            raise S3UploadFailedError("failed to upload") from None
    assert caught.value.code == "aws.permission"


def absent(session: Session) -> None:
    session["cloudformation"].add_client_error(
        "describe_stacks", "ValidationError", "Stack with id tickets does not exist"
    )


def described(session: Session, status: str, *tags: str) -> None:
    stack = {
        "StackName": "tickets", "StackId": STACK, "StackStatus": status,
        "CreationTime": "2026-01-01T00:00:00Z",
        "Tags": [{"Key": tag, "Value": "deploy"} for tag in tags],
        "Parameters": [{"ParameterKey": "Mode", "ParameterValue": "serverless"}],
    }  # fmt: skip
    session["cloudformation"].add_response("describe_stacks", {"Stacks": [stack]})


def log_groups(session: Session, asked: str, *there: str) -> None:
    session["logs"].add_response(
        "describe_log_groups", {"logGroups": [{"logGroupName": name} for name in there]},
        {"logGroupNamePrefix": asked},
    )  # fmt: skip


def test_a_name_that_is_free(place: Place, session: Session) -> None:
    absent(session)
    session["sagemaker"].add_client_error("describe_endpoint", "ValidationException", "none")
    session["lambda"].add_client_error("get_function", "ResourceNotFoundException", "none")
    for group in (
        "/aws/sagemaker/Endpoints/tickets",
        "/aws/lambda/tickets",
        "/tfserve/tickets/access",
    ):
        log_groups(session, group, f"{group}-of-another")
    assert preflight.stack(place, "tickets") is None
    preflight.may_become(place, "tickets", None, {})
    described(session, "REVIEW_IN_PROGRESS")  # proposed once, and never made
    assert preflight.stack(place, "tickets") is None


@pytest.mark.parametrize("name", ["", "1st", "a_b", "a--b", "a-", "x" * 41, "a-" * 20 + "b"])
def test_a_name_that_is_none(name: str, place: Place) -> None:
    with pytest.raises(CloudError, match="expected a letter, then letters") as caught:
        preflight.stack(place, name)
    assert caught.value.code == "aws.stack_name"


def test_a_name_in_use(place: Place, session: Session) -> None:
    found = {
        "EndpointName": "tickets", "EndpointArn": "arn:aws:sagemaker:eu-west-1:1:endpoint/tickets",
        "EndpointStatus": "InService", "CreationTime": 0, "LastModifiedTime": 0,
    }  # fmt: skip
    session["sagemaker"].add_response("describe_endpoint", found)
    with pytest.raises(CloudError, match="found the endpoint tickets in eu") as caught:
        preflight.may_become(place, "tickets", None, {})
    assert caught.value.code == "aws.name_in_use"
    session["sagemaker"].add_client_error("describe_endpoint", "ValidationException", "none")
    session["lambda"].add_client_error("get_function", "ResourceNotFoundException", "none")
    group = "/aws/sagemaker/Endpoints/tickets"
    log_groups(session, group, group)
    with pytest.raises(CloudError, match=f"delete-log-group --log-group-name {group}") as caught:
        preflight.may_become(place, "tickets", None, {})
    assert caught.value.code == "aws.name_in_use"
    described(session, "CREATE_COMPLETE", "another")
    with pytest.raises(CloudError, match="a stack tickets that is not tfserve's") as caught:
        preflight.stack(place, "tickets")
    assert caught.value.code == "aws.name_in_use"


def test_a_stack_of_ours(place: Place, session: Session) -> None:
    described(session, "UPDATE_COMPLETE", "tfserve")
    session["cloudformation"].add_response("get_template", {"TemplateBody": "Resources: {}"})
    found = preflight.stack(place, "tickets")
    assert found == preflight.Stack("UPDATE_COMPLETE", "Resources: {}", {"Mode": "serverless"})
    preflight.may_become(place, "tickets", found, {"Mode": "serverless", "LogDays": "7"})


@pytest.mark.parametrize(
    ("status", "given", "code", "said"),
    [
        ("UPDATE_IN_PROGRESS", {}, "aws.busy", "ask again when it is done"),
        ("ROLLBACK_COMPLETE", {}, "aws.broken", "`tfserve destroy tickets` removes it"),
        ("UPDATE_ROLLBACK_FAILED", {}, "aws.broken", "continue-update-rollback"),
        ("CREATE_COMPLETE", {"Mode": "realtime"}, "aws.parameters", "Mode: found realtime, and"),
        ("CREATE_COMPLETE", {}, "aws.parameters", "Mode: found realtime, and"),  # its default
    ],
)
def test_a_stack_that_cannot_be_updated(
    status: str, given: dict[str, str], code: str, said: str, place: Place
) -> None:
    found = preflight.Stack(status, "", {"Mode": "serverless"})
    with pytest.raises(CloudError, match=re.escape(said)) as caught:
        preflight.may_become(place, "tickets", found, given)
    assert caught.value.code == code


def head(session: Session, status: int, **headers: str) -> None:
    s3, owner = session["s3"], {"Bucket": ANY, "ExpectedBucketOwner": "123456789012"}
    meta = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    if status == 200:
        s3.add_response("head_bucket", {"ResponseMetadata": meta}, owner)
    else:
        s3.add_client_error("head_bucket", str(status), "", status, None, owner, meta)


def test_buckets(place: Place, session: Session) -> None:
    own = "tfserve-123456789012-eu-west-1"
    head(session, 404)
    assert preflight.bucket(place, None) == preflight.Bucket(own, exists=False)
    head(session, 200, **{"x-amz-bucket-region": "eu-west-1"})
    assert preflight.bucket(place, "mine") == preflight.Bucket("mine", exists=True)
    for status, region, said in (
        (404, "", "found no bucket mine; expected one of yours in eu-west-1"),
        (403, "", "is another account's, or this role may not see it"),
        (301, "us-east-1", "the bucket mine is in us-east-1; expected one in eu-west-1"),
        (200, "us-east-1", "the bucket mine is in us-east-1; expected one in eu-west-1"),
    ):
        head(session, status, **({"x-amz-bucket-region": region} if region else {}))
        with pytest.raises(CloudError, match=said) as caught:
            preflight.bucket(place, "mine")
        assert caught.value.code == "aws.bucket"


def test_a_role_that_lacks_a_permission(place: Place, session: Session) -> None:
    role = {"Path": "/sso/", "RoleName": "team", "RoleId": "R" * 16, "CreateDate": 0,
            "Arn": "arn:aws:iam::123456789012:role/sso/team"}  # fmt: skip
    iam, refused = session["iam"], ("iam:CreateRole", "s3:PutObject")
    iam.add_response("get_role", {"Role": role}, {"RoleName": "team"})
    for resource, actions in preflight.NEEDED.items():
        named = resource.format(p="aws", r="eu-west-1", a="123456789012", s="tickets", b="mine")
        answers = [
            {
                "EvalActionName": action,
                "EvalDecision": "implicitDeny" if action in refused else "allowed",
                # What depends on tags that do not exist yet is left to CloudFormation.
                "ResourceSpecificResults": [
                    {
                        "EvalResourceName": named,
                        "EvalResourceDecision": "implicitDeny",
                        "MissingContextValues": ["aws:ResourceTag/team"]
                        * (action == "s3:PutObject"),
                    }
                ],
            }
            for action in actions
        ]
        iam.add_response(
            "simulate_principal_policy",
            {"EvaluationResults": answers},
            {"PolicySourceArn": role["Arn"], "ActionNames": list(actions), "ResourceArns": [named],
             "ContextEntries": ANY},
        )  # fmt: skip
    with pytest.raises(CloudError, match="role/sso/team may not iam:CreateRole;") as caught:
        preflight.permissions(place, "tickets", "mine")
    assert caught.value.code == "aws.permission"
    iam.add_client_error("get_role", "AccessDenied", "not even this")
    preflight.permissions(place, "tickets", "mine")  # CloudFormation will say


def test_the_role_of_api_gateways_logs_is_made_once(place: Place, session: Session) -> None:
    session["apigateway"].add_response("get_account", {})
    assert preflight.logs_role(place, None) == "true"
    role = {"cloudwatchRoleArn": "arn:aws:iam::123456789012:role/service-role/logs"}
    there = {"Role": {"Path": "/", "RoleName": "logs", "RoleId": "R" * 16, "CreateDate": 0,
                      "Arn": role["cloudwatchRoleArn"]}}  # fmt: skip
    session["apigateway"].add_response("get_account", role)
    session["iam"].add_response("get_role", there, {"RoleName": "logs"})
    assert preflight.logs_role(place, None) == "false"
    for code, wanted in (("NoSuchEntity", "true"), ("AccessDenied", "false")):
        session["apigateway"].add_response("get_account", role)
        session["iam"].add_client_error("get_role", code)
        assert preflight.logs_role(place, None) == wanted
    before = preflight.Stack("", "", {"CreateLogsRole": "true"})  # an update must not take it away
    assert preflight.logs_role(place, before) == "true"


def test_an_archive_that_fails_the_doctor(trained: Trained, tmp_path: Path) -> None:
    archive = package(trained("classif"), tmp_path / "model.tar.gz")
    assert len(preflight.examined(archive, HUGGINGFACE).golden) > 0
    archive.write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(ModelError, match="`tfserve package` writes one"):
        preflight.examined(archive, HUGGINGFACE)
    spoiled = shutil.copytree(trained("classif"), tmp_path / "model")
    (spoiled / "code" / "inference.py").unlink()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(spoiled, ".")
    with pytest.raises(ModelError, match="would not work in a container: found no code") as caught:
        preflight.examined(archive, HUGGINGFACE)
    assert caught.value.code == "archive.doctor"


def test_uploads_are_named_by_their_content(tmp_path: Path) -> None:
    archive = tmp_path / "tickets.tar.gz"
    archive.write_bytes(b"a model")
    found = uploads.sources(archive, "tickets", tmp_path)
    digest = hashlib.sha256(b"a model").hexdigest()
    assert found.model == f"tfserve/tickets/{digest}/model.tar.gz"
    again = uploads.sources(archive, "tickets", tmp_path)
    assert again.code == found.code  # the zip is the same bytes at another time
    with zipfile.ZipFile(found.files[found.code]) as packed:
        assert packed.namelist() == ["lambda_handler.py"]
        [function] = resources("AWS::Lambda::Function").values()
        assert function["Handler"] == "lambda_handler.handler"
        assert b"def handler(" in packed.read("lambda_handler.py")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com/tfserve:1.0", "tfserve"),
        (
            "763104351884.dkr.ecr.eu-west-1.amazonaws.com/huggingface-pytorch-inference:"
            "2.6.0-transformers4.51.3-cpu-py312-ubuntu22.04",
            "huggingface-pytorch-inference",
        ),
        (f"123456789012.dkr.ecr.us-east-1.amazonaws.com/a/b@sha256:{'0' * 64}", "a/b"),
    ],
)
def test_the_repository_of_an_image(uri: str, name: str) -> None:
    number, region = uri[:12], uri.split(".")[3]
    arn = f"arn:aws:ecr:{region}:{number}:repository/{name}"
    assert images.repository(uri, region, "aws") == arn
    with pytest.raises(CloudError, match=f"the image is in {region}; expected one in ap-south-1"):
        images.repository(uri, "ap-south-1", "aws")


@pytest.mark.parametrize("uri", ["tfserve:latest", "docker.io/library/python:3.12", ""])
def test_an_image_that_sagemaker_cannot_pull(uri: str) -> None:
    with pytest.raises(CloudError, match="expected one of ECR") as caught:
        images.repository(uri, "eu-west-1", "aws")
    assert caught.value.code == "aws.image"


def changed(session: Session, *events: tuple[str, str, str]) -> None:
    """What CloudFormation tells next: resource, status, reason; ``tickets`` is the stack."""
    listed = [
        {
            "StackId": STACK, "EventId": f"{number}-{name}-{status}", "StackName": "tickets",
            "Timestamp": 0, "LogicalResourceId": name, "ResourceStatus": status,
            "ResourceStatusReason": reason,
            "PhysicalResourceId": STACK if name == "tickets" else name,
        }
        for number, (name, status, reason) in enumerate(events)
    ]  # fmt: skip
    answer = {"StackEvents": list(reversed(listed))}
    session["cloudformation"].add_response("describe_stack_events", answer)


STACK = "arn:aws:cloudformation:eu-west-1:123456789012:stack/tickets/1"
CREATED = ("tickets", "CREATE_COMPLETE", "")


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([("tickets", "UPDATE_COMPLETE", "")], None),
        (
            [("Endpoint", "UPDATE_FAILED", "no capacity"), ("Api", "UPDATE_FAILED", "cancelled"),
             ("tickets", "UPDATE_ROLLBACK_COMPLETE", "")],
            "the changes failed and were undone: Endpoint: no capacity",
        ),
        ([("tickets", "UPDATE_ROLLBACK_FAILED", "")], "and so did undoing them"),
    ],
)  # fmt: skip
def test_an_update_is_watched_by_its_events(
    events: list[tuple[str, str, str]], said: str | None,
    place: Place, session: Session,
) -> None:  # fmt: skip
    cloudformation = session["cloudformation"]
    changed(session, CREATED)
    cloudformation.add_response("execute_change_set", {}, {"ChangeSetName": "set"})
    changed(session, CREATED)  # what it says first may be old
    cloudformation.add_client_error("describe_stack_events", "Throttling", "slowly")
    changed(session, CREATED, ("tickets", "UPDATE_IN_PROGRESS", ""), ("Api", "UPDATE_COMPLETE", ""))
    changed(
        session, CREATED, ("tickets", "UPDATE_IN_PROGRESS", ""), ("Api", "UPDATE_COMPLETE", ""),
        ("tickets", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", ""), *events,
    )  # fmt: skip
    lines: list[str] = []
    proposal = changes.Proposal("set", STACK, False, [])
    if said is None:
        changes.execute(place, proposal, lines.append)
    else:
        with pytest.raises(CloudError, match=said) as caught:
            changes.execute(place, proposal, lines.append)
        assert caught.value.code == "aws.failed"
    assert lines == ["  Api update_complete"]
    cloudformation.assert_no_pending_responses()


def proposed_and_forgotten(session: Session, *statuses: str, others: Sequence[Any] = ()) -> None:
    """A change set of a new stack that goes through ``statuses`` and is deleted, beside others."""
    cloudformation = session["cloudformation"]
    cloudformation.add_response("create_change_set", {"Id": "arn:aws:set", "StackId": STACK})
    for status in statuses:
        told_ = {"Status": status, "StatusReason": "a role is missing", "Changes": []}
        cloudformation.add_response("describe_change_set", told_)
    cloudformation.add_response("delete_change_set", {}, {"ChangeSetName": "arn:aws:set"})
    described(session, "REVIEW_IN_PROGRESS")
    listed = {"Summaries": list(others)}
    cloudformation.add_response("list_change_sets", listed, {"StackName": STACK})


def test_a_change_set_that_fails_leaves_nothing(place: Place, session: Session) -> None:
    cloudformation = session["cloudformation"]
    proposed_and_forgotten(session, "CREATE_IN_PROGRESS", "FAILED")
    cloudformation.add_response("delete_stack", {}, {"StackName": STACK})
    absent(session)
    with (
        pytest.raises(CloudError, match="refuses the changes: a role is missing"),
        changes.proposed(place, "tickets", {}, new=True),
    ):
        pass
    cloudformation.assert_no_pending_responses()


def test_a_stack_that_another_has_proposed_to_is_left(place: Place, session: Session) -> None:
    waiting = {"ChangeSetName": "tfserve-of-another"}
    proposed_and_forgotten(session, "CREATE_COMPLETE", others=[waiting])
    with changes.proposed(place, "tickets", {}, new=True):
        pass
    session["cloudformation"].assert_no_pending_responses()


def test_an_update_is_undone_with_what_was_there_before(place: Place, session: Session) -> None:
    cloudformation = session["cloudformation"]
    described(session, "UPDATE_COMPLETE", "tfserve")
    changed(session, CREATED)
    wanted = {
        "StackName": "tickets", "TemplateBody": "Resources: {}",
        "Parameters": [{"ParameterKey": "ModelKey", "ParameterValue": "the earlier one"}],
        "Capabilities": ["CAPABILITY_IAM"], "Tags": ANY,
    }  # fmt: skip
    cloudformation.add_response("update_stack", {}, wanted)
    changed(session, CREATED, ("Model", "UPDATE_COMPLETE", ""), ("tickets", "UPDATE_COMPLETE", ""))
    before = preflight.Stack("UPDATE_COMPLETE", "Resources: {}", {"ModelKey": "the earlier one"})
    lines: list[str] = []
    changes.undo(place, "tickets", before, lines.append)
    assert lines == ["  Model update_complete"]
    cloudformation.assert_no_pending_responses()


def test_an_undoing_that_fails_tells_what_went_wrong_first(place: Place, session: Session) -> None:
    session["cloudformation"].add_client_error("describe_stacks", "AccessDenied", "no")
    said = "401; undoing that failed too: this role may not delete the stack tickets: no"
    with pytest.raises(CloudError, match=said) as caught:
        stack._undo(place, "tickets", None, CloudError("aws.smoke", "401"), lambda _: None)
    assert caught.value.code == "aws.smoke"


def test_an_endpoint_that_alarms_brought_back_is_noticed(place: Place, session: Session) -> None:
    found = {
        "EndpointName": "tickets", "EndpointArn": "arn:aws:sagemaker:eu-west-1:1:endpoint/tickets",
        "EndpointStatus": "InService", "CreationTime": 0, "LastModifiedTime": 0,
        "EndpointConfigName": "config-1",
    }  # fmt: skip
    session["sagemaker"].add_response("describe_endpoint", found)
    smoke.moved(place, "tickets", "config-1")
    session["sagemaker"].add_response("describe_endpoint", found)
    with pytest.raises(CloudError, match="SageMaker brought tickets back") as caught:
        smoke.moved(place, "tickets", "config-2")
    assert caught.value.code == "aws.failed"


@pytest.mark.parametrize(
    "body",
    [["a text"], [{"text": "a"}], {"data": []}, {"inputs": "a"}, {"instances": [1]}, {"X": []},
     {"text": "a"}, {"words": ["a"], "id": 1}, "a text"],
)  # fmt: skip
def test_the_api_takes_all_forms_that_a_model_reads(body: Any) -> None:
    [model] = resources("AWS::ApiGateway::Model").values()
    jsonschema.Draft4Validator(model["Schema"]).validate(body)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(model["Schema"]).validate({"question": body})


def priced(*usd: str) -> list[str]:
    dimensions = {str(i): {"pricePerUnit": {"USD": price}} for i, price in enumerate(usd)}
    return [json.dumps({"terms": {"OnDemand": {"t": {"priceDimensions": dimensions}}}})]


def test_what_a_month_costs(place: Place, session: Session) -> None:
    pricing = session["pricing"]
    pricing.add_response("get_products", {"PriceList": priced("0.0000", "0.2300")})
    [line] = prices.expected(place, {"MinInstances": "2", "MaxInstances": "4"})
    assert "336 USD a month for 2 ml.m5.xlarge at 0.230 USD an hour, up to 672" in line
    pricing.add_client_error("get_products", "AccessDeniedException")
    [line] = prices.expected(place, {"InstanceType": "ml.g5.xlarge"})
    assert line.startswith("costs: 1 to 4 ml.g5.xlarge, asked or not; prices: https://")
    pricing.add_response("get_products", {"PriceList": []})
    assert prices.hosting(place, "ml.none") is None
    [line] = prices.expected(place, {"Mode": "serverless"})
    assert "nothing while nobody asks" in line


def comprehend(requests: float) -> float:
    """USD a month for texts of 300 characters: 10 million units, the next 40 million, the rest."""
    units, usd = requests * 3, 0.0
    for most, price in ((10e6, 1e-4), (40e6, 5e-5), (math.inf, 2.5e-5)):
        usd += min(units, most) * price
        units -= min(units, most)
    return usd


def test_the_worked_examples_follow_from_the_prices_beside_them() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "aws.md").read_text("utf-8")
    hour, serverless, api, asked, lambda_ = (0.23, 2e-5, 3.5, 0.2, 1.66667e-5)
    for price in ("0.23", "0.00002", "3.50", "0.20", "0.0000166667", "0.0001", "0.00005"):
        assert f" {price} USD" in " ".join(text.split())
    rows = re.findall(r"^\| ([\d,]+) \| ([\d., |]+) \|$", text, re.M)
    assert len(rows) == 3
    for count, cells in rows:
        requests = float(count.replace(",", ""))
        expected = (
            hour * 730,
            requests * 0.1 * 4 * serverless,
            hour * 2 * 30,
            (requests / 40 + 30) / 3600 * hour,
            requests / 1e6 * (api + asked) + requests * 0.1 * 0.5 * lambda_,
            comprehend(requests),
        )
        shown = [float(cell.replace(",", "")) for cell in cells.split(" | ")]
        assert shown == pytest.approx(expected, rel=0.12)
