"""A configuration file as checked sections: YAML in, values out, every refusal with its line.

Knows nothing of any particular key. The YAML taken is a small, safe part: mappings, lists and plain
scalars; no tags, no anchors or aliases (so no expansion bombs), no duplicate keys, bounded in size
and depth. Only `true/false`, `null` and decimal numbers are not text, so `name: no` is a name.

Reading is in two steps, so that one run tells every mistake of a file: a `Section` notes what it
refuses and goes on, `Document.finish` raises all of it as one `ConfigError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar, cast

import yaml

from shadowmesh.errors import ConfigError
from shadowmesh.spelling import did_you_mean
from shadowmesh.values import printable

T = TypeVar("T")

MAX_FILE_SIZE = 1 << 20
"""Bytes; a thousand peers with eight addresses each are 200 KiB."""

MAX_DEPTH = 8
"""Nesting of values; the deepest place of our files is 4 (the addresses of one peer)."""


def load_text(path: Path) -> str:
    """The whole file. Raises ConfigError if it can't be read, is too large or is no text."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}", "config.unreadable") from error
    if len(data) > MAX_FILE_SIZE:
        text = f"{path}: is larger than {MAX_FILE_SIZE >> 20} MiB; is it the right file?"
        raise ConfigError(text, "config.no-yaml")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        text = f"{path}:{line}: is not UTF-8 text; is it the right file?"
        raise ConfigError(text, "config.no-yaml") from None


class _Required:
    """Marks keys without a default."""


REQUIRED: Final = _Required()


class Reading(NamedTuple):
    """One key that was asked for, whether the file has it or not."""

    kind: Literal["text", "list", "words", "number", "flag", "section", "sections"]
    node: yaml.Node | None
    """What the file has there, right or wrong."""
    default: object = None


class Document:
    """One parsed file. `section()` starts the reading, `finish()` ends it."""

    def __init__(self, text: str, file: str) -> None:
        """`file` is what errors call the file. Raises ConfigError where the YAML itself is broken."""
        self.file = file
        self._mistakes: dict[tuple[int, str], tuple[str, str]] = {}
        """The text and id of each, by line and key."""
        self.readings: dict[str, Reading] = {}
        """Every key that was read until now, as errors name it."""
        self.root = self._compose(text)

    @classmethod
    def load(cls, path: Path) -> Document:
        """Read `path`. Raises ConfigError if it can't be read, is too large or is no YAML of ours."""
        return cls(load_text(path), str(path))

    def section(self, known: Iterable[str]) -> Section:
        """The top level, whose keys must be among `known`."""
        return Section(self, "", self.root, known)

    def values(self) -> object:
        """Everything as it is written, without comments: mappings, lists, texts."""
        return _values(self.root)

    def refuse(
        self, node: yaml.Node, path: str, problem: str, example: str = "", error_id: str = "config.value"
    ) -> None:
        """Note a mistake; only the first of each place is kept."""
        hint = f"; for example: {example}" if example else ""
        line = node.start_mark.line + 1
        said = printable(f"{path}: {problem}{hint}")  # it may quote the file, in which anything stands
        text = f"{self.file}:{line}: {said}"
        self._mistakes.setdefault((line, path), (text, error_id))

    def finish(self) -> None:
        """Raise ConfigError with every refusal so far, one a line, in the order of the file."""
        if self._mistakes:
            mistakes = [mistake for _, mistake in sorted(self._mistakes.items())]
            raise ConfigError("\n".join(text for text, _ in mistakes), mistakes=mistakes)

    def _compose(self, text: str) -> yaml.Node:
        try:
            root = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = mark.line + 1 if mark else 1
            hint = _quoting_hint(error, text)
            raise ConfigError(f"{self.file}:{line}: {error.problem}{hint}", "config.no-yaml") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{self.file}: {error}".replace("\n", " "), "config.no-yaml") from None
        if root is None:
            text = f"{self.file}: is empty; see configs/ for a complete example"
            raise ConfigError(text, "config.no-yaml")
        return root


class Section:
    """One mapping of a document. Each method reads one key; what it returns after a refusal is
    meaningless until `Document.finish` has passed."""

    def __init__(self, document: Document, path: str, node: yaml.Node, known: Iterable[str]) -> None:
        self.document = document
        self.node = node
        self._path = path
        self._values: dict[str, yaml.Node] = {}
        if isinstance(node, yaml.MappingNode):
            self._take_keys(node, tuple(known))
        else:
            keys = ", ".join(known)
            problem = f"must be a mapping with the keys {keys}, not {_kind(node)}"
            document.refuse(node, path or "top level", problem)

    def text(self, key: str, parse: Callable[[str], T], example: str, default: T | _Required = REQUIRED) -> T:
        """The text at `key` as `parse` makes of it; ValueError of `parse` becomes a refusal."""
        node = self._read(key, "text", None if isinstance(default, _Required) else default)
        if node is None:
            return self._absent(key, example, default)
        return self._parse(node, self.path(key), parse, f"{key}: {example}")

    def texts(self, key: str, parse: Callable[[str], T], example: str) -> tuple[T, ...]:
        """The list of texts at `key`, empty by default."""
        whole = f"{key}: [{example}]"
        return tuple(
            self._parse(node, f"{self.path(key)}[{index}]", parse, whole)
            for index, node in enumerate(self._list(key, "list", whole))
        )

    def words(self, key: str, parse: Callable[[str], T], example: str) -> tuple[T, ...]:
        """One word at `key` or a list of them, numbers among them as they are written; empty by default."""
        node = self._read(key, "words", ())
        if node is None:
            return ()
        several = isinstance(node, yaml.SequenceNode)
        return tuple(
            self._word(one, f"{self.path(key)}[{index}]" if several else self.path(key), parse, key, example)
            for index, one in enumerate(node.value if several else [node])
        )

    def number(self, key: str, low: int, high: int, default: int) -> int:
        """The whole number at `key`, between `low` and `high`."""
        value = self._read(key, "number", default)
        return default if value is None else self._number(value, key, low, high, f"{key}: {default}")

    def number_or_word(self, key: str, low: int, high: int, word: str, example: str) -> int | str:
        """The whole number at `key`, or `word`, which is the default."""
        value = self._read(key, "number", word)
        if value is None or (value.tag == _STR and value.value == word):
            return word
        return self._number(value, key, low, high, f"{key}: {example}")

    def flag(self, key: str, default: bool) -> bool:
        """The `true` or `false` at `key`."""
        node = self._read(key, "flag", default)
        if node is None:
            return default
        if node.tag != _BOOL:
            self._refuse_type(node, self.path(key), "true or false", f"{key}: {str(default).lower()}")
        return str(node.value).lower() == "true"

    def section(self, key: str, known: Iterable[str]) -> Section:
        """The mapping at `key`; one that is left out reads as empty, so its required keys are missed."""
        empty = yaml.MappingNode(_MAP, [], self.node.start_mark, self.node.end_mark)
        return Section(self.document, self.path(key), self._read(key, "section") or empty, known)

    def sections(self, key: str, known: tuple[str, ...]) -> list[Section]:
        """The list of mappings at `key`, empty by default."""
        example = f"{key}: [{{{', '.join(f'{name}: …' for name in known)}}}]"
        return [
            Section(self.document, f"{self.path(key)}[{index}]", node, known)
            for index, node in enumerate(self._list(key, "sections", example))
        ]

    def has(self, key: str) -> bool:
        """Whether there is such a key, right or wrong."""
        return key in self._values

    @property
    def line(self) -> int:
        """Where the section begins, from 1."""
        return int(self.node.start_mark.line) + 1

    def path(self, key: str) -> str:
        """How errors name `key` of this section."""
        return f"{self._path}.{key}" if self._path else key

    def refuse(self, key: str, problem: str, example: str = "", error_id: str = "config.conflict") -> None:
        """Note that the value at `key` is wrong for a reason that takes more than this value to see."""
        hint = f"{key}: {example}" if example else ""
        self.document.refuse(self._values.get(key, self.node), self.path(key), problem, hint, error_id)

    def _take_keys(self, node: yaml.MappingNode, known: tuple[str, ...]) -> None:
        for key_node, value in node.value:
            key = str(key_node.value)
            if key not in known:
                problem = "unknown key; " + did_you_mean(key, known, f"the keys here are {', '.join(known)}")
                self.document.refuse(key_node, self.path(key), problem, error_id="config.unknown-key")
            elif key in self._values:
                first = self._values[key].start_mark.line + 1
                problem = f"is given twice, first on line {first}"
                self.document.refuse(key_node, self.path(key), problem, error_id="config.twice")
            else:
                self._values[key] = value

    def _read(self, key: str, kind: Any, default: object = None) -> yaml.Node | None:
        node = self._values.get(key)
        self.document.readings[self.path(key)] = Reading(kind, node, default)
        return node

    def _list(self, key: str, kind: Literal["list", "sections"], example: str) -> list[yaml.Node]:
        node = self._read(key, kind, ())
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            self._refuse_type(node, self.path(key), "a list", example)
            return []
        return list(node.value)

    def _number(self, node: yaml.Node, key: str, low: int, high: int, example: str) -> int:
        if node.tag != _INT:
            self._refuse_type(node, self.path(key), "a whole number", example)
            return low
        number = int(node.value)
        if not low <= number <= high:
            self.document.refuse(node, self.path(key), f"{number} is not between {low} and {high}", example)
        return number

    def _parse(self, node: yaml.Node, path: str, parse: Callable[[str], T], example: str) -> T:
        if node.tag != _STR:
            self._refuse_type(node, path, "text", example)
            return cast("T", None)
        try:
            return parse(str(node.value))
        except ValueError as error:
            self.document.refuse(node, path, str(error), example)
            return cast("T", None)

    def _word(self, node: yaml.Node, path: str, parse: Callable[[str], T], key: str, example: str) -> T:
        word = node
        if node.tag == _INT:
            word = yaml.ScalarNode(_STR, node.value, node.start_mark, node.end_mark)
        return self._parse(word, path, parse, f"{key}: {example}")

    def _absent(self, key: str, example: str, default: T | _Required) -> T:
        if isinstance(default, _Required):
            if isinstance(self.node, yaml.MappingNode):
                self.document.refuse(
                    self.node, self.path(key), "is missing", f"{key}: {example}", "config.missing"
                )
            return cast("T", None)
        return default

    def _refuse_type(self, node: yaml.Node, path: str, wanted: str, example: str) -> None:
        self.document.refuse(node, path, f"must be {wanted}, not {_kind(node)}", example)


_TAG = "tag:yaml.org,2002:"
_MAP, _SEQ, _STR, _INT, _BOOL, _NULL = (_TAG + kind for kind in ("map", "seq", "str", "int", "bool", "null"))

_KINDS = {_MAP: "a mapping", _SEQ: "a list", _NULL: "nothing"}


def _values(node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): _values(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_values(one) for one in node.value]
    return str(node.value)


def _kind(node: yaml.Node) -> str:
    if node.tag in _KINDS:
        return _KINDS[node.tag]
    text = str(node.value)
    shown = text if len(text) <= 40 else text[:40] + "…"
    return f"the text {shown!r}" if node.tag == _STR else f"{shown} (quote it if it is meant as text)"


def _plain_tag(value: str) -> str:
    """What an unquoted scalar is. 18 digits are far above every limit of ours, and safe for `int`."""
    if value.lower() in ("true", "false"):
        return _BOOL
    if value in ("", "~", "null"):
        return _NULL
    return _INT if re.fullmatch(r"[-+]?[0-9]{1,18}", value) else _STR


def plain_text(value: str) -> bool:
    """Whether it is text without quotes, and neither a number nor another thing."""
    return _plain_tag(value) == _STR


def _quoting_hint(error: yaml.MarkedYAMLError, text: str) -> str:
    """For the commonest mistake: an IPv6 address without quotes, whose marks YAML takes for its own."""
    lines = text.splitlines()
    for mark in (error.problem_mark, error.context_mark):
        if mark is not None and mark.line < len(lines) and re.search(r"::|\]:", lines[mark.line]):
            return '; put quotes around addresses with colons or brackets: "[2001:db8::1]:4433"'
    return ""


class _Loader(yaml.SafeLoader):
    """Composes nodes only (nothing is ever constructed), and refuses what our files don't need."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _plain_tag(value) if implicit[0] else _STR
        return _SEQ if kind is yaml.SequenceNode else _MAP

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refusal("anchors (&) and aliases (*) are not taken here; write the value out", event)
        if event.tag is not None:
            raise _refusal("tags (!) are not taken here; write plain text", event)
        if self._depth >= MAX_DEPTH:
            raise _refusal("is nested too deeply", event)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _refusal(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
