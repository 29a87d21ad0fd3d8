"""The HTTP surface: its routes and what each answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

import tfserve
from tfserve import codecs, strict_json
from tfserve.artifact import installed_versions
from tfserve.errors import TfserveError
from tfserve.server import body, openapi
from tfserve.server.around import PATHS, Around, ms, refusal
from tfserve.server.batcher import STARTING
from tfserve.server.service import Reply, Service
from tfserve.server.worker import Starting
from tfserve.settings import Settings

BODIES = 3
"""So many of the largest bodies may be held at a time."""

PAYLOAD_MB = 6
"""Of a Batch Transform mini-batch, unless the transform job says otherwise."""

PAGE = Path(__file__).parent / "page"
ITS_OWN = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
"""The page takes nothing from elsewhere and sends nothing there."""

PACKAGES = (
    "tfserve",
    "openvino",
    "onnxruntime",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "fastapi",
    "uvicorn",
)


def create_app(
    model_dir: Path | str,
    settings: Settings | None = None,
    *,
    root_path: str = "",
    first: Starting | None = None,
) -> FastAPI:
    """The application that serves ``model_dir``; its model is loaded while it already answers.

    Parameters
    ----------
    settings : by default those of the environment
    first : a worker that loads the model already (see ``Service``)
    """
    settings = settings or Settings.from_environment()
    service = Service(model_dir, settings, first)
    bodies = body.Bodies(BODIES * settings.max_body_mb * 1_000_000)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keeping = asyncio.ensure_future(service.batcher.keep())
        yield
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        service.close()

    # Its page at /docs takes nothing from elsewhere: servers and readers may have no internet.
    app = FastAPIOffline(
        title="tfserve", version=tfserve.__version__, root_path=root_path, lifespan=lifespan,
        redoc_url=None, static_url="/docs/static",
    )  # fmt: skip
    app.state.service = service
    app.openapi = lambda: openapi.document(app, service)  # type: ignore[method-assign]
    app.add_exception_handler(TfserveError, refusal)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_middleware(Around, service=service)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "X-Model-Version"],
        )  # fmt: skip

    async def answer(request: Request) -> Response:
        headers = request.headers
        with bodies.held() as take:
            content = await body.read(request, settings, take)
            asking = service.answer(
                content, headers.get("content-type"), headers.get("accept"), _parameters(request)
            )
            return _reply(request, await body.wanted(request, asking, settings.deadline_s))

    async def predict(request: Request) -> Response:
        if request.method == "POST":
            return await answer(request)
        parameters = _parameters(request)
        text = parameters.pop("text", None)
        record = {} if text is None else {"text": text}
        asked = codecs.Request([record], parameters)
        with bodies.held() as take:
            await body.read(request, settings, take)
        asking = service.ask(asked, codecs.JSON)
        return _reply(request, await body.wanted(request, asking, settings.deadline_s))

    async def ping(_: Request) -> Response:
        if service.batcher.failure is not None:
            raise service.batcher.failure.at()
        return Response("{}", media_type=codecs.JSON)

    async def health(_: Request) -> Response:
        failure = service.batcher.failure
        if failure is not None:
            state = {"status": "unavailable", "error": failure.as_dict()}
            return Response(strict_json.dumps(state), 503, media_type=codecs.JSON)
        return Response('{"status":"ok"}', media_type=codecs.JSON)

    async def info(_: Request) -> Response:
        if service.artifact is None:
            raise (service.batcher.failure or STARTING).at()
        return Response(strict_json.dumps(_info(service)), media_type=codecs.JSON)

    async def execution_parameters(_: Request) -> Response:
        cores = os.cpu_count() or 1
        strategy = {"MaxConcurrentTransforms": cores, "BatchStrategy": "MULTI_RECORD"}
        told = {**strategy, "MaxPayloadInMB": min(PAYLOAD_MB, settings.max_body_mb)}
        return Response(json.dumps(told), media_type=codecs.JSON)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4")

    async def page(_: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers=ITS_OWN)

    app.mount("/page", StaticFiles(directory=PAGE))
    # Starlette's routes, because FastAPI would look for parameters that they do not have.
    app.add_route("/", page)
    app.add_route("/invocations", answer, ["POST"])
    app.add_route("/predict", predict, ["GET", "POST"])
    app.add_route("/ping", ping)
    app.add_route("/health", health)
    app.add_route("/info", info)
    app.add_route("/metrics", metrics)
    app.add_route("/execution-parameters", execution_parameters)
    return app


def _reply(request: Request, reply: Reply) -> Response:
    request.state.reply = reply
    headers = {
        "x-queue-ms": str(ms(reply.queued)),
        "x-compute-ms": str(ms(reply.computing)),
        "x-tokens": str(reply.tokens),
    }
    return Response(reply.text, headers=headers, media_type=reply.media_type)


async def _no_route(request: Request, error: Any) -> Response:
    """No such path, or not with this method."""
    code, said = "server.path", f"found no such path; expected one of {', '.join(PATHS)}"
    if error.status_code == 405:
        code, said = "server.method", f"found {request.method}; expected {error.headers['Allow']}"
    content = strict_json.dumps({"error": {"code": code, "message": said}})
    return Response(content, error.status_code, error.headers, media_type=codecs.JSON)


def _info(service: Service) -> dict[str, Any]:
    """What is served, without a path of this machine."""
    settings, manifest = service.settings, service.artifact.manifest  # type: ignore[union-attr]
    assert service.processor is not None
    worker = service.batcher.worker
    return {
        "model_version": service.version,
        "task_name": manifest.task,
        **service.processor.task.state(),
        "max_length": manifest.max_length,
        "long_text": manifest.long_text,
        "use_bbox": manifest.use_bbox,
        "example": manifest.golden[0]["record"] if manifest.golden else None,
        "metrics": manifest.metrics,
        "engine": worker.facts if worker else {},
        "versions": installed_versions(PACKAGES),
        "trained_with": manifest.versions,
        "parameters": settings.parameters,
        "limits": {
            "max_body_mb": settings.max_body_mb,
            "max_records": settings.max_records,
            "max_queue_tokens": settings.max_queue_tokens,
            "deadline_s": settings.deadline_s,
        },
    }


def _parameters(request: Request) -> dict[str, Any]:
    """Those of the query; ``text`` is none, and stays as it is."""
    return {
        name: text if name == "text" else strict_json.plain_value(text)
        for name, text in request.query_params.items()
    }
