"""Stand-ins for what stands around a Lambda at AWS, each an HTTP server on loopback.

``Runtime`` is SageMaker's runtime API in front of a container; ``Gateway`` is a stage of API
Gateway with the template's own key check, request model and gateway responses, and the Lambda
runtime API behind it, from which the real runtime interface client takes its events.
"""

from __future__ import annotations

import json
import queue
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jsonschema

from tfserve.aws.stack.template import parsed

LAMBDA = "/2018-06-01/runtime/invocation"


class Handler(BaseHTTPRequestHandler):
    """One that says nothing and knows its body."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *values: object) -> None:
        """No line per request."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(handler: type[Handler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def runtime(container: str) -> Iterator[str]:
    """``/endpoints/NAME/invocations`` of SageMaker, answered by a container's ``/invocations``."""

    class Runtime(Handler):
        def do_POST(self) -> None:
            given = {"Content-Type": self.headers["Content-Type"],
                     "Accept": self.headers.get("Accept", "*/*"),
                     "X-Amzn-SageMaker-Inference-Id":
                         self.headers.get("X-Amzn-SageMaker-Inference-Id", "")}  # fmt: skip
            asked = urllib.request.Request(f"{container}/invocations", self.body(), given)
            try:
                with urllib.request.urlopen(asked, timeout=60) as answer:
                    self.answer(200, answer.read(),
                                **{"Content-Type": answer.headers["Content-Type"]})  # fmt: skip
            except urllib.error.HTTPError as error:
                said = {
                    "Message": "Received client error from primary",
                    "OriginalStatusCode": error.code,
                    "OriginalMessage": error.read().decode(),
                }
                self.answer(424, json.dumps(said).encode(), **{"x-amzn-errortype": "ModelError"})

    with serving(Runtime) as url:
        yield url


@dataclass
class Gateway:
    """A stage, reached at ``url``; ``lambda_url`` is where the Lambda asks for work."""

    key: str
    url: str = ""
    lambda_url: str = ""
    waiting: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    answered: dict[str, queue.Queue[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = parsed()["Resources"]
        self.schema = found["RequestModel"]["Properties"]["Schema"]
        self.refusals = {
            r["Properties"]["ResponseType"]: r["Properties"]
            for r in found.values()
            if r["Type"] == "AWS::ApiGateway::GatewayResponse"
        }

    def refusal(self, kind: str, request_id: str) -> tuple[int, str, dict[str, str]]:
        properties = self.refusals[kind]
        text = properties["ResponseTemplates"]["application/json"]
        status = int(properties.get("StatusCode", 500))
        return status, text.replace("$context.requestId", request_id), {}

    def ask(self, path: str, headers: dict[str, str], body: str) -> tuple[int, str, dict[str, str]]:
        """As the stage does: key, model, Lambda."""
        request_id = str(uuid.uuid4())
        if path != "/v1/predict":
            return self.refusal("MISSING_AUTHENTICATION_TOKEN", request_id)
        known = {name.lower(): value for name, value in headers.items()}
        if known.get("x-api-key") != self.key:
            return self.refusal("INVALID_API_KEY", request_id)
        if known.get("content-type", "application/json") == "application/json":
            try:
                jsonschema.validate(json.loads(body), self.schema)
            except (ValueError, jsonschema.ValidationError):
                return self.refusal("BAD_REQUEST_BODY", request_id)
        event = {
            "resource": "/predict", "path": "/predict", "httpMethod": "POST", "headers": headers,
            "multiValueHeaders": {name: [value] for name, value in headers.items()},
            "queryStringParameters": None, "pathParameters": None, "stageVariables": None,
            "requestContext": {"requestId": request_id, "stage": "v1", "apiId": "standin"},
            "body": body, "isBase64Encoded": False,
        }  # fmt: skip
        self.answered[request_id] = queue.Queue()
        self.waiting.put(event)
        try:
            said = self.answered[request_id].get(timeout=29)
        except queue.Empty:
            return self.refusal("INTEGRATION_TIMEOUT", request_id)
        finally:
            del self.answered[request_id]
        if said is None or "statusCode" not in said:
            return self.refusal("DEFAULT_5XX", request_id)
        return said["statusCode"], said["body"], said["headers"]


@contextmanager
def gateway(key: str) -> Iterator[Gateway]:
    """Both sides of it."""
    stage = Gateway(key)

    class Public(Handler):
        def do_POST(self) -> None:
            body = self.body().decode()
            status, text, headers = stage.ask(self.path, dict(self.headers.items()), body)
            self.answer(status, text.encode(), **headers)

    class LambdaApi(Handler):
        """https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html"""

        def do_GET(self) -> None:
            event = stage.waiting.get()
            given = {
                "Lambda-Runtime-Aws-Request-Id": event["requestContext"]["requestId"],
                "Lambda-Runtime-Deadline-Ms": "9999999999999",
                "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793",
                "Content-Type": "application/json",
                "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:1:function:t",
            }
            self.answer(200, json.dumps(event).encode(), **given)

        def do_POST(self) -> None:
            said = json.loads(self.body() or b"null")
            request_id, _, what = self.path.removeprefix(f"{LAMBDA}/").partition("/")
            if request_id in stage.answered:
                stage.answered[request_id].put(said if what == "response" else None)
            self.answer(202, b"{}")

    with serving(Public) as stage.url, serving(LambdaApi) as stage.lambda_url:
        yield stage
