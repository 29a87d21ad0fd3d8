"""A small HTTP server behind SageMaker's hosting contract, for our own image.

    GET  /ping                  200 once the model has loaded and answered its golden records
    POST /invocations           a request body in, answers out
    GET  /execution-parameters  what Batch Transform asks for

SIGTERM stops accepting, answers what was accepted and exits with 0. While the model loads, or when
it cannot, ``/ping`` is 503 and says why.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tfserve import codecs, handlers
from tfserve.errors import BodyError, SettingsError, TfserveError
from tfserve.predictor import Predictor
from tfserve.settings import Settings

log = logging.getLogger("tfserve")
PAYLOAD_MB = 6
"""Of a Batch Transform mini-batch, unless the transform job says otherwise."""

DRAINED, BLOCK = 200_000_000, 65_536
"""Of a body that is too large so much is read, in blocks, and thrown away."""


class Server(ThreadingHTTPServer):
    """Listens at once; answers when the model is there.

    Attributes
    ----------
    predictor : None until the model has loaded
    failure : why it could not be loaded
    """

    daemon_threads = False  # closing waits for the requests that are being answered
    request_queue_size = 128

    def __init__(self, model_dir: Path | str, host: str, port: int) -> None:
        self.settings = Settings.from_environment()
        super().__init__((host, port), Handler)
        self.predictor: Predictor | None = None
        self.failure: TfserveError | None = None
        threading.Thread(target=self._load, args=(model_dir,), daemon=True).start()

    def _load(self, model_dir: Path | str) -> None:
        try:
            self.predictor = handlers.model_fn(model_dir)
        except TfserveError as error:
            self.failure = error
            log.error("%s", error)
        except Exception as error:
            self.failure = TfserveError("server.load", f"the model cannot be loaded: {error}")
            log.error("the model cannot be loaded", exc_info=error)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no news; its text is not logged."""
        log.debug("a connection broke off")


class Handler(BaseHTTPRequestHandler):
    """One request of one client."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tfserve", ""
    timeout = 60  # seconds that a client may be silent

    def do_GET(self) -> None:
        if self.path == "/ping":
            self._ping()
        elif self.path == "/execution-parameters":
            cores = os.cpu_count() or 1
            strategy = {"MaxConcurrentTransforms": cores, "BatchStrategy": "MULTI_RECORD"}
            self._send(200, json.dumps({**strategy, "MaxPayloadInMB": PAYLOAD_MB}))
        else:
            self._not_found()

    def do_POST(self) -> None:
        if self.path != "/invocations":
            self._not_found()
            return
        try:
            body = self._body()
            if (model := self.server.predictor) is None:
                self._ping()
                return
            accept = self.headers.get("Accept")
            media_type = codecs.negotiate(accept)
            request = handlers.input_fn(body, self.headers.get("Content-Type"))
            answer = handlers.output_fn(handlers.predict_fn(request, model), accept)
        except TfserveError as error:
            self._send_error(error.status, error)
        except Exception as error:
            log.error("a request failed: %s", type(error).__name__, exc_info=True)
            self._send_error(500, TfserveError("server.internal", "the request failed; see logs"))
        else:
            self._send(200, answer, media_type)

    def _ping(self) -> None:
        if self.server.failure is not None:
            self._send_error(503, self.server.failure)
        elif self.server.predictor is None:
            self._send_error(503, TfserveError("server.loading", "the model is being loaded"))
        else:
            self._send(200, "{}")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise BodyError("body.length", "found no Content-Length; expected one")
        try:
            self.server.settings.check_body(int(length))
        except TfserveError:
            # A client that is still sending would not read the answer.
            for start in range(0, min(int(length), DRAINED), BLOCK):
                self.rfile.read(min(BLOCK, int(length) - start))
            raise
        return self.rfile.read(int(length))

    def _not_found(self) -> None:
        paths = "/ping, /invocations, /execution-parameters"
        self._send_error(404, TfserveError("server.path", f"expected one of {paths}"))

    def _send_error(self, status: int, error: TfserveError) -> None:
        self._send(status, codecs.dumps({"error": error.as_dict()}))

    def _send(self, status: int, text: str, media_type: str = codecs.JSON) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: Any) -> None:
        """No line per request: ``/ping`` comes every few seconds."""


def serve(model_dir: Path | str, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve until SIGTERM or SIGINT. Raises SettingsError for a setting or an address."""
    try:
        listening = Server(model_dir, host, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError(
            "server.address", f"cannot listen on {host}:{port}: {reason}; choose another address"
        ) from None
    with listening as server:

        def stop(*_: Any) -> None:
            threading.Thread(target=server.shutdown, daemon=True).start()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        log.warning("listening on http://%s:%d", *server.server_address[:2])
        server.serve_forever(poll_interval=0.1)
