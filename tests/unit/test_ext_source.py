"""Where a peer's packets come from: noted for the route, and told when it changes."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from shadowmesh._ext.engine import EVENT_LANE_MESSAGE, EVENT_SOURCE, SendKeys
from tests.reference import frame_packet
from tests.unit.ext_harness import (
    WIDE,
    Node,
    Peer,
    material,
    node_and_peer,
    raw_sockaddr,
    udp_socket,
    wire_id,
)
from tests.unit.test_ext_offload import send_together

CHANNEL = b"channel1"
EMPTY = b"\x03"
FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Node, Peer, socket.socket]]:
    """An engine, its peer, and a second socket that the peer may send from."""
    with node_and_peer(request.param) as (node, peer), udp_socket(request.param) as away:
        node.engine.install_channel(CHANNEL)
        yield node, peer, away


def send(
    peer: Peer, sock: socket.socket, payload: bytes = EMPTY, *, lane: int = 1, channel: bytes = b""
) -> None:
    header = b"\x43" + channel if channel else b""
    sock.sendto(header + peer.packet(payload, lane), peer.node.udp.getsockname())


def settle(node: Node, peer: Peer) -> None:
    """Until all that was sent is handled, whatever it was sent from; says nothing about sources itself."""
    peer.send(peer.packet(b"\x04settle", lane=0))
    while node.event().kind != EVENT_LANE_MESSAGE:
        pass


def path_received(node: Node) -> float:
    return node.engine.peer_counters(7)["path_received"]


def sources(node: Node) -> list[tuple[int, bytes, bytes]]:
    """Handle, channel and source of each change since the last call."""
    events = node.engine.poll()
    assert all(event.kind == EVENT_SOURCE and event.data == b"" for event in events)
    return [(event.handle, event.via, event.source) for event in events]


# ---- path_received ---------------------------------------------------------------------------


def test_only_packets_from_where_the_route_points_count(pair: tuple[Node, Peer, socket.socket]) -> None:
    node, peer, away = pair
    node.engine.set_endpoint(7, raw_sockaddr(away), b"", budget=WIDE)
    send(peer, peer.udp)
    send(peer, away, channel=CHANNEL)
    away.sendto(b"\x43" + Peer.LANES[1] + bytes(40), node.udp.getsockname())
    settle(node, peer)
    assert path_received(node) == 0.0
    assert node.drops() == {"authentication": 1}
    before = time.monotonic()
    send(peer, away)
    settle(node, peer)
    assert before <= path_received(node) <= time.monotonic()


def test_a_relayed_route_counts_what_comes_through_a_channel(pair: tuple[Node, Peer, socket.socket]) -> None:
    node, peer, away = pair
    node.engine.set_endpoint(7, raw_sockaddr(away), b"theirs!!", budget=WIDE)
    send(peer, away)
    send(peer, peer.udp, channel=CHANNEL)
    settle(node, peer)
    assert path_received(node) == 0.0
    send(peer, away, channel=CHANNEL)
    settle(node, peer)
    assert path_received(node) > 0.0


def test_lane_0_is_life_too_and_a_replay_is_not() -> None:
    with node_and_peer() as (node, peer):
        packet = peer.packet(EMPTY, lane=0)
        peer.send(packet)
        peer.mark()
        first = path_received(node)
        assert first > 0.0
        with udp_socket() as away:
            node.engine.set_endpoint(7, raw_sockaddr(away), b"")
            away.sendto(packet, node.udp.getsockname())
            peer.mark()
            assert path_received(node) == 0.0
        assert node.drops() == {"duplicate": 1}


def test_another_way_begins_with_nothing_and_another_budget_is_no_other_way() -> None:
    with node_and_peer() as (node, peer), udp_socket() as away:
        assert path_received(node) == 0.0
        peer.mark()
        first = path_received(node)
        assert first > 0.0
        node.engine.set_endpoint(7, peer.sockaddr, b"", budget=1200)
        node.engine.set_lane(7, SendKeys(material(72)), 1, wire_id(0x7777))
        assert path_received(node) == first
        here, there = peer.sockaddr, raw_sockaddr(away)
        for sockaddr, channel in ((there, b""), (here, b""), (here, CHANNEL), (here, b"another!")):
            node.engine.set_endpoint(7, sockaddr, channel)
            assert path_received(node) == 0.0
        node.engine.set_endpoint(7, peer.sockaddr, b"")
        peer.mark()
        assert path_received(node) > first
        node.engine.clear_route(7)
        assert path_received(node) == 0.0
        peer.mark()
        assert path_received(node) == 0.0


# ---- EVENT_SOURCE ----------------------------------------------------------------------------


def test_a_change_of_source_is_told_once(pair: tuple[Node, Peer, socket.socket]) -> None:
    node, peer, away = pair
    home, other = peer.sockaddr, raw_sockaddr(away)
    steps = [
        (peer.udp, 1, b"", (home, b"")),
        (peer.udp, 1, b"", None),
        (peer.udp, 2, b"", None),
        (away, 0, b"", None),
        (away, 2, b"", (other, b"")),
        (away, 1, b"", None),
        (peer.udp, 1, b"", (home, b"")),
        (peer.udp, 1, CHANNEL, (home, CHANNEL)),
        (peer.udp, 1, CHANNEL, None),
        (away, 1, CHANNEL, (other, CHANNEL)),
        (away, 1, b"", (other, b"")),
    ]
    for sock, lane, channel, expected in steps:
        send(peer, sock, lane=lane, channel=channel)
        peer.send(peer.packet(b"\x04settle", lane=0))
        events = [node.event(sources=True)]
        while events[-1].kind != EVENT_LANE_MESSAGE:
            events.append(node.event(sources=True))
        told = [(event.source, event.via) for event in events[:-1]]
        assert told == ([expected] if expected else [])
        assert all(event.handle == Peer.SESSION and event.data == b"" for event in events[:-1])
    assert node.drops() == {}


def test_what_is_not_authentic_or_fresh_changes_nothing() -> None:
    with node_and_peer() as (node, peer), udp_socket() as away:
        packet = peer.packet(EMPTY)
        peer.send(packet)
        peer.mark()
        assert len(sources(node)) == 1
        away.sendto(packet, node.udp.getsockname())
        away.sendto(packet[:-1] + bytes([packet[-1] ^ 1]), node.udp.getsockname())
        peer.mark()
        assert sources(node) == []
        assert node.drops() == {"duplicate": 1, "authentication": 1}


def test_every_session_has_its_own_source_and_relays_have_none() -> None:
    with node_and_peer() as (node, peer), udp_socket() as away:
        node.engine.install_receive(800, 7, [wire_id(0), wire_id(1)], material(80))
        node.engine.install_receive(900, 0, [wire_id(2), wire_id(3)], material(90))
        peer.mark()
        away.sendto(frame_packet.seal(material(80), 1, wire_id(1), 0, EMPTY), node.udp.getsockname())
        away.sendto(frame_packet.seal(material(90), 1, wire_id(3), 0, EMPTY), node.udp.getsockname())
        peer.mark()
        expected = [(Peer.SESSION, b"", peer.sockaddr), (800, b"", raw_sockaddr(away))]
        assert sources(node) == expected


def test_in_one_batch_of_the_kernel() -> None:
    """Lane 0 says nothing about frames, whatever came with it."""
    with node_and_peer() as (node, peer):
        packets = [peer.packet(EMPTY, lane) for lane in (0, 0, 1, 1, 2, 0)]
        send_together(peer, packets)
        peer.mark()
        assert sources(node) == [(Peer.SESSION, b"", peer.sockaddr)]
        assert node.engine.counters()["empty_packets"] == len(packets)


def test_flapping_takes_the_tokens_of_the_session_and_no_more() -> None:
    with node_and_peer() as (node, peer), udp_socket() as away:
        started = time.monotonic()
        for number in range(2000):
            send(peer, away if number % 2 else peer.udp)
            if number % 50 == 49:
                settle(node, peer)
        told = node.engine.counters()["events"]
        assert node.drops() == {}, "messages still come through"
        assert 128 <= told <= 128 + 40 + 1000 * (time.monotonic() - started)
        # A change that found too few tokens is told as soon as there are some: nothing passes for told.
        with udp_socket() as third:
            events: list[tuple[int, bytes, bytes]] = []
            while (Peer.SESSION, b"", raw_sockaddr(third)) not in events:
                send(peer, third)
                events += sources(node)
            assert events[-1][2] == raw_sockaddr(third)
