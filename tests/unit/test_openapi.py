"""The description of the local control API: valid, of the routes that there are, and made of the structs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from shadowmesh.api import live, schema
from shadowmesh.api.client import ApiClient
from shadowmesh.api.openapi import document
from shadowmesh.api.routes import OPERATIONS
from shadowmesh.api.server import create_app, serve_api
from tests.unit.test_api import FakeControl

DOCS = (Path(__file__).parents[2] / "docs/api.md").read_text()


def resolved(made: dict[str, Any], node: Any) -> dict[str, Any]:
    """A schema with what it refers to beside it, for jsonschema."""
    return {**node, "components": made["components"]}


def test_it_is_what_the_client_serves(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"

    async def ask() -> bytes:
        async with serve_api(path, FakeControl()):
            return await asyncio.to_thread(ApiClient(path)._request, "GET", "/v1/openapi.json")

    assert msgspec.json.decode(asyncio.run(ask())) == msgspec.json.decode(msgspec.json.encode(document()))


def test_it_has_the_routes_of_the_server_and_no_others() -> None:
    described = {(method.upper(), path) for path, item in document()["paths"].items() for method in item}
    served = {
        (method, route.path)  # type: ignore[attr-defined]
        for route in create_app(FakeControl()).routes
        for method in route.methods  # type: ignore[attr-defined]
        if method != "HEAD"
    }
    assert described == served == {(one.method, one.path) for one in OPERATIONS}


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from references(one)


def test_the_document_hangs_together() -> None:
    made = document()
    assert made["openapi"].startswith("3.1.")
    assert {"title", "version"} <= set(made["info"])
    schemas = made["components"]["schemas"]
    assert {f"#/components/schemas/{name}" for name in schemas} >= set(references(made))
    operations = [one for item in made["paths"].values() for one in item.values()]
    assert len({one["operationId"] for one in operations}) == len(operations) == len(OPERATIONS)
    for one in operations:
        assert all(answer["description"] for answer in one["responses"].values())
        assert any(code.startswith("2") for code in one["responses"])
    assert [one["name"] for one in made["paths"]["/v1/log"]["get"]["parameters"]] == ["lines", "level"]


def test_every_schema_is_a_schema_and_answers_fit_theirs() -> None:
    made = document()
    for name, one in made["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(resolved(made, one))
        assert one.get("description"), name
    status = msgspec.to_builtins(FakeControl().status())
    ok = made["paths"]["/v1/status"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator(resolved(made, ok)).validate(status)
    status["node"]["mtu"] = "large"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(resolved(made, ok)).validate(status)


def test_what_changes_something_is_said_to_be_refused_to_others() -> None:
    for path, item in document()["paths"].items():
        for method, operation in item.items():
            changes = next(
                one.changes for one in OPERATIONS if (one.path, one.method.lower()) == (path, method)
            )
            assert ("403" in operation["responses"]) is changes, (method, path)


def test_the_docs_list_every_request_and_every_schema() -> None:
    rows = re.findall(r"^\| `(GET|POST) (/v1/[^`?]*)(?:\?[^`]*)?` \| (reads|changes) \|", DOCS, re.MULTILINE)
    assert [(method, path, kind == "changes") for method, path, kind in rows] == [
        (one.method, one.path, one.changes) for one in OPERATIONS
    ]
    names = [
        value for module in (schema, live) for key, value in vars(module).items() if key.endswith("_SCHEMA")
    ]
    assert [name for name in names if name not in DOCS] == []


def test_the_docs_have_every_field_of_what_passes() -> None:
    part = DOCS.partition("\n## What passes\n")[2]
    for struct in (live.Samples, live.PeerSamples, live.Sample, live.PeerSample, live.LogReply, live.LogLine):
        missing = [name for name in struct.__struct_fields__ if f"`{name}`" not in part]
        assert missing == [], struct.__name__
