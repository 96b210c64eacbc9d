"""One value of a YAML text changed: everything else, comments above all, is as it was."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.cli.splice import Value, path_of, put, quoted, remove, steps_in
from shadowmesh.document import Document
from shadowmesh.errors import ConfigError

TEXT = """\
# at the top
node:            # who
  name: alice    # the name

listen: {address: "::", port: 0}   # both
# before the interface
interface:
  addresses:     # of this machine
    - 10.77.0.1/24   # the old one
    # between
    - "fd77::1/64"   # the new one
  mtu: auto
peers:
  - name: bob        # a friend
    groups: [admin, "1"]
    # where
    endpoint: "192.0.2.7:4400"
  - {name: carol, groups: []}   # another
empty:
# at the end
"""


def changed(key: str, value: Value, text: str = TEXT) -> dict[str, str]:
    """Lines that go, and what stands there then."""
    new = put(text, "file", path_of(key), value)
    return difference(text, new)


def difference(old: str, new: str) -> dict[str, str]:
    before, after = ([line for line in text.splitlines() if line] for text in (old, new))
    gone = [line for line in before if line not in after]
    come = [line for line in after if line not in before]
    kept = [line for line in before if line in after]
    assert [line for line in after if line in before] == kept, "the order is as it was"
    return {"gone": "\n".join(gone), "come": "\n".join(come)}


@pytest.mark.parametrize(
    ("key", "value", "gone", "come"),
    [
        ("node.name", "bert", "  name: alice    # the name", "  name: bert     # the name"),
        (
            "listen.port",
            "4400",
            'listen: {address: "::", port: 0}   # both',
            'listen: {address: "::", port: 4400}   # both',
        ),
        ("node.socket", "/run/x", "", "  socket: /run/x"),
        ("interface.name", "m0", "", "  name: m0"),
        (
            "listen.backlog",
            "7",
            'listen: {address: "::", port: 0}   # both',
            'listen: {address: "::", port: 0, backlog: 7}   # both',
        ),
        ("paths.direct", "never", "", "paths:\n  direct: never"),
        ("metrics", '"127.0.0.1:1"', "", 'metrics: "127.0.0.1:1"'),
        ("peers.bob.endpoint", '"[::1]:5"', '    endpoint: "192.0.2.7:4400"', '    endpoint: "[::1]:5"'),
        ("peers[0].routes", ["10.0.0.0/8"], "", "    routes: [10.0.0.0/8]"),
        (
            "peers.carol.groups",
            ["a", '"2"'],
            "  - {name: carol, groups: []}   # another",
            '  - {name: carol, groups: [a, "2"]}   # another',
        ),
        ("empty", "x", "empty:", "empty: x"),
        ("empty.a", "x", "empty:", "empty: {a: x}"),
        ("interface.broadcast.rate", "5", "", "  broadcast:\n    rate: 5"),
        ("interface.addresses", ["10.77.0.1/24", '"fd77::1/64"', "10.9.9.9/8"], "", "    - 10.9.9.9/8"),
        ("interface.addresses", ['"fd77::1/64"'], "    - 10.77.0.1/24   # the old one", ""),
        (
            "interface.addresses",
            ["10.9.9.9/8"],
            '    - 10.77.0.1/24   # the old one\n    - "fd77::1/64"   # the new one',
            "    - 10.9.9.9/8",
        ),
    ],
)
def test_put(key: str, value: Value, gone: str, come: str) -> None:
    found = changed(key, value)
    assert (found["gone"], found["come"]) == (gone, come)
    Document(put(TEXT, "file", path_of(key), value), "file")


def test_another_order_of_a_list_keeps_its_lines() -> None:
    new = put(TEXT, "file", ["interface", "addresses"], ['"fd77::1/64"', "10.77.0.1/24"])
    assert '    - "fd77::1/64"   # the new one\n    - 10.77.0.1/24   # the old one\n    # between\n' in new


@pytest.mark.parametrize(
    ("key", "gone", "come"),
    [
        ("node.name", "node:            # who\n  name: alice    # the name", ""),
        (
            "listen.address",
            'listen: {address: "::", port: 0}   # both',
            "listen: {port: 0}   # both",
        ),
        ("listen.port", 'listen: {address: "::", port: 0}   # both', 'listen: {address: "::"}   # both'),
        ("interface.mtu", "  mtu: auto", ""),
        (
            "interface.addresses",
            "  addresses:     # of this machine\n    - 10.77.0.1/24   # the old one\n    # between\n"
            '    - "fd77::1/64"   # the new one',
            "",
        ),
        ("peers.bob.endpoint", '    endpoint: "192.0.2.7:4400"', ""),
        (
            "peers.bob.name",
            '  - name: bob        # a friend\n    groups: [admin, "1"]',
            '  - groups: [admin, "1"]',
        ),
        ("peers.carol", "  - {name: carol, groups: []}   # another", ""),
        (
            "peers.bob",
            '  - name: bob        # a friend\n    groups: [admin, "1"]\n    # where\n'
            '    endpoint: "192.0.2.7:4400"',
            "",
        ),
        ("empty", "empty:", ""),
    ],
)
def test_remove(key: str, gone: str, come: str) -> None:
    assert difference(TEXT, remove(TEXT, "file", path_of(key))) == {"gone": gone, "come": come}
    Document(remove(TEXT, "file", path_of(key)), "file")


@pytest.mark.parametrize("key", ["node.nme", "peers.dora", "peers.2.name", "a.b.c"])
def test_what_is_not_there_can_not_be_removed(key: str) -> None:
    with pytest.raises(ConfigError, match="is not in file"):
        remove(TEXT, "file", path_of(key))


def test_new_entries_of_lists_are_not_made() -> None:
    with pytest.raises(ConfigError, match=r"there is no peers\.dora; a new entry is written"):
        put(TEXT, "file", ["peers", "dora", "groups"], ["a"])


def test_a_section_is_not_overwritten() -> None:
    with pytest.raises(ConfigError, match="keys of their own"):
        put(TEXT, "file", ["interface"], "x")


@pytest.mark.parametrize(
    ("text", "as_text", "written"),
    [
        ("never", True, "never"),
        ("10.77.0.1/24", True, "10.77.0.1/24"),
        ("::", True, '"::"'),
        ("12", True, '"12"'),
        ("12", False, "12"),
        ("-5", False, "-5"),
        ("true", True, '"true"'),
        ("true", False, "true"),
        ("null", True, '"null"'),
        ("1\nname: eve", False, '"1\\nname: eve"'),
        ("", True, '""'),
        ("a, b", True, '"a, b"'),
        ('"', True, '"\\""'),
    ],
)
def test_quotes(text: str, as_text: bool, written: str) -> None:
    assert quoted(text, as_text) == written


@given(st.text(max_size=20))
def test_any_text_comes_back_as_it_went_in(text: str) -> None:
    new = f"a: [{quoted(text, as_text=True)}]\nb: {quoted(text, as_text=True)}\n"
    assert yaml.safe_load(new) == {"a": [text], "b": text}


@pytest.mark.parametrize("key", ["", "a..b", ".a", "a.", "peers[]"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(ConfigError, match="is no key"):
        path_of(key)


def test_keys_are_named_as_errors_do() -> None:
    document = Document(TEXT, "file")
    assert steps_in(document, path_of("peers.carol.groups")) == "peers[1].groups"
    assert steps_in(document, path_of("peers.dora.x")) == "peers[dora].x"
    assert steps_in(document, path_of("a.b.c")) == "a.b.c"
    assert steps_in(document, path_of("peers[0].name")) == "peers[0].name"
