"""Tokens, the ledger's reservations, the inviter's book and the joiner's files: each rule and its refusal."""

from __future__ import annotations

import base64
import ipaddress
import stat
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.cli.main import main
from shadowmesh.command import ExitCode
from shadowmesh.config import load_client_config
from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.errors import ConfigError, IdentityError, NotMember
from shadowmesh.io.documents import load_credentials, load_network
from shadowmesh.io.invitations import INVITATIONS_FILE, open_invitations
from shadowmesh.io.joined import require_room, write_joined
from shadowmesh.membership.authority import DAY, Authority, Invitee, Ledger, Request, adopt
from shadowmesh.membership.clock import RELEASED, SteadyClock
from shadowmesh.membership.delegation import Delegation, Scope
from shadowmesh.membership.guard import Guard, invitation_untrusted, show_invitation
from shadowmesh.membership.invitations import (
    MAX_INVITATIONS,
    MAX_TTL,
    MAX_WAITING,
    TOLD_AFTER,
    Admitted,
    Invitation,
    Invitations,
    Wait,
    uses_of,
)
from shadowmesh.membership.network import Network, NetworkRelay
from shadowmesh.membership.revocation import Revocations
from shadowmesh.membership.token import PREFIX, BadToken, Token, proof, proves
from shadowmesh.output import table

NOW = RELEASED + 1000
KEY = AuthorityKey.generate()
NETWORK = Network.make("home", [ipaddress.ip_network("10.77.0.0/16")], [], KEY, NOW)
ALICE, MALLORY = Identity.generate("alice"), Identity.generate("mallory")
BOB, CAROL = b"b" * 32, b"c" * 32
TOKEN = Token(NETWORK.id, ALICE.node_id, b"r" * 32, "[2001:db8::1]:4433", bytes(range(32)))
TCP_TOKEN = replace(TOKEN, tcp="relay.example:443")


# Tokens.


def test_a_token_survives_line_breaks_and_capitals() -> None:
    text = TOKEN.encode()
    assert text.startswith(PREFIX)
    assert text.isalnum()
    assert Token.parse(TCP_TOKEN.encode()) == TCP_TOKEN
    for shown in (text, text.upper(), f"  {text[:50]}\n{text[50:]} "):
        assert Token.parse(shown) == TOKEN
    assert "secret" not in repr(TOKEN)


def test_every_cut_and_every_changed_character_is_named() -> None:
    text = TOKEN.encode()
    for end in range(len(PREFIX), len(text)):
        with pytest.raises(BadToken, match="cut off"):
            Token.parse(text[:end])
    for position in range(len(PREFIX) + 4, len(text)):
        other = "a" if text[position] != "a" else "b"
        if position == len(text) - 1:  # its last bits mean nothing
            other = chr(ord(text[position]) ^ 16) if text[position].isalpha() else "a"
        with pytest.raises(BadToken, match="damaged"):
            Token.parse(text[:position] + other + text[position + 1 :])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "begins with smesh1"),
        ("smesh2abc", "it begins with smesh2"),
        (TOKEN.encode().replace("a", "!"), "characters that no token has"),
        (TOKEN.encode() + "aaaa", "damaged"),
    ],
)
def test_what_is_no_token_is_told(text: str, problem: str) -> None:
    with pytest.raises(BadToken, match=problem):
        Token.parse(text)


@pytest.mark.parametrize("addresses", [b"", b"\xffx:1", b"x:1 ", b"x:1 y", b"x:1 y:2 z:3", b" x:1"])
def test_a_token_without_an_address_is_refused(addresses: bytes) -> None:
    body = (2 + 128 + len(addresses) + 4).to_bytes(2, "big") + bytes(128) + addresses
    whole = body + zlib.crc32(body).to_bytes(4, "big")
    with pytest.raises(BadToken, match="no address"):
        Token.parse(PREFIX + base64.b32encode(whole).decode().rstrip("="))


@given(st.text() | st.text("abcdefghijklmnopqrstuvwxyz234567").map(lambda text: PREFIX + text))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    with pytest.raises(BadToken) as caught:
        Token.parse(text)
    assert len(text) < 20 or text not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (TOKEN.encode()[:-20], "cut off"),
        (TOKEN.encode()[:40] + "77" + TOKEN.encode()[42:], "damaged"),
        ("hello", "begins with smesh1"),
    ],
)
def test_the_verb_names_what_is_wrong_with_a_token_and_does_not_show_it(
    text: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["join", text, "--no-up", "-c", str(tmp_path / "client.yaml")]) == ExitCode.USAGE
    told = capsys.readouterr().err
    assert problem in told
    assert text not in told
    assert not list(tmp_path.iterdir())


def test_id_and_key_come_from_the_secret_and_proofs_are_bound() -> None:
    assert len({TOKEN.id, TOKEN.key, TOKEN.secret}) == 3
    shown = proof(TOKEN.key, b"joiner", b"session")
    assert proves(shown, TOKEN.key, b"joiner", b"session")
    for key, role, binding in (
        (bytes(32), b"joiner", b"session"),
        (TOKEN.key, b"inviter", b"session"),
        (TOKEN.key, b"joiner", b"another"),
    ):
        assert not proves(shown, key, role, binding)


def test_a_field_that_shows_an_invitation_is_told_from_others() -> None:
    assert invitation_untrusted(show_invitation(BOB)) == BOB
    for other in (b"", b"\x80", b"\xff" * 9, show_invitation(BOB + b"x"), show_invitation(b"short")):
        assert invitation_untrusted(other) is None


# The authority.


def authority() -> Authority:
    return Authority(KEY, NETWORK, Ledger(network=node_id_text(NETWORK.id)))


def test_an_invitation_reserves_names_addresses_and_serials() -> None:
    home = authority()
    home.sign(Request(node=CAROL, name="carol"), NOW)
    made, revoked = home.invite(Invitee(name="bob", uses=2, groups=["b", "a", "b"]), ALICE.public, NOW)
    assert revoked is None
    body = made.body
    assert (body.scope, body.serial, body.not_after) == (Scope.JOIN, 2, NOW + 90 * DAY)
    assert [(one.name, one.addresses, one.groups, one.serial) for one in body.grants] == [
        ("bob", ["10.77.0.2/16"], ["a", "b"], 3),
        ("bob-2", ["10.77.0.3/16"], ["a", "b"], 4),
    ]
    assert home.sign(Request(node=BOB, name="dave"), NOW).body.serial == 5
    assert home.find("dave").addresses == ["10.77.0.4/16"]
    for name in ("bob", "bob-2"):
        with pytest.raises(ValueError, match="reserved by an invitation"):
            home.sign(Request(node=b"x" * 32, name=name), NOW)
        with pytest.raises(ValueError, match=f"{name} is not known yet .*`invite list` tells"):
            home.find(name)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"name": "carol"}, "is that of"),
        ({"name": "bob"}, "reserved by an invitation"),
        ({"uses": 0}, "1 to 32 uses"),
        ({"uses": 33}, "1 to 32 uses"),
        ({"days": 0}, "1 to 3650 days"),
        ({"name": "Bob!"}, "is not one"),
        ({"uses": 32, "groups": [f"{'g' * 50}{i}" for i in range(9)]}, "is the limit"),
    ],
)
def test_what_can_not_be_invited_changes_nothing(wrong: dict[str, Any], problem: str) -> None:
    home = authority()
    home.sign(Request(node=CAROL, name="carol"), NOW)
    home.invite(Invitee(name="bob"), ALICE.public, NOW)
    before = home.ledger.next_serial, list(home.ledger.reserved)
    with pytest.raises(ValueError, match=problem):
        home.invite(Invitee(**{"name": "dave", **wrong}), ALICE.public, NOW)
    assert (home.ledger.next_serial, home.ledger.reserved) == before


def test_a_reservation_ends_with_the_certificate_or_is_replaced_by_revoking() -> None:
    home = authority()
    first, _ = home.invite(Invitee(name="bob", days=1), ALICE.public, NOW)
    second, revoked = home.invite(Invitee(name="bob", replace=True), ALICE.public, NOW)
    assert revoked is not None
    assert revoked.serials == {first.body.grants[0].serial}
    assert second.body.grants[0].addresses == ["10.77.0.2/16"], "an address rests until its certificate ends"
    later = NOW + DAY + 1
    third, _ = home.invite(Invitee(name="dave", replace=True), ALICE.public, later)
    assert third.body.grants[0].addresses == ["10.77.0.1/16"]
    made = home.revoke("bob", later)
    assert second.body.grants[0].serial in made.serials
    assert home.revoke("dave", later).serials >= {one.serial for one in third.body.grants}


def test_an_ephemeral_member_is_forgotten_when_its_day_is_over() -> None:
    home = authority()
    made, _ = home.invite(Invitee(name="guest", days=1, ephemeral=True), ALICE.public, NOW)
    assert not adopt(home.ledger, {made.body.grants[0].serial: node_id_text(BOB)})
    again, _ = home.invite(Invitee(name="guest", days=1, ephemeral=True), ALICE.public, NOW + DAY + 1)
    assert again.body.grants[0].addresses == made.body.grants[0].addresses


def test_a_revoked_node_does_not_come_back_through_the_ledger() -> None:
    home = authority()
    home.sign(Request(node=BOB, name="bob"), NOW)
    home.revoke("bob", NOW)
    made, _ = home.invite(Invitee(name="again"), ALICE.public, NOW)
    assert not adopt(home.ledger, {made.body.grants[0].serial: node_id_text(BOB)})
    assert home.ledger.entries[0].revoked == NOW


def test_a_member_that_joins_anew_keeps_what_it_had_until_its_certificate_ends() -> None:
    home = authority()
    old = home.sign(Request(node=BOB, name="bob", days=30), NOW).body
    made, _ = home.invite(Invitee(name="again"), ALICE.public, NOW)
    uses = {made.body.grants[0].serial: node_id_text(BOB)}
    assert adopt(home.ledger, uses)
    assert not adopt(home.ledger, uses)
    assert home.find(node_id_text(BOB)).addresses == made.body.grants[0].addresses
    with pytest.raises(ValueError, match="belongs to another"):
        home.sign(Request(node=CAROL, name="carol", addresses=["10.77.0.1"]), NOW)
    with pytest.raises(ValueError, match="the name bob is reserved"):
        home.sign(Request(node=CAROL, name="bob"), NOW)
    assert home.sign(Request(node=CAROL, name="bob"), NOW + 31 * DAY).body.addresses == old.addresses


def test_what_a_member_had_before_it_joined_anew_can_be_revoked() -> None:
    home = authority()
    old = home.sign(Request(node=BOB, name="bob"), NOW).body
    made, _ = home.invite(Invitee(name="again"), ALICE.public, NOW)
    adopt(home.ledger, {made.body.grants[0].serial: node_id_text(BOB)})
    revoked = home.revoke("bob", NOW)
    assert (revoked.nodes, revoked.serials) == (frozenset[bytes](), frozenset({old.serial}))
    assert home.find("again").revoked is None


# The book.


class Book:
    """Alice's invitations by a clock that the test sets."""

    def __init__(self) -> None:
        self.now = float(NOW)
        self.home = authority()
        self.kept = b""
        clock = SteadyClock(lambda: self.now, 0.0, lambda _: None)
        self.guard = Guard(NETWORK, Revocations(NETWORK, b"", lambda _: None), clock)
        self.book = self.open()

    def open(self) -> Invitations:
        self.book = Invitations(self.guard, ALICE, self.kept, self.keep)
        return self.book

    def keep(self, data: bytes) -> None:
        self.kept = data

    def delegation(self, name: str = "bob", **asked: Any) -> Delegation:
        return self.home.invite(Invitee(name=name, **asked), ALICE.public, self.now)[0]

    def add(self, ttl: int = 60, by_hand: bool = False, number: int = 1, **asked: Any) -> Invitation:
        key = bytes((number,)) * 32
        return self.book.add(
            key, key, asked.get("name", "bob"), self.delegation(**asked).document, ttl, by_hand
        )

    def reason(self, made: Invitation, node: bytes = BOB) -> str:
        with pytest.raises(NotMember) as caught:
            self.book.take(made.id, node, "192.0.2.7:1")
        return caught.value.reason


@pytest.fixture
def alice() -> Book:
    return Book()


def test_what_is_given_counts_for_its_node_and_once(alice: Book) -> None:
    made = alice.add()
    taken = alice.book.take(made.id, BOB, "192.0.2.7:1")
    taken.admit(NETWORK, alice.guard.revocations, BOB, alice.now)
    assert alice.book.take(made.id, BOB, "elsewhere") == taken
    assert alice.reason(made, CAROL) == "invitation_used"
    assert alice.open().take(made.id, BOB, "after a restart") == taken
    assert alice.reason(made, CAROL) == "invitation_used"
    assert uses_of(alice.book.all) == {taken.certificate.body.serial: node_id_text(BOB)}


def test_nothing_is_given_that_is_not_written_down(alice: Book) -> None:
    made = alice.add()

    def fail(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    alice.book = Invitations(alice.guard, ALICE, alice.kept, fail)
    assert alice.reason(made) == "not_kept"
    assert alice.open().all[0].uses == []


def test_an_invitation_ends(alice: Book) -> None:
    made = alice.add(ttl=60)
    alice.now += 61
    assert alice.reason(made) == "invitation_expired"
    assert alice.book.registrations() == {made.id: TOLD_AFTER - 1}
    alice.now += TOLD_AFTER
    assert alice.book.registrations() == {}


def test_a_revoked_joiner_is_not_let_in_again(alice: Book) -> None:
    made, later = alice.add(), alice.add(number=2, name="later", by_hand=True)
    alice.book.take(made.id, BOB, "")
    alice.home.sign(Request(node=BOB, name="other"), alice.now)
    alice.guard.revocations.merge_untrusted(alice.home.revoke("other", alice.now).document)
    assert alice.reason(made) == "revoked"
    with pytest.raises(Wait):
        alice.book.take(later.id, BOB, "")
    alice.book.decide("later", "approved")
    assert alice.reason(later) == "revoked"
    assert not alice.book.all[1].uses


def test_who_waits_is_bounded_and_survives(alice: Book) -> None:
    made = alice.add(by_hand=True)
    for number in range(MAX_WAITING):
        with pytest.raises(Wait):
            alice.book.take(made.id, bytes((number,)) * 32, "192.0.2.7:1")
    with pytest.raises(Wait):
        alice.book.take(made.id, bytes(32), "again")
    assert alice.reason(made, CAROL) == "too_many_waiting"
    assert len(alice.open().all[0].waiting) == MAX_WAITING
    alice.now += 61
    assert alice.reason(made, CAROL) == "invitation_expired"
    with pytest.raises(Wait):
        alice.book.take(made.id, bytes(32), "asked in time")


def test_refusing_makes_room_for_who_waits(alice: Book) -> None:
    made = alice.add(by_hand=True)
    nodes = [bytes((number,)) * 32 for number in range(MAX_WAITING)]
    for node in nodes:
        with pytest.raises(Wait):
            alice.book.take(made.id, node, "")
    for node in (nodes[3], nodes[1]):
        alice.book.decide(node_id_text(node)[:10], "refused")
    assert alice.reason(made, nodes[3]) == "join_refused", "until the place is needed"
    with pytest.raises(Wait):
        alice.book.take(made.id, BOB, "")
    left = {one.node for one in alice.open().all[0].waiting}
    assert left == {*nodes, BOB} - {nodes[3]}, "the one refused first has gone"
    alice.book.decide(node_id_text(BOB)[:10], "approved")
    assert alice.reason(made, nodes[1]) == "join_refused"
    with pytest.raises(Wait):
        alice.book.take(made.id, CAROL, "")
    assert alice.reason(made, nodes[3]) == "too_many_waiting", "an approved one keeps its place"
    assert alice.book.take(made.id, BOB, "").certificate.body.node == BOB


def test_a_verdict_needs_one_node_that_waits(alice: Book) -> None:
    made = alice.add(by_hand=True, uses=2)
    with pytest.raises(ValueError, match="nobody waits as bob"):
        alice.book.decide("bob", "approved")
    for node in (BOB, CAROL):
        with pytest.raises(Wait):
            alice.book.take(made.id, node, "")
    with pytest.raises(ValueError, match="several nodes wait as bob"):
        alice.book.decide("bob", "approved")
    for short in ("", node_id_text(BOB)[:3]):
        with pytest.raises(ValueError, match="nobody waits"):
            alice.book.decide(short, "approved")
    assert alice.book.decide(node_id_text(BOB)[:10].upper(), "refused")[1] == BOB
    assert alice.reason(made) == "join_refused"
    alice.book.decide("bob", "approved")
    assert alice.book.take(made.id, CAROL, "").certificate.body.name == "bob"


def test_what_is_closed_stays_closed(alice: Book) -> None:
    made = alice.add()
    assert alice.book.revoke("bob")[0].revoked
    assert alice.open().all[0].revoked
    assert alice.reason(made) == "invitation_revoked"
    with pytest.raises(ValueError, match="no open invitation"):
        alice.book.revoke("bob")


def test_a_delegation_that_is_of_no_use_opens_nothing(alice: Book) -> None:
    other = alice.home.invite(Invitee(name="x"), MALLORY.public, alice.now)[0]
    late = alice.delegation(name="late", days=1)
    for document, ttl, problem in (
        (other.document, 60, "lets this client sign nothing"),
        (alice.delegation(name="y").document, MAX_TTL + 1, "7 days at most"),
        (alice.delegation(name="z").document, 0, "7 days at most"),
    ):
        with pytest.raises(ValueError, match=problem):
            alice.book.add(b"i" * 32, b"k" * 32, "bob", document, ttl, False)
    alice.now += 2 * DAY
    with pytest.raises(NotMember, match="the delegation ended"):
        alice.book.add(b"i" * 32, b"k" * 32, "bob", late.document, 60, False)
    assert not alice.book.all


def test_the_book_is_bounded_and_old_ones_go_first(alice: Book) -> None:
    document = alice.delegation().document
    for number in range(MAX_INVITATIONS):
        alice.book.add(bytes((number,)) * 32, b"k" * 32, f"n{number}", document, 60, False)
    with pytest.raises(ValueError, match="64 invitations are open"):
        alice.book.add(b"\xff" * 32, b"k" * 32, "more", document, 60, False)
    alice.book.revoke("n7")
    alice.book.add(b"\xff" * 32, b"k" * 32, "more", document, 60, False)
    assert [one.name for one in alice.book.all if one.name in ("n7", "more")] == ["more"]
    alice.now += 61 + TOLD_AFTER
    alice.book.add(b"\xfe" * 32, b"k" * 32, "last", document, 60, False)
    assert [one.name for one in alice.book.all] == ["last"]


# Files.


def test_the_file_of_invitations_is_private_and_checked(alice: Book, tmp_path: Path) -> None:
    book = open_invitations(alice.guard, ALICE, tmp_path)
    book.add(b"i" * 32, b"k" * 32, "bob", alice.delegation().document, 60, False)
    path = tmp_path / INVITATIONS_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_invitations(alice.guard, ALICE, tmp_path).all == book.all
    path.chmod(0o644)
    with pytest.raises(IdentityError, match="read by others"):
        open_invitations(alice.guard, ALICE, tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="no list of invitations; remove it"):
        open_invitations(alice.guard, ALICE, tmp_path)


def test_invitations_of_another_network_are_not_ours(alice: Book) -> None:
    alice.add()
    other = Network.make("other", NETWORK.subnets, [], AuthorityKey.generate(), NOW)
    guard = Guard(other, Revocations(other, b"", lambda _: None), alice.guard.clock)
    assert not Invitations(guard, ALICE, alice.kept, alice.keep).all


def admitted(network: Network = NETWORK) -> Admitted:
    book = Book()
    return Admitted(network, b"", book.book.take(book.add(name="on").id, BOB, ""))


@pytest.mark.parametrize(
    "network",
    [NETWORK, Network.make("home", NETWORK.subnets, [NetworkRelay("192.0.2.1:4433", b"r" * 32)], KEY, NOW)],
)
def test_what_join_writes_is_what_up_reads(network: Network, tmp_path: Path) -> None:
    """Also where the member is called as a word that YAML takes for a truth value."""
    config, given = tmp_path / "etc" / "client.yaml", admitted(network)
    require_room(config)
    write_joined(config, given, TCP_TOKEN, tmp_path / "state dir", tmp_path / "c.sock", "mesh0")
    read = load_client_config(config)
    assert (read.node.name, read.interface.name) == ("on", "mesh0")
    assert (read.node.state_dir, read.node.socket) == (tmp_path / "state dir", tmp_path / "c.sock")
    assert read.network is not None
    assert load_credentials(read.network.certificate) == given.credentials
    assert load_network(read.network.file)[0].id == NETWORK.id
    named = [(relay.host, relay.port, relay.id, str(relay.tcp)) for relay in read.relays]
    assert named == ([] if network.relays else [("2001:db8::1", 4433, b"r" * 32, "relay.example:443")])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in config.parent.iterdir()}
    assert modes == {"client.yaml": 0o600, "home.pem": 0o644, "home-certificate.pem": 0o600}
    with pytest.raises(ConfigError, match="exists already"):
        require_room(config)


def test_the_identity_of_a_joined_member_may_be_called_otherwise(tmp_path: Path) -> None:
    from shadowmesh.config import doubts

    write_joined(tmp_path / "c.yaml", admitted(), TOKEN, tmp_path, tmp_path / "c.sock", None)
    assert doubts(load_client_config(tmp_path / "c.yaml"), "machine-7") == []


def test_what_a_relay_says_of_a_joiner_moves_no_cursor() -> None:
    lines = table(("node", "from"), [("bbbbbbbbbb", "192.0.2.7:1\x1b[2K\x1b[1Gaaaaaaaaaa\nforged")])
    assert lines[1] == "bbbbbbbbbb  192.0.2.7:1?[2K?[1Gaaaaaaaaaa?forged"
