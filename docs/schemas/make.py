"""Write the JSON Schemas beside this file, of every struct that a verb prints: `python docs/schemas/make.py`.

A struct with a field `schema` is one; the modules below have them all. tests/unit/test_schemas.py fails where
a file is not what this makes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from shadowmesh import replies as common
from shadowmesh.api import live, schema
from shadowmesh.cli import replies
from shadowmesh.diagnosis import bundle, findings
from shadowmesh_relay import reload, report, verbs

FOLDER = Path(__file__).parent
MODULES = (common, schema, live, replies, findings, bundle, report, reload, verbs)
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def structs() -> dict[str, list[type[msgspec.Struct]]]:
    """The structs of each schema, such as "shadowmesh.ping/1"."""
    found: dict[str, list[type[msgspec.Struct]]] = {}
    for module in MODULES:
        for kind in vars(module).values():
            own = isinstance(kind, type) and kind.__module__ == module.__name__
            if own and issubclass(kind, msgspec.Struct) and "schema" in kind.__struct_fields__:
                name = next(one.default for one in msgspec.structs.fields(kind) if one.name == "schema")
                found.setdefault(str(name), []).append(kind)
    return found


def documents() -> dict[str, str]:
    """Text by file name."""
    made = {file_name(name): _document(name, kinds) for name, kinds in structs().items()}
    return {name: f"{json.dumps(document, indent=2)}\n" for name, document in made.items()}


def file_name(schema: str) -> str:
    """shadowmesh.ping/1: ping-1.json."""
    return f"{schema.removeprefix('shadowmesh.').replace('/', '-')}.json"


def _document(name: str, kinds: list[type[msgspec.Struct]]) -> dict[str, Any]:
    tops, parts = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for kind in kinds:
        made = parts[kind.__name__]
        made["properties"]["schema"] = {"const": name}
        # What has a default is printed all the same, but for what is left out on purpose.
        unset = {field.name for field in msgspec.structs.fields(kind) if field.default is msgspec.UNSET}
        made["required"] = [key for key in made["properties"] if key not in unset]
        for key in unset:
            made["properties"][key].pop("default", None)
    choice = tops[0] if len(tops) == 1 else {"anyOf": list(tops)}
    return {"$schema": DIALECT, "title": name, **choice, "$defs": parts}


def main() -> None:
    """Write them, and remove those that nothing prints any more."""
    wanted = documents()
    for old in FOLDER.glob("*.json"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
