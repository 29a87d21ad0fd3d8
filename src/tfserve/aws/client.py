"""Asking an endpoint: any number of records, in order, whatever its limits and its load.

    from tfserve.aws import client

    answers = client.predict("my-endpoint", ["where is my parcel?", …])

Needs boto3 alone.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from tfserve.aws import boto3_client
from tfserve.codecs import JSON, dumps
from tfserve.errors import EndpointError, TooLargeError

MAX_BYTES = 5_000_000
"""Of a request: real-time endpoints take 6 MB, the HuggingFace containers a little more."""

MAX_RECORDS = 1000
"""Of a request, which has 60 seconds; one that takes longer is split and asked again."""

ATTEMPTS, FIRST_WAIT, LONGEST_WAIT = 8, 0.5, 20.0
BUSY = ("ThrottlingException", "ServiceUnavailable", "ServiceUnavailableException",
        "InternalFailure", "InternalServerException", "ModelNotReadyException",
        "InternalDependencyException")  # fmt: skip

Answer = dict[str, Any]


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
    parameters : ``top_k``, ``scores``, ``threshold``; ``on_error`` is ``record`` unless given
    client : boto3's for ``sagemaker-runtime``; by default one of the default session
    workers : requests at a time
    max_bytes, max_records : bounds of a request; serverless endpoints take 4 MB

    Raises
    ------
    EndpointError
        The endpoint does not exist, refuses the request, or stays busy after eight attempts with
        growing, random pauses.
    """
    # Retries are made here, where a request can be split.
    client = client or boto3_client("sagemaker-runtime", retries={"total_max_attempts": 1})
    given = {"on_error": "record", **(parameters or {})}
    requests = list(_requests(records, given, max_bytes, max_records))
    with ThreadPoolExecutor(workers, "tfserve-client") as pool:
        answered = pool.map(lambda items: _ask(client, endpoint_name, items, given), requests)
        return list(chain.from_iterable(answered))


def _requests(
    records: Iterable[Any], parameters: Mapping[str, Any], max_bytes: int, max_records: int
) -> Iterator[list[str]]:
    """Records as JSON, so many at a time as fit into a request."""
    room = max_bytes - len(_body([], parameters))
    items: list[str] = []
    size = 0
    for index, record in enumerate(records):
        item = dumps(record)
        length = len(item.encode()) + 1
        if length > room:
            raise TooLargeError(
                "record.too_large",
                f"found a record of {length:,} bytes; expected at most {room:,}, which is what a "
                "request to the endpoint takes: cut it, or use Batch Transform",
                index=index,
            )
        if items and (size + length > room or len(items) == max_records):
            yield items
            items, size = [], 0
        items.append(item)
        size += length
    if items:
        yield items


def _body(items: list[str], parameters: Mapping[str, Any]) -> bytes:
    return f'{{"data":[{",".join(items)}],"parameters":{dumps(dict(parameters))}}}'.encode()


def _ask(
    client: Any, endpoint_name: str, items: list[str], parameters: Mapping[str, Any]
) -> list[Answer]:
    """The answers of one request, which is split where the endpoint is too slow for it."""
    from botocore import exceptions as boto

    for attempt in range(1, ATTEMPTS + 1):
        try:
            answer = client.invoke_endpoint(
                EndpointName=endpoint_name,
                ContentType=JSON,
                Accept=JSON,
                Body=_body(items, parameters),
            )
            predictions: list[Answer] = json.loads(answer["Body"].read())["predictions"]
            return predictions
        except boto.ClientError as error:
            problem = _problem(endpoint_name, error.response)
            busy = error.response.get("Error", {}).get("Code") in BUSY or problem.busy
            slow = "timed out" in problem.message
        except boto.BotoCoreError as error:  # connections that break, credentials that are missing
            problem = EndpointError("endpoint.connection", f"cannot ask {endpoint_name}: {error}")
            broken = (boto.EndpointConnectionError, boto.ConnectTimeoutError,
                      boto.ConnectionClosedError, boto.ProxyConnectionError)  # fmt: skip
            busy, slow = isinstance(error, broken), isinstance(error, boto.ReadTimeoutError)
        if slow and len(items) > 1:
            middle = len(items) // 2
            halves = (items[:middle], items[middle:])
            return [a for half in halves for a in _ask(client, endpoint_name, half, parameters)]
        if not (busy or slow) or attempt == ATTEMPTS:
            raise problem
        # Full jitter: clients that were refused together do not come back together.
        time.sleep(random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)))
    raise AssertionError("unreachable")


def _problem(endpoint_name: str, response: Mapping[str, Any]) -> EndpointError:
    """What an endpoint's refusal says, the container's own error where it gave one."""
    code = response.get("Error", {}).get("Code", "")
    message = response.get("OriginalMessage") or response.get("Error", {}).get("Message", "")
    status = int(response.get("OriginalStatusCode") or 0)
    problem = EndpointError(f"endpoint.{code or 'error'}", f"{endpoint_name} refuses: {message}")
    for _ in range(2):  # the container's error, perhaps inside the HuggingFace toolkit's
        try:
            inner = json.loads(message)
        except ValueError:
            break
        inner = inner.get("error", inner) if isinstance(inner, dict) else {}
        message = str(inner.get("message", ""))
        if isinstance(inner.get("code"), str):
            problem = EndpointError(inner["code"], message, index=inner.get("index"))
            break
    problem.busy = status >= 500 or status == 429
    return problem
