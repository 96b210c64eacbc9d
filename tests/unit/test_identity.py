"""Identities on disk: made once, kept private, refused when they are not."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from shadowmesh.crypto import identity as identities
from shadowmesh.crypto.identity import Identity, node_id_of, node_id_text
from shadowmesh.errors import IdentityError
from shadowmesh.overlay.mac import mac_of, mac_text
from shadowmesh.values import parse_node_id


def test_create_makes_private_files_once(tmp_path: Path) -> None:
    made = identities.create(tmp_path / "deep" / "state", "alice")
    again = identities.create(tmp_path / "deep" / "state", "bob")
    assert (again.name, again.node_id) == ("alice", made.node_id)
    file = tmp_path / "deep" / "state" / "identity.pem"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(file.parent) == ["identity.pem"], "no draft may be left"


def test_create_does_not_touch_the_mode_of_a_folder_that_exists(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    identities.create(tmp_path, "alice")
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_load_refuses_keys_that_others_can_read(tmp_path: Path, mode: int) -> None:
    identities.create(tmp_path / "state", "alice")
    file = tmp_path / "state" / "identity.pem"
    file.chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {file}"):
        identities.load(tmp_path / "state")
    file.chmod(0o600)
    identities.load(tmp_path / "state")


def test_load_refuses_a_folder_that_others_can_change(tmp_path: Path) -> None:
    identities.create(tmp_path / "state", "alice")
    (tmp_path / "state").chmod(0o777)
    with pytest.raises(IdentityError, match="chmod 700"):
        identities.load(tmp_path / "state")


def test_load_without_identity_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="init"):
        identities.load(tmp_path)


def test_damaged_files_are_refused_and_never_replaced(tmp_path: Path) -> None:
    identities.create(tmp_path / "state", "alice")
    file = tmp_path / "state" / "identity.pem"
    whole = file.read_bytes()
    other = Identity.generate("other")
    swapped = identities._encode(other).replace(b"other", b"alice")
    cut = whole[: len(whole) // 2]
    mixed = whole[: whole.index(b"-----BEGIN CERT")] + swapped[swapped.index(b"-----BEGIN CERT") :]
    for damaged in (b"", cut, whole.replace(b"shadowmesh identity", b"shadowmesh"), mixed, b"\xff" * 100):
        file.write_bytes(damaged)
        with pytest.raises(IdentityError, match=r"identity\.pem"):
            identities.load(tmp_path / "state")
        with pytest.raises(IdentityError):
            identities.create(tmp_path / "state", "alice")
        assert file.read_bytes() == damaged


def test_damage_is_told_in_words(tmp_path: Path) -> None:
    identities.create(tmp_path, "alice")
    file = tmp_path / "identity.pem"
    file.parent.chmod(0o700)
    heading, first, second, certificate = file.read_bytes().partition(b"\n")[0], *_blocks(file.read_bytes())
    broken = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    for parts, words in (
        ((broken, second, certificate), "its first key can't be read"),
        ((first, broken, certificate), "its second key can't be read"),
        ((first, second, broken), "its certificate can't be read"),
        ((b"\xff",), "it is not text"),
    ):
        file.write_bytes(heading + b"\n" + b"".join(parts))
        with pytest.raises(IdentityError) as caught:
            identities.load(tmp_path)
        assert str(caught.value) == f"{file} is damaged ({words}); restore it from a backup"


def _blocks(data: bytes) -> list[bytes]:
    return [block + b"\n" for block in re.findall(rb"-----BEGIN.+?-----END [A-Z ]+-----", data, re.DOTALL)]


def test_who_may_not_look_is_told_to_use_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another user than root sees root's identity; the refusal is simulated, since root gets none."""
    identities.create(tmp_path, "alice")
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        for verb in ("init", "id"):
            with pytest.raises(IdentityError) as caught:
                identities.create(tmp_path, "alice") if verb == "init" else identities.load(tmp_path)
            assert str(caught.value) == f"can't look into {tmp_path}: Permission denied; run it with sudo"
    monkeypatch.setattr(identities, "check_private", lambda *_: None)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(IdentityError) as caught:
        identities.load(tmp_path)
    assert str(caught.value) == f"can't read {tmp_path}/identity.pem: Permission denied; run it with sudo"


def test_node_id_text_and_back() -> None:
    node_id = node_id_of(bytes(32), bytes(2592))
    text = node_id_text(node_id)
    assert len(text) == 52
    assert parse_node_id(text) == parse_node_id(text.upper()) == node_id
    for bad in (text[:-1], text + "a", "1" + text[1:], "é" + text[1:], text[:-1] + "b", ""):
        with pytest.raises(ValueError, match="NodeID"):
            parse_node_id(bad)


def test_node_id_covers_both_keys() -> None:
    one = node_id_of(bytes(32), bytes(2592))
    assert one != node_id_of(b"\1" + bytes(31), bytes(2592))
    assert one != node_id_of(bytes(32), b"\1" + bytes(2591))
    with pytest.raises(ValueError, match="2592"):
        node_id_of(bytes(2592), bytes(32))


def test_repr_shows_no_secret() -> None:
    alice = Identity.generate("alice")
    assert repr(alice) == f"<Identity alice {node_id_text(alice.node_id)}>"


def test_mac_is_local_and_unicast() -> None:
    macs = {mac_of(bytes((number,)) * 32) for number in range(200)}
    assert len(macs) == 200
    assert all(mac[0] & 3 == 2 and len(mac) == 6 for mac in macs)
    assert mac_text(b"\x02\0\0\0\0\x1f") == "02:00:00:00:00:1f"
