"""Damaged or half-written state directories: what stops a start says which file it is, and what to do."""

from __future__ import annotations

import errno
import ipaddress
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shadowmesh.command import ExitCode, explain
from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.errors import ConfigError, IdentityError
from shadowmesh.io.documents import network_text, remove_drafts, replace_file
from shadowmesh.io.invitations import open_invitations
from shadowmesh.io.membership import CLOCK_FILE, open_clock, open_guard
from shadowmesh.membership.clock import RELEASED
from shadowmesh.membership.invitations import Invitations
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import RevocationList

NOW = int(max(RELEASED, time.time()))
KEY, ALICE = AuthorityKey.generate(), Identity.generate("alice")
NETWORK = Network.make("home", [ipaddress.ip_network("10.77.0.0/16")], [], KEY, NOW)
LIST = RevocationList.make(NETWORK, KEY, 1, NOW, NOW + 1000, [ALICE.node_id], [])


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILT: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "random": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "a folder": _folder,
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with all that stops a start when it is damaged; the network file is beside it."""
    folder, public = tmp_path / "state", tmp_path / "home.pem"
    identities.create(folder, "alice")
    public.write_text(network_text(NETWORK))
    (folder / f"network-{node_id_text(NETWORK.id)[:10]}.pem").write_text(network_text(NETWORK))
    open_guard(public, folder).revocations.merge_untrusted(LIST.document)
    (folder / CLOCK_FILE).write_text(f"{NOW}\n")
    start(folder)._commit(())
    return folder


def start(state: Path) -> Invitations:
    """What `up` reads of it."""
    identity = identities.load(state)
    return open_invitations(open_guard(state.parent / "home.pem", state), identity, state)


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize(
    "name", ["identity.pem", "revocations-*.pem", "network-*.pem", "clock", "invitations"]
)
def test_a_damaged_file_stops_the_start_and_is_named(state: Path, name: str, how: str) -> None:
    start(state)
    [path] = state.glob(name)
    SPOILT[how](path)
    path.chmod(0o700 if path.is_dir() else 0o600)
    before = {one: one.read_bytes() for one in state.iterdir() if one.is_file()}
    if (name, how) == ("clock", "truncated"):
        start(state)  # an earlier time: the least that is lost with a damaged file
        return
    with pytest.raises((ConfigError, IdentityError)) as caught:
        start(state)
    code, text = explain(caught.value)
    assert code == ExitCode.REFUSED
    assert str(path) in text
    assert "restore it" in text or "remove it" in text or how == "a folder", text
    assert before == {one: one.read_bytes() for one in state.iterdir() if one.is_file()}, (
        "nothing is replaced"
    )


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "-1", "1e300", "", "yesterday", "\0", "253402300800"])
def test_a_clock_against_which_no_date_can_be_held_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CLOCK_FILE).write_text(text)
    with pytest.raises(ConfigError, match="clock: is no time; remove it"):
        open_clock(tmp_path)


def test_what_a_crash_left_half_written_is_removed(tmp_path: Path) -> None:
    for name in ("tickets", "identity.pem", ".profile", ".tickets.new", ".a.0123"):
        (tmp_path / name).touch()
    for name in (".tickets.0123456789abcdef", ".members-aaaaaaaaaa.00000000ffffffff"):
        (tmp_path / name).touch()
    remove_drafts(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"tickets", "identity.pem", ".profile", ".tickets.new", ".a.0123"}


def test_drafts_are_called_what_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash between the write and the rename, as `replace_file` would leave it."""
    monkeypatch.setattr(os, "replace", lambda *_: os._exit(9))
    child = os.fork()
    if not child:
        replace_file(tmp_path / "clock", b"1")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [path.name[:7] for path in tmp_path.iterdir()] == [".clock."]
    remove_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EIO, errno.ENOMEM])
def test_what_the_machine_lacks_is_no_internal_error(number: int) -> None:
    code, text = explain(OSError(number, os.strerror(number), "/var/lib/shadowmesh/lock"))
    said = f"/var/lib/shadowmesh/lock: {os.strerror(number)} [machine.resource]"
    assert (code, text) == (ExitCode.FAILED, said)
    assert "internal error" in explain(OSError(errno.EINVAL, "Invalid argument"))[1]


def test_no_memory_is_no_internal_error() -> None:
    code, text = explain(MemoryError())
    assert code == ExitCode.FAILED
    assert text.startswith("there is no memory left")
