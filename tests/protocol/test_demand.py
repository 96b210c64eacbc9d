"""Members that are only known: their certificates come from the relay, sessions with the first frame."""

from __future__ import annotations

from collections import Counter

import pytest

from shadowmesh.core.acquaintances import ASK_TIMEOUT, KEEP_EVERY, MAX_ASKED_OF_PEERS, MAX_TRIES
from shadowmesh.core.demand import EAGER_MEMBERS, HELD, HOLD, IDLE_AFTER, WANTED_FOR, Connect, Demand
from shadowmesh.core.shared import Changed
from shadowmesh.membership.asking import AskBudget
from shadowmesh.overlay.ownership import link_local
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import (
    MAX_ROSTER,
    Acquaintance,
    CertificateAsked,
    CertificateShown,
    Message,
    Present,
    Roster,
)
from shadowmesh.wire.payload import Kind
from tests.protocol.mesh import IDENTITIES, Mesh
from tests.protocol.test_membership import Domain, served, sources, start_relay


@pytest.fixture
def home() -> Domain:
    return Domain()


def met(home: Domain, *modes: str) -> Mesh:
    """Members in these modes, who have heard of each other."""
    mesh = served(home)
    for number, mode in enumerate(modes):
        mesh.start_client(number, (), membership=home.member(number), connect=mode)  # type: ignore[arg-type]
    mesh.network.run_for(10.0)
    return mesh


def test_a_member_that_is_only_known_costs_no_session(home: Domain) -> None:
    mesh = met(home, "demand", "demand", "demand")
    for number in range(3):
        client = mesh.clients[number]
        assert len(client.core.peers) == 2
        assert not any(peer.session or peer.channel for peer in client.core.peers.values())
        assert len(client.tables.lanes) == 8, "the relay's alone"
    known = mesh.clients[0].core.roster.find("10.77.0.2")
    assert known is not None
    assert known.name == "member1", "by the certificate that the relay has seen"
    assert known.node_id == IDENTITIES[1].node_id
    assert sources(mesh, 0, 1) == {"10.77.0.2", link_local(mesh.clients[1].mac)}, "so ARP for it is answered"


@pytest.mark.parametrize(("source", "target"), [(0, 1), (1, 0)])
def test_the_first_frames_start_the_session_and_arrive(home: Domain, source: int, target: int) -> None:
    mesh = met(home, "demand", "demand", "demand")
    mesh.clients[target].frames.clear()
    frames = [mesh.frame(source, target, b"first %d" % number) for number in range(2)]
    for frame in frames:
        mesh.send(source, frame)
    began = mesh.network.now
    mesh.network.run_until(lambda: mesh.clients[target].frames == frames, 2.0)
    assert mesh.network.now - began < 0.2, "three round trips of 40 ms, and the frames behind them"
    demand = mesh.peer(source, target).demand
    assert (demand.sent_frames, demand.sent_bytes) == (2, sum(map(len, frames)))
    mesh.exchange(source, target)
    assert mesh.peer(source, 2).session is None
    assert mesh.peer(2, source).session is None


def test_a_broadcast_reaches_connected_members_only_and_connects_nobody(home: Domain) -> None:
    mesh = met(home, "demand", "demand", "demand")
    mesh.exchange(0, 1)
    frame = mesh.frame(0, None)
    mesh.send(0, frame)
    mesh.network.run_for(5.0)
    assert frame in mesh.clients[1].frames
    assert frame not in mesh.clients[2].frames
    assert mesh.peer(0, 2).session is None


def test_a_quiet_session_ends_and_the_next_frame_makes_another(home: Domain) -> None:
    mesh = met(home, "demand", "demand")
    mesh.exchange(0, 1)
    mesh.network.run_for(IDLE_AFTER - 20.0)
    mesh.exchange(0, 1)  # puts it off
    mesh.network.run_for(IDLE_AFTER - 20.0)
    assert mesh.connected(0, 1)
    mesh.network.run_for(40.0)
    for one, other in ((0, 1), (1, 0)):
        peer = mesh.peer(one, other)
        assert (peer.session, peer.channel, peer.last_error) == (None, None, None)
    mesh.exchange(1, 0)


def test_broadcasts_alone_keep_no_session(home: Domain) -> None:
    mesh = met(home, "demand", "demand")
    mesh.exchange(0, 1)
    for _ in range(int(IDLE_AFTER) + 10):
        mesh.send(0, mesh.frame(0, None))
        mesh.network.run_for(1.0)
    assert mesh.peer(0, 1).session is None


def test_an_eager_member_leaves_alone_who_hung_up_until_it_has_a_frame(home: Domain) -> None:
    mesh = met(home, "demand", "eager")
    mesh.pair_up()
    mesh.network.run_for(IDLE_AFTER + WANTED_FOR)
    dials = sum("connected" in one.what for one in mesh.clients[1].events if isinstance(one, Changed))
    mesh.network.run_for(600.0)
    assert mesh.peer(1, 0).session is None
    assert dials == sum("connected" in one.what for one in mesh.clients[1].events if isinstance(one, Changed))
    mesh.exchange(1, 0)


def test_peers_of_the_configuration_are_always_connected(home: Domain) -> None:
    mesh = served(home)
    for number, other in ((0, 1), (1, 0)):
        mesh.start_client(number, (other,), membership=home.member(number), connect="demand")
    mesh.pair_up()
    mesh.network.run_for(2 * IDLE_AFTER)
    assert mesh.connected(0, 1)


def test_auto_is_eager_for_some_members_and_then_on_demand() -> None:
    connect = Connect("auto", met=EAGER_MEMBERS)
    member, listed = Demand(connect, always=False), Demand(connect, always=True)
    assert member.wanted(0.0)
    assert not member.is_idle(0.0, 1e6)
    connect.met += 1
    assert not member.wanted(0.0)
    assert member.is_idle(0.0, IDLE_AFTER)
    assert not member.is_idle(0.1, IDLE_AFTER)
    assert listed.wanted(0.0)
    assert not listed.is_idle(0.0, 1e6)


def test_what_was_held_is_counted_without_the_header_in_front_of_it() -> None:
    demand = Demand(Connect("demand"), always=False)
    for payload in (bytes([Kind.FRAME]) + bytes(60), bytes([Kind.SEGMENT]) + bytes(4 + 100)):
        demand.note_sent(payload)
    assert (demand.sent_frames, demand.sent_bytes) == (2, 160)


def test_held_frames_are_few_and_young() -> None:
    connect = Connect("demand")
    demand = Demand(connect, always=False)
    for number in range(HELD + 1):
        demand.want(b"%d" % number, 100.0)
    assert demand.take_held(100.0 + HOLD - 0.1) == [b"%d" % number for number in range(1, HELD + 1)]
    demand.want(b"late", 200.0)
    assert demand.take_held(200.0 + HOLD) == []
    assert connect.drops == {"held_too_long": 2}
    demand.want(b"never taken", 250.0)
    demand.expire(250.0 + HOLD)
    assert connect.drops == {"held_too_long": 3}
    for number in range(2 * HELD):
        demand.want(b"%d" % number, 260.0)
        assert len(demand._held) <= HELD, "also while nobody takes them"
    assert len(demand.take_held(260.0)) == HELD
    assert connect.drops == {"held_too_long": 3 + HELD}
    demand.note_unsent()
    assert connect.drops == {"held_too_long": 4 + HELD}
    demand.want(b"", 300.0)
    assert demand.take_held(300.0) == [], "a frame too large to hold only asks"
    assert demand.wanted(300.0 + WANTED_FOR - 0.1)
    assert not demand.wanted(300.0 + WANTED_FOR)


# What members have shown the relay.


def test_certificates_are_kept_and_not_asked_for_again(home: Domain) -> None:
    mesh = met(home, "demand", "demand")
    mesh.network.run_for(KEEP_EVERY + 2.0)
    kept = mesh.clients[0].known
    assert [node for node, _ in kept] == [IDENTITIES[1].node_id]
    mesh.network.detach(mesh.clients[0])
    client = mesh.start_client(0, (), membership=home.member(0), connect="demand", known=kept)
    asked: list[object] = []
    send = client.core.relays[0].send
    client.core.relays[0].send = lambda message, now: (asked.append(message), send(message, now))  # type: ignore[method-assign,assignment,func-returns-value]
    mesh.network.run_for(10.0)
    assert mesh.clients[0].core.roster.find("member1") is not None
    assert not any(isinstance(message, CertificateAsked) for message in asked)


def test_a_new_certificate_of_a_known_member_is_asked_for(home: Domain) -> None:
    mesh = met(home, "demand", "demand")
    mesh.network.detach(mesh.clients[1])
    mesh.start_client(1, (), membership=home.member(1, name="bob"), connect="demand")
    mesh.network.run_for(10.0)
    assert mesh.clients[0].core.roster.find("bob") is mesh.peer(0, 1).member
    assert mesh.clients[0].core.roster.find("member1") is None


def test_what_does_not_count_makes_nobody_known(home: Domain) -> None:
    """A relay that lies: a certificate of another network, of another node, one that nobody asked for."""
    mesh = met(home, "demand", "demand")
    core, now = mesh.clients[0].core, mesh.network.now
    relay, node = core.relays[0], IDENTITIES[2].node_id
    foreign, stolen = Domain().member(2).show(), home.member(1).show()
    core._relay_message(relay, CertificateShown(node, home.member(2).show()), now)
    assert core.drops["unasked_certificate"] == 1
    for wrong in (foreign, stolen, b"", b"\x80", bytes(9000)):
        core._relay_message(relay, Present(node, bytes(8), bytes(8)), now)
        core._relay_message(relay, CertificateShown(node, wrong), now)
    assert core.drops["bad_certificate"] == 5
    assert core.acquaintances.known == 1
    assert core.roster.find("member2") is None
    core._relay_message(relay, Present(node, bytes(8), bytes(8)), now)
    core._relay_message(relay, CertificateShown(node, home.member(2).show()), now)
    assert core.roster.find("member2") is not None


def test_only_who_was_asked_may_answer(home: Domain) -> None:
    mesh = chain(home)
    core, now, node = mesh.clients[0].core, mesh.network.now, IDENTITIES[3].node_id
    core._relay_message(core.relays[0], Present(node, bytes(8), bytes(8)), now)
    shown = CertificateShown(node, home.member(3).show())
    core.acquaintances.handle_message(mesh.peer(0, 1), AskBudget(), shown, now)
    assert core.acquaintances.standing(node) is None
    assert core.drops["unasked_certificate"] == 1
    core._relay_message(core.relays[0], shown, now)
    assert core.acquaintances.standing(node) is not None


def test_a_revoked_or_expired_member_is_not_known(home: Domain) -> None:
    mesh = met(home, "demand")
    core, now = mesh.clients[0].core, mesh.network.now
    shown = home.member(1).show()
    core.handle_revocations(home.revoke(1).document, now)
    kept = [(IDENTITIES[1].node_id, shown), (IDENTITIES[2].node_id, home.member(2, days=1).show())]
    for node, what in kept:
        core.acquaintances._take(node, what)
    assert core.acquaintances.known == 1
    home.wall += 2 * 86_400
    again = mesh.start_client(3, (), membership=home.member(3), connect="demand", known=tuple(kept[1:]))
    assert again.core.acquaintances.known == 0


def test_few_questions_are_open_and_a_silent_relay_holds_nobody_up(home: Domain) -> None:
    mesh = met(home, "demand")
    core, now = mesh.clients[0].core, mesh.network.now
    asked: list[object] = []
    core.relays[0].send = lambda message, now: asked.append(message)  # type: ignore[method-assign]
    for number in range(20):
        core._relay_message(core.relays[0], Present(number.to_bytes(32, "big"), bytes(8), bytes(8)), now)
    assert sum(isinstance(message, CertificateAsked) for message in asked) == 8
    for number in range(1, 20):
        core.acquaintances.handle_tick(now + number * (ASK_TIMEOUT + 0.1))
    nodes = Counter(message.nodes[0] for message in asked if isinstance(message, CertificateAsked))
    assert len(nodes) == 20
    assert set(nodes.values()) == {MAX_TRIES}


def test_who_lists_a_member_of_another_network_learns_nothing_of_its_certificate(home: Domain) -> None:
    other = Domain()
    mesh = served(home, other)
    for number, peer, domain in ((0, 2, home), (2, 0, other)):
        mesh.start_client(number, (peer,), membership=domain.member(number))
    mesh.network.run_until(lambda: mesh.peer(0, 2).present, 5.0)
    mesh.network.run_for(5.0)
    assert mesh.clients[0].core.acquaintances._from_relays == set()
    assert mesh.clients[0].core.drops["bad_certificate"] == 0


def test_the_relay_shows_certificates_to_members_of_the_same_network_only_and_within_a_budget(
    home: Domain,
) -> None:
    other = Domain()
    mesh = served(home, other)
    for number, domain in ((0, home), (1, home), (2, other)):
        mesh.start_client(number, (), membership=domain.member(number), connect="demand")
    mesh.network.run_for(10.0)
    assert mesh.relay is not None
    rendezvous = mesh.relay.core._rendezvous
    clients, now = mesh.relay.core.clients, mesh.network.now + 1000.0
    sent: list[object] = []
    rendezvous._send_all = lambda client, messages, now: sent.extend(messages)
    asker = clients[IDENTITIES[0].node_id]
    wanted = CertificateAsked([IDENTITIES[1].node_id, IDENTITIES[2].node_id, bytes(32)])
    rendezvous.handle_asked(asker, wanted, now)
    assert [message.node for message in sent] == [IDENTITIES[1].node_id]  # type: ignore[attr-defined]
    for _ in range(2000):
        rendezvous.handle_asked(asker, wanted, now)
    assert len(sent) in (1024, 1025)
    rendezvous.handle_asked(asker, wanted, now + 1.0)
    assert len(sent) in (1025, 1026)


# What members tell each other.


def chain(home: Domain) -> Mesh:
    """0 and 2 list 1 alone, at a relay that knows nothing of their network."""
    mesh = Mesh()
    start_relay(mesh, is_open=True)
    for number, others in ((0, (1,)), (1, (0, 2)), (2, (1,))):
        mesh.start_client(number, others, membership=home.member(number), connect="demand")
    mesh.pair_up(0, 1)
    mesh.pair_up(1, 2)
    mesh.network.run_for(5.0)
    return mesh


def test_members_learn_of_each_other_from_one_that_knows_both(home: Domain) -> None:
    mesh = chain(home)
    for one, other in ((0, 2), (2, 0)):
        found = mesh.clients[one].core.roster.find(f"member{other}")
        assert found is mesh.peer(one, other).member
        assert found.addresses == (f"10.77.0.{other + 1}",)
        assert mesh.peer(one, other).present, "each has told the relay of its interest"
        assert mesh.peer(one, other).session is None
    mesh.exchange(0, 2)


def test_who_comes_later_is_told_of_too(home: Domain) -> None:
    mesh = Mesh()
    start_relay(mesh, is_open=True)
    for number, others in ((0, (1,)), (1, (0, 2))):
        mesh.start_client(number, others, membership=home.member(number), connect="demand")
    mesh.pair_up(0, 1)
    mesh.network.run_for(5.0)
    assert mesh.clients[0].core.roster.find("member2") is None
    mesh.start_client(2, (1,), membership=home.member(2), connect="demand")
    mesh.pair_up(1, 2)
    mesh.network.run_for(5.0)
    mesh.exchange(0, 2)


def test_what_a_relay_of_the_network_tells_is_told_by_nobody_else(home: Domain) -> None:
    mesh = met(home, "demand", "demand", "demand")
    mesh.exchange(0, 1)
    mesh.network.run_for(5.0)
    for number in range(3):
        core = mesh.clients[number].core
        assert core.acquaintances.known == 2
        assert core.acquaintances.roster(bytes(32)) == Roster([])


def test_a_peer_can_make_nobody_a_member_and_ask_for_no_more_than_there_is(home: Domain) -> None:
    mesh = chain(home)
    mine, now = mesh.clients[0].core.acquaintances, mesh.network.now
    sent: list[Message] = []

    class Peer:
        def send(self, message: Message, now: float) -> None:
            sent.append(message)

    peer, budget, node = Peer(), AskBudget(), bytes(31) + b"x"
    mine.handle_message(peer, budget, Roster([Acquaintance(node, bytes(8))]), now)
    assert sent == [CertificateAsked([node])]
    mine.handle_message(peer, budget, CertificateShown(node, home.member(3).show()), now)
    mine.handle_message(peer, budget, CertificateShown(IDENTITIES[3].node_id, home.member(3).show()), now)
    assert node not in mesh.clients[0].core.peers
    assert IDENTITIES[3].node_id not in mesh.clients[0].core.peers
    drops = mesh.clients[0].core.drops
    assert (drops["bad_certificate"], drops["unasked_certificate"]) == (1, 1)
    sent.clear()
    for _ in range(2000):
        mine.handle_message(peer, budget, CertificateAsked([IDENTITIES[2].node_id, node]), now)
    assert len(sent) in (1024, 1025)
    assert all(isinstance(one, CertificateShown) and one.node == IDENTITIES[2].node_id for one in sent)


def test_an_older_certificate_takes_no_newer_ones_place(home: Domain) -> None:
    mesh = met(home, "demand", "demand")
    old = home.member(1, name="old")
    core, now = mesh.clients[0].core, mesh.network.now
    mesh.network.detach(mesh.clients[1])
    mesh.start_client(1, (), membership=home.member(1, name="new"), connect="demand")
    mesh.network.run_for(10.0)
    node = IDENTITIES[1].node_id
    core._relay_message(core.relays[0], Present(node, bytes(8), old.certificate.fingerprint[:8]), now)
    core._relay_message(core.relays[0], CertificateShown(node, old.show()), now)
    assert core.roster.find("old") is None
    assert core.roster.find("new") is not None
    assert core.drops["bad_certificate"] == 1


def test_a_member_whose_certificate_is_revoked_is_named_to_nobody(home: Domain) -> None:
    mesh = chain(home)
    core = mesh.clients[1].core
    standing = core.acquaintances.standing(IDENTITIES[2].node_id)
    assert standing is not None
    made = home.authority.revoke_serial(standing.certificate.body.serial, home.wall)
    core.handle_revocations(made.document, mesh.network.now)
    assert core.acquaintances.roster(IDENTITIES[0].node_id).members == []


def test_a_revoked_member_is_named_to_nobody(home: Domain) -> None:
    mesh = chain(home)
    core = mesh.clients[1].core
    assert [one.node for one in core.acquaintances.roster(IDENTITIES[0].node_id).members] == [
        IDENTITIES[2].node_id
    ]
    core.handle_revocations(home.revoke(2).document, mesh.network.now)
    assert core.acquaintances.roster(IDENTITIES[0].node_id).members == []
    mesh.network.run_for(1.0)
    core = mesh.clients[0].core
    named = Roster([Acquaintance(IDENTITIES[2].node_id, b"another!")])
    core.acquaintances.handle_message(mesh.peer(0, 1), AskBudget(), named, mesh.network.now)
    assert core.members.is_revoked(IDENTITIES[2].node_id)
    assert core.acquaintances._asked == {}


class Asked:
    """A peer or relay that may be asked, and answers nothing."""

    def __init__(self) -> None:
        self.questions: list[NodeId] = []

    def send(self, message: Message, now: float) -> None:
        assert isinstance(message, CertificateAsked)
        self.questions += message.nodes


def test_a_peer_that_names_whom_nobody_knows_holds_up_nobody_else(home: Domain) -> None:
    """512 NodeIDs without a certificate, again and again: a relay goes before, and other peers beside."""
    mesh = served(home)
    known = mesh.start_client(0, (), membership=home.member(0)).core.acquaintances
    hostile, honest, relay = Asked(), Asked(), Asked()
    names = iter(range(1, 1 << 20))

    def storm(now: float) -> None:
        made = [Acquaintance(next(names).to_bytes(32, "big"), b"x" * 8) for _ in range(MAX_ROSTER)]
        known.handle_message(hostile, AskBudget(), Roster(made), now)

    storm(0.0)
    storm(0.0)
    assert len(hostile.questions) == 2
    for _ in range(6):
        made = [Acquaintance(next(names).to_bytes(32, "big"), b"x" * 8) for _ in range(4)]
        known.handle_message(Asked(), AskBudget(), Roster(made), 0.0)
    assert len(known._asked) == MAX_ASKED_OF_PEERS
    known.handle_present(relay, b"r" * 32, b"m" * 8, 0.0)
    assert relay.questions == [b"r" * 32], "at once"
    for second in range(1, 200):
        if second % 10 == 0:
            storm(float(second))
        known.handle_tick(float(second))
    asked = len(hostile.questions)
    known.handle_message(honest, AskBudget(), Roster([Acquaintance(b"h" * 32, b"m" * 8)]), 200.0)
    assert honest.questions == [b"h" * 32]
    storm(201.0)
    assert len(hostile.questions) == asked, "who answers nothing is not asked any more"
