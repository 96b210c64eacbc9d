"""The local control API described in OpenAPI 3.1, made of the table of routes and the structs themselves.

Source: OpenAPI Specification 3.1.1; its schemas are JSON Schema 2020-12, which is what msgspec writes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from shadowmesh import __version__
from shadowmesh.api.live import LogLine, Sample
from shadowmesh.api.routes import OPERATIONS, Operation
from shadowmesh.api.schema import Status
from shadowmesh.web.problem import Problem

_REFERENCE = "#/components/schemas/{name}"
_EVENTS = {"status": Status, "sample": Sample, "log": LogLine}


def document() -> dict[str, Any]:
    """The whole document, as what msgspec encodes to JSON."""
    used: list[type] = [Problem, *_EVENTS.values()]
    for operation in OPERATIONS:
        used += [kind for kind in (operation.body, operation.reply) if kind is not None]
    schemas = msgspec.json.schema_components(used, ref_template=_REFERENCE)[1]
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "ShadowMesh client: local control API",
            "version": __version__,
            "description": "HTTP on the Unix socket of the client, by default "
            "/run/shadowmesh/shadowmesh.sock; the host name does not matter. See docs/api.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "the Unix socket"}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(operation: Operation) -> dict[str, Any]:
    who = "root and the client's own user" if operation.changes else "everybody who can open the socket"
    made: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "description": f"For {who}.",
        "responses": {str(operation.code): _answer(operation), **_problems(operation)},
    }
    if operation.query is not None:
        made["parameters"] = _parameters(operation.query)
    if operation.body is not None:
        made["requestBody"] = {"required": True, "content": _content(operation.body)}
    return made


def _answer(operation: Operation) -> dict[str, Any]:
    if operation.media == "text/event-stream":
        kinds = {kind: _reference(struct) for kind, struct in _EVENTS.items()}
        content: dict[str, Any] = {operation.media: {"schema": {"type": "string"}, "x-events": kinds}}
    else:
        content = _content(operation.reply)
    return {"description": operation.summary, "content": content}


def _problems(operation: Operation) -> dict[str, Any]:
    found = dict(operation.problems)
    if operation.body is not None or operation.query is not None:
        found[400] = "`bad-request`: the request is not as described here"
    if operation.body is not None:
        found[413] = "`too-large`: the body is"
    if operation.changes:
        found[403] = "`forbidden`: only root and the client's own user may"
    content = _content(Problem)
    return {str(code): {"description": found[code], "content": content} for code in sorted(found)}


def _parameters(query: type) -> list[dict[str, Any]]:
    """Query parameters: the fields of the struct."""
    (_,), components = msgspec.json.schema_components([query])
    properties = components[query.__name__]["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in properties.items()
    ]


def _content(struct: type | None) -> dict[str, Any]:
    schema = {"type": "object"} if struct is None else _reference(struct)
    return {"application/json": {"schema": schema}}


def _reference(struct: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=struct.__name__)}
