"""The server of our image: SageMaker's hosting contract over real sockets."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Trained
from processes import Process

import tfserve
from tfserve.server import Server

JSON, LINES = "application/json", "application/jsonlines"


class Client:
    """Asks a server on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, str, Any]:
        """Status, media type and body, decoded if it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        kind, text = answer.getheader("Content-Type", ""), answer.read().decode()
        connection.close()
        return answer.status, kind, json.loads(text) if kind == JSON else text

    def ready(self) -> int:
        """Wait until the model has loaded or cannot; the status of ``/ping`` then."""
        deadline = time.monotonic() + 60
        while True:
            status, _, body = self.ask("GET", "/ping")
            if status == 200 or body["error"]["code"] != "server.loading":
                return status
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def serving(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setenv("TFSERVE_PRECISION", "fp32")
    monkeypatch.setenv("TFSERVE_MAX_BODY_MB", "1")
    with Server(trained("classif"), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        client = Client(server.server_address[1])
        assert client.ready() == 200
        yield client
        server.shutdown()
        thread.join()


def test_it_answers_as_the_predictor_does(serving: Client, trained: Trained) -> None:
    texts = ["where is my parcel", "refund the invoice"]
    expected = tfserve.load(trained("classif"), precision="fp32").predict(texts)
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    for body, kind in ((json.dumps({"data": texts}).encode(), JSON), (lines, LINES)):
        status, media_type, answer = serving.ask("POST", "/invocations", body, Content_Type=kind)
        assert (status, media_type) == (200, JSON)
        assert answer == {"predictions": expected}
        status, media_type, answer = serving.ask(
            "POST", "/invocations", body, Content_Type=kind, Accept=LINES
        )
        assert (status, media_type) == (200, LINES)
        assert [json.loads(line) for line in answer.splitlines()] == expected


def test_it_says_what_batch_transform_asks(serving: Client) -> None:
    status, _, answer = serving.ask("GET", "/execution-parameters")
    assert status == 200
    assert answer["BatchStrategy"] == "MULTI_RECORD"
    assert answer["MaxPayloadInMB"] == 6
    assert answer["MaxConcurrentTransforms"] >= 1


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "code"),
    [
        ("POST", "/invocations", b"{", {"Content_Type": JSON}, 400, "body.not_json"),
        ("POST", "/invocations", b"", {"Content_Type": JSON}, 400, "body.empty"),
        ("POST", "/invocations", b'[{"txt": 1}]', {}, 400, "record.field_missing"),
        ("POST", "/invocations", b"x", {"Content_Type": "image/png"}, 415,
         "content_type.unsupported"),
        ("POST", "/invocations", b'["a"]', {"Accept": "image/png"}, 406, "accept.unsupported"),
        ("POST", "/invocations", b" " * 1_000_001, {}, 413, "body.too_large"),
        ("GET", "/nothing", None, {}, 404, "server.path"),
        ("POST", "/ping", b"{}", {}, 404, "server.path"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_has_its_status_and_code(
    serving: Client, method: str, path: str, body: bytes, headers: Any, status: int, code: str
) -> None:
    got, media_type, answer = serving.ask(method, path, body, **headers)
    assert (got, media_type, answer["error"]["code"]) == (status, JSON, code)
    assert serving.ask("GET", "/ping")[0] == 200


def test_clients_that_go_away_leave_it_well(serving: Client) -> None:
    for sent in (
        b"",
        b"POST /invocations HTTP/1.1\r\nContent-Length: 50\r\n\r\n{",
        b"\xff\xfe\r\n",
    ):
        with socket.create_connection(("127.0.0.1", serving.port)) as client:
            client.sendall(sent)
    assert serving.ask("GET", "/ping")[0] == 200


def test_many_at_once_are_all_answered(serving: Client) -> None:
    def ask(number: int) -> str:
        body = json.dumps({"data": [{"text": f"parcel {number}", "id": number}]}).encode()
        status, _, answer = serving.ask("POST", "/invocations", body, Content_Type=JSON)
        assert status == 200
        return str(answer["predictions"][0]["id"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == [str(number) for number in range(40)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("damaged", [False, True])
def test_sigterm_ends_it_cleanly_and_a_damaged_model_stays_unhealthy(
    damaged: bool, copied: Trained, tmp_path: Path
) -> None:
    model = copied("classif")
    if damaged:
        (model / "config.json").write_text("{}", "utf-8")
    port = free_port()
    process = Process(["serve", str(model), "--port", str(port)], tmp_path / "log")
    process.wait_until(lambda: "listening" in process.err)
    client = Client(port)
    if damaged:
        assert client.ready() == 503
        assert client.ask("GET", "/ping")[2]["error"]["code"] == "model.tampered"
        status, _, answer = client.ask("POST", "/invocations", b'["a"]', Content_Type=JSON)
        assert (status, answer["error"]["code"]) == (503, "model.tampered")
        assert "is not the file that training wrote" in process.err
    else:
        assert client.ready() == 200
    process.send(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_port_that_is_taken_is_said(trained: Trained, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = Process(["serve", str(trained("classif")), "--port", port], tmp_path / "log")
        assert process.wait() == 1
    assert port in process.err
    assert "Address already in use" in process.err
    assert "Traceback" not in process.err
