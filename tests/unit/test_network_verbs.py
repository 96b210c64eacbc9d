"""The verbs of `network`, as a person and a script meet them: files, modes, JSON, exit codes."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from shadowmesh.cli.main import main as client
from shadowmesh.cli.network import PASSPHRASE_VARIABLE
from shadowmesh.command import ExitCode
from shadowmesh.config import doubts, load_client_config
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import ConfigError
from shadowmesh.io.authority import AuthorityFolder
from shadowmesh.io.documents import load_credentials, load_list, load_network

BOB, CAROL = b"b" * 32, b"c" * 32
PASSPHRASE = "correct horse battery"


class Folder:
    """An authority in a folder of its own."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys

    def run(self, *arguments: str, code: int = 0) -> str:
        """Standard output, or standard error where a failure is expected."""
        assert client(["network", *arguments, "--state-dir", str(self.path)]) == code
        out, err = self._capsys.readouterr()
        return err if code else out

    def json(self, *arguments: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.run(*arguments, "--json"))
        return shown


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Folder:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    made = Folder(tmp_path / "authority", capsys)
    made.run("create", "home", "--subnet", "10.77.0.0/16", "--subnet6", "fd77::/64")
    return made


def test_relays_of_a_network_may_have_an_address_for_tcp(folder: Folder, tmp_path: Path) -> None:
    made = Folder(tmp_path / "other", folder._capsys)
    node = node_id_text(BOB)
    create = ("create", "home", "--subnet", "10.77.0.0/16", "--relay")
    wrong = made.run(*create, f"a.example.net:4433,{node},nowhere", code=ExitCode.USAGE)
    assert "nowhere" in wrong
    made.run(*create, f"a.example.net:4433,{node},b.example.net:443", "--relay", f"c.example.net:4433,{node}")
    (tmp_path / "home.pem").write_text(made.run("export"))
    relays = load_network(tmp_path / "home.pem")[0].relays
    assert [(one.address, one.tcp) for one in relays] == [
        ("a.example.net:4433", "b.example.net:443"),
        ("c.example.net:4433", ""),
    ]


def test_a_network_from_creation_to_revocation(folder: Folder, tmp_path: Path) -> None:
    signed = folder.json("sign", node_id_text(BOB), "--name", "bob", "--group", "admin", "--days", "7")
    assert signed["addresses"] == ["10.77.0.1/16", "fd77::1/64"]
    folder.run(
        "sign", node_id_text(CAROL), "--name", "carol", "--address", "10.77.3.3", "-o", str(tmp_path / "c")
    )
    exported = tmp_path / "home.pem"
    exported.write_text(folder.run("export"))
    network, revoked = load_network(exported)
    assert revoked is None
    bob, carol = (load_credentials(path).certificate for path in (Path(signed["file"]), tmp_path / "c"))
    bob.admit(network, BOB, time.time())
    carol.admit(network, CAROL, time.time())
    assert bob.fingerprint.hex() == signed["fingerprint"]
    assert bob.body.not_after - time.time() == pytest.approx(7 * 86_400, abs=60)
    assert folder.json("revoke", "bob")["number"] == 1
    exported.write_text(folder.run("export"))
    revoked = load_network(exported)[1]
    assert revoked is not None
    assert revoked.nodes == {BOB}
    assert load_list(folder.path / "revocations.pem", network) == revoked
    assert folder.json("revoke", "--serial", "2")["number"] == 2
    shown = folder.json("list")
    assert [(one["name"], one["state"]) for one in shown["members"]] == [
        ("bob", "revoked"),
        ("carol", "valid"),
    ]
    assert "10.77.3.3/16" in folder.run("list")


def test_the_key_is_private_and_encrypted(folder: Folder) -> None:
    for name in ("authority.pem", "ledger.json"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    text = (folder.path / "authority.pem").read_text()
    assert text.count("BEGIN ENCRYPTED PRIVATE KEY") == 2
    assert "BEGIN PRIVATE KEY" not in text


def test_a_wrong_passphrase_signs_nothing(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder.path / "ledger.json").read_bytes()
    file = tmp_path / "passphrase"
    file.write_text("incorrect horse battery\n")
    sign = ("sign", node_id_text(BOB), "--name", "bob")
    assert "passphrase" in folder.run(*sign, "--passphrase-file", str(file), code=ExitCode.REFUSED)
    monkeypatch.delenv(PASSPHRASE_VARIABLE)
    assert "no passphrase" in folder.run(*sign, code=ExitCode.REFUSED)
    assert (folder.path / "ledger.json").read_bytes() == before
    file.write_text(PASSPHRASE + "\n")
    folder.run(*sign, "--passphrase-file", str(file))


def test_an_authority_is_never_replaced(folder: Folder) -> None:
    before = (folder.path / "authority.pem").read_bytes()
    folder.run("create", "home", "--subnet", "10.77.0.0/16", code=ExitCode.REFUSED)
    assert (folder.path / "authority.pem").read_bytes() == before


def test_a_short_passphrase_makes_no_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "short")
    made = Folder(tmp_path / "authority", capsys)
    assert "too short" in made.run("create", "home", "--subnet", "10.77.0.0/16", code=ExitCode.REFUSED)
    assert not made.path.exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("sign", "nonsense", "--name", "bob"), ExitCode.USAGE),
        (("sign", node_id_text(BOB), "--name", "Bob"), ExitCode.USAGE),
        (("sign", node_id_text(BOB), "--name", "bob", "--address", "192.0.2.1"), ExitCode.FAILED),
        (("revoke", "nobody"), ExitCode.FAILED),
        (("revoke",), ExitCode.USAGE),
        (("revoke", "bob", "--serial", "1"), ExitCode.USAGE),
        (("create", "home", "--subnet", "10.77.0.1/16"), ExitCode.USAGE),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Folder, arguments: tuple[str, ...], code: ExitCode) -> None:
    folder.run(*arguments, code=code)


def test_a_key_that_others_can_read_is_refused(folder: Folder) -> None:
    (folder.path / "authority.pem").chmod(0o644)
    assert "chmod 600" in folder.run("revoke", "bob", code=ExitCode.REFUSED)


def test_a_damaged_ledger_is_not_signed_from(folder: Folder) -> None:
    (folder.path / "ledger.json").write_text("{}")
    assert "damaged" in folder.run("list", code=ExitCode.REFUSED)


def test_there_must_be_an_authority(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Folder(tmp_path / "nowhere", capsys)
    for verb in ("list", "export"):
        assert "network create" in made.run(verb, code=ExitCode.REFUSED)


@pytest.mark.parametrize("text", ["", "nonsense", "\xff", "x" * 300_000])
def test_files_that_hold_no_document_are_named(tmp_path: Path, text: str, folder: Folder) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    network, _ = load_network(folder.path / "network.pem")
    for load in (load_network, load_credentials, lambda path: load_list(path, network)):
        with pytest.raises(ConfigError, match=str(path)):
            load(path)


def test_help_of_every_verb_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["network", "--help"]) == 0
    assert "..." not in capsys.readouterr().out.replace("[ARGS]...", "")
    for verb in ("create", "sign", "revoke", "list", "export", "spread"):
        assert client(["network", verb, "--help"]) == 0
        assert "Examples:" in capsys.readouterr().out


def first(path: Path, *more: str) -> list[str]:
    """The words that make a network and this machine its first member."""
    passphrase = path / "passphrase"
    passphrase.write_text(PASSPHRASE)
    folders = ["--state-dir", str(path / "authority"), "--member-dir", str(path / "state")]
    files = ["-c", str(path / "etc/client.yaml"), "--passphrase-file", str(passphrase)]
    return ["network", "create", "home", "--subnet", "10.77.0.0/16", *folders, *files, *more]


RELAY = ("--relay", f"a.example.net:4433,{node_id_text(BOB)}")


def test_who_makes_a_network_may_be_its_first_member(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client([*first(tmp_path, *RELAY), "--member", "alice", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["member"]
    settings = load_client_config(Path(shown["config"]))
    assert settings.network is not None
    network, _ = load_network(settings.network.file)
    assert shown["network_file"] == str(settings.network.file)
    identity = identities.load(settings.node.state_dir)
    assert (shown["node_id"], shown["name"]) == (node_id_text(identity.node_id), "alice")
    certificate = load_credentials(settings.network.certificate).certificate
    certificate.admit(network, identity.node_id, time.time())
    assert shown["addresses"] == list(certificate.body.addresses) == ["10.77.0.1/16"]
    assert shown["not_after"] == certificate.body.not_after
    assert doubts(settings, identity.name) == []
    assert [one.name for one in AuthorityFolder(tmp_path / "authority").ledger().entries] == ["alice"]


@pytest.mark.parametrize(
    ("made", "more", "code", "said"),
    [
        ("", (), ExitCode.USAGE, "--member needs --relay"),
        ("etc/client.yaml", RELAY, ExitCode.REFUSED, "exists already, and is never replaced"),
        ("authority/authority.pem", RELAY, ExitCode.REFUSED, "there is an authority in"),
    ],
)
def test_a_first_member_that_can_not_be_is_no_half_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: str, more: tuple[str, ...], code: int, said: str
) -> None:
    if made:
        (tmp_path / made).parent.mkdir()
        (tmp_path / made).write_text("mine")
    assert client([*first(tmp_path, *more), "--member", "alice"]) == code
    assert said in capsys.readouterr().err
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"passphrase", *filter(None, [made])}


def test_a_network_is_not_made_before_its_first_member_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else it would be in the way of the second try."""
    (tmp_path / "state").touch()
    words = [*first(tmp_path, *RELAY), "--member", "alice"]
    assert client(words) == ExitCode.REFUSED
    assert "[identity.folder]" in capsys.readouterr().err
    (tmp_path / "state").unlink()
    assert client(words) == 0


def test_a_folder_that_can_not_be_looked_into_is_no_bug(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client([*first(tmp_path), "--state-dir", str(tmp_path / ("x" * 256))]) == ExitCode.REFUSED
    assert capsys.readouterr().err.endswith("File name too long [authority.folder]\n")
