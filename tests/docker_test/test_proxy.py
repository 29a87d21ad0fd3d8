"""nginx in front, with the configuration of docker/nginx: a real one, as a user without rights."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conformance import JSON, Served, conformance
from engine import ROOT
from machine import need, need_root
from servers import asker, free_port, get, own_server, post

NOBODY = 65_534


@contextmanager
def nginx(
    folder: Path, upstream: str, servers: str, certificates: Path | None = None
) -> Iterator[list[int]]:
    """nginx before ``upstream``: the ports on which it listens, for HTTP and HTTPS."""
    need("nginx")
    need_root()
    shutil.copytree(ROOT / "docker" / "nginx", folder)
    (folder / "servers").mkdir()
    shutil.move(folder / f"{servers}.conf", folder / "servers" / "server.conf")
    ports = [free_port(), free_port()]
    changes = {
        "/tmp/": f"{folder}/tmp/",
        "/certificates": str(certificates),
        "tfserve:8080": upstream,
        "listen 8080": f"listen {ports[0]}",
        "listen 8443": f"listen {ports[1]}",
    }
    for file in folder.rglob("*.conf"):
        text = file.read_text("utf-8")
        for old, new in changes.items():
            text = text.replace(old, new)
        file.write_text(text, "utf-8")
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o777)
    for name in ("out", "err"):  # nginx opens its standard output by name
        (folder / name).touch()
        (folder / name).chmod(0o666)
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, user=NOBODY, extra_groups=[])
    try:
        end = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[0])):
                break
            assert process.poll() is None and time.monotonic() < end, (folder / "err").read_text()
            time.sleep(0.05)
        yield ports
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that a user without rights may read."""
    base = tmp_path_factory.mktemp("proxy")
    for path in (base, *base.parents[:2]):
        path.chmod(0o755)
    return base / "nginx"


@pytest.mark.parametrize("served", ["classif"], indirect=True)
def test_it_passes_on_what_is_asked_and_answered(
    served: Served, folder: Path, tmp_path: Path
) -> None:
    with own_server(served.model, tmp_path / "ml") as url:
        upstream = url.removeprefix("http://")
        with nginx(folder, upstream, "http") as (port, _):
            front = f"http://127.0.0.1:{port}"
            conformance.check("`tfserve serve` behind nginx", served, asker(front))
            assert get(front, "/predict?text=a%20secret").status == 200
            assert get(front, "/metrics").status == 404
            assert get(front, "/docs").status == 200
            refused = post(front, b"{", JSON)
            assert json.loads(refused.text)["error"]["code"] == "body.not_json"
            too_large = post(front, b" " * 105_000_000, JSON)
            assert (too_large.status, too_large.media_type) == (413, JSON)
            assert json.loads(too_large.text)["error"]["code"] == "body.too_large"
            request = urllib.request.Request(f"{front}/ping", headers={"X-Request-Id": "mine-1"})
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.headers["x-request-id"] == "mine-1"
    log = (folder / "out").read_text("utf-8")
    assert "secret" not in log
    told = [json.loads(line) for line in log.splitlines()]
    assert {"/predict", "/invocations"} <= {line["path"] for line in told}
    assert "mine-1" in {line["request_id"] for line in told}


def test_without_a_server_it_says_so(folder: Path) -> None:
    with nginx(folder, f"127.0.0.1:{free_port()}", "http") as (port, _):
        reply = post(f"http://127.0.0.1:{port}", b'["a"]', JSON)
        assert (reply.status, reply.media_type) == (503, JSON)
        assert json.loads(reply.text)["error"]["code"] == "server.unavailable"


@pytest.mark.parametrize("served", ["classif"], indirect=True)
def test_it_speaks_tls(served: Served, folder: Path, tmp_path: Path) -> None:
    certificates = folder.parent / "certificates"
    certificates.mkdir()
    key, certificate = certificates / "privkey.pem", certificates / "fullchain.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key,
         "-out", certificate], check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o644)
    with own_server(served.model, tmp_path / "ml") as url:
        upstream = url.removeprefix("http://")
        with nginx(folder, upstream, "https", certificates) as (plain, port):
            asking = http.client.HTTPConnection("localhost", plain, timeout=10)
            with contextlib.closing(asking):
                asking.request("GET", "/info")
                redirected = asking.getresponse()
                assert redirected.status == 308
                assert redirected.headers["Location"] == "https://localhost/info"
            trusted = ssl.create_default_context(cafile=str(certificate))
            body, expected = served.request(JSON)
            request = urllib.request.Request(
                f"https://localhost:{port}/predict", body.encode(), {"Content-Type": JSON}
            )
            with urllib.request.urlopen(request, context=trusted, timeout=60) as answer:
                found = json.loads(answer.read())["predictions"]
                assert answer.headers["Strict-Transport-Security"]
    assert [one["pred"] for one in found] == [one["pred"] for one in expected]
