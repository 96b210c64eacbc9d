"""What the manual takes from the code, and how it treats links to files that are no pages of it.

Text in, text out, without Sphinx; `setup` alone needs it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PROGRAMS = {
    "shadowmesh-client": "shadowmesh.cli.main:client",
    "shadowmesh-relay": "shadowmesh_relay.cli:relay",
}

ROOT = Path(__file__).resolve().parent.parent
INCLUDED = {"../SECURITY.md": "reporting.md", "../CHANGELOG.md": "changelog.md"}
"""Files of the root -> the page that has their text."""

_OUTSIDE = re.compile(r"\]\(((?:\.\./|models/)[^)#]+\.md)")


def links(text: str) -> str:
    """A page whose links to Markdown outside the manual lead to the page that includes it, or to the file.

    A link to a folder is its text.
    """
    text = re.sub(r"\[([^]]+)\]\(\w+\)", r"\1", text)
    return _OUTSIDE.sub(lambda found: f"]({INCLUDED.get(found[1], 'path:' + found[1])}", text)


def readme(section: str) -> str:
    """A section of README.md without its heading; its links as they are from a page of docs/."""
    text = (ROOT / "README.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    assert text, f"README.md has no section {section!r}"
    text = re.sub(r"<!-- /?\w+ -->\n", "", text)
    return re.sub(r"\]\((?!docs/|[a-z]+:)", "](path:../", text).replace("](docs/", "](")


def commands(program: str) -> str:
    """Reference of a program as Markdown: each verb with usage, words, arguments, options, examples."""
    module, _, name = PROGRAMS[program].partition(":")
    group: click.Group = getattr(importlib.import_module(module), name)
    return "\n".join(_verbs(group, click.Context(group, info_name=program)))


def _verbs(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _verbs(command, below)
        else:
            yield from _verb(command, below)


def _verb(command: click.Command, context: click.Context) -> Iterator[str]:
    yield from (f"### {context.command_path}", "")
    usage = " ".join(command.collect_usage_pieces(context))
    yield from ("```text", f"{context.command_path} {usage}", "```", "")
    yield from (inspect.cleandoc(command.help or ""), "")
    # An option's help record is what --help prints: both are always the same.
    records = [record for one in command.params if (record := one.get_help_record(context))]
    yield from ("| option | meaning |", "|---|---|")
    yield from (f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records)
    yield ""
    if command.epilog:
        lines = inspect.cleandoc(command.epilog.replace("\b", "")).splitlines()[1:]
        yield from ("```sh", inspect.cleandoc("\n".join(lines)), "```", "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def openapi(part: str) -> str:
    """The local API from its OpenAPI document: its `requests`, or its `objects`."""
    from shadowmesh.api.openapi import document

    found = document()
    if part == "requests":
        paths = found["paths"].items()
        return "\n".join(line for path, methods in paths for line in _requests(path, methods))
    return "\n".join(
        line for name, one in found["components"]["schemas"].items() for line in _object(name, one)
    )


def _requests(path: str, methods: dict[str, dict[str, Any]]) -> Iterator[str]:
    for method, one in methods.items():
        yield from (f"### {method.upper()} {path}", "", f"{one['summary']} {one['description']}", "")
        yield from ("| | | |", "|---|---|---|")
        for parameter in one.get("parameters", []):
            yield f"| query | `{parameter['name']}` | {_type(parameter['schema'])} |"
        for content in one.get("requestBody", {}).get("content", {}).values():
            yield f"| body | | {_type(content['schema'])} |"
        for status, answer in one["responses"].items():
            kinds = [_type(content.get("schema", {})) for content in answer.get("content", {}).values()]
            what = answer["description"] if answer["description"] != one["summary"] else ""
            yield f"| answer | {status} {', '.join(kinds)} | {what} |"
        yield ""


def _object(name: str, schema: dict[str, Any]) -> Iterator[str]:
    text = inspect.cleandoc(schema.get("description", ""))
    yield from (f"### {name}", "", text, "", "| field | type | default |", "|---|---|---|")
    required = schema.get("required", [])
    for field, one in schema.get("properties", {}).items():
        default = "required" if field in required else f"`{json.dumps(one.get('default'))}`"
        yield f"| `{field}` | {_type(one)} | {default} |"
    yield ""


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words, with links to the objects."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return " ".join([schema.get("type", "any"), *bounds])


_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "maxLength": "up to length"}


def setup(app: Sphinx) -> dict[str, bool]:
    """Give Sphinx the directives."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    def directive(make: Callable[[str], str]) -> type[SphinxDirective]:
        class Made(SphinxDirective):  # type: ignore[misc] # mypy does not see Sphinx
            required_arguments = 1
            final_argument_whitespace = True

            def run(self) -> list[nodes.Node]:
                text = make(self.arguments[0])
                found: list[nodes.Node] = self.parse_text_to_nodes(text, allow_section_headings=True)
                return found

        return Made

    def read(_app: Sphinx, page: str, source: list[str]) -> None:
        if "/" not in page:  # pages in folders link to nothing outside
            source[0] = links(source[0])

    app.add_directive("shadowmesh-commands", directive(commands))
    app.add_directive("shadowmesh-openapi", directive(openapi))
    app.add_directive("shadowmesh-readme", directive(readme))
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
