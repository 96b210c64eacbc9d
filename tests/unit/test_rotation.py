"""New keys of an authority: the chain from the first one, how far former ones count, and what is refused."""

from __future__ import annotations

import ipaddress
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shadowmesh.command import ExitCode
from shadowmesh.crypto.authority_key import AuthorityKey, AuthorityPublic
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import BadPacket, ConfigError, NotMember
from shadowmesh.io import authority as authority_io
from shadowmesh.io.documents import load_credentials, load_network, network_text, replace_file
from shadowmesh.io.membership import guard_with, open_guard
from shadowmesh.membership.authority import DAY, Authority, Ledger, Request
from shadowmesh.membership.certificate import Certificate
from shadowmesh.membership.clock import RELEASED, SteadyClock
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.guard import Guard, Membership, Standing
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import RevocationList, Revocations
from shadowmesh.membership.rotation import MAX_LINKS, Link, split_untrusted
from shadowmesh.membership.signed import Kind, Signed, to_text
from shadowmesh.wire.messages import MAX_NETWORK
from tests.unit.test_network_verbs import Folder, folder  # noqa: F401 - a fixture

NOW = RELEASED + 1000
BOB = b"b" * 32
SUBNETS = [ipaddress.ip_network("10.77.0.0/16")]
KEYS = [AuthorityKey.generate() for _ in range(MAX_LINKS + 2)]


def chain(length: int, first: int = 0, overlap: int = 10 * DAY, lists: int = 0) -> list[Network]:
    """A network with its first key, with its second, and so on."""
    found = [Network.make("home", SUBNETS, [], KEYS[first], NOW)]
    for number in range(first, first + length):
        old, new = KEYS[number], KEYS[number + 1]
        found.append(found[-1].rotated(old, new, NOW, NOW + overlap, lists))
    return found


def guard(network: Network, now: float = NOW) -> Guard:
    clock = SteadyClock(lambda: now, 0.0, lambda _: None)
    return Guard(network, Revocations(network, b"", lambda _: None), clock)


def reason(network: Guard, data: bytes) -> str:
    before = network.network
    with pytest.raises((NotMember, BadPacket)) as caught:
        network.merge_network_untrusted(data)
    assert network.network is before
    assert isinstance(caught.value, NotMember | BadPacket)
    return caught.value.reason


def certificate(key: AuthorityKey, network: Network) -> Certificate:
    ledger = Ledger(network=node_id_text(network.id))
    return Authority(key, network, ledger).sign(Request(node=BOB, name="bob"), NOW)


# The chain.


def test_the_id_stays_that_of_the_first_key_through_all_rotations() -> None:
    networks = chain(MAX_LINKS)
    assert len({network.id for network in networks}) == 1
    assert networks[-1].authority == KEYS[MAX_LINKS].public
    assert [former.public for former in networks[-1].former] == [key.public for key in KEYS[:MAX_LINKS]]
    again = Network.parse_untrusted(networks[-1].document)
    assert again == networks[-1]
    assert len(networks[-1].document) < MAX_NETWORK
    with pytest.raises(ValueError, match="make a new network"):
        networks[-1].rotated(KEYS[3], KEYS[4], NOW, NOW, 0)


def test_a_newer_network_is_kept_before_it_is_used_and_an_older_one_ignored() -> None:
    first, second, third = chain(2)
    door = guard(first)
    order: list[Any] = []
    door.keep_network = lambda made: order.append((made.links, door.network.links))
    assert door.merge_network_untrusted(third.document), "one that was missed matters not"
    assert order == [(third.links, ())]
    assert not door.merge_network_untrusted(second.document)
    assert not door.merge_network_untrusted(first.document)
    assert door.network == third


@pytest.mark.parametrize("position", range(6))
def test_a_forged_chain_is_refused(position: int) -> None:
    """A flipped bit in either signature of document or link, and in the two bodies."""
    first, second = chain(1)
    document, link = split_untrusted(second.document)
    target = {
        0: len(document) - 1,
        1: len(document) - 4627 - 1,
        2: len(second.document) - 1,
        3: len(second.document) - 4627 - 1,
        4: document.index(b"home"),
        5: len(document) + link.index(KEYS[0].public.ed25519),
    }[position]
    bad = bytearray(second.document)
    bad[target] ^= 1
    assert reason(guard(first), bytes(bad)) in ("forged", "malformed_document")


def test_a_key_that_the_old_one_has_not_named_is_refused() -> None:
    first, second = chain(1)
    thief = AuthorityKey.generate()
    made_up = Link.make(first.id, 1, thief, thief.public, NOW, NOW, 0)
    foreign = Network.make("home", SUBNETS, [], thief, NOW).document
    assert reason(guard(first), foreign + made_up.signed.encode()) == "forged"
    assert reason(guard(first), chain(1, first=2)[1].document) == "wrong_network"
    body = msgspec.structs.replace(
        Link.parse_untrusted(second.links[0]).body,
        new_ed25519=thief.public.ed25519,
        new_mldsa=thief.public.mldsa,
    )
    signed_by_thief = Signed.make(Kind.ROTATION, body, thief).encode()
    assert reason(guard(first), foreign + signed_by_thief) == "forged"
    assert reason(guard(first), foreign + second.links[0]) == "forged", "a link that names another key"


def test_another_network_a_wrong_order_and_a_spliced_chain_are_refused() -> None:
    first, _, third = chain(2)
    assert reason(guard(first), chain(1, first=1)[1].document) == "wrong_network"
    document, one, two = split_untrusted(third.document)
    assert reason(guard(first), document + two + one) == "forged"
    assert reason(guard(first), document + two) == "forged", "the first link is left out"
    assert reason(guard(first), document + one) == "forged", "the last link is left out"


def test_a_chain_that_is_too_long_or_cut_is_refused_before_any_signature_is_checked() -> None:
    first = chain(0)[0]
    longest = chain(MAX_LINKS)[-1]
    link = Link.parse_untrusted(longest.links[-1]).signed.encode()
    assert reason(guard(first), longest.document + link) == "malformed_document"
    assert reason(guard(first), longest.document[:-1]) == "malformed_document"
    for bad in (b"", b"\x01\x01\xff", longest.document + b"\x05"):
        with pytest.raises(BadPacket):
            Network.parse_untrusted(bad)


def test_what_is_refused_anyway_costs_no_signature_check(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = chain(2)
    thief = first.rotated(KEYS[0], KEYS[3], NOW, NOW, 0)
    longer = thief.rotated(KEYS[3], KEYS[4], NOW, NOW, 0)
    other = chain(2, first=1)[2]
    doors = [guard(one) for one in (first, second)]
    checks = []
    verifies = AuthorityPublic.verifies

    def count(self: AuthorityPublic, signature: bytes, content: bytes) -> bool:
        checks.append(content)
        return verifies(self, signature, content)

    monkeypatch.setattr(AuthorityPublic, "verifies", count)
    assert [reason(door, other.document) for door in doors] == ["wrong_network"] * 2
    assert reason(doors[1], longer.document) == "contradiction"
    assert not doors[1].merge_network_untrusted(thief.document)
    assert checks == []
    assert doors[0].merge_network_untrusted(third.document)
    assert len(checks) == 3


def test_two_successors_of_one_key_contradict_each_other() -> None:
    """A thief of the first key makes a longer chain: who knows the right second key stays with it."""
    first, second = chain(1)
    thief = first.rotated(KEYS[0], KEYS[3], NOW, NOW, 0)
    longer = thief.rotated(KEYS[3], KEYS[4], NOW, NOW, 0)
    assert reason(guard(second), longer.document) == "contradiction"
    assert not guard(second).merge_network_untrusted(thief.document)


# What former keys have signed.


def test_certificates_of_the_old_key_count_for_the_overlap() -> None:
    first, second = chain(1)
    old, new = certificate(KEYS[0], first), certificate(KEYS[1], second)
    for now in (NOW, NOW + 10 * DAY):
        old.admit(second, BOB, now)
        new.admit(second, BOB, now)
    with pytest.raises(NotMember, match="has a new key since") as caught:
        old.admit(second, BOB, NOW + 10 * DAY + 1)
    assert caught.value.reason == "former_authority"
    with pytest.raises(NotMember, match="has not signed it"):
        new.admit(first, BOB, NOW)


def test_a_session_ends_with_the_overlap_and_without_grace() -> None:
    first, second = chain(1)
    standing = Standing(Credentials(certificate(KEYS[0], first)), 0)
    guard(second, NOW + 10 * DAY).recheck(standing)
    with pytest.raises(NotMember, match="new key since it signed for bob"):
        guard(second, NOW + 10 * DAY + 1).recheck(standing)
    door = guard(first, NOW + 10 * DAY + 1)
    door.recheck(standing)
    door.merge_network_untrusted(second.document)
    with pytest.raises(NotMember, match="new key since"):
        door.recheck(standing)


def test_what_is_known_of_a_signature_ends_with_the_next_rotation() -> None:
    _, second, third = chain(2)
    standing = Standing(Credentials(certificate(KEYS[1], second)), 0)
    door = guard(second, NOW + 10 * DAY + 1)
    door.recheck(standing)
    door.merge_network_untrusted(third.document)
    with pytest.raises(NotMember, match="new key since"):
        door.recheck(standing)


def test_a_stolen_old_key_signs_no_list_beyond_its_last_one() -> None:
    first = chain(0)[0]
    old = Authority(KEYS[0], first, Ledger(network=node_id_text(first.id)))
    old.sign(Request(node=BOB, name="bob"), NOW)
    last = old.revoke("bob", NOW)
    second = first.rotated(KEYS[0], KEYS[1], NOW, NOW + DAY, last.number)
    stolen = Authority(KEYS[0], first, old.ledger).revoke_serial(1, NOW)
    lists = Revocations(second, b"", lambda _: None)
    assert lists.merge_untrusted(last.document), "the list that was known stays one"
    with pytest.raises(NotMember, match="new key when this list"):
        lists.merge_untrusted(stolen.document)
    assert Revocations(second, last.document, lambda _: None).number == last.number
    deceived = guard(first)
    assert deceived.revocations.merge_untrusted(stolen.document)
    assert deceived.merge_network_untrusted(second.document)
    assert deceived.revocations.number == 0, "what the thief had signed before counts no longer"
    assert deceived.revocations.merge_untrusted(last.document)
    assert deceived.merge_network_untrusted(second.rotated(KEYS[1], KEYS[2], NOW, NOW, 9).document)
    assert deceived.revocations.number == last.number


# On disk.


def test_rotate_keeps_the_id_and_destroys_the_old_key(folder: Folder, tmp_path: Path) -> None:  # noqa: F811
    folder.run("sign", node_id_text(BOB), "--name", "bob", "-o", str(tmp_path / "old.pem"))
    before = folder.json("export")["network_id"]
    old_key = (folder.path / "authority.pem").read_bytes()
    made = folder.json("rotate", "--overlap-days", "5")
    assert made["network_id"] == before == folder.json("export")["network_id"]
    assert (made["keys"], made["number"]) == (2, 1)
    assert made["old_key_until"] - time.time() == pytest.approx(5 * DAY, abs=60)
    assert (folder.path / "authority.pem").read_bytes() != old_key
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "authority.pem",
        "certificates",
        "ledger.json",
        "network.pem",
        "revocations.pem",
    ]
    exported = tmp_path / "home.pem"
    exported.write_text(folder.run("export"))
    network, lists = load_network(exported)
    assert lists is not None
    folder.run("renew", "bob", "-o", str(tmp_path / "new.pem"))
    load_credentials(tmp_path / "old.pem").certificate.admit(network, BOB, time.time())
    new = load_credentials(tmp_path / "new.pem").certificate
    new.admit(network, BOB, time.time() + 20 * DAY)
    for keys in (3, 4):
        assert folder.json("rotate")["keys"] == keys
    assert "make a new network" in folder.run("rotate", code=ExitCode.FAILED)
    folder.run("revoke", "bob")


@pytest.mark.parametrize("step", ["ledger.json", "network.pem", "revocations.pem"])
def test_an_interrupted_rotation_leaves_an_authority_that_works(
    folder: Folder,  # noqa: F811
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder.run("sign", node_id_text(BOB), "--name", "bob")

    def fail(path: Path, data: bytes, mode: int = 0o644) -> None:
        if path.name == step:
            raise OSError(28, "no space left")
        replace_file(path, data, mode)

    monkeypatch.setattr(authority_io, "replace_file", fail)
    folder.run("rotate", code=ExitCode.REFUSED)
    monkeypatch.setattr(authority_io, "replace_file", replace_file)
    folder.run("renew", "bob")
    folder.run("revoke", "bob")
    exported = folder.path.parent / "home.pem"
    exported.write_text(folder.run("export"))
    assert load_network(exported)[1] is not None
    folder.run("rotate")
    assert not os.path.exists(folder.path / "authority.next.pem")


def test_a_new_key_survives_the_restart_and_an_older_file(tmp_path: Path, folder: Folder) -> None:  # noqa: F811
    public = tmp_path / "home.pem"
    public.write_text(folder.run("export"))
    door = open_guard(public, tmp_path)
    folder.run("rotate")
    new = load_network(folder.path / "network.pem")[0]
    assert door.merge_network_untrusted(new.document)
    assert open_guard(public, tmp_path).network == new
    public.write_text(folder.run("export"))
    assert open_guard(public, tmp_path).revocations.number == 1


def test_a_kept_list_of_a_thief_does_not_stop_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = chain(1)
    public = tmp_path / "home.pem"
    public.write_text(network_text(first))
    stolen = RevocationList.make(first, KEYS[0], 99, NOW, NOW, [], [])
    assert open_guard(public, tmp_path).revocations.merge_untrusted(stolen.document)
    public.write_text(network_text(second))
    assert open_guard(public, tmp_path).revocations.number == 0
    assert "counts no longer" in caplog.text


def test_a_list_of_a_thief_in_the_public_file_does_not_stop_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = chain(1)
    public = tmp_path / "home.pem"
    public.write_text(network_text(first))
    open_guard(public, tmp_path).merge_network_untrusted(second.document)
    stolen = RevocationList.make(first, KEYS[0], 99, NOW, NOW, [], [])
    public.write_text(network_text(first) + to_text(stolen.document, Kind.REVOCATIONS))
    assert open_guard(public, tmp_path).revocations.number == 0
    assert "counts no longer" in caplog.text


def test_an_older_public_file_brings_no_former_key_back(tmp_path: Path) -> None:
    first, second = chain(1)
    public = tmp_path / "home.pem"
    public.write_text(network_text(second))
    made = RevocationList.make(second, KEYS[1], 1, NOW, NOW, [BOB], [])
    open_guard(public, tmp_path).revocations.merge_untrusted(made.document)
    public.write_text(network_text(first))
    door = open_guard(public, tmp_path)
    assert (door.network, door.revocations.number) == (second, 1)


def test_a_file_that_contradicts_what_is_known_stops_the_start(tmp_path: Path) -> None:
    first, second = chain(1)
    thief = first.rotated(KEYS[0], KEYS[3], NOW, NOW, 0)
    public = tmp_path / "home.pem"
    public.write_text(network_text(first))
    open_guard(public, tmp_path).merge_network_untrusted(second.document)
    public.write_text(network_text(thief))
    with pytest.raises(ConfigError, match="contradicts"):
        open_guard(public, tmp_path)
    member = Membership(
        second,
        Revocations(second, b"", lambda _: None),
        guard(second).clock,
        Credentials(certificate(KEYS[1], second)),
    )
    with pytest.raises(ConfigError, match="contradicts"):
        guard_with(thief, member, public)
    with pytest.raises(ConfigError, match="another network"):
        guard_with(chain(0, first=2)[0], member, public)
    assert guard_with(first, member, public).network is second
