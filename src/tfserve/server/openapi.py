"""The OpenAPI document: what this model takes and answers, its golden records as examples."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from tfserve import tasks
from tfserve.codecs import DECODERS, JSON, JSON_LINES
from tfserve.parameters import SCHEMAS, Schema, bare
from tfserve.server.service import Service
from tfserve.tasks.common import TEXT, array_of, object_of

VISIBLE = {**TEXT, "minLength": 1, "pattern": "\\S"}
ERROR = object_of(["error"], error=object_of(["code", "message"], code=TEXT, message=TEXT))
REFUSALS = {
    400: "what was sent cannot be read; the error says where",
    401: "no key, or one that is not known",
    406: "an Accept header that allows neither JSON nor JSON Lines",
    413: "over a limit of size or number",
    415: "a content type, charset or encoding that is not read",
    429: "too much waits already: Retry-After says when to ask again",
    500: "the model failed",
    503: "the model is being loaded, or the request was not answered in time",
}


def document(app: FastAPI, service: Service) -> Schema:
    """The document, with schemas once the model is known."""
    manifest = service.artifact.manifest if service.artifact else None
    task = manifest.task if manifest else ""
    # The document wants no key, and records are for those who have one.
    golden = manifest.golden if manifest and not service.settings.api_keys else []
    known = service.processor.task.understood if service.processor else ()
    understood = (*known, "on_error") if task else tuple(SCHEMAS)
    single = bool(task) and tasks.get(task).exclusive  # what has one label has one threshold
    record: Schema = object_of(["text"], text=VISIBLE)
    if manifest and manifest.use_bbox:
        box = {"type": "integer", "minimum": 0, "maximum": 1000}
        record["properties"]["bbox"] = array_of(array_of(box))
        record["required"].append("bbox")
    parameters = {
        "type": "object",
        "properties": {n: bare(SCHEMAS[n]) if single else SCHEMAS[n] for n in understood},
        "additionalProperties": False,
    }
    answer = tasks.get(task).answer_schema if task else {"type": "object"}
    schemas = {
        "Record": record,
        "Parameters": parameters,
        "Request": object_of(["data"], data=array_of(_to("Record")), parameters=_to("Parameters")),
        "Answer": answer,
        "Failure": {**ERROR, "description": "of one record, where on_error is record"},
        "Answers": object_of(
            ["predictions"], predictions=array_of({"anyOf": [_to("Answer"), _to("Failure")]})
        ),
        "Error": ERROR,
    }
    query = [
        {"name": name, "in": "query", "schema": bare(SCHEMAS[name]),
         "description": SCHEMAS[name]["description"]}
        for name in understood
    ]  # fmt: skip
    text = {"name": "text", "in": "query", "required": True, "schema": VISIBLE}
    post = {"parameters": query, "requestBody": _body(golden), "responses": _responses(golden)}
    asked = {"parameters": [text, *query], "responses": _responses(golden)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "tfserve", "version": app.version,
                 "description": f"A {task or 'model'} of tfserve."},
        "servers": [{"url": app.root_path or "/"}],
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        **({"security": [{"key": []}]} if service.settings.api_keys else {}),
        "paths": {
            "/predict": {
                "post": {"summary": "Answer records", "operationId": "predict", **post},
                "get": {"summary": "Answer one text", "operationId": "predictText", **asked},
            },
            "/invocations": {
                "post": {"summary": "The same, as SageMaker calls it", "operationId": "invocations",
                         **post},
            },
            "/ping": _get("ping", "200 when requests are answered", 503),
            "/health": _get("health", "The same, with the reason", 503),
            "/info": _get("info", "The model, its labels and the server's limits", 503),
            "/metrics": _get("metrics", "For Prometheus", kind="text/plain"),
            "/execution-parameters": _get("executionParameters", "What Batch Transform asks for"),
        },
    }  # fmt: skip


def _to(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _body(golden: list[dict[str, Any]]) -> Schema:
    records = [pair["record"] for pair in golden[:2]]
    example = {"example": {"data": records}} if records else {}
    forms = {
        "oneOf": [_to("Request"), _to("Record"), array_of(_to("Record")), array_of(VISIBLE)],
    }
    others = {kind: {"schema": VISIBLE} for kind in DECODERS if kind != JSON}
    return {"required": True, "content": {JSON: {"schema": forms, **example}, **others}}


def _responses(golden: list[dict[str, Any]]) -> Schema:
    answers = [pair["answer"] for pair in golden[:2]]
    example = {"example": {"predictions": answers}} if answers else {}
    told = {"schema": _to("Answers"), **example}
    errors = {
        str(status): {"description": reason, "content": {JSON: {"schema": _to("Error")}}}
        for status, reason in REFUSALS.items()
    }
    content = {JSON: told, JSON_LINES: {"schema": TEXT}}
    return {"200": {"description": "An answer a record, in order", "content": content}, **errors}


def _get(name: str, summary: str, *failures: int, kind: str = JSON) -> Schema:
    responses: Schema = {"200": {"description": summary, "content": {kind: {}}}}
    for status in failures:
        content = {JSON: {"schema": {"type": "object"}}}
        responses[str(status)] = {"description": REFUSALS[status], "content": content}
    return {"get": {"summary": summary, "operationId": name, "responses": responses}}
