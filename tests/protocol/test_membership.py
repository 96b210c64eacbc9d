"""A network with an authority: members meet without being listed, and who does not belong stays out."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from shadowmesh.core.node import MAX_PEERS
from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import RemoteProtocolError
from shadowmesh.membership.authority import DAY, Authority, Ledger, Request
from shadowmesh.membership.clock import RELEASED, SteadyClock
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.guard import EXPIRY_GRACE, Guard, Membership
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import RevocationList, Revocations
from shadowmesh.overlay.mac import mac_of
from shadowmesh.overlay.ownership import link_local
from shadowmesh.testing.memory import MemoryClient
from shadowmesh.wire.messages import Present, RevocationNews
from shadowmesh_relay.admission import Admission
from tests.protocol.mesh import IDENTITIES, Mesh

NOW = RELEASED + 1000


@dataclass
class Domain:
    """An authority, and the clock of all its members."""

    key: AuthorityKey = field(default_factory=AuthorityKey.generate)
    wall: float = NOW

    def __post_init__(self) -> None:
        self.network = Network.make("home", [ipaddress.ip_network("10.77.0.0/16")], [], self.key, int(NOW))
        self.authority = Authority(self.key, self.network, Ledger(network=node_id_text(self.network.id)))
        self.kept: list[bytes] = []

    def parts(self) -> tuple[Network, Revocations, SteadyClock]:
        clock = SteadyClock(lambda: self.wall, 0.0, lambda now: None)
        return self.network, Revocations(self.network, b"", self.kept.append), clock

    def guard(self) -> Guard:
        return Guard(*self.parts())

    def member(self, number: int, **asked: Any) -> Membership:
        request = Request(node=IDENTITIES[number].node_id, **{"name": f"member{number}", **asked})
        return Membership(*self.parts(), Credentials(self.authority.sign(request, self.wall)))

    def revoke(self, number: int) -> RevocationList:
        return self.authority.revoke(node_id_text(IDENTITIES[number].node_id), self.wall)


@pytest.fixture
def home() -> Domain:
    return Domain()


def start_relay(mesh: Mesh, *domains: Domain, is_open: bool = False) -> None:
    mesh.start_relay(Admission(is_open, frozenset(), [domain.guard() for domain in domains]))


def served(*domains: Domain) -> Mesh:
    mesh = Mesh()
    start_relay(mesh, *domains)
    return mesh


def problem(mesh: Mesh, number: int, other: int) -> str:
    return mesh.peer(number, other).last_error or ""


def sources(mesh: Mesh, number: int, other: int) -> set[str]:
    """The addresses that client `number` lets client `other` send from."""
    prefixes = mesh.clients[number].tables.prefixes[mesh.peer(number, other).handle]
    return {str(ipaddress.ip_address(packed[:-1])) for packed in prefixes}


def log_of(client: MemoryClient) -> str:
    return "\n".join(str(event) for event in client.events)


def test_members_meet_without_being_listed(home: Domain) -> None:
    mesh = served(home)
    for number in (0, 1, 2):
        mesh.start_client(number, (), membership=home.member(number))
    mesh.network.run_until(lambda: all(len(mesh.clients[n].core.peers) == 2 for n in (0, 1, 2)), 5.0)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        mesh.pair_up(one, other)
        mesh.exchange(one, other)
    known = mesh.clients[0].core.roster.find("member1")
    assert known is not None
    assert known.node_id == IDENTITIES[1].node_id
    assert sources(mesh, 0, 1) == {"10.77.0.2", link_local(mesh.clients[1].mac)}
    assert mesh.clients[0].core.roster.find("10.77.0.3") is mesh.peer(0, 2).member


@pytest.mark.parametrize("newcomer", [0, 1])
def test_who_comes_calls_whom_it_meets_and_waits_for_nobody(home: Domain, newcomer: int) -> None:
    """As many round trips as with a peer that is listed, and one less than it takes to be told of it."""
    mesh = served(home)
    mesh.start_client(1 - newcomer, (), membership=home.member(1 - newcomer))
    mesh.network.run_for(5.0)
    mesh.start_client(newcomer, (), membership=home.member(newcomer))
    relay = mesh.clients[newcomer].core.relays[0]
    mesh.network.run_until(lambda: relay.state.value == "connected", 5.0)
    begun, round_trip = mesh.network.now, 4 * mesh.network.latency
    mesh.network.run_until(lambda: bool(mesh.clients[newcomer].core.peers), 5.0)
    mesh.network.run_until(lambda: mesh.connected(newcomer, 1 - newcomer), 5.0)
    assert mesh.network.now - begun <= 4 * round_trip + 0.001


def test_a_relay_that_names_many_makes_few_calls_at_once(
    home: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shadowmesh.core.calls.AT_ONCE", 3)
    mesh = served(home)
    others = range(1, 6)
    for number in others:
        mesh.start_client(number, (), membership=home.member(number))
    mesh.network.run_for(10.0)
    mesh.start_client(0, (), membership=home.member(0))
    core = mesh.clients[0].core
    mesh.network.run_until(lambda: len(core.peers) == len(others), 5.0)
    mesh.network.run_for(0.9)
    assert sum(mesh.connected(0, number) for number in others) == 3
    mesh.network.run_until(lambda: all(mesh.connected(0, number) for number in others), 10.0)


def test_the_right_to_bridge_comes_from_the_certificate_alone(home: Domain) -> None:
    """Of the session that is in use: a member that was signed again without it has lost it."""
    mesh = served(home)
    mesh.start_client(0, (), membership=home.member(0))
    mesh.start_client(1, (), membership=home.member(1, rights=("bridge",)))
    mesh.start_client(2, (), membership=home.member(2, rights=("bridges", "dhcp")))
    mesh.network.run_until(lambda: len(mesh.clients[0].core.peers) == 2, 5.0)
    mesh.pair_up(0, 1)
    mesh.pair_up(0, 2)
    tables = mesh.clients[0].tables
    assert tables.bridging == {mesh.peer(0, 1).handle}
    assert mesh.peer(0, 1).may_bridge
    mesh.network.detach(mesh.clients[1])
    mesh.start_client(1, (), membership=home.member(1))
    mesh.network.run_until(lambda: not tables.bridging, 30.0)
    assert not mesh.peer(0, 1).may_bridge


def test_a_late_member_is_met_too_and_a_restarted_one_again(home: Domain) -> None:
    mesh = served(home)
    members = [home.member(number) for number in (0, 1)]
    mesh.start_client(0, (), membership=members[0])
    mesh.network.run_for(5.0)
    mesh.start_client(1, (), membership=members[1])
    mesh.network.run_until(lambda: len(mesh.clients[0].core.peers) == 1, 5.0)
    mesh.pair_up()
    mesh.network.detach(mesh.clients[1])
    mesh.start_client(1, (), membership=members[1])
    mesh.network.run_until(lambda: bool(mesh.clients[1].core.peers), 10.0)
    mesh.network.run_until(lambda: mesh.connected(1, 0), 10.0)
    mesh.stream_until_through(0, 1, 5.0)
    mesh.stream_until_through(1, 0, 5.0)


def test_members_that_list_each_other_need_no_relay_of_their_network(home: Domain) -> None:
    """A relay that serves no network brings them together by mutual interest, and looks at no certificate."""
    mesh = Mesh()
    start_relay(mesh, is_open=True)
    for number, other in ((0, 1), (1, 0)):
        mesh.start_client(number, (other,), membership=home.member(number))
    mesh.pair_up()
    mesh.exchange(0, 1)
    assert mesh.peer(0, 1).member.name == "node1", "the configuration's name goes before"


def test_the_relay_tells_members_of_two_networks_nothing_of_each_other(home: Domain) -> None:
    other = Domain()
    mesh = served(home, other)
    for number, domain in ((0, home), (1, home), (2, other), (3, other)):
        mesh.start_client(number, (), membership=domain.member(number))
    mesh.network.run_for(10.0)
    met = {number: set(mesh.clients[number].core.peers) for number in range(4)}
    ids = [identity.node_id for identity in IDENTITIES]
    assert met == {0: {ids[1]}, 1: {ids[0]}, 2: {ids[3]}, 3: {ids[2]}}


def test_the_relay_of_a_network_admits_no_stranger(home: Domain) -> None:
    mesh = served(home)
    mesh.start_client(0, ())
    mesh.network.run_for(5.0)
    relay = mesh.clients[0].core.relays[0]
    assert "does not admit your NodeID" in (relay.last_error or "")


def refused_at_relay(mesh: Mesh, number: int) -> str:
    mesh.network.run_for(5.0)
    assert mesh.relay is not None
    assert not mesh.relay.core.clients
    told = mesh.clients[number].core.relays[0].last_error or ""
    assert any(told.removeprefix("the relay says: ") in line for line in mesh.relay.log), (
        "both sides know why"
    )
    return told


def test_the_relay_refuses_expired_early_foreign_forged_and_revoked_certificates(home: Domain) -> None:
    def attempt(membership: Membership, *domains: Domain, revoked: RevocationList | None = None) -> str:
        mesh = Mesh()
        guards = [domain.guard() for domain in domains]
        if revoked is not None:
            guards[0].revocations.merge_untrusted(revoked.document)
        mesh.start_relay(Admission(True, frozenset(), guards))
        mesh.start_client(0, (), membership=membership)
        return refused_at_relay(mesh, 0)

    mine = home.member(0, days=1)
    home.wall += 2 * DAY
    assert "expired at" in attempt(mine, home)
    home.wall = NOW
    stolen = home.member(1)
    assert "is for another NodeID" in attempt(stolen, home)
    signed = mine.certificate.signed
    bad = replace(signed, signature=signed.signature[:-1] + bytes((signed.signature[-1] ^ 1,)))
    forged = Membership(*home.parts(), Credentials(replace(mine.certificate, signed=bad)))
    assert "has not signed it" in attempt(forged, home)
    assert "is revoked (list 1 of home)" in attempt(mine, home, revoked=home.revoke(0))


def refused_by_peer(home: Domain, first: Membership | None, second: Membership | None) -> tuple[str, str]:
    """Two clients that list each other, at an open relay: what both are told of why they don't meet."""
    mesh = Mesh()
    start_relay(mesh, is_open=True)
    mesh.start_client(0, (1,), membership=first)
    mesh.start_client(1, (0,), membership=second)
    mesh.network.run_for(8.0)
    assert mesh.peer(0, 1).session is None
    assert mesh.peer(1, 0).session is None
    assert mesh.clients[0].core.drops["not_member"] + mesh.clients[1].core.drops["not_member"] > 0
    lines = log_of(mesh.clients[0]).count("not connected")
    assert lines <= 2, "the same reason is told once, however often it is tried"
    return problem(mesh, 0, 1), problem(mesh, 1, 0)


@pytest.mark.parametrize("first", [0, 1])
def test_peers_refuse_each_other_with_a_reason_on_both_sides(home: Domain, first: int) -> None:
    """Whichever side dials, and so whichever checks first."""

    def case(wrong: Membership | None) -> tuple[str, str]:
        right = home.member(1 - first)
        pair = (wrong, right) if first == 0 else (right, wrong)
        return refused_by_peer(home, *pair)

    for said in case(None):
        assert "shows no certificate of the network home" in said
    other = Domain()
    foreign = other.member(first)
    assert any("of another network than home" in said for said in case(foreign))
    stolen = home.member(2)
    for said in case(stolen):
        assert "is for another NodeID" in said


def test_an_expired_member_is_refused_by_its_peers(home: Domain) -> None:
    short, long = home.member(0, days=1), home.member(1, days=9)
    home.wall += 2 * DAY
    for said in refused_by_peer(home, short, long):
        assert "member0 expired at" in said


def test_a_certificate_whose_time_has_not_come_is_refused(home: Domain) -> None:
    home.wall += 2 * DAY
    early = home.member(0)
    home.wall = NOW
    for said in refused_by_peer(home, early, home.member(1)):
        assert "begins at" in said


def test_a_revoked_member_is_cut_off_everywhere_at_once(home: Domain) -> None:
    """The list goes in at one member; the others get it over their sessions and the relay."""
    mesh = served(home)
    for number in (0, 1, 2):
        mesh.start_client(number, (), membership=home.member(number))
    mesh.network.run_until(lambda: all(len(mesh.clients[n].core.peers) == 2 for n in (0, 1, 2)), 5.0)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        mesh.pair_up(one, other)
    assert mesh.clients[0].core.handle_revocations(home.revoke(2).document, mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_for(1.0)
    for number in (0, 1):
        assert mesh.peer(number, 2).session is None
        assert "member2 is revoked (list 1 of home)" in problem(mesh, number, 2)
        assert mesh.clients[number].core.members.number == 1
        sessions = {lane.peer for lane in mesh.clients[number].tables.lanes.values()}
        assert mesh.peer(number, 2).handle not in sessions, "nothing that it seals is opened any more"
        assert sources(mesh, number, 2) == set(), "it owns no address any more"
    assert mesh.relay is not None
    assert IDENTITIES[2].node_id not in mesh.relay.core.clients
    assert "is revoked" in (mesh.clients[2].core.relays[0].last_error or "")
    mesh.exchange(0, 1)
    mesh.network.run_for(60.0)
    assert mesh.peer(0, 2).session is None, "it does not come back"


def test_a_list_is_kept_where_it_came_to_and_told_to_latecomers(home: Domain) -> None:
    mesh = served(home)
    mesh.start_client(0, (), membership=home.member(0))
    mesh.network.run_for(3.0)
    third = home.member(2)
    mesh.clients[0].core.handle_revocations(home.revoke(2).document, mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_for(1.0)
    assert len(home.kept) == 2, "the member's and the relay's"
    mesh.start_client(1, (), membership=home.member(1))
    mesh.network.run_until(lambda: mesh.clients[1].core.members.number == 1, 5.0)
    mesh.start_client(2, (), membership=third)
    mesh.network.run_for(5.0)
    assert "is revoked" in (mesh.clients[2].core.relays[0].last_error or "")


def test_lists_travel_between_peers_without_the_relay(home: Domain) -> None:
    mesh = Mesh()
    start_relay(mesh, is_open=True)
    mesh.start_client(0, (1,), membership=home.member(0))
    revoked = home.member(2)
    assert revoked.certificate.body.serial == 2
    ours = home.member(1)
    ours.revocations.merge_untrusted(home.revoke(2).document)
    mesh.start_client(1, (0,), membership=ours)
    mesh.pair_up()
    mesh.network.run_until(lambda: mesh.clients[0].core.members.number == 1, 2.0)
    assert mesh.clients[0].core.drops["bad_revocations"] == 0


def test_old_lists_change_nothing(home: Domain) -> None:
    mesh = served(home)
    mesh.start_client(0, (), membership=home.member(0))
    home.member(1)
    home.member(2)
    old, new = home.revoke(1), home.revoke(2)
    core = mesh.clients[0].core
    assert core.handle_revocations(new.document, mesh.network.now)
    assert not core.handle_revocations(old.document, mesh.network.now)
    assert core.members.number == 2
    assert core.members.is_revoked(IDENTITIES[1].node_id)


def test_lists_of_others_are_refused_and_the_session_with_who_sends_them_ends(home: Domain) -> None:
    other = Domain()
    other.member(2)
    theirs = other.revoke(2)
    mesh = served(home)
    for number in (0, 1):
        mesh.start_client(number, (), membership=home.member(number))
    mesh.network.run_until(lambda: all(len(mesh.clients[n].core.peers) == 1 for n in (0, 1)), 5.0)
    mesh.pair_up()
    mesh.network.run_for(1.0)
    core = mesh.clients[0].core
    with pytest.raises(RemoteProtocolError, match="of another network"):
        core.handle_revocations(theirs.document, mesh.network.now)
    news = RevocationNews(theirs.document)
    session = mesh.peer(0, 1).session
    core.relays[0].send(news, mesh.network.now)
    mesh.peer(0, 1).send(news, mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_until(lambda: mesh.peer(0, 1).session is not session, 2.0)
    assert mesh.relay is not None
    assert mesh.relay.core.drops["bad_revocations"] == 1
    assert mesh.clients[1].core.members.number == 0


def test_a_node_without_a_network_takes_no_list(home: Domain) -> None:
    mesh = Mesh()
    start_relay(mesh, is_open=True)
    mesh.start_client(0, ())
    home.member(1)
    with pytest.raises(RemoteProtocolError, match="no network here"):
        mesh.clients[0].core.handle_revocations(home.revoke(1).document, mesh.network.now)


def test_a_session_outlives_its_certificate_by_a_day_and_no_more(home: Domain) -> None:
    mesh = served(home)
    short, long = home.member(0, days=1), home.member(1, days=9)
    for number, membership in ((0, short), (1, long)):
        mesh.start_client(number, (), membership=membership)
    mesh.network.run_until(lambda: all(len(mesh.clients[n].core.peers) == 1 for n in (0, 1)), 5.0)
    mesh.pair_up()
    session = mesh.peer(1, 0).session
    home.wall += DAY + EXPIRY_GRACE - 100
    mesh.network.run_for(5.0)
    assert mesh.peer(1, 0).session is session
    home.wall += 200
    mesh.network.run_for(3.0)
    assert mesh.peer(1, 0).session is None
    assert "member0 expired at" in problem(mesh, 1, 0)


def test_a_relay_without_the_network_can_name_nobody_in_vain(home: Domain) -> None:
    """Nodes that a relay makes up are dialled in vain; at most 512 of them, and none that is revoked."""
    mesh = served(home)
    mesh.start_client(0, (), membership=home.member(0))
    mesh.network.run_for(2.0)
    core = mesh.clients[0].core
    home.member(1)
    core.handle_revocations(home.revoke(1).document, mesh.network.now)
    core._relay_message(core.relays[0], Present(IDENTITIES[1].node_id, bytes(8)), mesh.network.now)
    assert not core.peers
    for number in range(MAX_PEERS + 5):
        core._relay_message(core.relays[0], Present(number.to_bytes(32, "big"), bytes(8)), mesh.network.now)
    assert len(core.peers) == MAX_PEERS
    assert core.drops["unknown_node"] == 6


def test_whoever_comes_with_the_mac_of_another_is_nobody(
    home: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """46 bits of a hash: with time enough somebody makes a NodeID that has the MAC of another."""
    mesh = served(home)
    mesh.start_client(0, (), membership=home.member(0))
    mesh.network.run_for(2.0)
    core = mesh.clients[0].core
    alike = {b"a" * 32: b"b" * 32, b"c" * 32: core.node_id}

    def made(node: bytes) -> bytes:
        return mac_of(alike.get(node, node))

    for module in ("node", "peers"):
        monkeypatch.setattr(f"shadowmesh.core.{module}.mac_of", made)
    for node in (b"b" * 32, b"a" * 32, b"c" * 32, b"b" * 32):
        core._relay_message(core.relays[0], Present(node, bytes(8)), mesh.network.now)
    assert list(core.peers) == [b"b" * 32]
    assert core.drops["unknown_node"] == 2


def test_a_list_counts_at_once_also_for_the_session_before(home: Domain) -> None:
    """Not at the next tick; and the receive lanes of a session that was just replaced go with it."""
    mesh = Mesh()
    start_relay(mesh, is_open=True)
    for number, others in ((0, (1, 2)), (1, (0,)), (2, (0,))):
        mesh.start_client(number, others, membership=home.member(number))
    for other in (1, 2):
        mesh.pair_up(0, other)
    mesh.network.run_for(1.0)
    peer = mesh.peer(0, 2)
    before = peer.session
    peer.handshakes.dial(mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_until(lambda: peer.session is not before, 2.0)
    lanes = mesh.clients[0].tables.lanes
    assert len({lane.session for lane in lanes.values() if lane.peer == peer.handle}) == 2
    mesh.clients[0].core.handle_revocations(home.revoke(2).document, mesh.network.now)
    assert peer.session is None
    assert peer.handle not in {lane.peer for lane in lanes.values()}
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_for(0.3)
    assert mesh.clients[1].core.members.number == 1, "over the session, since this relay passes nothing on"


def test_a_relay_parts_with_whose_certificate_has_expired_for_a_day(home: Domain) -> None:
    mesh = served(home)
    mesh.start_client(0, (), membership=home.member(0, days=1))
    mesh.network.run_for(3.0)
    assert mesh.relay is not None
    home.wall += DAY + EXPIRY_GRACE - 100
    mesh.network.run_for(10.0)
    assert mesh.relay.core.clients
    home.wall += 200
    mesh.network.run_for(10.0)
    assert not mesh.relay.core.clients
    assert "member0 expired at" in (mesh.clients[0].core.relays[0].last_error or "")
