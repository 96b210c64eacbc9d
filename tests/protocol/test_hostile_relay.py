"""One of two relays is hostile: what it can't do to nodes that the other one serves."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any

import pytest

from shadowmesh.core.relays import DUPLICATE_DELAY, RelayClient, RelayState
from shadowmesh.core.routing import ANNOUNCE_AT_ONCE
from shadowmesh.session.link import CloseCode
from shadowmesh.units import Address
from shadowmesh.wire.messages import Call, Candidates, Message, Present
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import IDENTITIES, Mesh

PAIR = (0, 1)
AWAY = 300.0
"""Seconds in which a relay that was left is not asked."""


def two(latency: float = 0.01, **more: Any) -> tuple[Mesh, tuple[MemoryRelay, MemoryRelay]]:
    """Two relays and two clients that know both."""
    mesh = Mesh(latency=latency)
    relays = mesh.start_relay(), mesh.start_second_relay()
    for number in PAIR:
        mesh.start_client(number, (1 - number,), **more)
    return mesh, relays


def unused(mesh: Mesh, relays: tuple[MemoryRelay, MemoryRelay]) -> MemoryRelay:
    """The relay whose channel the pair does not use."""
    channel = mesh.peer(0, 1).channel
    assert channel is not None
    return relays[1 if channel.relay.config.host == "relay.test" else 0]


def tell(mesh: Mesh, relay: MemoryRelay, number: int, *messages: Message) -> None:
    """What a hostile relay says to a client, if that is there."""
    client = relay.core.clients.get(IDENTITIES[number].node_id)
    if client is not None:
        relay.core._send_all(client, messages, mesh.network.now)
        mesh.network.flush(relay)


def leg(mesh: Mesh, number: int, relay: MemoryRelay) -> RelayClient:
    """The leg of a client at a relay."""
    return next(one for one in mesh.clients[number].core.relays if one.address == relay.address)


def test_calls_that_come_faster_than_probes_take_no_traffic() -> None:
    """The second CALL comes while the probe that the first one caused is under way."""
    mesh, relays = two()
    mesh.pair_up()
    mesh.network.run_for(5)
    hostile = unused(mesh, relays)
    for round_number in range(20):
        for number in range(2):
            name = (10 * round_number + number).to_bytes(8, "big")
            tell(mesh, hostile, 0, Call(IDENTITIES[1].node_id, name))
            mesh.network.run_for(0.004)
        mesh.network.run_for(0.3)
        frame = mesh.frame(0, 1, mesh.network.random.randbytes(60))
        mesh.send(0, frame)
        mesh.network.run_for(0.1)
        assert frame in mesh.clients[1].frames


@pytest.mark.parametrize(
    ("gap", "latency", "victims"),
    [(0.02, 0.01, PAIR), (0.3, 0.01, (0,)), (0.3, 0.01, (1,)), (0.1, 0.3, PAIR)],
)
def test_calls_do_not_keep_nodes_apart(gap: float, latency: float, victims: tuple[int, ...]) -> None:
    """They come all the time, from before the first handshake, each with word of another instance.

    A handshake that takes longer than a channel is kept that another took the place of needs its own.
    """
    mesh, (hostile, _) = two(latency)
    hostile.core._rendezvous.handle_open = lambda *_: None  # type: ignore[method-assign]
    end, count = mesh.network.now + 30, 0
    while not all(mesh.peer(number, 1 - number).session for number in PAIR):
        assert mesh.network.now < end
        for number in victims:
            count += 1
            node, made_up = IDENTITIES[1 - number].node_id, count.to_bytes(8, "big")
            tell(mesh, hostile, number, Present(node, made_up), Call(node, made_up))
        mesh.network.run_for(gap)
    held = [len(list(mesh.peer(number, 1 - number).rendezvous._held())) for number in PAIR]
    assert max(held) <= 4, "one channel at each relay, and those under way"


def carries_nothing(mesh: Mesh, hostile: MemoryRelay) -> None:
    """The relay opens channels as it should, and loses what goes through them."""

    def passes(source: Address, _target: Address, data: bytes) -> bool:
        channels = [client.tables.channels for client in mesh.clients.values()]
        return source != hostile.address or not any(data[1:9] in known for known in channels)

    mesh.network.filter = passes


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    ("calls", "presence"),
    [("in the gap", 0.0), ("always", 0.0), ("never", 1.0), ("never", 4.0), ("always", 1.0)],
)
@pytest.mark.parametrize("victims", [PAIR, (0,)])
def test_relay_that_carries_nothing_and_calls_all_the_time_keeps_nobody_apart(
    which: int, calls: str, presence: float, victims: tuple[int, ...]
) -> None:
    """With word of another instance each `presence` seconds; with calls where it has no channel or always."""
    mesh, relays = two()
    hostile = relays[which]
    carries_nothing(mesh, hostile)
    begin, count = mesh.network.now, 0
    due = begin + (presence or 100.0)
    while not all(mesh.peer(number, 1 - number).session for number in PAIR):
        assert mesh.network.now < begin + 40
        tells = mesh.network.now >= due
        due += presence * tells
        for number in victims:
            count += 1
            node, made_up = IDENTITIES[1 - number].node_id, count.to_bytes(8, "big")
            held = mesh.peer(number, 1 - number).rendezvous._held()
            has = any(one.relay.address == hostile.address for one in held)
            if calls == "always" or (calls == "in the gap" and not has):
                tell(mesh, hostile, number, Call(node, made_up))
            if tells:
                tell(mesh, hostile, number, Present(node, made_up))
        mesh.network.run_for(0.1)


@pytest.mark.parametrize("which", [0, 1])
def test_relay_that_carries_no_handshake_keeps_nobody_apart(which: int) -> None:
    mesh, relays = two()
    carries_nothing(mesh, relays[which])
    mesh.network.run_until(lambda: all(mesh.peer(one, 1 - one).session for one in PAIR), 40)
    mesh.stream_until_through(0, 1, within=5)
    mesh.stream_until_through(1, 0, within=5)


def test_made_up_initials_take_no_other_relays_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handshakes that one relay begins in the peer's name hold its own four places, and those only."""
    mesh, relays = two()
    mesh.pair_up()
    mesh.network.run_for(5)
    hostile = unused(mesh, relays)
    peer = mesh.peer(1, 0)
    node = IDENTITIES[0].node_id
    monkeypatch.setattr(peer.routing.paths.relay, "works", lambda now: True)
    tell(mesh, hostile, 1, Call(node, b"made-up!"))
    mesh.network.run_for(0.05)
    trial = peer.rendezvous._trial
    assert trial is not None
    for number in range(8):
        initial = b"\xc3\0\0\0\1\x08" + bytes(7) + bytes([number]) + b"\x08" + bytes(8) + b"\0"
        forged = b"\x43" + trial.channel.receive + initial.ljust(1200, b"\0")
        mesh.clients[1].receive(forged, hostile.address, mesh.network.now)
    assert mesh.clients[1].core.drops["too_many_handshakes"] == 4
    mesh.peer(0, 1).handshakes.dial(mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    before = peer.session
    mesh.network.run_until(lambda: peer.session is not before, 5)
    mesh.exchange(0, 1)


def test_one_relay_can_not_stop_a_node_by_a_claim_of_two_holders() -> None:
    assert DUPLICATE_DELAY > AWAY
    mesh, relays = two()
    mesh.pair_up()
    mesh.network.run_for(5)
    hostile = unused(mesh, relays)
    for liar in (hostile, relays[0] if hostile is relays[1] else relays[1]):
        for number in PAIR:
            left = leg(mesh, number, liar)
            driver = liar.core.clients[IDENTITIES[number].node_id].driver
            assert mesh.fatal(number) == []
            liar.core._close(driver, CloseCode.DUPLICATE, "two machines use it", mesh.network.now)
            mesh.network.flush(liar)
            mesh.network.run_for(0.1)
            assert left.last_error == "the relay says: two machines use it"
        if liar is hostile:
            mesh.exchange(0, 1)
            sent = len(mesh.network.sent)
            mesh.network.run_for(AWAY)
            assert not [one for one in mesh.network.sent[sent:] if one[2] == hostile.address], "it came back"
            mesh.stream_until_through(0, 1, within=5)
    for number in PAIR:
        assert mesh.fatal(number) == ["two machines use it"], "each of its relays has said so"


def test_a_relay_that_was_restarted_after_it_said_duplicate_is_not_left_for_longer() -> None:
    mesh, relays = two()
    mesh.pair_up()
    mesh.network.run_for(5)
    liar, left = relays[0], leg(mesh, 0, relays[0])
    driver = liar.core.clients[IDENTITIES[0].node_id].driver
    liar.core._close(driver, CloseCode.DUPLICATE, "two machines use it", mesh.network.now)
    mesh.network.flush(liar)
    mesh.network.run_for(DUPLICATE_DELAY - 5)
    assert left.last_error == "the relay says: two machines use it"
    mesh.network.filter = lambda sender, target, _data: liar.address not in (sender, target)
    mesh.network.run_for(DUPLICATE_DELAY / 4 + 10)
    assert left.last_error != "the relay says: two machines use it", "it was tried in vain"
    mesh.network.filter = lambda source, target, data: True
    mesh.network.run_for(300)
    assert left.state is RelayState.CONNECTED


def test_two_holders_are_found_by_two_relays_as_well() -> None:
    mesh, _ = two()
    mesh.pair_up()
    first = mesh.clients[0]
    second = mesh.start_client(0, (1,), Address("198.51.100.88", 2))
    mesh.network.run_for(30)
    for client in (first, second):
        reasons = [event.reason for event in client.events if hasattr(event, "reason")]
        assert len(reasons) == 1, "this holder did not stop"
        assert "198.51.100.88:2" in reasons[0]


def test_relay_that_sees_us_elsewhere_each_time_can_not_have_all_peers_told_each_time() -> None:
    """It answers every BIND with a challenge, so the next one follows at once, and with another address."""
    mesh, relays = two(direct="auto")
    mesh.pair_up()
    mesh.network.run_for(20)
    announced: list[float] = []
    routing = mesh.peer(0, 1).routing
    assert mesh.peer(0, 1).session is not None
    link = mesh.peer(0, 1).session.driver.link  # type: ignore[union-attr]
    send = link.send

    def count(message: Message) -> None:
        announced.extend([mesh.network.now] * isinstance(message, Candidates))
        send(message)

    link.send = count  # type: ignore[method-assign]
    before = mesh.network.now
    for number in range(1000):
        relay = mesh.clients[0].core.relays[0]
        news = mesh.clients[0].core.network.set_seen_by_relay(relay.name, Address("203.0.113.9", 1 + number))
        assert news
        mesh.clients[0].core._tell_network(moved=False, now=mesh.network.now)
        mesh.network.flush(mesh.clients[0])
        mesh.network.run_for(0.01)
    assert 5 <= len(announced) <= ANNOUNCE_AT_ONCE + (mesh.network.now - before) + 1
    mesh.network.run_for(3)
    assert routing._announced == mesh.clients[0].core.network.version, "the last of them was told"
    assert relays


def test_relay_that_loses_doubles_delays_and_reorders(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it forwards, and what it says itself: no frame is delivered twice, and the session stays."""
    mesh = Mesh()
    relay = mesh.start_relay()
    for number in PAIR:
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(3)
    sessions = [mesh.peer(number, 1 - number).session for number in PAIR]
    transmit, fate = relay.transmit, random.Random(7)
    counts = (0, 1, 1, 1, 1, 2, 3)

    def spoiled() -> list[tuple[bytes, Address]]:
        for data, target in transmit():
            for _ in range(fate.choice(counts)):
                late = fate.random() * 0.2
                mesh.network.after(late, partial(mesh.network.send, data, relay.address, target))
        return []

    monkeypatch.setattr(relay, "transmit", spoiled)
    frames = [mesh.frame(0, 1, number.to_bytes(4, "big") * 20) for number in range(400)]
    for frame in frames:
        mesh.send(0, frame)
        mesh.network.run_for(0.02)
    mesh.network.run_for(1)
    counted = Counter(mesh.clients[1].frames)
    assert max(counted[frame] for frame in frames) == 1
    assert sum(counted[frame] for frame in frames) > 0.7 * len(frames)
    assert mesh.clients[1].drops["duplicate"] > 50
    assert [mesh.peer(number, 1 - number).session for number in PAIR] == sessions
