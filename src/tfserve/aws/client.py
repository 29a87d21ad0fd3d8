"""Asking an endpoint of SageMaker: any number of records, in order, as ``tfserve.client`` does.

    from tfserve.aws import client

    answers = client.predict("my-endpoint", ["where is my parcel?", …])

Needs boto3 alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tfserve.aws import boto3_client
from tfserve.client import MAX_BYTES, MAX_RECORDS, SPLIT, Answer, Refused, answers, found
from tfserve.codecs import JSON
from tfserve.errors import EndpointError

BUSY = ("ThrottlingException", "ServiceUnavailable", "ServiceUnavailableException",
        "InternalFailure", "InternalServerException", "ModelNotReadyException",
        "InternalDependencyException")  # fmt: skip


def predict(
    endpoint_name: str,
    records: Iterable[Any],
    parameters: Mapping[str, Any] | None = None,
    *,
    client: Any = None,
    workers: int = 4,
    max_bytes: int = MAX_BYTES,
    max_records: int = MAX_RECORDS,
) -> list[Answer]:
    """Answers to ``records`` (strings, or objects with ``text`` or ``words``), in their order.

    Parameters
    ----------
    parameters : of the request (see README); ``on_error`` is ``record`` unless given
    client : boto3's for ``sagemaker-runtime``; by default one of the default session
    workers : requests at a time
    max_bytes, max_records : bounds of a request: real-time endpoints take 6 MB and 60 seconds,
        serverless ones 4 MB; what takes longer is split and asked again

    Raises
    ------
    EndpointError
        The endpoint does not exist, refuses the request, or stays busy after eight attempts with
        growing, random pauses.
    """
    # Retries are made where a request can be split.
    asking = client or boto3_client("sagemaker-runtime", retries={"total_max_attempts": 1})
    from botocore import exceptions as boto

    def send(body: bytes) -> Any:
        try:
            answer = asking.invoke_endpoint(
                EndpointName=endpoint_name, ContentType=JSON, Accept=JSON, Body=body
            )
            said = answer["Body"].read()
        except boto.ClientError as error:
            raise _refused(endpoint_name, error.response) from None
        except boto.BotoCoreError as error:  # connections that break, credentials that are missing
            problem = EndpointError("endpoint.connection", f"cannot ask {endpoint_name}: {error}")
            broken = (boto.EndpointConnectionError, boto.ConnectTimeoutError,
                      boto.ConnectionClosedError, boto.ProxyConnectionError)  # fmt: skip
            slow = isinstance(error, boto.ReadTimeoutError)
            raise Refused(problem, busy=isinstance(error, broken), slow=slow) from None
        try:
            return json.loads(said)
        except ValueError as error:
            problem = EndpointError("endpoint.answer", f"{endpoint_name} answers no JSON: {error}")
            raise Refused(problem, busy=False) from None

    return list(answers(send, records, parameters, workers, max_bytes, max_records))


def _refused(endpoint_name: str, response: Mapping[str, Any]) -> Refused:
    """What an endpoint's refusal says, the container's own error where it gave one."""
    code = response.get("Error", {}).get("Code", "")
    message = response.get("OriginalMessage") or response.get("Error", {}).get("Message", "")
    status = int(response.get("OriginalStatusCode") or 0)
    said = EndpointError(f"endpoint.{code or 'error'}", f"{endpoint_name} refuses: {message}")
    problem = found(message) or said
    return Refused(
        problem,
        busy=code in BUSY or status >= 500 or status == 429,
        slow="timed out" in problem.message or problem.code in SPLIT,
    )
