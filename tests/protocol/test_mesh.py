"""Whole nodes and a relay on virtual time: sessions come up, survive, heal and refuse."""

from __future__ import annotations

import pytest

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.network import Network
from shadowmesh.units import Address
from shadowmesh_relay.admission import Admission
from tests.protocol.mesh import IDENTITIES, RELAY_IDENTITY, Mesh


def test_two_clients_exchange_frames(mesh: Mesh) -> None:
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()
    mesh.exchange(0, 1)


def test_both_ends_know_the_round_trip_soon(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(0.2)
    for number in (0, 1):
        relay = mesh.peer(number, 1 - number).routing.paths.relay
        assert relay is not None
        assert relay.rtt == pytest.approx(4 * mesh.network.latency, abs=0.001)


@pytest.mark.parametrize("joiner", [0, 1])
def test_first_frame_within_three_round_trips(mesh: Mesh, joiner: int) -> None:
    """Opening, TLS, HELLO and CHALLENGE: so long from the relay session to the joiner's first frame."""
    mesh.start_client(1 - joiner, (joiner,))
    mesh.network.run_for(5)
    mesh.start_client(joiner, (1 - joiner,))
    relay = mesh.clients[joiner].core.relays[0]
    mesh.network.run_until(lambda: relay.state.value == "connected", 5)
    begun, round_trip = mesh.network.now, 4 * mesh.network.latency
    mesh.network.run_until(lambda: mesh.connected(joiner, 1 - joiner), 5)
    assert mesh.network.now - begun <= 3 * round_trip + 0.001


def test_both_join_at_once_and_meet_within_three_round_trips(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    relays = [client.core.relays[0] for client in mesh.clients.values()]
    mesh.network.run_until(lambda: all(relay.state.value == "connected" for relay in relays), 5)
    begun, round_trip = mesh.network.now, 4 * mesh.network.latency
    mesh.network.run_until(lambda: mesh.connected(0, 1) or mesh.connected(1, 0), 5)
    assert mesh.network.now - begun <= 3 * round_trip + 0.001


def test_nobody_else_gets_unicast_frames(mesh: Mesh) -> None:
    for number in range(3):
        mesh.start_client(number, tuple({0, 1, 2} - {number}))
    for pair in ((0, 1), (0, 2), (1, 2)):
        mesh.pair_up(*pair)
    mesh.exchange(0, 1)
    assert mesh.clients[2].frames == []


def test_broadcast_reaches_every_member_once(mesh: Mesh) -> None:
    for number in range(3):
        mesh.start_client(number, tuple({0, 1, 2} - {number}))
    for pair in ((0, 1), (0, 2), (1, 2)):
        mesh.pair_up(*pair)
    frame = mesh.frame(1, None)
    mesh.send(1, frame)
    mesh.network.run_for(1)
    assert [client.frames.count(frame) for client in mesh.clients.values()] == [1, 0, 1]


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01, 0.02, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12])
def test_simultaneous_opening_ends_in_one_session(mesh: Mesh, delay: float) -> None:
    """Both ends dial, `delay` apart, over one channel; whoever is first, one session remains."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(30)
    for first, second in ((0, 1), (1, 0)):
        mesh.peer(first, second).handshakes.dial(mesh.network.now)
        mesh.network.flush(mesh.clients[first])
        mesh.network.run_for(delay)
        mesh.peer(second, first).handshakes.dial(mesh.network.now)
        mesh.network.flush(mesh.clients[second])
        mesh.network.run_for(30)
        sessions = [mesh.peer(0, 1), mesh.peer(1, 0)]
        assert not any(peer.handshakes.under_way for peer in sessions)
        assert len({lane.session for lane in mesh.clients[0].tables.lanes.values() if lane.peer}) == 1
        assert len({lane.session for lane in mesh.clients[1].tables.lanes.values() if lane.peer}) == 1
        mesh.exchange(0, 1)


@pytest.mark.parametrize("seed", range(8))
def test_connects_on_a_bad_network(seed: int) -> None:
    mesh = Mesh()
    mesh.network = Network(seed=seed, link=Impairment(delay=0.02, loss=0.1, jitter=0.03, duplicate=0.05))
    mesh.start_relay()
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up(within=40)


@pytest.mark.parametrize("victim", [0, 1])
def test_killed_client_is_back_after_a_restart(mesh: Mesh, victim: int) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.detach(mesh.clients[victim])
    mesh.network.run_for(3)
    mesh.start_client(victim, (1 - victim,))
    mesh.network.run_until(lambda: mesh.connected(victim, 1 - victim), 5)
    mesh.exchange(victim, 1 - victim)
    mesh.network.run_for(60)
    assert mesh.fatal(0) == mesh.fatal(1) == []


def test_goodbye_is_noticed_at_once(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.clients[0].core.close(mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_until(lambda: not mesh.connected(1, 0), 0.1)


@pytest.mark.parametrize("goodbye", [True, False])
@pytest.mark.parametrize("outage", [0.5, 7.0, 45.0])
def test_session_survives_a_relay_restart(mesh: Mesh, outage: float, goodbye: bool) -> None:
    """Traffic resumes within 5 s of the relay's return, on the old session."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.exchange(0, 1)
    mesh.network.run_for(2)
    session = mesh.peer(0, 1).session
    assert mesh.relay is not None
    if goodbye:
        mesh.relay.core.close(mesh.network.now)
        mesh.network.flush(mesh.relay)
        mesh.network.run_for(0.05)
    mesh.network.detach(mesh.relay)
    mesh.network.run_for(outage)
    mesh.start_relay()
    mesh.stream_until_through(0, 1, within=5)
    mesh.stream_until_through(1, 0, within=0.1)
    assert mesh.peer(0, 1).session is session


def test_relay_that_comes_late_and_a_name_that_resolves_late() -> None:
    mesh = Mesh()
    mesh.names = {}
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.network.run_for(20)
    assert mesh.clients[0].core.relays[0].last_error == "unknown name"
    mesh.names = {"relay.test": [mesh.relay_address]}
    mesh.network.run_for(20)
    mesh.start_relay()
    mesh.pair_up(within=5)


def test_second_holder_of_an_identity_stops_both(mesh: Mesh) -> None:
    mesh.start_client(1, (0,))
    first = mesh.start_client(0, (1,), Address("198.51.100.77", 1))
    mesh.pair_up()
    second = mesh.start_client(0, (1,), Address("198.51.100.88", 2))
    mesh.network.run_for(20)
    for client in (first, second):
        reasons = [event.reason for event in client.events if hasattr(event, "reason")]
        assert reasons, "this holder did not stop"
        assert "198.51.100.77:1" in reasons[0]
        assert "198.51.100.88:2" in reasons[0]
        assert node_id_text(IDENTITIES[0].node_id) in reasons[0]


def test_wrong_pinned_identity_is_refused(mesh: Mesh) -> None:
    """Client 1 stands where client 0 expects client 2: nobody lists the other, so they never meet."""
    mesh.start_client(0, (2,))
    mesh.start_client(1, (0,))
    mesh.network.run_for(20)
    assert not mesh.connected(1, 0)
    assert not mesh.connected(0, 2)


def test_wrong_relay_identity_is_refused(mesh: Mesh) -> None:
    mesh.start_client(0, (1,), relay_id=IDENTITIES[5].node_id)
    mesh.network.run_for(10)
    relay = mesh.clients[0].core.relays[0]
    assert relay.state.value != "connected"
    assert "NodeID" in (relay.last_error or "")


def test_client_that_is_not_admitted_is_refused() -> None:
    mesh = Mesh()
    mesh.start_relay(Admission(False, frozenset({IDENTITIES[0].node_id})))
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.network.run_for(10)
    assert mesh.clients[0].core.relays[0].state.value == "connected"
    assert mesh.clients[1].core.relays[0].last_error == (
        f"the relay says: this relay does not admit your NodeID {node_id_text(IDENTITIES[1].node_id)}"
    )
    assert not mesh.peer(0, 1).present


def test_presence_only_by_mutual_interest(mesh: Mesh) -> None:
    mesh.start_client(0, (1,))
    mesh.start_client(1, ())
    mesh.network.run_for(10)
    assert not mesh.peer(0, 1).present


def test_relay_never_holds_keys_of_clients(mesh: Mesh) -> None:
    """Key material in the relay's tables is that of the legs, and no more."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    assert mesh.relay is not None
    relay = set(mesh.relay.tables.material)
    client = [set(mesh.clients[number].tables.material) for number in (0, 1)]
    shared = client[0] & client[1]
    assert len(shared) == 2, "the two directions of the session"
    assert not shared & relay
    assert len(relay) == 4, "two directions of two legs"


def test_nothing_readable_on_the_wire(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    secret = b"attack at dawn, " * 4
    for source, target in ((0, 1), (1, 0)):
        mesh.send(source, mesh.frame(source, target, secret))
    mesh.network.run_for(30)
    wire = b"\n".join(data for _, _, _, data in mesh.network.sent)
    assert len(wire) > 40_000
    for number in (0, 1):
        assert any(secret in frame for frame in mesh.clients[number].frames)
    hidden = [secret[:16], *(IDENTITIES[number].node_id for number in (0, 1)), RELAY_IDENTITY.node_id]
    hidden += [IDENTITIES[number].ed25519_public for number in (0, 1)]
    hidden += [node_id_text(IDENTITIES[number].node_id).encode() for number in (0, 1)]
    for text in hidden:
        assert text not in wire


def test_replayed_altered_and_truncated_packets_are_dropped(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(1)
    mark = len(mesh.network.sent)
    frame = mesh.frame(0, 1, b"only once" * 10)
    mesh.send(0, frame)
    mesh.network.run_for(1)
    target = mesh.clients[1]
    data = next(
        data
        for _, _, to, data in mesh.network.sent[mark:]
        if to == target.address and len(data) == len(frame) + 39
    )
    packet = data[9:]
    altered = bytes((*packet[:40], packet[40] ^ 1, *packet[41:]))
    for forged in (packet, data, altered, packet[:-1], packet[:20], data[:9], data[:1]):
        target.receive(forged, Address("203.0.113.9", 9), mesh.network.now)
    assert target.frames.count(frame) == 1
    assert target.drops["duplicate"] == 2
    assert target.drops["authentication"] + target.drops["short"] >= 3


def test_clock_that_jumps_ahead(mesh: Mesh) -> None:
    """After a long suspension every timer is late at once; the mesh must come back by itself."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.now += 7200
    mesh.network.run_until(lambda: mesh.connected(0, 1) and mesh.connected(1, 0), 15)
    mesh.network.run_for(5)
    mesh.exchange(0, 1)


def test_client_roams_and_the_relay_follows(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.exchange(0, 1)
    mesh.network.run_for(2)
    client = mesh.clients[0]
    mesh.network.detach(client)
    client.address = Address("203.0.113.200", 7)
    mesh.network.attach(client)
    mesh.network.run_for(1.5)
    mesh.exchange(0, 1)
    assert client.core.relays[0].binding is not None
    assert client.core.relays[0].binding.observed == client.address


def test_idle_mesh_stays_up_for_hours(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    first = mesh.peer(0, 1).session
    mesh.network.run_for(4200)
    assert mesh.peer(0, 1).session is first
    mesh.exchange(0, 1)
    assert len({lane.session for lane in mesh.clients[0].tables.lanes.values() if lane.peer}) == 1


def test_too_many_forgeries_end_the_session(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    first = mesh.peer(0, 1).session
    mesh.clients[0].tables.failed_opens = 1 << 36
    mesh.network.run_for(1.5)
    mesh.clients[0].tables.failed_opens = 0
    mesh.pair_up(within=10)
    assert mesh.peer(0, 1).session is not first
