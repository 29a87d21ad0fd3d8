"""Asking an endpoint, against botocore's own client with the network's answers given."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from botocore.response import StreamingBody
from botocore.stub import Stubber

from tfserve.aws import client as asking
from tfserve.aws import lambda_handler
from tfserve.client import ATTEMPTS, LONGEST_WAIT, found
from tfserve.errors import EndpointError, TooLargeError


class Endpoint:
    """Answers each record with itself; ``refusals`` come first.

    Attributes
    ----------
    sizes : records of each request that arrived
    """

    def __init__(self, refuse: Callable[[int, list[Any]], None] = lambda *_: None) -> None:
        self.refuse = refuse
        self.sizes: list[int] = []
        self.bodies: list[bytes] = []

    def invoke_endpoint(self, **asked: Any) -> dict[str, Any]:
        assert (asked["EndpointName"], asked["ContentType"]) == ("ep", "application/json")
        request = json.loads(asked["Body"])
        self.sizes.append(len(request["data"]))
        self.bodies.append(asked["Body"])
        self.refuse(len(self.sizes), request["data"])
        answers = [{"pred": item, "asked": request["parameters"]} for item in request["data"]]
        return {"Body": io.BytesIO(json.dumps({"predictions": answers}).encode())}


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it waited, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


@pytest.fixture
def stubbed() -> Iterator[tuple[Any, Stubber]]:
    client = boto3.client(
        "sagemaker-runtime",
        region_name="eu-west-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    with Stubber(client) as stubber:
        yield client, stubber
        stubber.assert_no_pending_responses()


def body(answers: list[Any]) -> dict[str, Any]:
    raw = json.dumps({"predictions": answers}).encode()
    return {"Body": StreamingBody(io.BytesIO(raw), len(raw)), "ContentType": "application/json"}


def test_a_request_is_what_boto_and_the_endpoint_expect(stubbed: Any) -> None:
    client, stubber = stubbed
    expected = {
        "EndpointName": "ep",
        "ContentType": "application/json",
        "Accept": "application/json",
        "Body": b'{"data":["a",{"text":"\xc3\xa9"}],"parameters":{"on_error":"record","top_k":2}}',
    }
    stubber.add_response("invoke_endpoint", body([{"pred": 1}, {"pred": 2}]), expected)
    answers = asking.predict("ep", ["a", {"text": "é"}], {"top_k": 2}, client=client)
    assert answers == [{"pred": 1}, {"pred": 2}]


@pytest.mark.parametrize("workers", [1, 4])
def test_records_are_split_by_size_and_count_and_keep_their_order(workers: int) -> None:
    endpoint = Endpoint()
    records = ["x" * (7 * i % 400) for i in range(200)]
    answers = asking.predict(
        "ep", records, client=endpoint, workers=workers, max_bytes=1000, max_records=10
    )
    assert [answer["pred"] for answer in answers] == records
    assert max(endpoint.sizes) == 10
    assert max(map(len, endpoint.bodies)) <= 1000
    assert sum(endpoint.sizes) == 200


def test_no_records_need_no_request() -> None:
    endpoint = Endpoint()
    assert asking.predict("ep", [], client=endpoint) == []
    assert endpoint.sizes == []


def test_a_record_that_no_request_can_hold_is_said_before_any_is_made() -> None:
    endpoint = Endpoint()
    with pytest.raises(TooLargeError) as caught:
        asking.predict("ep", ["a", "b" * 2000], client=endpoint, max_bytes=1000)
    assert caught.value.place == {"index": 1}
    assert endpoint.sizes == []


@pytest.mark.parametrize("code", ["ThrottlingException", "ServiceUnavailable"])
def test_a_busy_endpoint_is_asked_again_after_growing_pauses(
    code: str, stubbed: Any, pauses: list[float]
) -> None:
    client, stubber = stubbed
    for _ in range(3):
        stubber.add_client_error("invoke_endpoint", code, "slow down", 400)
    stubber.add_response("invoke_endpoint", body([{"pred": 1}]))
    assert asking.predict("ep", ["a"], client=client) == [{"pred": 1}]
    assert len(pauses) == 3
    assert all(0 <= pause <= 0.5 * 2**n for n, pause in enumerate(pauses, 1))


def test_an_endpoint_that_stays_busy_is_given_up(stubbed: Any, pauses: list[float]) -> None:
    client, stubber = stubbed
    for _ in range(ATTEMPTS):
        stubber.add_client_error("invoke_endpoint", "ThrottlingException", "slow down", 400)
    with pytest.raises(EndpointError, match="slow down") as caught:
        asking.predict("ep", ["a"], client=client)
    assert caught.value.code == "endpoint.ThrottlingException"
    assert len(pauses) == ATTEMPTS - 1
    assert max(pauses) <= LONGEST_WAIT


def test_a_record_that_is_too_much_alone_costs_itself(stubbed: Any, pauses: list[float]) -> None:
    client, stubber = stubbed
    told = json.dumps({"error": {"code": "body.too_slow", "message": "some 90 seconds of work"}})
    for _ in range(2):  # of both records, then of the first
        stubber.add_client_error("invoke_endpoint", "ModelError", told, 413)
    stubber.add_response("invoke_endpoint", body([{"pred": 1}]))
    records = [{"text": "a long one", "id": 5}, "b"]
    found = asking.predict("ep", records, client=client)
    assert found[1] == {"pred": 1} and pauses == []
    assert found[0]["id"] == 5 and found[0]["error"]["code"] == "body.too_slow"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_container_that_is_busy_or_starting_is_asked_again(status: int, stubbed: Any) -> None:
    client, stubber = stubbed
    refusal = {
        "OriginalStatusCode": status,
        "OriginalMessage": '{"error":{"code":"server.loading","message":"m"}}',
    }
    stubber.add_client_error("invoke_endpoint", "ModelError", "m", 424, modeled_fields=refusal)
    stubber.add_response("invoke_endpoint", body([{"pred": 1}]))
    assert asking.predict("ep", ["a"], client=client) == [{"pred": 1}]


@pytest.mark.parametrize(
    "message",
    [
        '{"error":{"code":"record.text_empty","message":"found an empty text","index":3}}',
        # The HuggingFace toolkit's answer, with our error as its message.
        json.dumps(
            {
                "code": 400,
                "type": "InternalServerException",
                "message": '{"code":"record.text_empty","message":"found an empty text","index":3}',
            }
        ),
    ],
)
def test_the_container_s_own_error_comes_through(message: str, stubbed: Any) -> None:
    client, stubber = stubbed
    refusal = {"OriginalStatusCode": 400, "OriginalMessage": message}
    stubber.add_client_error("invoke_endpoint", "ModelError", "m", 424, modeled_fields=refusal)
    with pytest.raises(EndpointError) as caught:
        asking.predict("ep", ["a"], client=client)
    assert caught.value.code == "record.text_empty"
    assert caught.value.message == "found an empty text"
    assert caught.value.place == {"index": 3}


def test_an_endpoint_that_does_not_exist_is_said_at_once(stubbed: Any, pauses: list[float]) -> None:
    client, stubber = stubbed
    message = "Endpoint ep of account 1 not found."
    stubber.add_client_error("invoke_endpoint", "ValidationError", message, 400)
    with pytest.raises(EndpointError, match="ep refuses: Endpoint ep of account 1 not found"):
        asking.predict("ep", ["a"], client=client)
    assert pauses == []


def test_a_request_that_takes_too_long_is_split(pauses: list[float]) -> None:
    def slow(number: int, data: list[Any]) -> None:
        if len(data) > 3:
            raise ReadTimeoutError(endpoint_url="https://runtime")

    endpoint = Endpoint(slow)
    records = [str(i) for i in range(10)]
    answers = asking.predict("ep", records, client=endpoint)
    assert [answer["pred"] for answer in answers] == records
    assert endpoint.sizes == [10, 5, 2, 3, 5, 2, 3]
    assert pauses == []


def test_a_connection_that_fails_is_tried_again() -> None:
    def flaky(number: int, data: list[Any]) -> None:
        if number == 1:
            raise EndpointConnectionError(endpoint_url="https://runtime")

    endpoint = Endpoint(flaky)
    assert len(asking.predict("ep", ["a"], client=endpoint)) == 1
    assert endpoint.sizes == [1, 1]


def test_missing_credentials_are_said_at_once(pauses: list[float]) -> None:
    def nobody(number: int, data: list[Any]) -> None:
        raise NoCredentialsError

    with pytest.raises(EndpointError, match="Unable to locate credentials") as caught:
        asking.predict("ep", ["a"], client=Endpoint(nobody))
    assert caught.value.code == "endpoint.connection"
    assert pauses == []


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"page": "sign in"}', "found something else as the answer to 2 records"),
        (b"[1, 2]", "found something else as the answer to 2 records"),
        (b'{"predictions": [{"pred": 1}]}', "found 1 predictions as the answer to 2 records"),
        (b"<html>", "ep answers no JSON"),
    ],
)
def test_an_answer_that_is_none_is_an_error(raw: bytes, says: str) -> None:
    class Other:
        def invoke_endpoint(self, **asked: Any) -> dict[str, Any]:
            return {"Body": io.BytesIO(raw)}

    with pytest.raises(EndpointError) as caught:
        asking.predict("ep", ["a", "b"], client=Other())
    assert caught.value.code == "endpoint.answer" and says in caught.value.message


MESSAGES: list[tuple[str, dict[str, Any] | None]] = [
    ('{"error": "Unauthorized"}', None),
    ('{"error": null}', None),
    ("null", None),
    ("no JSON", None),
    ('{"message": "{\\"code\\": 3}"}', None),
    ('{"code": "body.empty", "message": "none", "index": 4}',
     {"code": "body.empty", "message": "none", "index": 4}),
    ('{"error": {"code": "body.empty", "message": "none"}}',
     {"code": "body.empty", "message": "none"}),
    ('{"code": 400, "message": "{\\"code\\": \\"body.empty\\", \\"message\\": \\"x\\"}"}',
     {"code": "body.empty", "message": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "expected"), MESSAGES)
def test_our_error_is_found_in_another_s_message_by_client_and_lambda_alike(
    message: str, expected: dict[str, Any] | None
) -> None:
    error = found(message)
    assert (error and error.as_dict()) == expected
    assert lambda_handler._error(message) == expected
