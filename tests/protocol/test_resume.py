"""A client that restarts has its relay back in one round trip, and nothing else gets in that way."""

from __future__ import annotations

import msgspec
import pytest
from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from shadowmesh.crypto.quic import HybridConnection
from shadowmesh.session import link
from shadowmesh.session.tickets import RelayTicket
from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.memory import MemoryClient
from shadowmesh.testing.network import Network
from shadowmesh.units import Address
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.testing import MemoryRelay
from shadowmesh_relay.tickets import LIFETIME
from tests.protocol.mesh import IDENTITIES, RELAY_IDENTITY, SECOND_RELAY, SECOND_RELAY_IDENTITY, Mesh

CLOSE = 0.001
"""Seconds that do not count: each step of virtual time is a microsecond late."""


@pytest.fixture
def paired(mesh: Mesh) -> Mesh:
    """Two clients with a session, for a while."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.exchange(0, 1)
    mesh.network.run_for(3)
    return mesh


def end(mesh: Mesh, number: int, goodbye: bool = True) -> tuple[RelayTicket, ...]:
    """The end of a process: the tickets that it leaves behind."""
    client = mesh.clients[number]
    if goodbye:
        client.core.close(mesh.network.now)
        mesh.network.flush(client)
        mesh.network.run_for(1)
    mesh.network.detach(client)
    return client.tickets


def restart(
    mesh: Mesh, number: int = 0, goodbye: bool = True, address: Address | None = None
) -> MemoryClient:
    tickets = end(mesh, number, goodbye)
    assert len(tickets) == 1
    return mesh.start_client(number, (1 - number,), address, tickets=tickets)


def round_trips_to_relay(mesh: Mesh, client: MemoryClient) -> float:
    """From the first datagram until INTEREST and OPEN leave, in round trips to the relay."""
    begun, relay = mesh.network.now, client.core.relays[0]
    mesh.network.run_until(lambda: relay._usable, 5)
    return (mesh.network.now - begun) / (2 * mesh.network.latency)


def resumed(mesh: Mesh, client: MemoryClient) -> bool:
    """Whether the session of this client, once it stands, is a resumed one."""
    relay = client.core.relays[0]
    mesh.network.run_until(lambda: relay.state.value == "connected", 20)
    assert relay._driver is not None
    return relay._driver.link._connection.resumed


def retries(mesh: Mesh, mark: int = 0) -> int:
    return sum(data[0] & 0xF0 == 0xF0 for _, _, _, data in mesh.network.sent[mark:])


# --- what it is for ---


def test_without_a_ticket_a_relay_takes_four_round_trips(mesh: Mesh) -> None:
    client = mesh.start_client(0, (1,))
    assert round_trips_to_relay(mesh, client) == pytest.approx(4, abs=0.01)


@pytest.mark.parametrize("goodbye", [True, False])
@pytest.mark.parametrize("number", [0, 1])
def test_relay_in_one_round_trip_and_peers_in_three_more(paired: Mesh, number: int, goodbye: bool) -> None:
    client = restart(paired, number, goodbye)
    mark = len(paired.network.sent)
    assert round_trips_to_relay(paired, client) == pytest.approx(1, abs=0.01)
    begun, round_trip = paired.network.now, 4 * paired.network.latency
    paired.network.run_until(lambda: paired.connected(number, 1 - number), 5)
    assert paired.network.now - begun <= 3 * round_trip + CLOSE
    frame = paired.frame(number, 1 - number, b"back again")
    paired.send(number, frame)
    paired.network.run_until(lambda: frame in paired.clients[1 - number].frames, 5)
    assert paired.network.now - begun <= 3.5 * round_trip + CLOSE, "the way of the frame itself included"
    assert resumed(paired, client)
    assert retries(paired, mark) == 0
    paired.exchange(0, 1)
    paired.network.run_for(60)
    assert paired.fatal(0) == paired.fatal(1) == []


def test_each_session_leaves_a_new_ticket(paired: Mesh) -> None:
    names = set()
    for _ in range(4):
        client = restart(paired)
        paired.network.run_for(0.001)
        assert not client.tickets, "it is used up with the first datagram"
        assert resumed(paired, client)
        paired.network.run_for(1)
        names.add(client.tickets[0].name)
    assert len(names) == 4
    assert paired.relay is not None
    assert len(paired.relay.core._tickets) == 2, "one per node"


def test_a_client_that_lost_its_relay_comes_back_the_same_way(paired: Mesh) -> None:
    """Without a restart: the process has its ticket in memory."""
    client = paired.clients[0]
    relay = client.core.relays[0]
    assert relay._driver is not None
    relay._driver.link.close(3, "for the test")
    client.core._shared.links.pump(relay._driver, paired.network.now)
    paired.network.flush(client)
    paired.network.run_until(lambda: relay.state.value == "connecting", 20)
    assert round_trips_to_relay(paired, client) == pytest.approx(1, abs=0.01)
    assert resumed(paired, client)
    paired.pair_up()


def test_ticket_of_a_long_session_is_good(paired: Mesh) -> None:
    """A day that the session stands does not count."""
    assert paired.relay is not None
    for given in paired.relay.core._tickets._by_name.values():
        assert given.expires_at is None
    paired.network.run_for(600)
    assert resumed(paired, restart(paired))


def test_client_that_moved_before_it_ended_needs_no_retry(paired: Mesh) -> None:
    client = paired.clients[0]
    paired.network.detach(client)
    client.address = Address("203.0.113.200", 7)
    paired.network.attach(client)
    paired.network.run_for(30)
    again = restart(paired, address=Address("203.0.113.200", 8))
    assert round_trips_to_relay(paired, again) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_resumes_on_a_bad_network(seed: int) -> None:
    mesh = Mesh()
    mesh.network = Network(seed=seed, link=Impairment(delay=0.02, loss=0.1, jitter=0.03, duplicate=0.05))
    mesh.start_relay()
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up(within=40)
    mesh.network.run_for(5)
    restart(mesh, goodbye=bool(seed % 2))
    mesh.stream_until_through(0, 1, within=40)
    assert mesh.fatal(0) == mesh.fatal(1) == []


def test_ticket_is_kept_while_the_relay_hears_nothing(paired: Mesh) -> None:
    """A machine that starts: its first tries come before its network."""
    tickets = end(paired, 0)
    paired.network.filter = lambda source, _target, _data: source != paired.clients[0].address
    client = paired.start_client(0, (1,), tickets=tickets)
    relay = client.core.relays[0]
    paired.network.run_until(lambda: relay.last_error == "nothing answered", 5)
    assert client.tickets == tickets
    paired.network.filter = lambda *_: True
    assert resumed(paired, client)


def test_ticket_is_not_shown_again_once_the_relay_was_heard(paired: Mesh) -> None:
    tickets = end(paired, 0)
    paired.network.run_for(1)
    assert paired.relay is not None
    paired.relay.core._reception.admission = Admission(False, frozenset())
    client = paired.start_client(0, (1,), tickets=tickets)
    relay = client.core.relays[0]
    paired.network.run_until(lambda: relay.last_error is not None, 5)
    assert not client.tickets


@pytest.fixture
def unconfirmed(paired: Mesh, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Clients take no QUIC handshake for confirmed until this set is empty: HANDSHAKE_DONE is late."""
    late = {0}

    def confirmed(connection: HybridConnection) -> bool:
        return bool(connection._handshake_confirmed and not (late and connection._is_client))

    monkeypatch.setattr(HybridConnection, "handshake_confirmed", property(confirmed))
    return late


def test_answers_wait_until_the_handshake_is_confirmed(paired: Mesh, unconfirmed: set[int]) -> None:
    client = restart(paired)
    relay = client.core.relays[0]
    paired.network.run_for(0.1)
    assert relay._usable
    assert relay.state.value == "connecting"
    assert not client.tables.lanes
    unconfirmed.clear()
    assert relay._driver is not None
    relay._driver.link.nudge()
    client.core._shared.links.pump(relay._driver, paired.network.now)
    paired.network.flush(client)
    paired.network.run_for(0.1)
    assert relay.state.value == "connected"
    paired.pair_up()


def test_answers_that_wait_are_bounded(
    paired: Mesh, unconfirmed: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unconfirmed
    monkeypatch.setattr(link, "MAX_EARLY", 100)
    client = restart(paired)
    relay = client.core.relays[0]
    paired.network.run_until(lambda: relay.last_error is not None, 1)
    assert "early_messages" in (relay.last_error or "")


# --- what falls back ---


def test_another_address_takes_a_retry_and_no_more(paired: Mesh) -> None:
    client = restart(paired, address=Address("203.0.113.99", 5000))
    mark = len(paired.network.sent)
    assert round_trips_to_relay(paired, client) == pytest.approx(2, abs=0.01)
    assert retries(paired, mark) >= 1
    assert resumed(paired, client)


def test_another_port_is_the_same_host(paired: Mesh) -> None:
    client = restart(paired, address=Address("198.51.100.1", 1234))
    assert round_trips_to_relay(paired, client) == pytest.approx(1, abs=0.01)


def test_restarted_relay_knows_no_tickets(paired: Mesh) -> None:
    tickets = end(paired, 0)
    assert paired.relay is not None
    paired.network.detach(paired.relay)
    paired.start_relay()
    client = paired.start_client(0, (1,), tickets=tickets)
    assert round_trips_to_relay(paired, client) == pytest.approx(4, abs=0.01)
    assert not resumed(paired, client)
    paired.pair_up()


def test_expired_ticket(paired: Mesh) -> None:
    tickets = end(paired, 0)
    paired.network.run_for(1)
    assert paired.relay is not None
    relay_tickets = paired.relay.core._tickets
    given = relay_tickets._by_name[tickets[0].name]
    assert given.expires_at == pytest.approx(paired.network.now + LIFETIME, abs=5)
    given.expires_at = paired.network.now
    client = paired.start_client(0, (1,), tickets=tickets)
    assert not resumed(paired, client)


def test_expired_tickets_are_dropped(paired: Mesh) -> None:
    tickets = end(paired, 0)
    assert paired.relay is not None
    relay_tickets = paired.relay.core._tickets
    relay_tickets._by_name[tickets[0].name].expires_at = paired.network.now
    paired.network.run_for(6)
    assert len(relay_tickets) == 1, "that of the client that is still there"


def test_ticket_serves_once(paired: Mesh) -> None:
    tickets = end(paired, 0)
    client = paired.start_client(0, (1,), tickets=tickets)
    assert resumed(paired, client)
    end(paired, 0)
    assert not resumed(paired, paired.start_client(0, (1,), tickets=tickets))


# --- what is refused ---


def test_name_without_its_secret_costs_one_try(paired: Mesh) -> None:
    """Whoever saw the name on the wire: the binder does not hold, and nobody comes back with the same."""
    (ticket,) = end(paired, 0)
    wrong = msgspec.structs.replace(ticket, secret=b"w" * 32)
    client = paired.start_client(0, (1,), tickets=(wrong,))
    relay = client.core.relays[0]
    paired.network.run_until(lambda: relay.last_error is not None, 5)
    assert "PSK" in (relay.last_error or "")
    assert not client.tickets
    assert not resumed(paired, client)
    paired.pair_up()


def test_stolen_ticket_is_of_no_use_to_another_identity(paired: Mesh) -> None:
    """TLS resumes, since the thief has the secret; HELLO needs the keys of the node that it was given to."""
    tickets = end(paired, 0)
    thief = paired.start_client(2, (1,), Address("198.51.100.1", 666), tickets=tickets)
    relay = thief.core.relays[0]
    paired.network.run_until(lambda: relay.last_error is not None, 5)
    assert "proof" in (relay.last_error or "")
    assert paired.relay is not None
    assert set(paired.relay.core.clients) == {IDENTITIES[1].node_id}, "neither its own name nor the victim's"
    paired.network.run_until(lambda: relay.state.value == "connected", 20)
    assert not resumed(paired, thief), "then in full, as itself"


def test_what_a_thief_sends_behind_hello_is_not_heeded(paired: Mesh) -> None:
    tickets = end(paired, 0)
    paired.network.run_for(1)
    mark = len(paired.network.sent)
    thief = paired.start_client(2, (1,), Address("198.51.100.1", 666), tickets=tickets)
    relay = thief.core.relays[0]
    paired.network.run_until(lambda: relay.last_error is not None, 5)
    to_bob = [1 for _, _, to, _ in paired.network.sent[mark:] if to == paired.clients[1].address]
    assert not to_bob, "no CALL reached the victim's peer"
    assert paired.relay is not None
    assert paired.relay.tables.channels == {}


def test_impostor_with_a_stolen_ticket_is_not_the_relay(paired: Mesh) -> None:
    """Whoever has the secret, but not the relay's keys, passes TLS and no more."""
    tickets = end(paired, 0)
    assert paired.relay is not None
    given = paired.relay.core._tickets
    paired.network.detach(paired.relay)
    impostor = MemoryRelay(
        IDENTITIES[5], Admission(True, frozenset()), paired.relay_address, paired.network.now, 77
    )
    impostor.core._tickets = given
    impostor.core._gate._known = given.prove_address
    paired.network.attach(impostor)
    client = paired.start_client(0, (1,), tickets=tickets)
    relay = client.core.relays[0]
    paired.network.run_until(lambda: relay.last_error is not None, 5)
    assert "the proof in HELLO does not hold" in (relay.last_error or ""), "it is signed for the real relay"
    assert relay.state.value != "connected"
    assert client.tickets == ()
    assert not client.tables.lanes


def test_relay_with_another_key_is_refused(paired: Mesh) -> None:
    """The ticket is for the relay that was pinned; a new relay at its place is not that one."""
    tickets = end(paired, 0)
    client = paired.start_client(0, (1,), relay_id=IDENTITIES[5].node_id, tickets=tickets)
    relay = client.core.relays[0]
    paired.network.run_until(lambda: relay.last_error is not None, 5)
    assert "NodeID" in (relay.last_error or "")
    assert [ticket.relay for ticket in client.tickets] == [RELAY_IDENTITY.node_id], "it was not shown"


def test_ticket_of_another_relay(mesh: Mesh) -> None:
    """Shown to the wrong relay it is unknown, and the session is set up in full."""
    mesh.start_second_relay()
    client = mesh.start_client(0, (1,))
    mesh.network.run_until(lambda: len(client.tickets) == 2, 5)
    tickets = {ticket.relay: ticket for ticket in end(mesh, 0)}
    one, other = RELAY_IDENTITY.node_id, SECOND_RELAY_IDENTITY.node_id
    swapped = tuple(
        msgspec.structs.replace(tickets[source], relay=target)
        for source, target in ((one, other), (other, one))
    )
    assert SECOND_RELAY in mesh.names
    client = mesh.start_client(0, (1,), tickets=swapped)
    assert not resumed(mesh, client)


def test_admission_is_asked_again(paired: Mesh) -> None:
    tickets = end(paired, 0)
    assert paired.relay is not None
    paired.relay.core._reception.admission = Admission(False, frozenset({IDENTITIES[1].node_id}))
    client = paired.start_client(0, (1,), tickets=tickets)
    relay = client.core.relays[0]
    paired.network.run_until(lambda: relay.last_error is not None, 5)
    assert "does not admit" in (relay.last_error or "")
    paired.network.run_for(10)
    assert IDENTITIES[0].node_id not in paired.relay.core.clients
    assert not paired.peer(1, 0).present


@pytest.mark.parametrize("attacker", [Address("203.0.113.66", 666), Address("198.51.100.1", 666)])
def test_replayed_first_flight_gains_nothing(paired: Mesh, attacker: Address) -> None:
    """Later, from anywhere: a Retry, which is smaller than what it answers, and no state."""
    client = restart(paired)
    paired.network.run_for(0.001)
    first = [data for _, source, _, data in paired.network.sent if source == client.address][-2:]
    assert resumed(paired, client)
    paired.network.run_for(5)
    assert paired.relay is not None
    relay, before = paired.relay, dict(paired.relay.core.clients)
    mark = len(paired.network.sent)
    for data in first:
        assert data[0] & 0xF0 == 0xC0
        relay.receive(data, attacker, paired.network.now)
    paired.network.flush(relay)
    answers = [data for _, _, to, data in paired.network.sent[mark:] if to == attacker]
    assert all(len(data) < 200 for data in answers)
    assert all(pull_quic_header(Buffer(data=data)).packet_type is QuicPacketType.RETRY for data in answers)
    assert relay.core.clients == before
    assert relay.core._half_open == {}
    paired.exchange(0, 1)


def test_first_flight_that_is_replayed_before_it_arrives_costs_the_ticket_and_no_more(paired: Mesh) -> None:
    """Somebody on the way is faster, from the client's own host; it can't go on, the client falls back."""
    assert paired.relay is not None
    tickets = end(paired, 0)
    held: list[bytes] = []

    def hold(source: Address, _target: Address, data: bytes) -> bool:
        if source == paired.clients[0].address:
            held.append(data)
        return source != paired.clients[0].address

    paired.network.filter = hold
    client = paired.start_client(0, (1,), tickets=tickets)
    paired.network.run_for(0.001)
    first = list(held)
    assert len(first) == 2
    for data in first:
        paired.relay.receive(data, Address("198.51.100.1", 666), paired.network.now)
    paired.relay.expire(paired.network.now)
    assert len(paired.relay.core._half_open) == 1
    paired.network.filter = lambda *_: True
    assert not resumed(paired, client)
    paired.network.run_for(15)
    assert paired.relay.core._half_open == {}
    assert paired.relay.core.clients[IDENTITIES[0].node_id].address == client.address
    paired.pair_up()


def test_message_behind_hello_needs_a_resumed_session(mesh: Mesh) -> None:
    """In a full handshake the relay refuses everything before RESPONSE."""
    client = mesh.start_client(0, (1,))
    relay = client.core.relays[0]
    mesh.network.run_for(0.001)
    driver = relay._driver
    assert driver is not None
    mesh.network.run_until(lambda: driver.link._secrets is not None, 5)
    relay._usable = True
    client.core._relay_up(relay, mesh.network.now)
    mesh.network.flush(client)
    mesh.network.run_until(lambda: relay.last_error is not None, 5)
    assert "before the handshake" in (relay.last_error or "")
    assert mesh.relay is not None
    assert not mesh.relay.core.clients
