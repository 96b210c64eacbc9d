"""Relays, peers and strangers that attack: what they can't do."""

from __future__ import annotations

from typing import Any

import pytest

from shadowmesh.core.relays import RelayClient
from shadowmesh.core.rendezvous import Channel
from shadowmesh.crypto.retry import Admit
from shadowmesh.session.link import CloseCode
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Refused
from shadowmesh.units import Address
from shadowmesh.wire.messages import Answer, Call, Introduction, Open, Opened, Present
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.testing import MemoryRelay
from shadowmesh_relay.waiting import MAX_FIRST
from tests.protocol.mesh import IDENTITIES, Mesh


@pytest.fixture
def pair(mesh: Mesh) -> Mesh:
    """Two connected clients."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(5)
    return mesh


def driver_of(relay: RelayClient) -> Driver:
    assert relay._driver is not None
    return relay._driver


def relay_of(mesh: Mesh, number: int, other: int) -> RelayClient:
    channel = mesh.peer(number, other).channel
    assert channel is not None
    return channel.relay


def test_impostor_at_the_relays_address_can_not_stop_a_client() -> None:
    """It completes TLS under its own identity and closes as if the client's identity were held twice."""
    mesh = Mesh()
    impostor = MemoryRelay(
        IDENTITIES[5], Admission(True, frozenset()), mesh.relay_address, mesh.network.now, 5
    )

    def refuse(*arguments: Any, **more: Any) -> None:
        raise Refused(CloseCode.DUPLICATE, "stop\n2026-01-01 ERROR for ever")

    impostor.core._reception.admit = refuse  # type: ignore[method-assign]
    mesh.network.attach(impostor)
    client = mesh.start_client(0, (1,), relay_id=IDENTITIES[5].node_id)
    mesh.network.run_for(5)
    assert mesh.fatal(0) == []
    assert client.core.relays[0].last_error == "the relay says: stop?2026-01-01 ERROR for ever"


def test_member_that_stops_the_control_stream_harms_only_itself(mesh: Mesh) -> None:
    hostile = mesh.start_client(2, (0, 1))
    mesh.network.run_for(5)
    driver = driver_of(hostile.core.relays[0])
    driver.link._connection.stop_stream(0, 0)
    hostile.core._shared.links.pump(driver, mesh.network.now)
    mesh.network.flush(hostile)
    mesh.network.run_for(1)
    for number in (0, 1):
        mesh.start_client(number, tuple({0, 1, 2} - {number}))
    mesh.pair_up()
    mesh.exchange(0, 1)


def test_whose_session_ends_by_what_it_is_told_harms_nobody_else(pair: Mesh) -> None:
    """It has two more channels to somebody who leaves; to be told of the first ends its session."""
    assert pair.relay is not None
    core, now = pair.relay.core, pair.network.now
    hostile, other = (core.clients[identity.node_id] for identity in IDENTITIES[:2])
    rendezvous = core._rendezvous
    for number in range(2):
        rendezvous.handle_open(hostile, Open(other.node, bytes([number]) * 8), now)
        rendezvous.handle_answer(other, Answer(next(iter(rendezvous._calls)), bytes([number]) * 8), now)
    hostile.driver.link._connection._streams[0].sender.reset(0)
    core._close(other.driver, CloseCode.SHUTDOWN, "it leaves", now)
    assert (core.clients, rendezvous._calls, rendezvous._channels) == ({}, {}, {})
    assert pair.relay.tables.legs == {}


def test_relay_that_stops_the_control_stream_is_left(pair: Mesh) -> None:
    assert pair.relay is not None
    client = pair.relay.core.clients[IDENTITIES[0].node_id]
    client.driver.link._connection.stop_stream(0, 0)
    pair.relay.core._links.pump(client.driver, pair.network.now)
    pair.network.flush(pair.relay)
    pair.network.run_for(1)
    pair.clients[0].core.relays[0].send(Present(IDENTITIES[1].node_id, bytes(8)), pair.network.now)
    pair.network.flush(pair.clients[0])
    pair.network.run_for(10)
    pair.exchange(0, 1)


def test_peer_that_withholds_the_last_message_of_a_renewal(pair: Mesh) -> None:
    """The old session is closed as replaced, the new one never confirmed: a fresh one must come."""
    alice, bob = pair.peer(0, 1), pair.peer(1, 0)
    original = bob.handshakes.handle_initial_untrusted

    def hostile(datagram: bytes, channel: Channel | None, now: float) -> None:
        original(datagram, channel, now)
        driver = bob.handshakes._accepted[-1]
        send = driver.send
        driver.send = lambda data: None if driver.link.established else send(data)

    bob.handshakes.handle_initial_untrusted = hostile  # type: ignore[method-assign]
    alice.handshakes.dial(pair.network.now)
    pair.network.flush(pair.clients[0])
    pair.network.run_for(0.5)
    bob.handshakes.handle_initial_untrusted = original  # type: ignore[method-assign]
    assert alice.handshakes.unconfirmed is not None
    pair.network.run_until(lambda: alice.handshakes.unconfirmed is None, 15)
    assert alice.session is None or not alice.session.driver.link.ended
    pair.pair_up(within=30)
    pair.exchange(0, 1)
    pair.clients[1].core.close(pair.network.now)
    pair.network.flush(pair.clients[1])
    pair.network.detach(pair.clients[1])
    calls = 0
    serve = pair.clients[0].core.handle_timer

    def count(now: float) -> None:
        nonlocal calls
        calls += 1
        serve(now)

    pair.clients[0].core.handle_timer = count  # type: ignore[method-assign]
    pair.network.run_for(300)
    assert calls < 3000, "a timer that is always due takes a whole core"


def test_more_path_changes_than_lanes(pair: Mesh) -> None:
    for _ in range(9):
        assert pair.relay is not None
        pair.relay.core.close(pair.network.now)
        pair.network.flush(pair.relay)
        pair.network.run_for(0.05)
        pair.network.detach(pair.relay)
        pair.network.run_for(0.5)
        pair.start_relay()
        pair.stream_until_through(0, 1, within=8)
        pair.stream_until_through(1, 0, within=8)
        pair.network.run_for(15)


def test_dialler_tries_again_after_a_collision_that_was_none(pair: Mesh) -> None:
    """Whoever can answer in the channel claims a collision, again and again; it ends when they stop."""
    alice, bob = pair.peer(0, 1), pair.peer(1, 0)
    original = bob.handshakes._admit

    def claim(node: bytes, shown: Introduction) -> None:
        raise Refused(CloseCode.COLLISION, "my own connection is under way")

    bob.handshakes._admit = claim  # type: ignore[method-assign]
    bob.handshakes.dial = lambda now: None  # type: ignore[method-assign]
    for peer, number in ((alice, 0), (bob, 1)):
        assert peer.session is not None
        peer.session.close(CloseCode.TIMEOUT, "for the test", pair.network.now)
        pair.network.flush(pair.clients[number])
    pair.network.run_for(20)
    bob.handshakes._admit = original  # type: ignore[method-assign]
    pair.pair_up(within=20)


def test_late_duplicate_of_an_initial_starts_nothing(mesh: Mesh) -> None:
    initials: list[tuple[Address, bytes]] = []

    def keep(source: Address, target: Address, data: bytes) -> bool:
        if len(data) > 1200 and data[9] & 0xF0 == 0xC0 and target == Address("198.51.100.2", 5000):
            initials.append((source, data))
        return True

    mesh.network.filter = keep
    mesh.start_client(1, (0,))
    mesh.network.run_for(1)
    mesh.start_client(0, (1,))
    mesh.pair_up()
    mesh.network.run_for(1)
    assert initials
    for source, data in initials:
        mesh.clients[1].receive(data, source, mesh.network.now)
    assert not mesh.peer(1, 0).handshakes.under_way
    assert mesh.clients[1].core.drops["late_initial"] >= 1


def test_initial_in_a_channel_from_another_address_is_dropped(pair: Mesh) -> None:
    channel = pair.peer(1, 0).channel
    assert channel is not None
    initial = (b"\xc3\0\0\0\1\x08" + b"somebody" + b"\x08" + bytes(8) + b"\0").ljust(1200, b"\0")
    forged = b"\x43" + channel.receive + initial
    pair.clients[1].receive(forged, Address("203.0.113.9", 4433), pair.network.now)
    assert pair.clients[1].core.drops["unknown_channel"] == 1
    assert not pair.peer(1, 0).handshakes.under_way


def test_relay_that_passes_another_node_off_as_the_pinned_one(mesh: Mesh) -> None:
    """Client 0 waits for client 2; the relay calls client 1 instead, who listens to client 0."""
    mesh.start_client(0, (2,))
    mesh.start_client(1, (0,))
    mesh.network.run_for(3)
    assert mesh.relay is not None
    clients = mesh.relay.core.clients
    impostor = clients[IDENTITIES[1].node_id]
    clients[IDENTITIES[2].node_id] = impostor
    rendezvous = mesh.relay.core._rendezvous
    rendezvous._tell(
        clients[IDENTITIES[0].node_id], Present(IDENTITIES[2].node_id, b"impostor"), mesh.network.now
    )
    mesh.network.flush(mesh.relay)
    mesh.network.run_for(15)
    assert not mesh.connected(0, 2)
    assert mesh.peer(0, 2).session is None
    assert "NodeID" in (mesh.peer(0, 2).last_error or "")


def test_garbage_behind_a_token_leaves_room_for_others(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Initial that does not open holds no place, whoever sent it."""
    assert mesh.relay is not None
    monkeypatch.setattr(mesh.relay.core._gate, "check", lambda *_: Admit(b"original", b"retry-id"))
    for number in range(600):
        body = number.to_bytes(8, "big")
        garbage = (b"\xc3\0\0\0\1\x08" + body + b"\x08" + body + b"\0\x44\x00").ljust(1200, b"\7")
        mesh.relay.receive(garbage, Address(f"2001:db8::{number % 8:x}", 7), mesh.network.now)
    assert mesh.relay.core._half_open == {}


def test_a_long_first_datagram_does_not_wait(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mesh.relay is not None
    core = mesh.relay.core
    monkeypatch.setattr(core._gate, "check", lambda *_: Admit(b"original", b"retry-id"))
    waited = []
    for size in (MAX_FIRST, MAX_FIRST + 1):
        name = size.to_bytes(8, "big")
        source = Address("203.0.113.7", size)
        core.handle_datagram((b"\xc3\0\0\0\1\x08" + name).ljust(size, b"\0"), source, mesh.network.now)
        waited.append(source in core.sources)
    assert (waited, core.drops["long_initial"]) == ([True, False], 1)


@pytest.mark.parametrize("goodbye", [True, False])
def test_other_relay_takes_over(goodbye: bool) -> None:
    mesh = Mesh()
    relays = [mesh.start_relay(), mesh.start_second_relay()]
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(5)
    mesh.exchange(0, 1)
    mesh.network.run_for(2)
    used = relay_of(mesh, 0, 1).config.host
    dead = relays[0 if used == "relay.test" else 1]
    if goodbye:
        dead.core.close(mesh.network.now)
        mesh.network.flush(dead)
        mesh.network.run_for(0.05)
    mesh.network.detach(dead)
    mesh.stream_until_through(0, 1, within=10)
    mesh.stream_until_through(1, 0, within=1)


def test_relay_that_refuses_every_channel_does_not_keep_us_from_the_other() -> None:
    mesh = Mesh()
    first = mesh.start_relay()
    mesh.start_second_relay()
    rendezvous = first.core._rendezvous

    def refuse(client: Any, message: Any, now: float) -> None:
        rendezvous._tell(client, Opened(message.receive, refused="the node is busy"), now)

    rendezvous.handle_open = refuse  # type: ignore[method-assign]
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up(within=20)
    mesh.exchange(0, 1)


def test_hostile_relay_can_not_take_traffic_from_a_healthy_one() -> None:
    mesh = Mesh()
    relays = [mesh.start_relay(), mesh.start_second_relay()]
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(5)
    used = relay_of(mesh, 0, 1).config.host
    hostile = relays[1 if used == "relay.test" else 0]
    for round_number in range(50):
        victim = hostile.core.clients[IDENTITIES[0].node_id]
        hostile.core._send(
            victim, Call(IDENTITIES[1].node_id, round_number.to_bytes(8, "big")), mesh.network.now
        )
        hostile.core._send(
            victim, Present(IDENTITIES[1].node_id, hostile.random.randbytes(8)), mesh.network.now
        )
        mesh.network.flush(hostile)
        mesh.network.run_for(0.5)
        mesh.stream_until_through(0, 1, within=0.5)


def test_timers_of_a_busy_relay_do_not_pile_up(pair: Mesh) -> None:
    assert pair.relay is not None
    for _ in range(200):
        pair.clients[0].core.relays[0].send(Present(IDENTITIES[1].node_id, bytes(8)), pair.network.now)
        pair.network.flush(pair.clients[0])
        pair.network.run_for(0.05)
    assert len(pair.relay.core._links._timers) < 60
    assert len(pair.clients[0].core._shared.links._timers) < 60


def test_delayed_handshake_of_a_dead_instance_does_not_displace_the_new_one(mesh: Mesh) -> None:
    """Held back on the way, it arrives when the restarted node is long connected."""
    old = mesh.start_client(0, (1,))
    held: list[tuple[bytes, Address]] = []

    def hold(source: Address, target: Address, data: bytes) -> bool:
        relay = old.core.relays[0]
        if source == old.address and relay.handle and relay.state.value == "connecting":
            held.append((data, source))
            return False
        return True

    mesh.network.filter = hold
    mesh.network.run_until(lambda: bool(held), 5)
    mesh.network.detach(old)
    mesh.network.filter = lambda source, target, data: True
    new = mesh.start_client(0, (1,), Address("198.51.100.99", 5000))
    mesh.network.run_until(lambda: new.core.relays[0].state.value == "connected", 5)
    for data, source in held:
        mesh.network.send(data, source, mesh.relay_address)
    mesh.network.run_for(30)
    assert new.core.relays[0].state.value == "connected"
    assert mesh.fatal(0) == []
    assert mesh.relay is not None
    assert mesh.relay.core.clients[IDENTITIES[0].node_id].address == new.address
