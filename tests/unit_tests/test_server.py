"""The server: processes of its own, asked over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Loaded, Trained
from processes import Process

from tfserve import artifact, engines
from tfserve import client as asking
from tfserve.errors import EndpointError, ModelError
from tfserve.export import export
from tfserve.server import graph
from tfserve.server.app import create_app
from tfserve.server.connection import HEAD_BYTES
from tfserve.settings import Settings

JSON, LINES = "application/json", "application/jsonlines"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


WORDS = ("where", "is", "my", "parcel", "late", "invoice", "refund", "the")


def different(count: int, first: int = 0) -> list[str]:
    """Texts that the model can tell apart, so that each is computed."""
    numbers = range(first, first + count)
    return [" ".join(WORDS[n >> 3 * k & 7] for k in range(6)) for n in numbers]


class Client:
    """Asks a server on loopback."""

    def __init__(self, process: Process) -> None:
        self.process = process
        process.wait_until(lambda: "listening on" in process.err)
        self.port = int(re.findall(r"listening on http://127\.0\.0\.1:(\d+)", process.err)[0])

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Header names have underscores here."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        chunked = not isinstance(body, (bytes, str, type(None)))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, named, encode_chunked=chunked)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            text = answer.read().decode(errors="replace")
        is_json = found.get("content-type") == JSON
        return Reply(answer.status, found, json.loads(text) if is_json else text)

    def predict(self, value: Any, path: str = "/predict", **headers: str) -> Reply:
        return self.ask("POST", path, json.dumps(value).encode(), Content_Type=JSON, **headers)

    def until(self, status: int, seconds: float = 60) -> Reply:
        """Wait until ``/ping`` has this status."""
        end = time.monotonic() + seconds
        while True:
            reply = self.ask("GET", "/ping")
            if reply.status == status and (status != 503 or reply.code != "server.loading"):
                return reply
            assert time.monotonic() < end, self.process.err
            time.sleep(0.01)

    def metric(self, name: str) -> float:
        lines = self.ask("GET", "/metrics").body.splitlines()
        return float(next(line for line in lines if line.startswith(name)).rpartition(" ")[2])

    @property
    def workers(self) -> list[int]:
        """The server's children."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
        return found

    @property
    def worker(self) -> int:
        [found] = self.workers
        return found

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.process.err.splitlines()]


@contextmanager
def served(model: Path, log: Path, *options: str, **environment: str) -> Iterator[Client]:
    """A server that is stopped in the end, and then exits with 0."""
    # By default it would make a graph of each model first.
    given = {f"TFSERVE_{name}": v for name, v in {"ENGINE": "torch", **environment}.items()}
    command = ["serve", str(model), "--port", "0", *options]
    client = Client(Process(command, log, environment=given))
    yield client
    workers = client.workers
    client.process.send(signal.SIGTERM)
    assert client.process.wait(30) == 0, client.process.err
    for process in workers:
        assert not Path(f"/proc/{process}").exists()


@pytest.fixture(scope="module")
def client(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("server") / "log"
    with served(trained("classif"), log, PRECISION="fp32", MAX_BODY_MB="1") as client:
        client.until(200)
        yield client
        assert not re.search("parcel|invoice|secret", client.process.err)


def test_it_answers_as_the_predictor_does(client: Client, loaded: Loaded) -> None:
    texts = ["where is my parcel", "refund the invoice"]
    expected = loaded("classif").predict(texts)
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    for path in ("/invocations", "/predict"):
        for body, kind in ((json.dumps({"data": texts}).encode(), JSON), (lines, LINES)):
            reply = client.ask("POST", path, body, Content_Type=kind)
            assert (reply.status, reply.body) == (200, {"predictions": expected})
            reply = client.ask("POST", path, body, Content_Type=kind, Accept=LINES)
            assert (reply.status, reply.headers["content-type"]) == (200, LINES)
            assert [json.loads(line) for line in reply.body.splitlines()] == expected


@pytest.mark.parametrize("task", ["ner", "multilabel-classif", "regression"])
def test_every_task_is_served(task: str, trained: Trained, loaded: Loaded, tmp_path: Path) -> None:
    family = "layoutlm" if task == "ner" else "bert"
    record: dict[str, Any] = {"text": "the parcel of Anna is late " * 40, "id": 7}
    if task == "ner":
        record["bbox"] = [[1, 2, 3, 4]] * 240
    expected = loaded(task, family).predict([record, record])
    with served(trained(task, family), tmp_path / "log", PRECISION="fp32") as client:
        client.until(200)
        assert client.predict([record, record]).body == {"predictions": expected}
        answer = client.ask("GET", "/openapi.json").body["components"]["schemas"]["Answer"]
        assert set(answer["required"]) <= set(expected[0]) <= {*answer["properties"], "id",
                                                               "truncated"}  # fmt: skip
        assert client.ask("GET", "/info").body["use_bbox"] is (task == "ner")


def test_a_text_in_the_address_is_answered(client: Client, loaded: Loaded) -> None:
    expected = loaded("classif").predict(["late parcel"], {"top_k": 2})
    reply = client.ask("GET", "/predict?text=late%20parcel&top_k=2")
    assert (reply.status, reply.body) == (200, {"predictions": expected})
    [answer] = client.ask("GET", "/predict?text=late%20parcel&scores=True").body["predictions"]
    assert len(answer["scores"]) == 4


def test_parameters_may_stand_in_the_address_of_any_body(client: Client, loaded: Loaded) -> None:
    expected = loaded("classif").predict(["late parcel"], {"top_k": 2})
    for body, kind in (
        (b"late parcel", "text/plain"), (b"text\nlate parcel\n", "text/csv"),
        (b'{"text": "late parcel"}\n', "application/jsonlines"), (b'["late parcel"]', JSON),
    ):  # fmt: skip
        reply = client.ask("POST", "/predict?top_k=2", body, Content_Type=kind, Accept=JSON)
        assert (reply.status, reply.body) == (200, {"predictions": expected}), kind
    own = client.predict({"data": ["late parcel"], "parameters": {"top_k": 1}}, "/predict?top_k=2")
    assert len(own.body["predictions"][0]["scores"]) == 1  # the body's go first
    wrong = client.predict(["late parcel"], "/predict?topk=2")
    assert (wrong.status, wrong.code) == (400, "parameters.unknown")


def test_what_a_request_took_is_told(client: Client) -> None:
    reply = client.predict(["late parcel", "late parcel", "refund"], X_Request_Id="my-own.id:7")
    headers = reply.headers
    assert headers["x-request-id"] == "my-own.id:7"
    assert int(headers["x-tokens"]) >= 5
    assert float(headers["x-compute-ms"]) > 0
    assert float(headers["x-queue-ms"]) >= 0
    info = client.ask("GET", "/info").body
    assert headers["x-model-version"] == info["model_version"]
    assert info["task_name"] == "classif"
    assert info["limits"]["max_body_mb"] == 1
    assert info["engine"]["precision"] == "fp32"
    assert client.metric("tfserve_tokens_total") > 0
    own = client.predict(["late"], X_Request_Id="a b\tc").headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", own)
    sagemakers = client.predict(["late"], X_Amzn_SageMaker_Inference_Id="gateway-1")
    assert sagemakers.headers["x-request-id"] == "gateway-1"


def test_no_text_and_every_request_is_logged(client: Client) -> None:
    client.predict(["a secret"], X_Request_Id="logged-1")
    client.predict([{"secret": 1}], X_Request_Id="logged-2")
    client.ask("GET", "/predict?text=secret", X_Request_Id="logged-3")
    client.ask("GET", "/secret", X_Request_Id="logged-4")
    client.process.wait_until(lambda: "logged-4" in client.process.err, 5)
    lines = {line["request_id"]: line for line in client.logged() if "request_id" in line}
    assert lines["logged-1"]["status"] == 200
    assert lines["logged-1"]["records"] == 1
    assert lines["logged-1"]["total_ms"] >= lines["logged-1"]["compute_ms"]
    assert [lines[f"logged-{n}"]["status"] for n in (2, 3, 4)] == [400, 200, 404]
    assert not [line for line in lines.values() if line["path"] == "/ping"]


def test_it_says_what_batch_transform_asks(client: Client) -> None:
    reply = client.ask("GET", "/execution-parameters")
    assert reply.status == 200
    assert reply.body["BatchStrategy"] == "MULTI_RECORD"
    assert reply.body["MaxPayloadInMB"] == 1
    assert reply.body["MaxConcurrentTransforms"] >= 1


def test_its_documentation_comes_from_nowhere_else(client: Client) -> None:
    page = client.ask("GET", "/docs").body
    sources = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(sources) >= 2
    for source in sources:
        assert client.ask("GET", source).status == 200, source
    document = client.ask("GET", "/openapi.json").body
    body = document["paths"]["/predict"]["post"]
    example = body["requestBody"]["content"][JSON]["example"]
    told = body["responses"]["200"]["content"][JSON]["example"]["predictions"]
    answers = client.predict(example).body["predictions"]
    assert [answer["pred"] for answer in answers] == [answer["pred"] for answer in told]


def test_the_paths_that_are_told_are_those_there_are(client: Client) -> None:
    told = client.ask("GET", "/nothing").body["error"]["message"]
    paths = set(told.rpartition("one of ")[2].split(", "))
    documented = set(client.ask("GET", "/openapi.json").body["paths"])
    assert paths == documented | {"/", "/docs", "/openapi.json"}
    assert all(client.ask("OPTIONS", path).status == 405 for path in paths)


def packed(content: bytes) -> bytes:
    """The same bytes at any time: tests are named after them."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code"),
    [
        ("POST", "/invocations", b"{", {"Content_Type": JSON}, 400, "body.not_json"),
        ("POST", "/invocations", b"", {"Content_Type": JSON}, 400, "body.empty"),
        ("POST", "/invocations", b'[{"txt": 1}]', {}, 400, "record.field_missing"),
        ("POST", "/invocations", b'{"data": ["a"], "parameters": {"x": 1}}', {}, 400,
         "parameters.unknown"),
        ("POST", "/invocations", b"x", {"Content_Type": "image/png"}, 415,
         "content_type.unsupported"),
        ("POST", "/invocations", b'["a"]', {"Accept": "image/png"}, 406, "accept.unsupported"),
        ("POST", "/invocations", b" " * 1_000_001, {}, 413, "body.too_large"),
        ("POST", "/invocations", b"x", {"Content_Encoding": "br"}, 415, "content_type.encoding"),
        ("POST", "/invocations", b"x", {"Content_Encoding": "gzip"}, 400, "body.not_gzip"),
        ("POST", "/invocations", packed(b'["a"]')[:-9], {"Content_Encoding": "gzip"}, 400,
         "body.not_gzip"),
        ("POST", "/invocations", packed(b" " * 2_000_000), {"Content_Encoding": "gzip"}, 413,
         "body.too_large"),
        ("GET", "/predict", None, {}, 400, "record.field_missing"),
        ("GET", "/predict?text=a&top_k=x", None, {}, 400, "parameters.value"),
        ("GET", "/predict?text=a&top_k=" + "[" * 1500, None, {}, 400, "parameters.value"),
        ("GET", "/nothing", None, {}, 404, "server.path"),
        ("POST", "/ping", b"{}", {}, 405, "server.method"),
        ("GET", "/invocations", None, {}, 405, "server.method"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_has_its_status_and_code(
    client: Client, method: str, path: str, body: bytes, headers: Any, status: int, code: str
) -> None:
    reply = client.ask(method, path, body, **headers)
    assert (reply.status, reply.headers["content-type"], reply.code) == (status, JSON, code)
    assert client.ask("GET", "/ping").status == 200


def test_bodies_come_packed_and_in_pieces(client: Client) -> None:
    body = b'{"data": ["late parcel"]}'
    expected = client.ask("POST", "/predict", body).body
    whole = packed(body)
    halves = packed(body[:9]) + packed(body[9:])
    for content in (whole, halves):
        reply = client.ask("POST", "/predict", content, Content_Encoding="gzip")
        assert reply.body == expected
    assert client.ask("POST", "/predict", iter([body[:9], body[9:]])).body == expected
    pieces = (b" " * 100_000 for _ in range(11))
    assert client.ask("POST", "/predict", pieces).code == "body.too_large"


POST = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
RAW: dict[str, tuple[bytes, int | None]] = {
    "nothing": (b"", None),
    "no HTTP": (b"\xff\xfe\r\n\r\n", 400),
    "half a line": (b"POST /invoc", None),
    "half the headers": (POST + b"Content-Le", None),
    "half a body": (POST + b"Content-Length: 50\r\n\r\n{", None),
    "a length that is none": (POST + b"Content-Length: x\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n12", 400),
    "a length below 0": (POST + b"Content-Length: -5\r\n\r\n", 400),
    "bad chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a head that just fits": ((POST + b"X: ").ljust(HEAD_BYTES, b"x"), None),
    # With one byte more all has been read when it is refused: else the answer may be lost.
    "a head that does not": ((POST + b"X: ").ljust(HEAD_BYTES + 1, b"x"), 431),
}
"""What is sent before the client ends it, and the status of the answer, where there is one."""


@pytest.mark.parametrize("kind", RAW)
def test_what_is_no_request_harms_nobody(kind: str, client: Client) -> None:
    sent, status = RAW[kind]
    answer = b""
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as raw:
        raw.sendall(sent)
        raw.shutdown(socket.SHUT_WR)
        while part := raw.recv(65536):
            answer += part
    found = [int(code) for code in re.findall(rb"HTTP/1.1 (\d+)", answer)]
    assert found == ([] if status is None else [status])
    assert client.ask("GET", "/ping").status == 200


def test_a_head_without_an_end_is_refused(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as raw:
        raw.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\nX: ".ljust(HEAD_BYTES + 1, b"x"))
        answer = http.client.HTTPResponse(raw)
        answer.begin()
        assert answer.status == 431
        assert json.loads(answer.read())["error"]["code"] == "server.head_too_large"
        assert raw.recv(1) == b""


def test_a_request_that_fails_is_answered_and_its_reason_stays_here(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(trained("classif"), Settings())

    async def broken(_: Any) -> Any:
        raise RuntimeError("a secret")

    async def main() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "http", "method": "GET", "path": "/broken", "query_string": b"",
                   "headers": [(b"x-request-id", b"mine-1")]}, receive, send)  # fmt: skip
        return sent

    app.add_route("/broken", broken)
    start, told = asyncio.run(main())
    assert start["status"] == 500
    assert (b"x-request-id", b"mine-1") in start["headers"]
    assert json.loads(told["body"])["error"]["code"] == "server.internal"
    assert b"secret" not in told["body"] and "a secret" in caplog.text


def test_requests_one_behind_the_other_are_answered_in_order(client: Client) -> None:
    asked = b"".join(
        b"GET /predict?text=late%20parcel&top_k=" + top + b" HTTP/1.1\r\nHost: a\r\n\r\n"
        for top in (b"1", b"2", b"x", b"3")
    )
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as raw:
        raw.sendall(asked)
        answers = b""
        while answers.count(b"HTTP/1.1") < 4 or not answers.endswith(b"}"):
            answers += raw.recv(65536)
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200", b"400", b"200"]


def test_many_at_once_get_their_own_answers(client: Client, loaded: Loaded) -> None:
    texts = [f"parcel {'invoice ' * (number % 7)}{number}" for number in range(60)]
    expected = loaded("classif").predict(texts, {"scores": True})

    def ask(number: int) -> Any:
        if number % 10 == 9:  # the others do not notice
            return client.predict([{"txt": number}]).code
        asked = {"data": [{"text": texts[number], "id": number}], "parameters": {"scores": True}}
        return client.predict(asked).body["predictions"][0]

    with ThreadPoolExecutor(16) as pool:
        for number, answer in enumerate(pool.map(ask, range(60))):
            if number % 10 == 9:
                assert answer == "record.field_missing"
                continue
            assert answer.pop("id") == number
            scores = answer.pop("scores")
            assert scores == pytest.approx(expected[number]["scores"], abs=1e-5)


def test_a_client_that_goes_away_is_noticed(client: Client) -> None:
    body = json.dumps(different(15_000)).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", client.port)) as raw:
        raw.sendall(head + body)
    client.process.wait_until(lambda: '"status":499' in client.process.err, 20)
    client.process.wait_until(lambda: client.metric("tfserve_queue_tokens") == 0, 20)


def test_large_requests_let_small_ones_pass(client: Client, loaded: Loaded) -> None:
    texts = different(12_000, 100_000)
    replies: list[Reply] = []
    large = threading.Thread(target=lambda: replies.append(client.predict(texts)))
    large.start()
    client.process.wait_until(
        lambda: client.metric("tfserve_queue_windows") > 0 or not large.is_alive(), 20
    )
    passed = 0
    while large.is_alive():
        assert client.predict(["late parcel"]).status == 200
        passed += large.is_alive()
    assert passed >= 1
    preds = [answer["pred"] for answer in replies[0].body["predictions"]]
    expected = [answer["pred"] for answer in loaded("classif").predict(texts)]
    same = sum(one == other for one, other in zip(preds, expected, strict=True))
    assert same >= 0.999 * len(texts)  # another batch rounds otherwise


def test_the_client_asks_for_any_number(client: Client, loaded: Loaded) -> None:
    texts = [f"where is parcel {number}" for number in range(250)]
    url = f"http://127.0.0.1:{client.port}"
    found = asking.predict(url, iter(texts), {"top_k": 1}, max_records=40)
    expected = loaded("classif").predict(texts, {"top_k": 1})
    assert [answer["pred"] for answer in found] == [answer["pred"] for answer in expected]
    assert [len(answer["scores"]) for answer in found] == [1] * 250
    [bad] = asking.predict(url, [{"title": "a"}])
    assert bad["error"]["code"] == "record.field_missing"
    with pytest.raises(EndpointError, match="expected none for 4 labels"):
        asking.predict(url, ["a"], {"threshold": 0.5})


def test_a_server_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(EndpointError, match=r"cannot ask http.*refused"):
            asking.predict(f"http://127.0.0.1:{unused.getsockname()[1]}", ["a"])


def test_the_shell_asks_as_it_predicts(client: Client, loaded: Loaded, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"late parcel {number}", "id": number}) for number in range(30)]
    lines[3], lines[7], lines[29] = "no JSON", '{"title": 1}', '{"text": ""}'
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    model = loaded("classif").artifact
    assert model is not None
    answered = []
    for whom in (["predict", str(model.path), "--precision", "fp32"],
                 ["call", f"http://127.0.0.1:{client.port}/"]):  # fmt: skip
        output = tmp_path / f"{whom[0]}.jsonl"
        process = Process([whom[0], whom[1], str(tmp_path / "in.jsonl"), "--output", str(output),
                           *whom[2:]], tmp_path / whom[0])  # fmt: skip
        assert process.wait() == 0, process.err
        assert "3 records could not be answered" in process.err
        answered.append([json.loads(line) for line in output.read_text("utf-8").splitlines()])
    for one, other in zip(*answered, strict=True):
        assert one.pop("proba", 0) == pytest.approx(other.pop("proba", 0), abs=1e-5)
        assert one == other
    assert [answer["error"]["line"] for answer in answered[1] if "error" in answer] == [4, 8, 30]


def test_keys_are_wanted(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("first\nsecond\n")
    options = ("--root-path", "/models/tickets")
    given = {"API_KEYS_FILE": str(tmp_path / "keys"), "CORS_ORIGINS": "https://a.example"}
    with served(trained("classif"), tmp_path / "log", *options, **given) as client:
        client.until(200)
        for header in ({}, {"Authorization": "Bearer third"}, {"Authorization": "Basic first"}):
            reply = client.predict(["late"], **header)
            assert (reply.status, reply.code) == (401, "access.key")
            assert reply.headers["www-authenticate"] == "Bearer"
        for key in ("first", "second"):
            assert client.predict(["late"], Authorization=f"Bearer {key}").status == 200
            url = f"http://127.0.0.1:{client.port}"
            assert len(asking.predict(url, ["late", "refund"], key=key)) == 2
        assert client.ask("GET", "/health").body == {"status": "ok"}
        assert client.ask("GET", "/metrics").status == 401
        document = client.ask("GET", "/openapi.json").body
        assert document["servers"] == [{"url": "/models/tickets"}]
        assert document["security"] == [{"key": []}]
        assert "example" not in json.dumps(document["paths"])
        prefixed = client.predict(["late"], "/models/tickets/predict", Authorization="Bearer first")
        assert prefixed.status == 200
        assert client.ask("GET", "/models/tickets/ping").status == 200
        assert client.ask("GET", "/models/tickets/info").status == 401
        asked = {"Origin": "https://a.example", "Access_Control_Request_Method": "POST"}
        allowed = client.ask("OPTIONS", "/predict", **asked).headers
        assert allowed["access-control-allow-origin"] == "https://a.example"
        refused = client.ask("OPTIONS", "/predict", **{**asked, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in refused.headers
    assert "first" not in client.process.err


def test_too_much_at_once_is_refused_with_the_time_to_wait(
    trained: Trained, tmp_path: Path
) -> None:
    given = {"MAX_QUEUE_TOKENS": "300", "MAX_RECORDS": "500"}
    with served(trained("classif"), tmp_path / "log", **given) as client:
        client.until(200)

        def ask(number: int) -> Reply:
            return client.predict(different(40, 40 * number))

        with ThreadPoolExecutor(24) as pool:
            replies = list(pool.map(ask, range(120)))
        assert {reply.status for reply in replies} == {200, 429}
        for reply in replies:
            if reply.status == 429:
                assert reply.code == "server.queue_full"
                assert int(reply.headers["retry-after"]) >= 1
            else:
                assert len(reply.body["predictions"]) == 40
        url = f"http://127.0.0.1:{client.port}"
        texts = [f"parcel {i} of many" for i in range(400)]
        assert len(asking.predict(url, texts, workers=16, max_records=20)) == 400  # it waits
        assert client.predict(["late"] * 501).code == "body.too_many"
        assert client.predict(["late"]).status == 200


def test_a_killed_worker_is_replaced(trained: Trained, tmp_path: Path) -> None:
    with served(trained("classif"), tmp_path / "log") as client:
        client.until(200)
        stop = threading.Event()

        def ask(number: int) -> set[tuple[int, str]]:
            seen, first = set(), 30_000 * number
            while not stop.is_set():
                reply = client.predict(different(100, first))
                seen.add((reply.status, "" if reply.status == 200 else reply.code))
                first += 100
            return seen

        with ThreadPoolExecutor(8) as pool, contextlib.ExitStack() as ending:
            ending.callback(stop.set)  # whatever happens
            asking = [pool.submit(ask, number) for number in range(8)]
            client.process.wait_until(lambda: client.metric("tfserve_queue_windows") > 0)
            killed = client.worker
            os.kill(killed, signal.SIGKILL)
            assert client.until(503, 10).code == "server.restarting"
            client.until(200)
            before = client.metric("tfserve_records_total")
            client.process.wait_until(lambda: client.metric("tfserve_records_total") > before)
            stop.set()
            seen = set[tuple[int, str]]().union(*(one.result() for one in asking))
        assert client.worker != killed
        assert (200, "") in seen
        assert seen <= {(200, ""), (500, "server.crashed"), (503, "server.restarting")}
        assert (500, "server.crashed") in seen
        assert client.metric("tfserve_worker_starts") == 2


def test_sigterm_loses_nothing_that_was_accepted(trained: Trained, tmp_path: Path) -> None:
    with served(trained("classif"), tmp_path / "log") as client:
        client.until(200)

        accepted = threading.Barrier(7)

        def ask(number: int) -> int:
            body = json.dumps(different(1000, 1000 * number)).encode()
            head = f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode()
            with socket.create_connection(("127.0.0.1", client.port), timeout=60) as raw:
                raw.sendall(POST + head)
                assert raw.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
                raw.sendall(body)
                accepted.wait(60)
                answer = http.client.HTTPResponse(raw)
                answer.begin()
                return len(json.loads(answer.read())["predictions"])

        with ThreadPoolExecutor(6) as pool:
            asking = [pool.submit(ask, number) for number in range(6)]
            accepted.wait(60)
            client.process.send(signal.SIGTERM)
            assert [one.result() for one in asking] == [1000] * 6


def test_a_model_that_was_exchanged_is_not_served_half(copied: Trained, tmp_path: Path) -> None:
    model = copied("classif")
    with served(model, tmp_path / "log") as client:
        client.until(200)
        manifest = json.loads((model / "tfserve.json").read_text("utf-8"))
        manifest["metrics"]["changed"] = 1
        (model / "tfserve.json").write_text(json.dumps(manifest), "utf-8")
        os.kill(client.worker, signal.SIGKILL)
        client.process.wait_until(lambda: "not the one that was served" in client.process.err, 60)
        assert client.until(503).code == "model.changed"


def test_a_model_that_is_damaged_ends_it_unless_it_is_told_to_stay(
    copied: Trained, tmp_path: Path
) -> None:
    model = copied("classif")
    (model / "config.json").write_text("{}", "utf-8")
    process = Process(["serve", str(model), "--port", "0"], tmp_path / "ends")
    assert process.wait() == 1
    assert "is not the file that training wrote" in process.err
    assert "Traceback" not in process.err
    with served(model, tmp_path / "stays", "--keep-unhealthy") as client:
        assert client.until(503).code == "model.tampered"
        assert client.predict(["a"]).code == "model.tampered"
        assert client.ask("GET", "/health").body["error"]["code"] == "model.tampered"
        assert client.ask("GET", "/info").status == 503


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("exported", [True, False])
def test_a_graph_is_served_without_torch(
    exported: bool, trained: Trained, loaded: Loaded, tmp_path: Path
) -> None:
    """One that was exported, or is made while the server starts."""
    model = trained("classif")
    if exported:
        export(model, "openvino", output=tmp_path / "light")
        model = tmp_path / "light"
    with served(model, tmp_path / "log", ENGINE="auto", PRECISION="fp32") as client:
        client.until(200)
        told = client.ask("GET", "/info").body["engine"]
        assert (told["name"], told["precision"]) == ("openvino", "fp32")
        answers = [client.predict(text).body["predictions"][0] for text in different(20)]
        for answer, expected in zip(answers, loaded("classif").predict(different(20)), strict=True):
            assert answer["pred"] == expected["pred"]
            assert answer["proba"] == pytest.approx(expected["proba"], abs=1e-4)
        assert "libtorch" not in Path(f"/proc/{client.worker}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_server_that_is_stopped_while_it_makes_a_graph_leaves_nothing(
    trained: Trained, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    given = {"TFSERVE_ENGINE": "openvino", "TMPDIR": str(scratch)}
    command = ["serve", str(trained("classif")), "--port", "0"]
    process = Process(command, tmp_path / "log", environment=given)
    try:
        process.wait_until(lambda: list(scratch.glob("tfserve-*")))
        process.wait_until(lambda: len(_with(scratch)) >= 2)  # the export and what converts
        process.send(signal.SIGTERM)
    except BaseException:
        process.send(signal.SIGKILL)
        raise
    assert process.wait(20) == 0, process.err
    assert not list(scratch.glob("tfserve-*"))
    assert not _with(scratch)


def _with(folder: Path) -> list[Path]:
    """Processes that were started with a folder in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append(process)
    return found


@pytest.mark.parametrize("asked", ["auto", "openvino"])
def test_where_no_graph_can_be_made_torch_serves_unless_another_was_asked_for(
    asked: str, trained: Trained, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = artifact.load(trained("classif"))
    monkeypatch.setattr(engines, "may_have_gpu", lambda: False)
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")
    prepared = graph.Graph().prepare(found, asked)
    if asked == "auto":
        assert asyncio.run(prepared) is found
        assert "no folder for a graph" in caplog.text
    else:
        with pytest.raises(ModelError, match="no folder for a graph"):
            asyncio.run(prepared)


def test_a_graph_is_made_only_where_it_is_wanted(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = artifact.load(trained("classif"))
    stored = replace(found, manifest=replace(found.manifest, files={
        **found.manifest.files, "onnx/model.onnx": ""}))  # fmt: skip
    light = replace(found, manifest=replace(found.manifest, files={"openvino/model.xml": ""}))
    for gpu, expected in ((False, "openvino"), (True, None)):
        monkeypatch.setattr(engines, "may_have_gpu", lambda gpu=gpu: gpu)
        assert graph.wanted("auto", found) == expected
        assert graph.wanted("auto", stored) is None
        assert graph.wanted("auto", light) is None
        assert graph.wanted("torch", found) is None
        assert graph.wanted("onnx", found) == "onnx"
        assert graph.wanted("onnx", stored) is None
        assert graph.wanted("openvino", light) is None
    monkeypatch.setattr(engines, "may_have_gpu", lambda: False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert graph.wanted("auto", found) is None


def test_what_answers_http_loads_no_torch() -> None:
    code = "import sys, tfserve.server.run; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_port_that_is_taken_is_said(trained: Trained, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = Process(["serve", str(trained("classif")), "--port", port], tmp_path / "log")
        assert process.wait() == 1
    assert port in process.err
    assert "Address already in use" in process.err
    assert "[server.address]" in process.err
    assert "Traceback" not in process.err


def test_a_setting_that_the_task_does_not_understand_ends_it(
    trained: Trained, tmp_path: Path
) -> None:
    given = {"TFSERVE_THRESHOLD": "0.5"}
    command = ["serve", str(trained("classif")), "--port", "0"]
    process = Process(command, tmp_path / "log", environment=given)
    assert process.wait() == 1
    assert "threshold: expected none for 4 labels" in process.err
