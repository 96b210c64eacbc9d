"""The next certificate, delegations and new identities: verbs, files, and what `reload` takes of them."""

from __future__ import annotations

import stat
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shadowmesh.cli.main import main as client
from shadowmesh.command import ExitCode
from shadowmesh.config import ClientConfig, load_client_config
from shadowmesh.core.members import Members
from shadowmesh.core.renewal import Renewals
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.errors import ConfigError
from shadowmesh.io.documents import load_credentials, load_delegation, load_public, public_text
from shadowmesh.io.membership import open_delegate, open_membership
from shadowmesh.membership.delegation import Credentials, Scope
from shadowmesh.membership.guard import Membership
from shadowmesh.membership.renewal import Delegate
from shadowmesh.membership.roster import Roster
from shadowmesh.node.papers import Papers
from tests.unit.test_network_verbs import Folder, folder  # noqa: F401 - a fixture

ALICE, BOB = Identity.generate("alice"), Identity.generate("bob")


def signed(folder: Folder, identity: Identity, *more: str) -> Path:  # noqa: F811
    path = folder.path.parent / f"{identity.name}.pem"
    folder.run("sign", node_id_text(identity.node_id), "--name", identity.name, *more, "-o", str(path))
    return path


def delegation(folder: Folder, identity: Identity, *more: str) -> Path:  # noqa: F811
    public, path = folder.path.parent / "public", folder.path.parent / "delegation.pem"
    public.write_text(public_text(identity.public, identity.name))
    folder.run("delegate", str(public), "-o", str(path), *more)
    return path


# The verbs.


def test_renew_signs_what_the_latest_certificate_says(folder: Folder) -> None:  # noqa: F811
    asked = ("--group", "admin", "--right", "sign", "--route", "192.168.5.0/24", "--address", "10.77.0.9")
    first = load_credentials(signed(folder, BOB, *asked)).certificate.body
    made = folder.json("renew", "bob", "--days", "200")
    second = load_credentials(Path(made["file"])).certificate.body
    same = ("node", "name", "addresses", "routes", "groups", "rights")
    assert [getattr(first, name) for name in same] == [getattr(second, name) for name in same]
    assert second.serial == first.serial + 1
    assert second.not_after - time.time() == pytest.approx(200 * 86_400, abs=60)
    assert "is no member" in folder.run("renew", "carol", code=ExitCode.FAILED)
    folder.run("revoke", "bob")
    assert "revoked for good" in folder.run("renew", node_id_text(BOB.node_id), code=ExitCode.FAILED)


def test_a_replacement_takes_everything_over_and_the_old_one_is_on_the_list(folder: Folder) -> None:  # noqa: F811
    old = load_credentials(signed(folder, BOB, "--group", "admin", "--route", "192.168.5.0/24"))
    new = Identity.generate("bob")
    made = folder.json("sign", node_id_text(new.node_id), "--replaces", "bob")
    body = load_credentials(Path(made["file"])).certificate.body
    same = ("name", "addresses", "routes", "groups", "rights")
    assert [getattr(body, name) for name in same] == [getattr(old.certificate.body, name) for name in same]
    members = {one["node"]: one["state"] for one in folder.json("list")["members"]}
    assert members == {node_id_text(BOB.node_id): "revoked", node_id_text(new.node_id): "valid"}
    assert made["number"] == 1
    assert "revocations" in made["revocations"]


def test_replacements_that_make_no_sense_are_refused(folder: Folder) -> None:  # noqa: F811
    signed(folder, ALICE)
    signed(folder, BOB)
    alice, new = node_id_text(ALICE.node_id), node_id_text(b"n" * 32)
    before = (folder.path / "ledger.json").read_bytes()
    assert "signed for before" in folder.run("sign", alice, "--replaces", "bob", code=ExitCode.FAILED)
    assert "is no member" in folder.run("sign", new, "--replaces", "carol", code=ExitCode.FAILED)
    both = ("sign", new, "--replaces", "bob", "--name", "ben")
    assert "takes everything over" in folder.run(*both, code=ExitCode.USAGE)
    assert "--name" in folder.run("sign", new, code=ExitCode.USAGE)
    assert (folder.path / "ledger.json").read_bytes() == before
    folder.run("revoke", "bob")
    old = node_id_text(BOB.node_id)
    assert "is revoked" in folder.run("sign", new, "--replaces", old, code=ExitCode.FAILED)


def test_delegate_wants_the_keys_of_a_member(folder: Folder, tmp_path: Path) -> None:  # noqa: F811
    public = tmp_path / "public"
    public.write_text(public_text(BOB.public, "bob"))
    out = str(tmp_path / "out.pem")
    assert "is no member" in folder.run("delegate", str(public), "-o", out, code=ExitCode.FAILED)
    signed(folder, BOB)
    made = folder.json("delegate", str(public), "-o", out, "--days", "5")
    found = load_delegation(Path(out)).body
    assert (found.scope, found.serial, found.grants) == (Scope.RENEW, made["serial"], [])
    assert found.not_after - time.time() == pytest.approx(5 * 86_400, abs=60)
    assert "by serial" not in folder.run("revoke", "--serial", str(made["serial"]))
    for text in ("", "nonsense", public.read_text() * 2, public.read_text().replace("A", "!")):
        public.write_text(text)
        refused = folder.run("delegate", str(public), "-o", out, code=ExitCode.REFUSED)
        assert "holds no public keys" in refused


def test_id_prints_the_public_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identity = identities.create(tmp_path, "carol")
    assert client(["id", "--state-dir", str(tmp_path), "--public"]) == 0
    file = tmp_path / "public"
    file.write_text(capsys.readouterr().out)
    assert load_public(file) == identity.public
    assert client(["id", "--state-dir", str(tmp_path), "--public", "--json"]) == ExitCode.USAGE


# The running client.


@pytest.fixture
def config(folder: Folder, tmp_path: Path) -> ClientConfig:  # noqa: F811
    certificate = signed(folder, ALICE)
    (tmp_path / "home.pem").write_text(folder.run("export"))
    return written(tmp_path, certificate)


def written(tmp_path: Path, certificate: Path, more: str = "") -> ClientConfig:
    path = tmp_path / "client.yaml"
    path.write_text(
        f"node: {{name: alice, state_dir: {tmp_path}}}\n"
        f"relays: [{{address: 'relay.example.net:4433', id: {node_id_text(b'r' * 32)}}}]\n"
        f"network: {{file: {tmp_path}/home.pem, certificate: {certificate}{more}}}\n"
    )
    return load_client_config(path)


def core_of(membership: Membership) -> Any:
    """As much of a core as papers need; it counts what is announced."""
    members = Members(membership, Roster([]), {}, lambda now: None, lambda now: None)  # type: ignore[arg-type]
    announced: list[float] = []
    renewals = Renewals(members, bytes, members._drops, lambda *_: None, announced.append)
    return SimpleNamespace(
        members=members,
        renewals=renewals,
        announced=announced,
        handle_network_document=lambda document, now: membership.merge_network_untrusted(document),
        handle_revocations=lambda document, now: membership.revocations.merge_untrusted(document),
    )


def opened(config: ClientConfig) -> Membership:
    membership = open_membership(config, ALICE)
    assert membership is not None
    return membership


def reload(config: ClientConfig, core: Any) -> list[str]:
    papers = Papers.read(config, core, ALICE)
    assert papers is not None
    return papers.install(core)


def test_reload_takes_a_newer_certificate_and_list_once(folder: Folder, config: ClientConfig) -> None:  # noqa: F811
    membership = opened(config)
    core = core_of(membership)
    assert reload(config, core) == []
    assert config.network is not None
    file = config.network.certificate
    folder.run("renew", "alice", "-o", str(file))
    signed(folder, BOB)
    folder.run("revoke", "bob")
    config.network.file.write_text(folder.run("export"))
    assert reload(config, core) == ["network.file", "network.certificate"]
    assert membership.certificate.body.serial == 2
    assert len(core.announced) == 1
    assert reload(config, core) == []


def test_an_older_or_expired_certificate_in_the_file_changes_nothing(
    folder: Folder,  # noqa: F811
    config: ClientConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert config.network is not None
    file = config.network.certificate
    first = file.read_bytes()
    folder.run("renew", "alice", "-o", str(file))
    membership = opened(config)
    file.write_bytes(first)
    assert reload(config, core_of(membership)) == []
    monkeypatch.setattr(membership.clock, "_wall", lambda: time.time() + 900 * 86_400)
    assert reload(config, core_of(membership)) == [], "other keys of the file can still be reloaded"


def test_a_certificate_of_somebody_else_refuses_the_reload(folder: Folder, config: ClientConfig) -> None:  # noqa: F811
    core = core_of(opened(config))
    assert config.network is not None
    signed(folder, BOB)
    folder.run("renew", "bob", "-o", str(config.network.certificate))
    with pytest.raises(ConfigError, match="for another NodeID"):
        Papers.read(config, core, ALICE)


def test_other_addresses_need_a_restart(folder: Folder, config: ClientConfig) -> None:  # noqa: F811
    core = core_of(opened(config))
    signed(folder, ALICE, "--address", "10.77.0.77")
    papers = Papers.read(config, core, ALICE)
    assert papers is not None
    assert papers.restart(config) == ["interface.addresses"]


def test_a_delegation_comes_and_goes_by_reload(
    folder: Folder,  # noqa: F811
    config: ClientConfig,
    tmp_path: Path,
) -> None:
    core = core_of(opened(config))
    assert config.network is not None
    path = delegation(folder, ALICE)
    able = written(tmp_path, config.network.certificate, f", delegation: {path}")
    assert reload(able, core) == ["network.delegation"]
    assert core.members.membership.renews > time.time() + 29 * 86_400
    assert reload(able, core) == []
    assert reload(config, core) == ["network.delegation"]
    assert core.members.membership.renews == 0
    assert len(core.announced) == 2


def test_a_delegation_of_another_machine_is_refused_and_one_that_ended_is_told(
    folder: Folder,  # noqa: F811
    config: ClientConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    membership = opened(config)
    assert config.network is not None
    path = delegation(folder, ALICE, "--days", "5")
    able = written(tmp_path, config.network.certificate, f", delegation: {path}")
    assert isinstance(open_delegate(able, membership, ALICE), Delegate)
    monkeypatch.setattr(membership.clock, "_wall", lambda: time.time() + 6 * 86_400)
    assert open_delegate(able, membership, ALICE) is None
    assert "the delegation ended at" in caplog.text
    signed(folder, BOB)
    delegation(folder, BOB)
    with pytest.raises(ConfigError, match="for another NodeID"):
        open_delegate(able, membership, ALICE)
    path.write_text("nonsense")
    with pytest.raises(ConfigError, match="is no delegation"):
        open_delegate(able, membership, ALICE)


def test_a_renewed_certificate_takes_the_place_of_the_old_one_which_stays(
    folder: Folder,  # noqa: F811
    config: ClientConfig,
) -> None:
    membership = opened(config)
    assert config.network is not None
    file = config.network.certificate
    before = file.read_bytes()
    made = renewed(folder, membership)
    for mode in (0o644, 0o600):
        file.chmod(mode)
        membership.keep(made)
        assert stat.S_IMODE(file.stat().st_mode) == mode
    assert load_credentials(file) == made
    file.write_bytes(before)
    membership.keep(made)
    backup = file.with_name(f"{file.name}.bak")
    assert backup.read_bytes() == before
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    file.write_text("nonsense")
    membership.keep(made)
    assert load_credentials(file) == made


def renewed(folder: Folder, membership: Membership) -> Credentials:  # noqa: F811
    """Alice's next certificate, by a delegation of her own."""
    delegate = Delegate(ALICE, load_delegation(delegation(folder, ALICE, "--days", "300")))
    short = membership.credentials.certificate
    monkey = short.body.not_after - 20 * 86_400
    membership.clock._wall = lambda: float(monkey)
    return delegate.renew(Credentials(short), ALICE.node_id, membership)


def test_a_renewal_leaves_a_newer_certificate_of_the_authority_in_its_place(
    folder: Folder,  # noqa: F811
    config: ClientConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    membership = opened(config)
    assert config.network is not None
    file = config.network.certificate
    made = renewed(folder, membership)
    folder.run("renew", "alice", "-o", str(file))
    newer = file.read_bytes()
    membership.keep(made)
    assert file.read_bytes() == newer
    assert f"{file} holds a newer certificate" in caplog.text
