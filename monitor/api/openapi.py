"""The OpenAPI 3.1 document, made from the endpoints, so that it cannot say anything else than the code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from monitor.api.endpoint import Endpoint
from monitor.api.problem import MEDIA, Details

_TEMPLATE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")
_JSON, _BINARY = "application/json", "application/octet-stream"
_ALWAYS = {
    400: "The request is malformed.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    422: "The body or the query is not of the shape that is wanted.",
    503: "It cannot be done just now; `Retry-After` says when to come again.",
}
_GUARDED = {
    401: "No token, or a wrong one.",
    403: "The person lacks the right.",
    429: "Too many wrong tokens came from this network.",
}


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """All endpoints as one document."""
    listed = list(endpoints)
    wanted = [kind for one in listed for kind in (one.body, one.answer, one.query) if kind not in (None, bytes)]
    wanted.append(Details)
    schemas, components = msgspec.json.schema_components(wanted, ref_template=_TEMPLATE)
    by_type: dict[Any, Any] = dict(zip(wanted, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in listed:
        operations = paths.setdefault(_PARAMETER.sub(r"{\1}", one.path), {})
        operations[one.method.lower()] = _operation(one, by_type, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "driftd", "version": version, "description": "Verdicts, labels and words on retraining."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(one: Endpoint, by_type: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name, _ in _PARAMETER.findall(one.path)
    ]
    if one.query is not None:
        schema = components[by_type[one.query]["$ref"].rpartition("/")[2]]
        required = schema.get("required", ())
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": field}
            for name, field in schema["properties"].items()
        ]
    if one.method == "POST":
        parameters.append({
            "name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 200},
            "description": "The same key with the same body is the same act, however often it comes.",
        })  # fmt: skip
    problems = _ALWAYS | (_GUARDED if one.may else {}) | dict(one.problems)
    details = {MEDIA: {"schema": by_type[Details]}}
    found: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "parameters": parameters,
        "responses": _answers(one, by_type)
        | {str(status): {"description": when, "content": details} for status, when in sorted(problems.items())},
    }
    if one.may:
        found["security"] = [{"token": []}]
        found["description"] = f"Needs the right to {' or to '.join(sorted(one.may))}."
    if one.body is not None:
        example = {} if one.example is None else {"example": msgspec.to_builtins(one.example)}
        content = {_BINARY: {}} if one.body is bytes else {_JSON: {"schema": by_type[one.body], **example}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _answers(one: Endpoint, by_type: dict[Any, Any]) -> dict[str, Any]:
    nothing = {"204": {"description": one.empty or "Done."}}
    if one.answer is None:
        return nothing
    content = {} if one.answer is bytes else {"schema": by_type[one.answer]}
    answered = {str(one.status): {"description": "Done.", "content": {one.media: content}}}
    return answered | (nothing if one.empty else {})
