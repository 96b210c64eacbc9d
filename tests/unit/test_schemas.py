"""docs/schemas against the structs and against what verbs print; every verb prints JSON."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import msgspec
import pytest
from jsonschema import Draft202012Validator

from shadowmesh.api.client import ApiClient
from shadowmesh.cli.main import client, main
from shadowmesh_relay.cli import main as relay_main
from shadowmesh_relay.cli import relay
from tests.unit.test_api import make_netcheck, make_status, make_story

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/schemas"
NO_JSON = {"completion", "top"}
"""What prints a script, or draws on a terminal."""


def load_maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_schemas", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()


def verbs(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every verb, those of groups too, with its whole name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from verbs(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


@pytest.mark.parametrize("group", [client, relay])
def test_every_verb_prints_json(group: click.Group) -> None:
    lacking = [
        name
        for name, command in verbs(group)
        if not any("--json" in param.opts for param in command.params) and name not in NO_JSON
    ]
    assert lacking == []


def test_the_documents_are_made_from_the_structs() -> None:
    found = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert found == maker.documents(), "python docs/schemas/make.py"


def test_the_documents_are_schemas_and_the_reference_names_each() -> None:
    reference = "".join(
        (ROOT / f"docs/{page}.md").read_text() for page in ("cli", "api", "doctor", "dashboard")
    )
    for name in maker.structs():
        Draft202012Validator.check_schema(json.loads((FOLDER / maker.file_name(name)).read_text()))
        assert f"`{name}`" in reference, name
    named = set(re.findall(r"`(shadowmesh\.[a-z-]+/[0-9]+)`", (ROOT / "docs/cli.md").read_text()))
    assert named <= set(maker.structs())


def valid(text: str) -> str:
    """The schema of one object that a verb printed, which is as that schema says."""
    value = json.loads(text)
    document = json.loads((FOLDER / maker.file_name(value["schema"])).read_text())
    Draft202012Validator(document).validate(value)
    return str(value["schema"]).removeprefix("shadowmesh.")


def test_what_verbs_print_is_as_their_schemas_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ApiClient, "status_json", lambda _: msgspec.json.encode(make_status()))
    monkeypatch.setattr(ApiClient, "why_json", lambda *_: msgspec.json.encode(make_story()))
    monkeypatch.setattr(ApiClient, "netcheck", lambda _: make_netcheck())
    monkeypatch.setattr(ApiClient, "down", lambda *_: None)
    config, state = str(ROOT / "configs/client-full.yaml"), str(tmp_path / "state")
    for arguments, schema in (
        (["init", "--name", "alice", "--state-dir", state], "identity/1"),
        (["id", "--state-dir", state], "identity/1"),
        (["version"], "version/1"),
        (["up", "--check", "-c", config], "valid/1"),
        (["status"], "status/1"),
        (["status", "--check", "ready"], "check/1"),
        (["peers", "--connected"], "peers/1"),
        (["why", "bob"], "why/1"),
        (["netcheck"], "netcheck/1"),
        (["down"], "down/1"),
        (["get", "--all", "-c", config], "get/1"),
        (["set", "paths.direct", "never", "--dry-run", "-c", config], "set/1"),
        (["firewall", "explain", "-c", config], "firewall-rules/1"),
        (["firewall", "counters"], "firewall-counters/1"),
        (["firewall", "test", "-c", config, "--from", "alice", "--proto", "icmp"], "firewall-test/1"),
    ):
        main([*arguments, "--json"])
        assert valid(capsys.readouterr().out) == schema
    relay_state = str(tmp_path / "relay")
    for arguments, schema in (
        (["init", "--name", "relay1", "--state-dir", relay_state], "identity/1"),
        (["version"], "version/1"),
        (["serve", "--check", "-c", str(ROOT / "configs/relay.yaml")], "valid/1"),
    ):
        assert relay_main([*arguments, "--json"]) == 0
        assert valid(capsys.readouterr().out) == schema


@pytest.mark.parametrize(
    ("run", "arguments"), [(main, ["up", "-c", "x.yaml"]), (relay_main, ["serve", "-c", "x.yaml"])]
)
def test_json_is_not_for_what_only_logs(
    run: object, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(run)
    assert run([*arguments, "--json"]) == 2
    assert "--json is for --check" in capsys.readouterr().err
