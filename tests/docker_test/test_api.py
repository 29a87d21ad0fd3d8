"""The stack: linted, made and removed at a stand-in for AWS, and asked over HTTP to the model."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import tiny
from cloud import REGION, cloud
from containers import Running
from engine import docker, stand_in
from environments import environment
from gateway import Gateway, gateway, runtime

from tfserve import artifact
from tfserve.aws import stack
from tfserve.aws.stack import changes, smoke, uploads
from tfserve.aws.stack.place import Place, account
from tfserve.errors import CloudError

TEMPLATE = Path(stack.__file__).with_name("template.yaml")
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/tfserve:1"
HUGGINGFACE = "763104351884.dkr.ecr.eu-west-1.amazonaws.com/huggingface-pytorch-inference:2"
KEY = "a-key-of-the-first-client"


def test_the_template_is_clean() -> None:
    linter = environment("stack") / "cfn-lint"
    done = subprocess.run([linter, TEMPLATE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def lambda_image(base: dict[str, str]) -> str:
    return stand_in("lambda", base, "libcurl4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tfserve

    folder = tmp_path_factory.mktemp("tickets")
    pretrained = tiny.model(folder / "pretrained", initializer_range=0.1)
    hparams = tiny.hparams("classif", pretrained)
    tfserve.train(
        hparams, train_dir=tiny.data(folder / "data", "classif"), model_dir=folder / "model"
    )
    return folder / "model"


@pytest.fixture(scope="module")
def stage(image: str, lambda_image: str, model: Path, tmp_path_factory: pytest.TempPathFactory
          ) -> Iterator[Gateway]:  # fmt: skip
    """HTTP in, the Lambda on its real runtime client, our own container behind."""
    folder = tmp_path_factory.mktemp("lambda")
    found = uploads.sources(model / "model.safetensors", "tickets", folder)
    with zipfile.ZipFile(found.files[found.code]) as packed:
        packed.extractall(folder / "task")
    container = Running(image, model)
    try:
        container.wait()
        with runtime(container.url) as sagemaker, gateway(KEY) as stage:
            variables = {
                "AWS_LAMBDA_RUNTIME_API": stage.lambda_url.removeprefix("http://"),
                "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": sagemaker, "AWS_REGION": REGION,
                "AWS_DEFAULT_REGION": REGION,
                "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
                "TFSERVE_ENDPOINT": "tickets", "TFSERVE_MAX_BYTES": "4900000",
                "AWS_LAMBDA_FUNCTION_NAME": "tickets", "AWS_LAMBDA_FUNCTION_VERSION": "1",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512", "AWS_EXECUTION_ENV": "AWS_Lambda_python",
                "_HANDLER": "lambda_handler.handler", "LAMBDA_TASK_ROOT": "/var/task",
            }  # fmt: skip
            flags = [part for k, v in variables.items() for part in ("--env", f"{k}={v}")]
            name = docker(
                "run", "--detach", "--network", "host", "--workdir", "/var/task", *flags,
                "--volume", f"{folder / 'task'}:/var/task:ro", lambda_image,
                "python", "-m", "awslambdaric", "lambda_handler.handler",
            )  # fmt: skip
            try:
                yield stage
            finally:
                log = docker("logs", name)
                docker("rm", "--force", name)
                assert "parcel" not in log  # no text of a client
    finally:
        container.remove()


def post(stage: Gateway, body: str, path: str = "/v1/predict", **headers: str
         ) -> tuple[int, Any, dict[str, str]]:  # fmt: skip
    given = {"Content-Type": "application/json", "x-api-key": KEY, **headers}
    request = urllib.request.Request(stage.url + path, body.encode(), given)
    try:
        with urllib.request.urlopen(request, timeout=40) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def test_from_http_to_the_model_and_back(stage: Gateway, model: Path) -> None:
    import tfserve

    texts = ["where is my parcel?", "the invoice was wrong"]
    asked = json.dumps({"data": [{"text": t, "id": i} for i, t in enumerate(texts)]})
    status, body, headers = post(stage, asked, **{"X-Request-Id": "mine-1"})
    assert (status, headers["x-request-id"]) == (200, "mine-1")
    expected = tfserve.load(model).predict(texts)
    given = json.loads(body)["predictions"]
    assert [a["pred"] for a in given] == [a["pred"] for a in expected]
    assert [a["id"] for a in given] == [0, 1]


def test_json_lines_come_back_line_by_line(stage: Gateway) -> None:
    lines = {"Content-Type": "application/jsonlines", "Accept": "application/jsonlines"}
    status, body, headers = post(stage, '{"text": "the parcel"}\n{"text": ""}\n', **lines)
    assert status == 200 and headers["Content-Type"].startswith("application/jsonlines")
    one, other = map(json.loads, body.splitlines())
    assert "pred" in one and other["error"]["code"] == "record.text_empty"


@pytest.mark.parametrize(
    ("body", "headers", "path", "status", "code"),
    [
        ('{"data": [{"text": ""}]}', {}, "/v1/predict", 400, "record.text_empty"),
        ('{"data": ["parcel"], "parameters": {"top": 1}}', {}, "/v1/predict", 400,
         "parameters.unknown"),
        ('{"question": "parcel"}', {}, "/v1/predict", 400, "body.schema"),
        ("{", {}, "/v1/predict", 400, "body.schema"),
        ("parcel", {"Content-Type": "image/png"}, "/v1/predict", 415, "content_type.unsupported"),
        ('{"data": ["parcel"]}', {"x-api-key": "another"}, "/v1/predict", 401, "access.key"),
        ('{"data": ["parcel"]}', {}, "/v1/other", 404, "server.not_found"),
        ("x" * 4_900_001, {"Content-Type": "text/plain"}, "/v1/predict", 413, "body.too_large"),
    ],
)  # fmt: skip
def test_what_is_refused_says_so_with_a_status_and_an_object(
    body: str, headers: dict[str, str], path: str, status: int, code: str, stage: Gateway
) -> None:
    found, text, _ = post(stage, body, path, **headers)
    error = json.loads(text)["error"]
    assert (found, error["code"]) == (status, code)
    assert error["message"] and error["request_id"]


# --- the stack itself, at a stand-in for AWS ------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with cloud(tmp_path, "stack") as found:
        for name, value in found.variables.items():
            if name.startswith("AWS_"):
                monkeypatch.setenv(name, value)
        boto3.setup_default_session()
        monkeypatch.setattr(changes, "POLL", 0.1)
        yield account()


def test_a_stack_is_made_asked_kept_and_removed(
    place: Place, stage: Gateway, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = place.client("apigateway").create_api_key(name="first", value=KEY)["id"]
    # The stand-in makes no keys by CloudFormation, and answers nothing at the URL of an API.
    outputs = {"Url": f"{stage.url}/v1/predict", "ApiKeyId": key}
    monkeypatch.setattr(changes, "outputs", lambda *_: {**outputs, **config(place)})
    said: list[str] = []
    given: dict[str, Any] = {"image": IMAGE, "say": said.append}

    assert stack.deploy(model, "tickets", dry_run=True, **given) is None
    assert place.client("cloudformation").list_stacks(
        StackStatusFilter=["CREATE_COMPLETE", "REVIEW_IN_PROGRESS"]
    )["StackSummaries"] == []  # fmt: skip
    assert place.client("s3").list_buckets()["Buckets"] == [{**bucket} for bucket in buckets(place)]

    done = stack.deploy(model, "tickets", parameters={"MaxInstances": 3}, **given)
    assert done == stack.Deployed(outputs["Url"], REGION, key)
    assert said[-1] == "4 golden records were answered as in training"
    [made] = place.client("sagemaker").list_models()["Models"]
    described = place.client("sagemaker").describe_model(ModelName=made["ModelName"])
    container = described["PrimaryContainer"]
    assert container["Image"] == IMAGE
    bucket, _, archive = container["ModelDataUrl"].removeprefix("s3://").partition("/")
    assert place.client("s3").head_object(Bucket=bucket, Key=archive)["ContentLength"] > 1000
    function = place.client("lambda").get_function(FunctionName="tickets")["Configuration"]
    assert function["Handler"] == "lambda_handler.handler" and function["Timeout"] == 28
    variables = function["Environment"]["Variables"]
    assert variables["TFSERVE_MAX_BYTES"] == "4900000"
    [api] = place.client("apigateway").get_rest_apis()["items"]
    paths = place.client("apigateway").get_resources(restApiId=api["id"])["items"]
    assert "/predict" in {path["path"] for path in paths}
    iam = place.client("iam")
    names = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    assert {name.split("-")[1] for name in names if name.startswith("tickets-")} >= {
        "ModelRole", "HandlerRole"
    }  # fmt: skip
    [role] = (name for name in names if name.startswith("tickets-ModelRole-"))
    policy = iam.get_role_policy(RoleName=role, PolicyName="model")["PolicyDocument"]
    assert archive.startswith("tfserve/tickets/")
    assert f"arn:aws:s3:::{bucket}/tfserve/tickets/*" in str(policy)

    said.clear()
    assert stack.deploy(model, "tickets", **given) == done
    assert "nothing to change" in said
    assert any("costs: 1 to 3 ml.m5.xlarge" in line for line in said)  # what was given is kept

    said.clear()
    stack.destroy("tickets", say=said.append)
    assert {"deleted the stack tickets", "deleted 2 uploaded files"} <= set(said)
    assert place.client("sagemaker").list_endpoints()["Endpoints"] == []
    assert place.client("lambda").list_functions()["Functions"] == []
    assert "Contents" not in place.client("s3").list_objects_v2(Bucket=bucket)
    with pytest.raises(CloudError, match="found no stack tickets"):
        stack.destroy("tickets")


def config(place: Place) -> dict[str, str]:
    """The endpoint, which has a name of its own at the stand-in, and its configuration."""
    sagemaker = place.client("sagemaker")
    [endpoint] = sagemaker.list_endpoints()["Endpoints"]
    found = sagemaker.describe_endpoint(EndpointName=endpoint["EndpointName"])
    return {name: found[name] for name in ("EndpointName", "EndpointConfigName")}


def buckets(place: Place) -> list[Any]:
    """Those that the stand-in holds from its start."""
    found = place.client("s3").list_buckets()["Buckets"]
    return [bucket for bucket in found if not bucket["Name"].startswith("tfserve-")]


def test_a_model_that_does_not_answer_is_taken_back(
    place: Place, stage: Gateway, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = place.client("apigateway").create_api_key(name="first", value="a-key-of-another-client")[
        "id"
    ]
    outputs = {"Url": f"{stage.url}/v1/predict", "ApiKeyId": key}
    monkeypatch.setattr(changes, "outputs", lambda *_: {**outputs, **config(place)})
    monkeypatch.setattr(smoke, "PATIENCE", 0.0)
    said: list[str] = []
    with pytest.raises(CloudError, match="does not answer: 401") as caught:
        stack.deploy(model, "tickets", image=IMAGE, say=said.append)
    assert caught.value.code == "aws.smoke"
    assert place.client("sagemaker").list_endpoints()["Endpoints"] == []
    assert any("tfserve destroy tickets --bucket tfserve-" in line for line in said)
    said.clear()
    stack.destroy("tickets", say=said.append)  # what was uploaded for a stack that is gone
    assert said[0] == "deleted 2 uploaded files"
    with pytest.raises(CloudError, match=r"found no stack tickets in .*, and nothing of it in"):
        stack.destroy("tickets")


def test_answers_other_than_those_of_training_are_found(
    place: Place, stage: Gateway, model: Path
) -> None:
    key = place.client("apigateway").create_api_key(name="first", value=KEY)["id"]
    manifest = artifact.load(model).manifest
    url = f"{stage.url}/v1/predict"
    smoke.ask(place, url, key, manifest, HUGGINGFACE)
    spoiled = json.loads(json.dumps(manifest.golden))
    label = spoiled[0]["answer"]["pred"]
    spoiled[0]["answer"]["scores"][label] -= 0.2
    with pytest.raises(CloudError, match=r"otherwise than training did, by 0\.2") as caught:
        smoke.ask(place, url, key, replace(manifest, golden=spoiled), HUGGINGFACE)
    assert caught.value.code == "aws.smoke"
