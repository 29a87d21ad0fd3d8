"""The Lambda: what it passes on, and what it makes of every way in which an endpoint refuses."""

from __future__ import annotations

import ast
import base64
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import Stubber

from tfserve.aws import lambda_handler

CONTEXT = SimpleNamespace(aws_request_id="lambda-1")
BODY = '{"data": [{"text": "wo bleibt mein Päckchen?"}]}'
SECRET = "Päckchen"
ANSWER = '{"predictions": [{"pred": "late", "proba": 0.9}]}'


@pytest.fixture(autouse=True)
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    monkeypatch.setenv("TFSERVE_ENDPOINT", "tickets")
    monkeypatch.setenv("TFSERVE_MAX_BYTES", "1000")
    client = boto3.client(
        "sagemaker-runtime", region_name="eu-west-1",
        aws_access_key_id="none", aws_secret_access_key="none",
    )  # fmt: skip
    monkeypatch.setattr(lambda_handler, "client", lambda: client)
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def event(body: str | None = BODY, **headers: str) -> dict[str, Any]:
    """As API Gateway's REST APIs send it."""
    given = {"Content-Type": "application/json", "Accept": "*/*", **headers}
    return {
        "httpMethod": "POST", "path": "/predict", "headers": given, "body": body,
        "isBase64Encoded": False, "requestContext": {"requestId": "gateway-1", "stage": "v1"},
    }  # fmt: skip


def answers(endpoint: Stubber, text: str = ANSWER, content_type: str = "application/json",
            **expected: Any) -> None:  # fmt: skip
    body = text.encode()
    given = {"Body": StreamingBody(io.BytesIO(body), len(body)), "ContentType": content_type}
    asked = {
        "EndpointName": "tickets",
        "ContentType": "application/json",
        "Accept": "application/json",
        "InferenceId": "gateway-1",
        "Body": BODY.encode(),
    }
    endpoint.add_response("invoke_endpoint", given, {**asked, **expected})


def asked(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, Any]:
    """Status, body and headers; and that no text of the request is logged."""
    answer = lambda_handler.handler(given, CONTEXT)
    logged = capsys.readouterr().out
    line = json.loads(logged)
    assert SECRET not in logged and line["status"] == answer["statusCode"]
    assert line["gateway_id"] == ((given.get("requestContext") or {}).get("requestId"))
    assert answer["isBase64Encoded"] is False
    return answer["statusCode"], answer["body"], answer["headers"]


def refused(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """Status and error object."""
    status, body, headers = asked(given, capsys)
    assert headers["Content-Type"] == "application/json"
    error = json.loads(body)["error"]
    assert error["request_id"] == headers["x-request-id"]
    assert (headers.get("Retry-After") == "1") == (status in (429, 503))
    return status, error


def test_a_request_passes_and_keeps_its_id(
    endpoint: Stubber, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(endpoint)
    status, body, headers = asked(event(), capsys)
    assert (status, body) == (200, ANSWER)
    assert headers == {"Content-Type": "application/json", "x-request-id": "gateway-1"}
    answers(endpoint, InferenceId="my-own:1")
    assert asked(event(**{"X-Request-Id": "my-own:1"}), capsys)[2]["x-request-id"] == "my-own:1"
    answers(endpoint)  # one that is none is not passed on
    assert asked(event(**{"X-Request-Id": "a b\n"}), capsys)[2]["x-request-id"] == "gateway-1"


def test_json_lines_pass_as_they_are(endpoint: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "application/jsonlines"
    answers(
        endpoint, '{"pred":"a"}\n', lines, ContentType=lines, Accept=lines, Body=b'{"text":1}\n'
    )
    given = event('{"text":1}\n', **{"Content-Type": lines, "Accept": lines})
    status, body, headers = asked(given, capsys)
    assert (status, body, headers["Content-Type"]) == (200, '{"pred":"a"}\n', lines)


def test_a_body_in_base64_is_decoded(endpoint: Stubber, capsys: pytest.CaptureFixture[str]) -> None:
    answers(endpoint)
    packed = base64.b64encode(BODY.encode()).decode()
    assert asked({**event(packed), "isBase64Encoded": True}, capsys)[0] == 200
    status, error = refused({**event("!!"), "isBase64Encoded": True}, capsys)
    assert (status, error["code"]) == (400, "body.base64")


@pytest.mark.parametrize("body", [None, "", "  \n"])
def test_no_body(body: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    status, error = refused(event(body), capsys)
    assert (status, error["code"]) == (400, "body.empty") and "expected" in error["message"]


def test_a_body_over_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    status, error = refused(event("ä" * 501), capsys)
    assert (status, error["code"]) == (413, "body.too_large")
    assert "1,002 bytes" in error["message"] and "1,000" in error["message"]


def test_an_event_without_headers_or_context(
    endpoint: Stubber, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(endpoint, InferenceId="lambda-1")
    assert asked({"body": BODY, "headers": None, "requestContext": None}, capsys)[0] == 200


OURS = {"code": "record.text_empty", "message": "found an empty text", "index": 3}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, json.dumps({"error": OURS})),  # our own container, and the toolkit with a context
        (400, json.dumps(OURS)),
        # The toolkit where the handlers know no context.
        (400, json.dumps({"code": 400, "type": "Internal", "message": json.dumps(OURS)})),
    ],
)
def test_an_error_of_the_model_keeps_its_object(
    status: int, message: str, endpoint: Stubber, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(endpoint, "ModelError", OriginalStatusCode=status, OriginalMessage=message)
    assert refused(event(), capsys) == (status, {**OURS, "request_id": "gateway-1"})


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("model.tampered", 400, 502),  # as the toolkit says it of a model that does not load
        ("settings.value", 400, 502),
        ("install.missing_extra", 400, 502),
        ("server.busy", 429, 429),  # as our own container says it
        ("server.deadline", 504, 504),
        ("record.text_empty", 400, 400),
    ],
)
def test_what_no_client_can_help_is_no_fault_of_the_client(
    code: str, status: int, told: int, endpoint: Stubber, capsys: pytest.CaptureFixture[str]
) -> None:
    message = json.dumps({"code": 400, "message": json.dumps({**OURS, "code": code})})
    fails(endpoint, "ModelError", OriginalStatusCode=status, OriginalMessage=message)
    found, error = refused(event(), capsys)
    assert (found, error["code"]) == (told, code)


def fails(endpoint: Stubber, code: str, **more: Any) -> None:
    endpoint.add_client_error("invoke_endpoint", code, f"about {SECRET}", 500, response_meta=None,
                              modeled_fields=more or None)  # fmt: skip


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("ThrottlingException", 429, "server.busy"),
        ("ServiceUnavailable", 503, "server.busy"),
        ("ModelNotReadyException", 503, "server.busy"),
        ("InternalFailure", 502, "server.busy"),
        ("ValidationError", 503, "server.unavailable"),
        ("AccessDeniedException", 500, "server.failed"),
    ],
)
def test_what_the_service_refuses(
    code: str, status: int, said: str, endpoint: Stubber, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(endpoint, code)
    found, error = refused(event(), capsys)
    assert (found, error["code"]) == (status, said) and SECRET not in error["message"]


@pytest.mark.parametrize(
    ("message", "status", "said"),
    [
        ("Your invocation timed out while waiting for a response", 504, "server.deadline"),
        ("<html>worker died</html>", 502, "server.model"),
        ("[1]", 502, "server.model"),
        ("", 502, "server.model"),
    ],
)
def test_a_model_that_fails_without_an_object(
    message: str, status: int, said: str, endpoint: Stubber, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(endpoint, "ModelError", OriginalStatusCode=500, OriginalMessage=message)
    found, error = refused(event(), capsys)
    assert (found, error["code"]) == (status, said)


class Broken:
    """An endpoint whose connection fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def invoke_endpoint(self, **_: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ReadTimeoutError(endpoint_url="https://runtime"), 504, "server.deadline"),
        (EndpointConnectionError(endpoint_url="https://runtime"), 502, "server.unreachable"),
    ],
)
def test_connections_that_fail(
    error: Exception, status: int, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(lambda_handler, "client", lambda: Broken(error))
    found, told = refused(event(), capsys)
    assert (found, told["code"]) == (status, said) and "runtime" not in told["message"]


def test_a_connection_that_died_meanwhile_is_made_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Slept(Broken):
        asked = 0

        def invoke_endpoint(self, **asked: Any) -> Any:
            self.asked += 1
            if self.asked == 1:
                raise self.error
            answer = ANSWER.encode()
            return {"Body": StreamingBody(io.BytesIO(answer), len(answer))}

    dead = ConnectionClosedError(endpoint_url="https://runtime")
    slept = Slept(dead)
    monkeypatch.setattr(lambda_handler, "client", lambda: slept)
    assert asked(event(), capsys)[:2] == (200, ANSWER)
    monkeypatch.setattr(lambda_handler, "client", lambda: Broken(dead))
    assert refused(event(), capsys)[1]["code"] == "server.unreachable"


@pytest.mark.parametrize(
    "given", [{"Content-Type": "a" * 2000}, {"Content-Type": "text/pläin"}, {"Accept": "a\nb"}]
)
def test_a_header_that_cannot_be_passed_on(
    given: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, error = refused(event(**given), capsys)
    assert (status, error["code"]) == (415, "content_type.unsupported")


def test_an_answer_over_what_a_lambda_may_give(
    endpoint: Stubber, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(endpoint, '"' * 3_000_000)  # each is two bytes when it is quoted
    status, error = refused(event(), capsys)
    assert (status, error["code"]) == (413, "answer.too_large")


def test_it_gives_up_before_api_gateway_does_and_never_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    config = lambda_handler.client().meta.config
    assert config.read_timeout + config.connect_timeout < 28
    assert config.retries["total_max_attempts"] == 1


def test_what_nobody_expected_is_told_by_its_kind_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lambda_handler, "client", lambda: Broken(RuntimeError(SECRET)))
    status, error = refused(event(), capsys)
    assert (status, error["code"]) == (500, "server.failed")


def test_it_needs_nothing_but_what_the_runtime_has() -> None:
    tree = ast.parse(Path(lambda_handler.__file__).read_text("utf-8"))
    modules = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert modules - set(sys.stdlib_module_names) == {"boto3", "botocore"}
