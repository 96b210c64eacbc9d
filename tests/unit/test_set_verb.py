"""`get` and `set`: the file in, the file out, and the client that runs by it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import msgspec
import pytest

from shadowmesh.api.client import ApiClient, NotRunning
from shadowmesh.api.schema import ReloadReply
from shadowmesh.cli.main import main as client
from shadowmesh.command import ExitCode
from shadowmesh.config import load_client_config
from shadowmesh.errors import ConfigError
from tests.unit.test_api import make_status

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with every key, and no client."""

    def absent(_client: ApiClient) -> bytes:
        raise NotRunning("no client runs here")

    monkeypatch.setattr(ApiClient, "status_json", absent)
    path = tmp_path / "client.yaml"
    path.write_text((ROOT / "configs/client-full.yaml").read_text())
    return path


def run_by(file: Path, monkeypatch: pytest.MonkeyPatch, reply: ReloadReply | Exception) -> list[str]:
    """A client runs by `file`, and answers `reload` so; what it was asked."""
    asked: list[str] = []
    made = make_status()
    status = msgspec.structs.replace(made, node=msgspec.structs.replace(made.node, config=str(file)))

    def reload(_client: ApiClient) -> ReloadReply:
        asked.append("reload")
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(ApiClient, "status_json", lambda _: msgspec.json.encode(status))
    monkeypatch.setattr(ApiClient, "reload", reload)
    return asked


def test_a_value_alone(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key, value in (
        ("paths.port_mapping", "off"),
        ("peers.carol.endpoint", "192.0.2.7:4400"),
        ("peers[0].addresses", "10.77.0.1,fd77::1"),
        ("session.rekey_seconds", "120"),
        ("log.addresses", "false"),
    ):
        assert client(["get", key, "-c", str(file)]) == ExitCode.OK
        assert capsys.readouterr().out == f"{value}\n"


def test_what_has_no_value(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key, code, text in (
        ("network.file", ExitCode.FAILED, "network.file is not set: the file has no network"),
        ("interface.bridge", ExitCode.FAILED, "interface.bridge is not set, and has no default"),
        ("pths.direct", ExitCode.REFUSED, "pths.direct: unknown key; did you mean paths.direct?"),
        ("xyz", ExitCode.REFUSED, "unknown key; `get --all` shows all"),
    ):
        assert client(["get", key, "-c", str(file)]) == code
        assert text in capsys.readouterr().err


def test_all_that_differs_from_the_defaults(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    config = str(ROOT / "configs/client.yaml")
    assert client(["get", "-c", config, "--json"]) == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["file"]) == ("shadowmesh.get/1", config)
    assert [one["key"] for one in found["settings"]] == [
        "node.name",
        "interface.addresses",
        "relays[0].address",
        "relays[0].id",
        "peers[0].addresses",
        "peers[0].name",
        "peers[0].id",
    ]
    assert client(["get", "-c", config, "--all", "--json"]) == ExitCode.OK
    every = {one["key"]: one for one in json.loads(capsys.readouterr().out)["settings"]}
    assert every["session.rekey_seconds"] == {
        "key": "session.rekey_seconds",
        "value": 120,
        "default": 120,
        "given": False,
    }
    assert every["interface.addresses"]["value"] == ["10.77.0.1/24", "fd77::1/64"]
    assert every["log.addresses"]["value"] is False
    assert client(["get", "-c", config, "paths"]) == ExitCode.OK
    assert capsys.readouterr().out == (
        "KEY                 VALUE\npaths.direct        auto   default\npaths.port_mapping  auto   default\n"
    )


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["paths.direct", "never"], [("paths.direct", "auto", "never")]),
        (["listen.port", "4400"], [("listen.port", 0, 4400)]),
        (["log.addresses", "true"], [("log.addresses", False, True)]),
        (["node.name", "77"], [("node.name", "bob", "77")]),
        (["listen.address", "2001:db8::1"], [("listen.address", "::", "2001:db8::1")]),
        (["interface.vlans", "10,20", "interface.bridge", "br0"], None),
        (["interface.addresses", "10.77.0.9/24, fd77::9/64"], None),
        (["peers.alice.groups", "admin,b"], [("peers[0].groups", ["admin"], ["admin", "b"])]),
        (["firewall.rules.ssh.dst_port", "22,2222"], None),
        (["network.file", "/a", "network.certificate", "/b"], None),
        (["interface.broadcast.burst", "7"], [("interface.broadcast.burst", 1000, 7)]),
        (["--unset", "metrics"], [("metrics", "127.0.0.1:9465", None)]),
        (["--unset", "paths.direct", "--unset", "paths.port_mapping"], None),
    ],
)
def test_a_change_and_nothing_else(
    arguments: list[str],
    changes: list[tuple[str, object, object]] | None,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old = file.read_text()
    os.chown(file, 1, 2) if os.geteuid() == 0 else None
    file.chmod(0o640)
    assert client(["set", *arguments, "-c", str(file), "--json"]) == ExitCode.OK
    reply = json.loads(capsys.readouterr().out)
    assert (reply["schema"], reply["written"], reply["running"]) == ("shadowmesh.set/1", True, False)
    if changes is not None:
        assert [(one["key"], one["old"], one["new"]) for one in reply["changes"]] == changes
    new = file.read_text()
    lost = [line for line in old.splitlines() if line not in new.splitlines()]
    assert len(lost) <= 3
    for one, value in zip(arguments[::2], arguments[1::2], strict=True):
        if one != "--unset":
            assert client(["get", one, "-c", str(file)]) == ExitCode.OK
            assert capsys.readouterr().out.strip() == value.replace(", ", ",")
    load_client_config(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.geteuid() or (file.stat().st_uid, file.stat().st_gid) == (1, 2)
    assert [one.name for one in file.parent.iterdir()] == ["client.yaml"], "no draft is left"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["paths.direct", "nver"],
            ": paths.direct: 'nver' is none of auto, never, static; for example: direct",
        ),
        (["paths.direkt", "never"], "paths.direkt: unknown key; did you mean direct?"),
        (["pats.direct", "never"], "pats: unknown key; did you mean paths?"),
        (["listen.port", "x"], "listen.port: must be a whole number, not the text 'x'"),
        (["listen.port", "70000"], "listen.port: 70000 is not between 0 and 65535"),
        (["log.addresses", "1"], "log.addresses: must be true or false, not 1"),
        (["interface", "x"], "keys of their own"),
        (["interface.broadcast", "x"], "interface.broadcast has keys of its own"),
        (["interface.addresses", ""], "--unset takes the key out"),
        (["interface.vlans", "10"], "is for a bridge only"),
        (["peers.dora.groups", "x"], "there is no peers.dora"),
        (["network.file", "/a"], "network.certificate: is missing"),
        (["firewall.rules.ssh.action", "deny"], "tests"),
        (["--unset", "node.name"], "node.name: is missing"),
        (["--unset", "node.nme"], "node.nme is not in"),
        (["node..name", "x"], "is no key"),
        (["node.name", "a\nlisten: {port: 1}"], "is not a name"),
        (["node.name", "a", "paths.direct", "nver"], "paths.direct"),
    ],
)
def test_a_mistake_changes_nothing(
    arguments: list[str], text: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = file.read_text()
    assert client(["set", *arguments, "-c", str(file)]) == ExitCode.REFUSED
    err = capsys.readouterr().err
    assert text in err
    assert err.endswith("shadowmesh-client: nothing was changed\n")
    assert file.read_text() == old


@pytest.mark.parametrize("arguments", [[], ["paths.direct"], ["a", "b", "c"]])
def test_pairs_are_complete(arguments: list[str], file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["set", *arguments, "-c", str(file)]) == ExitCode.USAGE
    assert "takes a VALUE for each KEY" in capsys.readouterr().err


def test_a_dry_run_shows_the_difference(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = file.read_text()
    assert client(["set", "listen.port", "4400", "--dry-run", "-c", str(file)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "\n-  port: 0" in out
    assert "\n+  port: 4400" in out
    assert file.read_text() == old
    assert client(["set", "listen.port", "0", "--dry-run", "-c", str(file)]) == ExitCode.OK
    assert capsys.readouterr().out == "nothing would change\n"


def test_a_broken_value_can_be_mended(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace("direct: auto", "direct: nver"))
    assert client(["set", "paths.direct", "never", "-c", str(file)]) == ExitCode.OK
    assert "paths.direct: nver -> never" in capsys.readouterr().out
    assert load_client_config(file).paths.direct == "never"


def test_the_running_client_reads_the_file_again(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = run_by(file, monkeypatch, ReloadReply(applied=["peers[].groups"], restart=["paths"]))
    assert client(["set", "paths.direct", "never", "peers.carol.groups", "x,y"]) == ExitCode.OK
    assert capsys.readouterr() == (
        "peers[1].groups: - -> x,y\npaths.direct: auto -> never\ncounts at once: peers[].groups\n",
        "changed in the file, and needs a restart: paths [config.pending]\n",
    )
    assert client(["set", "paths.direct", "never"]) == ExitCode.OK
    assert capsys.readouterr().out == "nothing to change\n"
    assert client(["set", "--dry-run", "paths.direct", "auto"]) == ExitCode.OK
    assert asked == ["reload"]
    assert client(["get", "paths.direct"]) == ExitCode.OK


def test_a_client_of_another_file_is_left_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = run_by(file.with_name("other.yaml"), monkeypatch, ReloadReply())
    assert client(["set", "paths.direct", "never", "-c", str(file)]) == ExitCode.OK
    assert "no client runs by this file" in capsys.readouterr().out
    assert asked == []


def test_a_refusal_of_the_running_client_is_told(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_by(file, monkeypatch, ConfigError("peers[0].id: is this machine's own NodeID"))
    assert client(["set", "paths.direct", "never"]) == ExitCode.REFUSED
    assert f"{file} was changed, and the running client refuses it" in capsys.readouterr().err


def test_behind_a_link_the_file_itself_is_changed(file: Path) -> None:
    link = file.with_name("link.yaml")
    link.symlink_to(file)
    assert client(["set", "paths.direct", "never", "-c", str(link)]) == ExitCode.OK
    assert link.is_symlink()
    assert load_client_config(file).paths.direct == "never"


def test_what_can_not_be_written_is_one_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert client(["set", "paths.direct", "never", "-c", str(file)]) == ExitCode.FAILED
    assert "can't be written: No space left on device; nothing was changed" in capsys.readouterr().err
    assert [one.name for one in file.parent.iterdir()] == ["client.yaml"]


def test_the_usual_file_is_taken_without_a_client(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shadowmesh.cli.settings.DEFAULT_CONFIG", file)
    assert client(["get", "node.name"]) == ExitCode.OK
    assert capsys.readouterr().out == "bob\n"
