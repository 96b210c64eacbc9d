"""One value of a YAML text put in, changed or taken out; every other byte, comments above all, stays.

Works on the places that the parser of `shadowmesh.document` tells, and checks nothing: whoever changes a
configuration reads the new text as a whole afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import yaml

from shadowmesh.document import Document, plain_text
from shadowmesh.errors import ConfigError

_PLAIN = re.compile(r"[A-Za-z0-9/][A-Za-z0-9/._+-]*")
"""What needs no quotes wherever it stands."""

_UNKNOWN = "config.unknown-key"

Value = str | Sequence[str]
"""A scalar as it shall stand in the file, or several for a list."""


def quoted(text: str, as_text: bool) -> str:
    """`text` as a YAML scalar; `as_text`: one that is not taken for a number or for `true`."""
    plain = _PLAIN.fullmatch(text) or (not as_text and re.fullmatch(r"-[0-9]+", text))
    if plain and (not as_text or plain_text(text)):
        return text
    # As JSON has it, but for what YAML takes for the end of a line, or not at all.
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in json.dumps(text, ensure_ascii=False))


def path_of(key: str) -> list[str]:
    """The steps of a key: `peers.bob.groups`, or as errors name it, `peers[0].groups`."""
    steps = re.sub(r"\[([^\]]*)\]", r".\1", key).split(".")
    if "" in steps:
        raise ConfigError(f"{key!r} is no key; a key is like listen.port or peers.bob.groups", _UNKNOWN)
    return steps


def put(text: str, file: str, steps: Sequence[str], value: Value) -> str:
    """`text` with `value` at `steps`. Raises ConfigError if there is no such entry of a list."""
    text = text if text.endswith("\n") else f"{text}\n"
    found = _walk(text, file, steps)
    rest = steps[len(found) - 1 :]
    node = found[-1]
    if not rest:
        return _replaced(text, node, value)
    if isinstance(node, yaml.SequenceNode):
        name = ".".join(steps[: len(found)])
        text = f"there is no {name}; a new entry is written into the file with an editor"
        raise ConfigError(text, _UNKNOWN)
    if not isinstance(node, yaml.CollectionNode):  # `listen:` with nothing behind it
        return _replaced(text, node, _flow(rest, value))
    if node.flow_style:
        at = node.end_mark.index - 1
        before = text[:at].rstrip()
        comma = "" if before[-1] in "{," else ", "
        return f"{before}{comma}{rest[0]}: {_flow(rest[1:], value)}{text[at:]}"
    if node is found[0]:
        return f"{text.rstrip()}\n\n{_block(rest, value, 0)}"
    at = _end_of_line(text, _end(node))
    return text[:at].rstrip("\n") + "\n" + _block(rest, value, node.start_mark.column) + text[at:]


def remove(text: str, file: str, steps: Sequence[str]) -> str:
    """`text` without what is at `steps`, and without what it was the only part of; ConfigError if none is."""
    found = _walk(text, file, steps)
    if len(found) <= len(steps):
        raise ConfigError(f"{'.'.join(steps)} is not in {file}", _UNKNOWN)
    depth = len(found) - 2
    while depth and len(found[depth].value) == 1:
        depth -= 1
    parent, child = found[depth], found[depth + 1]
    assert isinstance(parent, yaml.CollectionNode)
    entries = [_entry(one) for one in parent.value]
    index = next(number for number, (_, value) in enumerate(entries) if value is child)
    start = entries[index][0].start_mark.index
    following = entries[index + 1][0].start_mark.index if index + 1 < len(entries) else None
    if parent.flow_style:
        begin, end = (start, following) if following else (_end(entries[index - 1][1]), _end(child))
        return text[:begin] + text[end:]
    line = text.rfind("\n", 0, start) + 1
    if following and "-" in text[line:start] and isinstance(parent, yaml.MappingNode):
        return text[:start] + text[following:]  # the first key of an entry, behind its dash
    rest = text[_end_of_line(text, _end(child)) :]
    return text[:line] + rest if rest else text[:line].rstrip("\n") + "\n"


def _walk(text: str, file: str, steps: Sequence[str]) -> list[yaml.Node]:
    """The nodes on the way, from the root; fewer than steps if it ends before."""
    found = [Document(text, file).root]
    for step in steps:
        node = found[-1]
        entries = node.value if isinstance(node, yaml.CollectionNode) else []
        child = _key(entries, step) if isinstance(node, yaml.MappingNode) else _named(entries, step)
        if child is None:
            break
        found.append(child)
    return found


def _key(entries: list[tuple[yaml.Node, yaml.Node]], key: str) -> yaml.Node | None:
    return next((value for name, value in entries if name.value == key), None)


def _named(entries: list[yaml.Node], label: str) -> yaml.Node | None:
    """An entry of a list by its place from 0, or by its `name`."""
    for index, entry in enumerate(entries):
        name = _key(entry.value, "name") if isinstance(entry, yaml.MappingNode) else None
        if str(index) == label or (name is not None and name.value == label):
            return entry
    return None


def steps_in(document: Document, steps: Sequence[str]) -> str:
    """The key as errors name it: names of entries as their places."""
    named = ""
    node: yaml.Node | None = document.root
    for step in steps:
        if isinstance(node, yaml.SequenceNode):
            entry = _named(node.value, step)
            named += f"[{node.value.index(entry) if entry in node.value else step}]"
        else:
            entry = _key(node.value, step) if isinstance(node, yaml.MappingNode) else None
            named += f".{step}" if named else step
        node = entry
    return named


def _entry(one: yaml.Node | tuple[yaml.Node, yaml.Node]) -> tuple[yaml.Node, yaml.Node]:
    """Where an entry of a mapping or list begins, and its value."""
    return one if isinstance(one, tuple) else (one, one)


def _end(node: yaml.Node) -> int:
    """Behind its last character; the parser's own mark of a block is behind the comments that follow."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    return _end(_entry(node.value[-1])[1])


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _replaced(text: str, node: yaml.Node, value: Value) -> str:
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        raise ConfigError("there are keys of their own; name one of them, or --unset them all before")
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return _relisted(text, node, [value] if isinstance(value, str) else value)
    start, end = node.start_mark.index, _end(node)
    new = (" " if text[start - 1] == ":" else "") + _flow((), value)
    comment = re.match(r" {2,}(?=#)", text[end:])
    if comment is not None:  # stays in its column, if there is room
        room = max(2, len(comment[0]) - len(new) + end - start)
        return text[:start] + new + " " * room + text[end + len(comment[0]) :]
    return text[:start] + new + text[end:]


def _relisted(text: str, node: yaml.SequenceNode, value: Sequence[str]) -> str:
    """A list with one entry a line: entries that stay keep their lines, and comments between stay."""
    lines = {_scalar(entry): _line(text, entry) for entry in node.value}
    kept = [one for one in lines if one in value]
    new = [one for one in value if one not in lines]
    if kept + new != list(value):  # another order
        kept, new = [], list(value)
    at = lines[kept[-1]][1] if kept else _line(text, node.value[0])[0]
    column = " " * node.start_mark.column
    made = "".join(text[slice(*lines[one])] if one in lines else f"{column}- {one}\n" for one in new)
    edits = [(at, at, made), *((*place, "") for one, place in lines.items() if one not in kept)]
    for start, stop, instead in sorted(edits, reverse=True):
        text = text[:start] + instead + text[stop:]
    return text


def _scalar(node: yaml.Node) -> str:
    return quoted(str(node.value), as_text=node.tag.endswith(":str"))


def _line(text: str, node: yaml.Node) -> tuple[int, int]:
    start = text.rfind("\n", 0, node.start_mark.index) + 1
    return start, _end_of_line(text, _end(node))


def _flow(steps: Sequence[str], value: Value) -> str:
    if steps:
        return f"{{{steps[0]}: {_flow(steps[1:], value)}}}"
    return value if isinstance(value, str) else f"[{', '.join(value)}]"


def _block(steps: Sequence[str], value: Value, column: int) -> str:
    if len(steps) == 1:
        return f"{' ' * column}{steps[0]}: {_flow((), value)}\n"
    return f"{' ' * column}{steps[0]}:\n{_block(steps[1:], value, column + 2)}"
