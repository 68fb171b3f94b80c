"""The API's own description (OpenAPI 3.1), made from the table of routes."""

from __future__ import annotations

import re
import types
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, get_args

import msgspec

from orchd_ops.http.problems import MEDIA_TYPE, ProblemDocument
from orchd_ops.http.routes import ENDPOINTS, Endpoint, Parameter

ALWAYS = (401, 403, 405, 421, 422, 429, 503)
"""Problems that every route may answer with."""
OF_BODIES = (400, 408, 413, 415)
"""Problems of routes that take a body."""

REFERENCE = "#/components/schemas/{name}"


def document(version: str) -> bytes:
    """Return the description as JSON; `version` is the program's."""
    types_used = _types_used()
    schemas, components = msgspec.json.schema_components(types_used, ref_template=REFERENCE)
    by_type = dict(zip(map(repr, types_used), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        operation = _operation(endpoint, by_type)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    bearer = {"type": "http", "scheme": "bearer"}
    everything = {
        "openapi": "3.1.0",
        "info": {
            "title": "orchd",
            "version": version,
            "description": "A durable task orchestrator.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": bearer}},
        "security": [{"token": []}],
    }
    return msgspec.json.encode(everything)


def _types_used() -> list[Any]:
    found: dict[str, Any] = {repr(ProblemDocument): ProblemDocument}
    for endpoint in ENDPOINTS:
        for wanted in (endpoint.body, endpoint.answer):
            if wanted is not None and not isinstance(wanted, str):
                found |= {repr(member): member for member in _members(wanted)}
    return list(found.values())


def _members(wanted: Any) -> tuple[Any, ...]:
    # msgspec cannot describe a union of plain objects; OpenAPI can.
    return get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)


def _schema(wanted: Any, by_type: dict[str, Any]) -> Any:
    schemas = [by_type[repr(member)] for member in _members(wanted)]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _operation(endpoint: Endpoint, by_type: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": (endpoint.handler.__doc__ or "").partition("\n")[0],
        "parameters": _parameters(endpoint),
        "responses": _responses(endpoint, by_type),
    }
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": endpoint.body_required,
            "content": {"application/json": {"schema": _schema(endpoint.body, by_type)}},
        }
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    in_path = [
        Parameter(name, "Percent-encoded.", {"type": "string", "minLength": 1})
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    return [
        *_described(in_path, "path", required=True),
        *_described(endpoint.parameters, "query", required=False),
        *_described(endpoint.headers, "header", required=False),
    ]


def _described(
    parameters: Sequence[Parameter], place: str, *, required: bool
) -> list[dict[str, Any]]:
    return [
        {
            "name": parameter.name,
            "in": place,
            "required": required,
            "description": parameter.description,
            "schema": parameter.schema,
        }
        for parameter in parameters
    ]


def _responses(endpoint: Endpoint, by_type: dict[str, Any]) -> dict[str, Any]:
    of_body = OF_BODIES if endpoint.body is not None else ()
    refusal = {"schema": by_type[repr(ProblemDocument)]}
    responses = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: refusal},
        }
        for status in sorted({*endpoint.problems, *ALWAYS, *of_body})
    }
    if isinstance(endpoint.answer, str):
        content: dict[str, Any] = {endpoint.answer: {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": _schema(endpoint.answer, by_type)}}
    for status in endpoint.statuses:
        phrase = HTTPStatus(status).phrase
        responses[str(status)] = {"description": phrase, "content": content}
    return responses
