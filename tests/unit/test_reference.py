"""docs/cli.md and the unit files against the code: whatever the code counts or takes is written there."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import click
import pytest

from shadowmesh._ext.drops import DropReason, Statistic
from shadowmesh.cli.main import client
from shadowmesh.cli.options import DEFAULT_CONFIG
from shadowmesh.command import ExitCode
from shadowmesh.config import DEFAULT_SOCKET, DEFAULT_STATE_DIR
from shadowmesh_relay.cli import relay
from shadowmesh_relay.config import DEFAULT_STATE_DIR as RELAY_STATE_DIR

ROOT = Path(__file__).parents[2]
CONTROL_SOURCES = (
    "relay/*.py",
    "shadowmesh/core/*.py",
    "shadowmesh/crypto/retry.py",
    "shadowmesh/node/*.py",
    "shadowmesh/path/*.py",
    "shadowmesh/wire/headers.py",
    "shadowmesh/wire/observe.py",
    "shadowmesh/wire/payload.py",
    "shadowmesh/wire/portmap.py",
)
"""Where what the control part counts as dropped is named; elsewhere BadPacket ends the connection."""


def documented(heading: str) -> list[str]:
    """The names in the first column of the tables of one part of docs/cli.md."""
    part = (ROOT / "docs/cli.md").read_text().partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| (`.*?) \|", part, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(.+?)`", row)]


def counted_by_control() -> set[str]:
    texts = (path.read_text() for pattern in CONTROL_SOURCES for path in ROOT.glob(pattern))
    names = re.compile(r'(?<!`)(?:BadPacket\(|drops\[|_unsent\[)"([a-z0-9_]+)"')
    return {name for text in texts for name in names.findall(text)}


def test_every_reason_of_a_drop_is_documented_once() -> None:
    of_data_plane = {reason.name.lower() for reason in DropReason}
    of_control = counted_by_control()
    assert {"control_send_failed", "unknown_connection", "short", "token_expired"} <= of_control
    names = documented("Why packets are dropped")
    assert sorted(names) == sorted(of_data_plane | of_control)


def test_every_counter_is_documented_once() -> None:
    assert sorted(documented("Counters")) == sorted(what.name.lower() for what in Statistic)


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((ROOT / "configs" / name).read_text())
    return parser


@pytest.mark.parametrize(
    ("name", "group", "verb"),
    [("shadowmesh-client", client, "up"), ("shadowmesh-relay", relay, "serve")],
)
def test_units_start_what_there_is(name: str, group: click.Group, verb: str) -> None:
    service = unit(f"{name}.service")["Service"]
    program, found, *arguments = shlex.split(service["ExecStart"])
    assert (Path(program).name, found) == (name, verb)
    command = group.get_command(click.Context(group), verb)
    assert command is not None
    context = command.make_context(verb, list(arguments))
    assert Path(context.params["config"]).is_absolute()
    assert "--detach" not in arguments, "the service manager wants the process itself"
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 30, "an idle program is woken twice in that time"
    program, found, *arguments = shlex.split(service["ExecReload"])
    reload = group.get_command(click.Context(group), found)
    assert (Path(program).name, found) == (name, "reload")
    assert reload is not None
    assert reload.make_context(found, list(arguments)).params["config"] == context.params["config"]


@pytest.mark.parametrize("name", ["shadowmesh-client", "shadowmesh-relay"])
def test_units_hold_the_default_folders_and_do_not_start_again_in_vain(name: str) -> None:
    service = unit(f"{name}.service")["Service"]
    state = DEFAULT_STATE_DIR if name == "shadowmesh-client" else RELAY_STATE_DIR
    assert f"/var/lib/{service['StateDirectory']}" == state
    assert service["StateDirectoryMode"] == "0700"
    if name == "shadowmesh-client":
        assert f"/run/{service['RuntimeDirectory']}" == str(Path(DEFAULT_SOCKET).parent)
        assert service["RuntimeDirectoryMode"] == "0755", "the socket has a mode of its own"
    vain = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert vain == {ExitCode.USAGE, ExitCode.REFUSED, ExitCode.CLONED}
    assert service["CapabilityBoundingSet"] == "CAP_NET_ADMIN"


def test_a_client_may_write_where_its_renewed_certificates_go() -> None:
    """`join` puts them beside the configuration, and all else is read-only."""
    service = unit("shadowmesh-client.service")["Service"]
    assert service["ProtectSystem"] == "strict"
    assert f"-{DEFAULT_CONFIG.parent}" in service["ReadWritePaths"].split()


def test_the_unit_of_several_clients_is_the_unit_of_one() -> None:
    """But for the file and the folders, which have the name of the instance."""
    one = (ROOT / "configs/shadowmesh-client.service").read_text().partition("[Unit]")[2]
    each = (ROOT / "configs/shadowmesh-client@.service").read_text().partition("[Unit]")[2]
    one = one.replace("ShadowMesh client\n", "ShadowMesh client of %i\n").replace("/client.yaml", "/%i.yaml")
    assert each == one.replace("Directory=shadowmesh\n", "Directory=shadowmesh-%i\n")


def verb_rows(heading: str) -> dict[str, str]:
    """How the verbs of one command are called by its table, by verb; a row may name several."""
    part = (ROOT / "docs/cli.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n### ")[0]
    rows: dict[str, str] = {}
    for cell in re.findall(r"^\| (`.*?`) \| .* \|$", part, re.MULTILINE):
        for call in re.findall(r"`(.+?)`", cell):
            name = re.match(r"[a-z]+( [a-z]+)?", call)
            assert name is not None
            verb = name[0] if name[0].split()[0] in ("invite", "network", "firewall") else name[0].split()[0]
            rows[verb] = f"{rows.get(verb, '')} {call}"
    return rows


def leaves(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    context = click.Context(group)
    found: dict[str, click.Command] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= leaves(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


@pytest.mark.parametrize(("name", "group"), [("shadowmesh-client", client), ("shadowmesh-relay", relay)])
def test_every_verb_and_option_is_in_the_reference_and_no_other(name: str, group: click.Group) -> None:
    text, rows, verbs = (ROOT / "docs/cli.md").read_text(), verb_rows(name), leaves(group)
    assert sorted(rows) == sorted(verbs)
    for verb, command in verbs.items():
        options = {one for param in command.params for one in param.opts if one.startswith("--")}
        stray = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rows[verb])) - options
        assert stray == set(), (verb, stray)
        missing = {option for option in options if option not in text}
        assert missing == set(), (verb, missing)


def test_what_waits_for_the_overlay_asks_the_client() -> None:
    waiting = unit("shadowmesh-wait-online.service")
    program, *arguments = shlex.split(waiting["Service"]["ExecStart"])
    assert (Path(program).name, arguments[0]) == ("shadowmesh-client", "status")
    command = client.get_command(click.Context(client), "status")
    assert command is not None
    asked = command.make_context("status", arguments[1:]).params
    assert (asked["check"], asked["wait"]) == ("ready", 30.0)
    assert asked["config"] == DEFAULT_CONFIG
    assert waiting["Unit"]["Requires"] == waiting["Unit"]["After"] == "shadowmesh-client.service"
    online = unit("shadowmesh-online.target")["Unit"]
    assert online["Requires"] == online["After"] == "shadowmesh-wait-online.service"
    assert "Install" not in waiting, "nobody waits who has not asked for it"
