"""Joining by an invitation, on virtual time: from the token to the certificate, and all that says no."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shadowmesh.command import CommandFailed
from shadowmesh.core.joiner import Joiner, Rejected
from shadowmesh.core.node import Core
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.membership.authority import DAY, Invitee, adopt
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.delegation import Credentials, Delegation
from shadowmesh.membership.guard import Membership
from shadowmesh.membership.invitations import Admitted, Invitations, uses_of
from shadowmesh.membership.token import Token
from shadowmesh.node import joining
from shadowmesh.session.link import CloseCode, Ended
from shadowmesh.testing.memory import MemoryClient
from shadowmesh.values import printable
from shadowmesh.wire.messages import Interest, Invite, Join, Open, Opened, Registration
from shadowmesh_relay import guests as relay_guests
from shadowmesh_relay.admission import Admission
from tests.protocol.mesh import IDENTITIES, RELAY_IDENTITY, Mesh
from tests.protocol.test_membership import Domain, home, log_of, start_relay

__all__ = ["home"]

SECRET = hashlib.sha256(b"secret").digest()
INVITER = 0
RELAY = "relay.test:4433"


@dataclass
class Inviter:
    """Member 0, and what it writes down."""

    home: Domain
    mesh: Mesh
    membership: Membership
    kept: bytes = b""
    writes: int = 0
    full: bool = False
    client: MemoryClient | None = None
    given: Delegation | None = None

    def keep(self, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.kept = data
        self.writes += 1

    def start(self) -> None:
        book = Invitations(self.membership, IDENTITIES[INVITER], self.kept, self.keep)
        self.client = self.mesh.start_client(INVITER, (), membership=self.membership, invitations=book)

    def restart(self) -> None:
        assert self.client is not None
        self.mesh.network.detach(self.client)
        self.start()

    @property
    def book(self) -> Invitations:
        assert self.client is not None
        book = self.client.core.guests.invitations
        assert book is not None
        return book

    def invite(
        self, name: str = "bob", ttl: int = 3600, by_hand: bool = False, secret: bytes = SECRET, **asked: Any
    ) -> Token:
        identity = IDENTITIES[INVITER]
        delegation, _ = self.home.authority.invite(
            Invitee(name=name, **asked), identity.public, self.home.wall
        )
        self.given = delegation
        token = Token(self.home.network.id, identity.node_id, RELAY_IDENTITY.node_id, RELAY, secret)
        self.book.add(token.id, token.key, name, delegation.document, ttl, by_hand)
        assert self.client is not None
        for relay in self.client.core.relays:
            self.client.core.guests.handle_relay_up(relay, self.mesh.network.now)
        self.mesh.network.flush(self.client)
        return token


@pytest.fixture
def inviter(home: Domain) -> Inviter:
    mesh = Mesh()
    start_relay(mesh, home)
    made = Inviter(home, mesh, home.member(INVITER))
    made.start()
    mesh.network.run_for(2.0)
    return made


def start_joiner(inviter: Inviter, token: Token, number: int = 1) -> Joiner:
    clock = SteadyClock(lambda: inviter.home.wall, 0.0, lambda _: None)
    joiner = inviter.mesh.start_client(number, (), token=token, clock=clock).core.joiner
    assert joiner is not None
    return joiner


def outcome(inviter: Inviter, token: Token, number: int = 1) -> Admitted | Rejected | None:
    joiner = start_joiner(inviter, token, number)
    inviter.mesh.network.run_for(8.0)
    inviter.mesh.network.detach(inviter.mesh.clients[number])
    return joiner.outcome


def reason(inviter: Inviter, token: Token, number: int = 1) -> str:
    said = outcome(inviter, token, number)
    assert isinstance(said, Rejected), said
    return said.reason


def problem_of(core: Core) -> str:
    """What `join` says when its time is over."""
    with pytest.raises(CommandFailed) as failed:
        asyncio.run(joining._wait(core, -1.0, lambda: None))
    return failed.value.told.removeprefix("not joined: ")


def told_by_relay(inviter: Inviter, number: int = 1) -> str:
    return inviter.mesh.clients[number].core.relays[0].last_error or ""


def become_member(inviter: Inviter, said: Admitted, number: int = 1) -> None:
    """Start again, with what joining has brought."""
    network, revocations, clock = inviter.home.parts()
    own = Membership(network, revocations, clock, said.credentials)
    inviter.mesh.start_client(number, (), membership=own)


def test_a_token_makes_a_member_that_everybody_takes(inviter: Inviter) -> None:
    third = inviter.mesh.start_client(2, (), membership=inviter.home.member(2))
    joiner = start_joiner(inviter, inviter.invite(groups=("admin",)))
    began = inviter.mesh.network.now
    inviter.mesh.network.run_until(lambda: joiner.outcome is not None, 5.0)
    assert inviter.mesh.network.now - began < 1.0
    said = joiner.outcome
    assert isinstance(said, Admitted)
    assert (said.credentials.certificate.body.name, said.credentials.certificate.body.groups) == (
        "bob",
        ["admin"],
    )
    assert not inviter.mesh.clients[1].tables.material[1:], "only the relay leg had keys"
    inviter.mesh.network.detach(inviter.mesh.clients[1])
    become_member(inviter, said)
    inviter.mesh.network.run_until(lambda: len(inviter.mesh.clients[1].core.peers) == 2, 10.0)
    for other in (0, 2):
        inviter.mesh.pair_up(1, other)
        inviter.mesh.exchange(1, other)
    assert third.core.roster.find("bob") is not None


def test_the_inviter_takes_no_frame_of_a_guest(inviter: Inviter) -> None:
    """Nothing of a guest is in the data plane of the inviter: no keys, no peer."""
    client = inviter.client
    assert client is not None
    before = (len(client.tables.material), dict(client.tables.macs), set(client.tables.lanes))
    token = inviter.invite(by_hand=True)
    joiner = start_joiner(inviter, token)
    inviter.mesh.network.run_until(lambda: joiner.waits, 5.0)
    assert (len(client.tables.material), client.tables.macs, set(client.tables.lanes)) == before
    assert IDENTITIES[1].node_id not in client.core.peers


def test_a_used_token_is_refused_by_name_and_counted(inviter: Inviter) -> None:
    token = inviter.invite()
    assert isinstance(outcome(inviter, token), Admitted)
    assert reason(inviter, token, 2) == "invitation_used"
    assert reason(inviter, token, 3) == "invitation_used"
    client = inviter.client
    assert client is not None
    assert client.core.drops["join_refused"] == 2
    assert log_of(client).count("was refused: the invitation was used already") == 1, "once a minute"
    assert inviter.book.all[0].turned_away == 2


def test_a_joiner_that_lost_the_answer_gets_the_same_again(inviter: Inviter) -> None:
    token = inviter.invite()
    first, second = outcome(inviter, token), outcome(inviter, token)
    assert isinstance(first, Admitted)
    assert isinstance(second, Admitted)
    assert first.credentials == second.credentials
    assert len(inviter.book.all[0].uses) == 1


def test_a_use_is_counted_once_across_a_restart(inviter: Inviter) -> None:
    token = inviter.invite()
    assert isinstance(outcome(inviter, token), Admitted)
    inviter.restart()
    inviter.mesh.network.run_for(2.0)
    assert reason(inviter, token, 2) == "invitation_used"


def test_an_open_invitation_survives_a_restart(inviter: Inviter) -> None:
    token = inviter.invite()
    inviter.restart()
    inviter.mesh.network.run_for(2.0)
    assert isinstance(outcome(inviter, token), Admitted)


def test_what_can_not_be_written_down_is_not_given(inviter: Inviter) -> None:
    token = inviter.invite()
    inviter.full = True
    assert reason(inviter, token) == "not_kept"
    inviter.full = False
    assert isinstance(outcome(inviter, token, 2), Admitted)


def test_several_uses_are_for_several_nodes(inviter: Inviter) -> None:
    token = inviter.invite(uses=2)
    names = set()
    for number in (1, 2):
        said = outcome(inviter, token, number)
        assert isinstance(said, Admitted)
        names.add(said.credentials.certificate.body.name)
    assert names == {"bob", "bob-2"}
    assert reason(inviter, token, 3) == "invitation_used"


def test_what_was_revoked_before_anybody_came_is_left_out(inviter: Inviter) -> None:
    token = inviter.invite(name="s", uses=2)
    assert inviter.given is not None
    first, second = (grant.serial for grant in inviter.given.body.grants)
    lists = inviter.membership.revocations
    assert lists.merge_untrusted(inviter.home.authority.revoke_serial(first, inviter.home.wall).document)
    said = outcome(inviter, token)
    assert isinstance(said, Admitted), said
    assert said.credentials.certificate.body.name == "s-2"
    other = inviter.invite(name="t", secret=bytes(32))
    assert lists.merge_untrusted(
        inviter.home.authority.revoke_serial(inviter.given.body.grants[0].serial, inviter.home.wall).document
    )
    assert reason(inviter, other, 2) == "invitation_revoked"
    assert said.credentials.certificate.body.serial == second


def test_a_late_token_is_named_and_later_unknown(inviter: Inviter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowmesh.membership.invitations.TOLD_AFTER", 60)
    token = inviter.invite(ttl=60)
    inviter.home.wall += 61
    assert reason(inviter, token) == "invitation_expired"
    inviter.home.wall += 60
    inviter.mesh.network.run_for(121.0)
    assert outcome(inviter, token) is None
    assert "knows no such invitation" in told_by_relay(inviter)


def test_why_nobody_could_be_asked_has_the_id_of_what_failed(
    inviter: Inviter,
) -> None:
    """By who closed and with which code, never by the words, which are the relay's or the inviter's."""
    joiner = start_joiner(inviter, inviter.invite())
    core = inviter.mesh.clients[1].core
    assert problem_of(core) == "relay relay.test:4433 does not answer [join.unanswered]"
    said = "no [link.two-holders]\n\x1b[2J"
    inviter.mesh.network.run_until(lambda: bool(joiner._receive and not joiner._send), 5.0)
    now = inviter.mesh.network.now
    joiner.handle_opened(Opened(joiner._receive, refused=said), now)
    assert problem_of(core) == "the inviter can't be reached: no [link.two-holders]??[2J [join.unanswered]"
    joiner._driver = driver = cast(Any, object())
    joiner._handle_link(driver, Ended(CloseCode.PROTOCOL, printable(said), by_peer=True), now)
    assert problem_of(core).endswith(" [link.protocol]")


def test_a_relay_that_refuses_a_guest_is_told_with_its_id(inviter: Inviter) -> None:
    unknown = Token(
        inviter.home.network.id, IDENTITIES[INVITER].node_id, RELAY_IDENTITY.node_id, RELAY, bytes(32)
    )
    assert outcome(inviter, unknown) is None
    text = problem_of(inviter.mesh.clients[1].core)
    assert "relay relay.test:4433: the relay says: this relay knows no such invitation" in text
    assert text.endswith(" [link.refused]")


def test_a_token_that_was_taken_back_is_refused(inviter: Inviter) -> None:
    token = inviter.invite()
    inviter.book.revoke("bob")
    assert reason(inviter, token) == "invitation_revoked"


def test_a_wrong_secret_is_refused_although_the_relay_knew_the_id(inviter: Inviter) -> None:
    token = inviter.invite()
    joiner = start_joiner(inviter, token)
    object.__setattr__(joiner._token, "secret", bytes(32))
    inviter.mesh.network.run_for(8.0)
    assert isinstance(joiner.outcome, Rejected)
    assert joiner.outcome.reason == "wrong_secret"
    assert inviter.client is not None
    assert inviter.client.core.drops["bad_join_proof"] == 1
    assert not inviter.book.all[0].uses


def test_an_inviter_that_does_not_prove_the_secret_is_not_believed(
    inviter: Inviter, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = inviter.invite()
    monkeypatch.setattr("shadowmesh.core.guests.proof", lambda *_: bytes(32))
    assert reason(inviter, token) == "inviter_unproved"


def test_the_network_of_the_token_is_the_one_that_counts(inviter: Inviter) -> None:
    token = inviter.invite()
    other = Token(b"o" * 32, token.inviter, token.relay, token.address, token.secret)
    assert reason(inviter, other) == "another_network"


def test_a_revoked_inviter_admits_nobody(inviter: Inviter, home: Domain) -> None:
    token = inviter.invite()
    made = home.revoke(INVITER)
    inviter.membership.revocations.merge_untrusted(made.document)
    assert reason(inviter, token) == "delegate_revoked"


def test_the_joiner_does_not_believe_an_inviter_without_a_certificate_that_holds(inviter: Inviter) -> None:
    """It holds what the inviter showed against the network that it was given."""
    token = inviter.invite()
    assert inviter.client is not None
    stolen = inviter.home.member(5)
    inviter.membership.credentials = stolen.credentials
    assert reason(inviter, token) == "wrong_node"


def test_the_joiner_does_not_take_a_certificate_that_makes_it_no_member(
    inviter: Inviter, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = inviter.invite()
    foreign = inviter.home.member(5).credentials
    monkeypatch.setattr(Invitations, "take", lambda *_: Credentials(foreign.certificate, inviter.given))
    assert reason(inviter, token) == "wrong_node"


def test_a_stale_delegation_admits_nobody(inviter: Inviter) -> None:
    token = inviter.invite(days=1, ttl=2 * DAY)
    inviter.home.wall += DAY + 10
    assert reason(inviter, token) == "delegation_expired"


# By hand.


def test_a_person_lets_in_and_the_joiner_that_waits_is_told(inviter: Inviter) -> None:
    joiner = start_joiner(inviter, inviter.invite(by_hand=True))
    inviter.mesh.network.run_until(lambda: joiner.waits, 5.0)
    [waiting] = inviter.book.all[0].waiting
    assert waiting.node == IDENTITIES[1].node_id
    assert waiting.source.startswith("198.51.100.2:")
    assert inviter.client is not None
    decided = inviter.book.decide("bob", "approved")
    inviter.client.core.guests.handle_verdict(*decided, inviter.mesh.network.now)
    inviter.mesh.network.flush(inviter.client)
    inviter.mesh.network.run_until(lambda: joiner.outcome is not None, 5.0)
    assert isinstance(joiner.outcome, Admitted)


def test_a_joiner_waits_longer_than_a_guest_may_stay_and_across_a_restart(inviter: Inviter) -> None:
    token = inviter.invite(by_hand=True, ttl=60)
    joiner = start_joiner(inviter, token)
    inviter.mesh.network.run_until(lambda: joiner.waits, 5.0)
    inviter.home.wall += 300
    inviter.restart()
    inviter.mesh.network.run_for(100.0)
    assert joiner.outcome is None
    inviter.book.decide(node_id_text(IDENTITIES[1].node_id)[:10], "approved")
    inviter.mesh.network.run_until(lambda: joiner.outcome is not None, 100.0)
    assert isinstance(joiner.outcome, Admitted), "it asked in time"


def test_a_person_refuses(inviter: Inviter) -> None:
    token = inviter.invite(by_hand=True)
    joiner = start_joiner(inviter, token)
    inviter.mesh.network.run_until(lambda: joiner.waits, 5.0)
    assert inviter.client is not None
    decided = inviter.book.decide("bob", "refused")
    inviter.client.core.guests.handle_verdict(*decided, inviter.mesh.network.now)
    inviter.mesh.network.flush(inviter.client)
    inviter.mesh.network.run_until(lambda: joiner.outcome is not None, 5.0)
    assert isinstance(joiner.outcome, Rejected)
    assert joiner.outcome.reason == "join_refused"


# The relay.


def test_a_guest_sees_and_reaches_nobody_but_its_host(inviter: Inviter) -> None:
    """It may call nobody else, name nobody, register nothing, and nobody is told of it."""
    inviter.mesh.start_client(2, (), membership=inviter.home.member(2))
    joiner = start_joiner(inviter, inviter.invite(by_hand=True))
    inviter.mesh.network.run_until(lambda: joiner.waits, 5.0)
    guest, relay = inviter.mesh.clients[1].core, inviter.mesh.relay
    assert relay is not None
    leg, now = guest.relays[0], inviter.mesh.network.now
    before = dict(relay.core.drops)
    leg.send(Interest(add=[IDENTITIES[2].node_id]), now)
    leg.send(Invite(add=[Registration(b"i" * 32, 60)]), now)
    guest.joiner = None  # so that the answers are looked at by the test
    answers: list[Any] = []
    guest._handle_opened = lambda _relay, opened, _now: answers.append(opened)  # type: ignore[assignment,method-assign]
    for node in (IDENTITIES[2].node_id, IDENTITIES[INVITER].node_id):
        leg.send(Open(node, b"r" * 8), now)
    inviter.mesh.network.flush(inviter.mesh.clients[1])
    inviter.mesh.network.run_for(1.0)
    assert [one.refused for one in answers] == ["the node is not here", "too many channels"]
    assert relay.core.drops["unexpected_message"] == before.get("unexpected_message", 0) + 2
    assert not guest.peers
    assert IDENTITIES[1].node_id not in inviter.mesh.clients[2].core.peers


def test_an_unknown_id_opens_no_door(inviter: Inviter) -> None:
    identity = IDENTITIES[INVITER]
    token = Token(inviter.home.network.id, identity.node_id, RELAY_IDENTITY.node_id, RELAY, b"x" * 32)
    assert outcome(inviter, token) is None
    assert "knows no such invitation" in told_by_relay(inviter)


def test_an_id_is_forgotten_with_the_client_that_registered_it(inviter: Inviter) -> None:
    token = inviter.invite()
    assert inviter.client is not None
    inviter.client.core.close(inviter.mesh.network.now)
    inviter.mesh.network.flush(inviter.client)
    inviter.mesh.network.detach(inviter.client)
    assert outcome(inviter, token) is None
    assert "its inviter is not connected here" in told_by_relay(inviter)


def test_a_guest_has_to_leave(inviter: Inviter) -> None:
    joiner = start_joiner(inviter, inviter.invite(by_hand=True))
    inviter.mesh.network.run_until(lambda: joiner.waits, 5.0)
    relay = inviter.mesh.relay
    assert relay is not None
    left = f"{node_id_text(IDENTITIES[1].node_id)[:10]}… left: your time as a guest is over"
    inviter.mesh.network.run_until(lambda: left in relay.log, relay_guests.STAY + 10)


@pytest.mark.parametrize("limit", ["MAX_GUESTS_PER_INVITATION", "MAX_GUESTS_PER_HOST", "MAX_GUESTS"])
def test_guests_are_counted(inviter: Inviter, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(relay_guests, limit, 1)
    token = inviter.invite(by_hand=True, uses=3)
    first = start_joiner(inviter, token, 1)
    inviter.mesh.network.run_until(lambda: first.waits, 5.0)
    assert outcome(inviter, token, 2) is None
    assert "too many guests" in told_by_relay(inviter, 2)


def test_a_flood_of_ids_ends_at_the_limit_of_the_client_and_of_the_relay(
    inviter: Inviter, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inviter.client is not None
    leg, now = inviter.client.core.relays[0], inviter.mesh.network.now
    relay = inviter.mesh.relay
    assert relay is not None
    ids = [number.to_bytes(32, "big") for number in range(1, 201)]
    for start in range(0, 200, 50):
        leg.send(Invite(add=[Registration(one, 600) for one in ids[start : start + 50]]), now)
    inviter.mesh.network.flush(inviter.client)
    inviter.mesh.network.run_for(1.0)
    assert len(relay.core._guests._known) == 64
    assert "64 invitations" in inviter.client.core.guests.refused[leg.name]
    monkeypatch.setattr(relay_guests, "MAX_IDS", 64)
    inviter.mesh.start_client(2, (), membership=inviter.home.member(2))
    inviter.mesh.network.run_for(3.0)
    other = inviter.mesh.clients[2].core
    other.relays[0].send(Invite(add=[Registration(b"z" * 32, 600), Registration(ids[0], 600)]), now)
    inviter.mesh.network.flush(inviter.mesh.clients[2])
    inviter.mesh.network.run_for(1.0)
    other.relays[0].send(Invite(remove=ids[:1]), now)
    inviter.mesh.network.flush(inviter.mesh.clients[2])
    inviter.mesh.network.run_for(1.0)
    assert len(relay.core._guests._known) == 64
    assert relay.core._guests._known[ids[0]].host == IDENTITIES[INVITER].node_id
    assert other.guests.refused
    leg.send(Invite(remove=ids[:1]), now)
    inviter.mesh.network.flush(inviter.client)
    inviter.mesh.network.run_for(700.0)
    assert not relay.core._guests._known, "their time is over"


def test_a_relay_that_serves_no_network_of_the_inviter_takes_no_invitation(home: Domain) -> None:
    mesh = Mesh()
    mesh.start_relay(Admission(False, frozenset(one.node_id for one in IDENTITIES[:1])))
    alone = Inviter(home, mesh, home.member(INVITER))
    alone.start()
    mesh.network.run_for(2.0)
    token = alone.invite()
    assert outcome(alone, token) is None
    assert alone.client is not None
    assert "serves no network of yours" in next(iter(alone.client.core.guests.refused.values()))


def test_a_guest_that_says_anything_but_join_is_sent_away(inviter: Inviter) -> None:
    joiner = start_joiner(inviter, inviter.invite(by_hand=True))
    inviter.mesh.network.run_until(lambda: joiner.waits, 5.0)
    driver = joiner._driver
    assert driver is not None
    driver.link.send(Join(bytes(32)))
    inviter.mesh.clients[1].core._shared.links.pump(driver, inviter.mesh.network.now)
    inviter.mesh.network.flush(inviter.mesh.clients[1])
    inviter.mesh.network.run_until(lambda: "one JOIN" in (joiner.problem or ""), 5.0)


def test_an_id_whose_time_is_over_is_free_for_another_client() -> None:
    guests = relay_guests.Guests({})
    one, other = (cast(Any, SimpleNamespace(node=node)) for node in (b"1" * 32, b"2" * 32))
    wanted = Invite(add=[Registration(b"i" * 32, 60)])
    assert guests.handle_invite(one, wanted, 100.0) is None
    refused = guests.handle_invite(other, wanted, 159.0)
    assert refused is not None
    assert "another client" in refused.refused
    assert guests.handle_invite(other, wanted, 160.0) is None
    assert guests.visit(b"i" * 32, 161.0).host == other.node


# What the authority remembers.


def test_the_ledger_learns_who_came(inviter: Inviter) -> None:
    ledger = inviter.home.authority.ledger
    assert isinstance(outcome(inviter, inviter.invite()), Admitted)
    assert [one.name for one in ledger.reserved] == ["bob"]
    assert adopt(ledger, uses_of(inviter.book.all))
    assert not ledger.reserved
    assert inviter.home.authority.find("bob").node == node_id_text(IDENTITIES[1].node_id)
    assert not adopt(ledger, uses_of(inviter.book.all))
    made = inviter.home.authority.revoke("bob", inviter.home.wall)
    assert IDENTITIES[1].node_id in made.nodes
