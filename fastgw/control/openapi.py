"""The control listener's table of routes as an OpenAPI 3.1 document.

Owns: the words of that format. The shapes come from the structs that the rows name, so the document says what is answered and
no more. Must never: know a single route.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from fastgw import __version__
from fastgw.control.routes import Answer, Role, Route

_NAMES: Final = re.compile(r"\{(\w+)\}").findall
_REF: Final = "#/components/schemas/{name}"


class ErrorShown(msgspec.Struct):
    """What is wrong: a code for programs, and a message for people."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct):
    error: ErrorShown


def _types(routes: Sequence[Route]) -> list[Any]:
    found: list[Any] = [ErrorBody]
    for row in routes:
        found += [answer for answer in row.answers.values() if answer is not None and not isinstance(answer, str)]
        found += [row.body] if row.body is not None else []
    return list(dict.fromkeys(found))


def _content(answer: Answer, schemas: Mapping[Any, Any]) -> dict[str, object]:
    if answer is None:
        return {}
    if isinstance(answer, str):
        return {"content": {answer: {"schema": {"type": "string"}}}}
    return {"content": {"application/json": {"schema": schemas[answer]}}}


def _operation(row: Route, schemas: Mapping[Any, Any]) -> dict[str, object]:
    parameters: list[dict[str, object]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _NAMES(row.path)
    ]
    parameters += [
        {"name": one.name, "in": "query", "required": one.required, "description": one.summary, "schema": dict(one.schema)}
        for one in row.query
    ]
    answers: dict[str, object] = {
        str(status): {"description": row.summary, **_content(answer, schemas)} for status, answer in row.answers.items()
    }
    answers["default"] = {"description": "What is wrong with the call, or why not now", **_content(ErrorBody, schemas)}
    operation: dict[str, object] = {
        "operationId": f"{row.method.lower()}_{row.action}",
        "summary": row.summary,
        "responses": answers,
        "security": [] if row.role is Role.OPEN else [{"admin": []}],
        "x-role": row.role.name.lower(),
    }
    if parameters:
        operation["parameters"] = parameters
    if row.body is not None:
        operation["requestBody"] = {"required": row.needs_body, **_content(row.body, schemas)}
    return operation


def described_by(routes: Sequence[Route]) -> dict[str, object]:
    """The document."""
    # (`msgspec.json` has none of it in a process of `fastgw serve`: see `early`.)
    from msgspec._json_schema import schema_components

    types = _types(routes)
    made, components = schema_components(types, ref_template=_REF)
    schemas = dict(zip(types, made, strict=True))
    paths: dict[str, dict[str, object]] = {}
    for row in routes:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, schemas)
    admin = {"type": "http", "scheme": "bearer", "description": "ADMIN_KEY, or one of admin_keys"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "fastgw: the control listener", "version": __version__},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"admin": admin}},
    }
