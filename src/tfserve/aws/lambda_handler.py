"""The Lambda between API Gateway and a SageMaker endpoint: passes on, and says what went wrong.

It is deployed as this one file, so it imports nothing but what Lambda's Python has. Bodies pass as
they are, JSON, JSON Lines or any other form that the model reads; what the model refuses keeps its
status and its error object. No text of a request or an answer is logged.

Settings: ``TFSERVE_ENDPOINT`` is the endpoint's name, ``TFSERVE_MAX_BYTES`` the largest body that
it takes.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import time
from typing import Any

import boto3
from botocore import exceptions as boto
from botocore.config import Config

SECONDS = 25
"""For the model's answer: API Gateway gives up after 29, and ours is the clearer message."""

AT_ONCE = 1.0
"""Seconds in which a connection that is dead shows itself."""

MAX_ANSWER = 6_000_000
"""Bytes of an answer as Lambda quotes it in JSON, of which it gives 6 MB with all headers."""

REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
MEDIA_TYPE = re.compile(r"[\x20-\x7e]{1,1024}")
JSON = "application/json"

BUSY = {"ThrottlingException": 429, "ServiceUnavailable": 503, "ServiceUnavailableException": 503,
        "ModelNotReadyException": 503, "InternalFailure": 502, "InternalServerException": 502,
        "InternalDependencyException": 502}  # fmt: skip
"""What SageMaker says where asking again may help → the status that says so by HTTP."""


OURS = ("install", "model", "server", "settings", "storage")
"""First parts of the codes of what no client can help."""


class Refused(Exception):  # noqa: N818
    """An answer that is an error: its status, a stable code, and a message."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.error = status, {"code": code, "message": message, **more}


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """A proxy event of API Gateway's REST APIs, and the answer to it."""
    started = time.monotonic()
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    gateway_id = (event.get("requestContext") or {}).get("requestId")
    given = headers.get("x-request-id", "")
    own = str(gateway_id or context.aws_request_id)
    request_id = given if REQUEST_ID.fullmatch(given) else own
    told: dict[str, Any] = {"request_id": request_id, "gateway_id": gateway_id}
    answered = {"x-request-id": request_id}
    try:
        body = _body(event)
        told["bytes"] = len(body)
        status, answer, answered["Content-Type"] = 200, *_ask(body, headers, request_id)
    except Exception as error:
        told["kind"] = type(error).__name__  # its text might be a client's
        failed = Refused(500, "server.failed", "the service failed; ask again later")
        refused = error if isinstance(error, Refused) else failed
        status, answered["Content-Type"] = refused.status, JSON
        told["error"] = refused.error["code"]
        answer = json.dumps({"error": {**refused.error, "request_id": request_id}})
        if status in (429, 503):
            answered["Retry-After"] = "1"
    told |= {"status": status, "milliseconds": round(1000 * (time.monotonic() - started))}
    print(json.dumps(told))
    return {"statusCode": status, "headers": answered, "body": answer, "isBase64Encoded": False}


def _body(event: dict[str, Any]) -> bytes:
    """The bytes that the client sent. Raises Refused for none, and for too many."""
    text = event.get("body") or ""
    try:
        body = base64.b64decode(text, validate=True) if event.get("isBase64Encoded") else None
    except ValueError:
        raise Refused(400, "body.base64", "found a body that is not base64") from None
    if body is None:
        body = text.encode()
    if not body.strip():
        expected = 'expected such as {"data": [{"text": "…"}]}'
        raise Refused(400, "body.empty", f"found no body; {expected}")
    limit = int(os.environ["TFSERVE_MAX_BYTES"])
    if len(body) > limit:
        found = f"found a body of {len(body):,} bytes; expected at most {limit:,}"
        raise Refused(413, "body.too_large", f"{found}: send fewer records at a time")
    return body


def _ask(body: bytes, headers: dict[str, str], request_id: str) -> tuple[str, str]:
    """The endpoint's answer and its type. Raises Refused."""
    content_type, accept = headers.get("content-type") or JSON, _accept(headers)
    if not (MEDIA_TYPE.fullmatch(content_type) and MEDIA_TYPE.fullmatch(accept)):
        message = f"found a Content-Type or Accept that is none; expected such as {JSON}"
        raise Refused(415, "content_type.unsupported", message)
    asked = {"ContentType": content_type, "Accept": accept, "InferenceId": request_id, "Body": body}
    began = time.monotonic()
    try:
        try:
            answer = _invoke(asked)
        except boto.ConnectionClosedError:
            if time.monotonic() - began > AT_ONCE:
                raise
            answer = _invoke(asked)  # the connection died while this process slept
        said = answer["Body"].read()
    except boto.ClientError as error:
        raise _refused(error.response) from None
    except boto.ReadTimeoutError:
        raise _too_slow() from None
    except boto.BotoCoreError as error:  # by its kind only: its text may tell of the account
        message = f"the endpoint cannot be reached ({type(error).__name__}); ask again later"
        raise Refused(502, "server.unreachable", message) from None
    text = said.decode(errors="replace")
    if (size := len(json.dumps(text, ensure_ascii=False).encode())) > MAX_ANSWER:
        found = f"found an answer of {size:,} bytes; expected at most {MAX_ANSWER:,}"
        raise Refused(413, "answer.too_large", f"{found}: send fewer records at a time")
    return text, answer.get("ContentType") or JSON


def _invoke(asked: dict[str, Any]) -> Any:
    return client().invoke_endpoint(EndpointName=os.environ["TFSERVE_ENDPOINT"], **asked)


def _accept(headers: dict[str, str]) -> str:
    """What the client accepts; browsers and tools that take anything get JSON."""
    accept = headers.get("accept") or JSON
    return JSON if "*/*" in accept else accept


def _refused(response: dict[str, Any]) -> Refused:
    """What to tell of an error that SageMaker reports."""
    code = response.get("Error", {}).get("Code", "")
    if code == "ModelError":
        status = int(response.get("OriginalStatusCode") or 500)
        inner = _error(str(response.get("OriginalMessage", "")))
        if inner is not None:
            # The toolkit of the HuggingFace containers has 400 for everything that a handler says,
            # and loads a model with the first request.
            status = int(inner.pop("status", status))
            own = inner["code"].partition(".")[0] in OURS
            return Refused(502 if own and status == 400 else status, **inner)
        if "timed out" in str(response.get("OriginalMessage", "")):
            return _too_slow()
        return Refused(502, "server.model", f"the model failed with status {status}; ask again")
    if code in BUSY:
        message = "the endpoint has more to do than it can; ask again later"
        return Refused(BUSY[code], "server.busy", message)
    if code in ("ValidationError", "ValidationException"):
        return Refused(503, "server.unavailable", "the endpoint is not in service; ask again later")
    return Refused(500, "server.failed", f"the endpoint refuses this service ({code or 'unknown'})")


def _too_slow() -> Refused:
    found = f"no answer within {SECONDS} seconds"
    return Refused(504, "server.deadline", f"{found}; send fewer records at a time")


def _error(message: str) -> dict[str, Any] | None:
    """The error object of tfserve's in a container's answer, perhaps inside the toolkit's own.

    As ``tfserve.client.found`` has it, which is not there at AWS.
    """
    for _ in range(2):
        try:
            inner = json.loads(message)
        except ValueError:
            return None
        inner = inner.get("error", inner) if isinstance(inner, dict) else {}
        if not isinstance(inner, dict):
            return None
        if isinstance(inner.get("code"), str):
            return {**inner, "message": str(inner.get("message", ""))}
        message = str(inner.get("message", ""))
    return None


@functools.cache
def client() -> Any:
    """One for all requests of this process; made once, for that takes longer than asking."""
    once = Config(
        read_timeout=SECONDS, connect_timeout=2, retries={"total_max_attempts": 1},
        tcp_keepalive=True,
    )  # fmt: skip
    return boto3.client("sagemaker-runtime", config=once)
