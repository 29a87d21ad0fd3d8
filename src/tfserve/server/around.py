"""Around every request: its id, its key, its errors, its line of log, its place in the metrics."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tfserve import codecs, strict_json
from tfserve.errors import AccessError, ServingError, TfserveError
from tfserve.server.body import discard
from tfserve.server.service import Reply, Service

log = logging.getLogger("tfserve")

OPEN = re.compile(r"/(ping|health|openapi\.json|(docs|page)(/.*)?)?")
"""Paths that want no key."""

PATHS = (
    "/", "/predict", "/invocations", "/info", "/health", "/ping", "/metrics",
    "/execution-parameters", "/docs", "/openapi.json",
)  # fmt: skip
"""Those that are told in log and metrics; what clients make up is not."""

WORK = ("/predict", "/invocations")
"""Paths that want the model's time: what cannot be answered in time is not looked at."""

QUIET = ("/ping", "/health", "/metrics")
"""Paths that are asked every few seconds, and leave no line in the log."""

REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
CLOSED_REQUEST = 499
"""In log and metrics: the client went away. nginx's number."""

NO_KEY = AccessError(
    "access.key", "found no key that is known; expected the header Authorization: Bearer KEY"
)


class Around:
    """The middleware."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service
        self.keys = [key.encode() for key in service.settings.api_keys]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), CLOSED_REQUEST
        request = Request(scope)
        state = request.state
        sagemakers = request.headers.get("x-amzn-sagemaker-inference-id", "")
        given = request.headers.get("x-request-id") or sagemakers
        state.id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        version = self.service.version

        async def answered(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", state.id.encode()))
                if version:
                    message["headers"].append((b"x-model-version", version.encode()))
            await send(message)

        try:
            try:
                self._check(request)
            except TfserveError as error:
                await discard(receive)
                refused = await refusal(request, error)
                await refused(scope, receive, answered)
            else:
                await self.app(scope, receive, answered)
        except ClientDisconnect:
            pass
        except Exception:
            log.error("a request failed", exc_info=True, extra={"fields": {"request_id": state.id}})
            if status == CLOSED_REQUEST:
                failed = ServingError("server.internal", "the request failed; see the server's log")
                refused = await refusal(request, failed)
                await refused(scope, receive, answered)
        finally:
            self._note(scope, state, status, time.perf_counter() - began)

    def _check(self, request: Request) -> None:
        """Raise AccessError or ServingError for a request that is not looked at any further."""
        path = _path(request.scope)
        if self.keys and not OPEN.fullmatch(path) and not self._known(request):
            raise NO_KEY.at()
        if path in WORK:
            self.service.check_room()

    def _known(self, request: Request) -> bool:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        # All are compared, so that the time tells nothing.
        sent = key.strip().encode("latin-1")  # as Starlette decodes headers
        same = [hmac.compare_digest(sent, known) for known in self.keys]
        return scheme.lower() == "bearer" and any(same)

    def _note(self, scope: Any, state: Any, status: int, seconds: float) -> None:
        metrics, path = self.service.metrics, _path(scope)
        path = path if path in PATHS else "other"
        metrics.request(path, status)
        told: dict[str, Any] = {"request_id": state.id, "path": path, "status": status}
        reply: Reply | None = getattr(state, "reply", None)
        if reply is not None:
            metrics.records.inc(reply.records)
            metrics.queued.observe(reply.queued)
            metrics.computing.observe(reply.computing)
            metrics.total.observe(seconds)
            told |= {"records": reply.records, "tokens": reply.tokens}
            told |= {"queue_ms": ms(reply.queued), "compute_ms": ms(reply.computing)}
        if path not in QUIET:
            log.info("request", extra={"fields": {**told, "total_ms": ms(seconds)}})


def _path(scope: Any) -> str:
    """Without the part where a proxy has put it, if that was sent along."""
    root, path = str(scope.get("root_path", "")), str(scope["path"])
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


async def refusal(request: Request, error: Any) -> Response:
    """The response to a request that ended with ``error``."""
    headers = {}
    if (seconds := error.place.get("retry_after")) is not None:
        headers["Retry-After"] = str(seconds)
    if isinstance(error, AccessError):
        headers["WWW-Authenticate"] = "Bearer"
    content = strict_json.dumps({"error": error.as_dict()})
    return Response(content, error.status, headers, media_type=codecs.JSON)


def ms(seconds: float) -> float:
    """Milliseconds."""
    return round(seconds * 1000, 2)
