"""What an engine does with datagrams from the network: every kind that it takes, every one that it refuses.

`Peer` is slow Python with the reference twin, so nothing here is sealed by the code under test.
"""

from __future__ import annotations

import random
import socket

import pytest

from shadowmesh._ext.engine import EVENT_CONTROL, EVENT_LANE_MESSAGE, EVENT_LONG_HEADER
from tests.reference import frame_packet
from tests.unit.ext_harness import (
    BROADCAST,
    Node,
    Peer,
    frame,
    mac,
    material,
    node_and_peer,
    raw_sockaddr,
    udp_socket,
    wire_id,
)

CHANNEL = b"channel1"
CONTROL = b"control1"
LONG = b"\xc3\0\0\0\1\x08destinat\x08sourceid payload"


def good(node: Node, peer: Peer, content: bytes = b"good") -> bytes:
    return b"\x01" + frame(node.mac, peer.mac, content)


def test_frames_to_us_and_to_groups_are_delivered() -> None:
    with node_and_peer() as (node, peer):
        for destination in (node.mac, BROADCAST, b"\x01\x00\x5e\x00\x00\x01"):
            sent = frame(destination, peer.mac)
            peer.send(peer.packet(b"\x01" + sent))
            assert node.receive() == sent
        peer.send(peer.packet(b"\x01" + frame(node.mac, peer.mac, b"")))
        assert len(node.receive()) == 14
        assert node.drops() == {}


@pytest.mark.parametrize(
    ("reason", "payload"),
    [
        ("spoofed_source", b"\x01" + frame(mac(1), mac(78))),
        ("spoofed_source", b"\x01" + frame(mac(1), mac(1))),
        ("spoofed_source", b"\x01" + frame(BROADCAST, mac(1))),
        ("not_for_us", b"\x01" + frame(mac(2), mac(77))),
        ("frame_size", b"\x01" + frame(mac(1), mac(77))[:13]),
        ("frame_size", b"\x01"),
        ("malformed_fragment", b"\x02"),
        ("malformed_fragment", b"\x02" + frame(mac(1), mac(77))),
        ("malformed_segment", b"\x06"),
        ("unknown_kind", b"\x0a"),
        ("unknown_kind", b"\xff"),
    ],
)
def test_authentic_but_refused(reason: str, payload: bytes) -> None:
    with node_and_peer() as (node, peer):
        peer.send(peer.packet(payload))
        peer.mark()
        assert node.drops() == {reason: 1}
        assert not node.frames_waiting()


def test_padding_and_empty_packets_are_only_life() -> None:
    with node_and_peer() as (node, peer):
        assert node.engine.peer_counters(7)["last_received"] == 0.0
        peer.send(peer.packet(b"\x00" + bytes(50)))
        peer.send(peer.packet(b"\x03"))
        peer.mark()
        assert node.engine.peer_counters(7)["last_received"] > 0
        assert node.engine.counters()["empty_packets"] == 2
        assert node.drops() == {}


@pytest.mark.parametrize("kind", [0x04, 0x05, 0x07, 0x08, 0x09, 0x10, 0x11, 0x13])
def test_messages_go_to_asyncio(kind: int) -> None:
    with node_and_peer() as (node, peer):
        payload = bytes([kind]) + b"message"
        peer.send(peer.packet(payload, lane=0))
        event = node.event()
        assert event == (EVENT_LANE_MESSAGE, Peer.SESSION, b"", peer.sockaddr, payload)


def test_replayed_packets_are_duplicates() -> None:
    with node_and_peer() as (node, peer):
        packets = [peer.packet(good(node, peer, b"%d" % i)) for i in range(5)]
        for packet in packets + packets:
            peer.send(packet)
        assert [node.receive()[14:] for _ in range(5)] == [b"%d" % i for i in range(5)]
        peer.mark()
        assert node.drops() == {"duplicate": 5}
        assert node.engine.peer_counters(7)["failed_opens"] == 0


def test_old_numbers_and_lanes_apart() -> None:
    with node_and_peer() as (node, peer):
        peer.numbers[1] = 10_000
        peer.mark()
        peer.send(peer.packet(good(node, peer), number=10_000 - 8128))
        peer.send(peer.packet(good(node, peer, b"lane 2"), lane=2, number=0))
        assert node.receive()[14:] == b"lane 2"
        peer.send(peer.packet(good(node, peer, b"just in time"), number=10_000 - 8127))
        assert node.receive()[14:] == b"just in time"
        assert node.drops() == {"too_old": 1}


def test_altered_packets_never_reach_the_window() -> None:
    with node_and_peer() as (node, peer):
        packet = peer.packet(good(node, peer))
        places = [0, *range(9, len(packet))]
        for place in places:
            altered = bytearray(packet)
            altered[place] ^= 0x01 if place else 0x20
            peer.send(bytes(altered))
        peer.send(packet)  # still fresh
        assert node.receive()[14:] == b"good"
        peer.mark()
        assert node.drops() == {"authentication": len(places)}
        assert node.engine.peer_counters(7)["failed_opens"] == len(places)


def test_truncated_packets() -> None:
    with node_and_peer() as (node, peer):
        packet = peer.packet(good(node, peer))
        for size in range(len(packet)):
            peer.send(packet[:size])
        peer.mark()
        assert node.drops() == {"short": 30, "authentication": len(packet) - 30}


def test_reserved_bits_inside_an_authentic_packet() -> None:
    with node_and_peer() as (node, peer):
        peer.send(peer.packet(good(node, peer), first=0x4B))
        peer.mark()
        assert node.drops() == {"reserved": 1}


def test_packet_of_one_lane_under_the_id_of_another() -> None:
    with node_and_peer() as (node, peer):
        packet = peer.packet(good(node, peer), lane=1)
        peer.send(packet[:1] + Peer.LANES[2] + packet[9:])
        peer.mark()
        assert node.drops() == {"authentication": 1}


def test_what_is_not_quic_or_not_known() -> None:
    with node_and_peer() as (node, peer):
        for datagram in (b"", b"\x00" * 40, b"\x3f", b"\x80" * 40, b"\xbf" + bytes(40)):
            peer.send(datagram)
        for datagram in (b"\x40", b"\x43" + bytes(7), b"\x43" + bytes(8), b"\x43" + bytes(1000)):
            peer.send(datagram)
        peer.mark()
        assert node.drops() == {"short": 3, "not_quic": 4, "unknown_id": 2}


@pytest.mark.parametrize("features", [None, ()])
def test_datagram_larger_than_a_receive_buffer(features: tuple[str, ...] | None) -> None:
    with node_and_peer(features=features) as (node, peer):
        peer.send(bytes(17_000))
        peer.mark()
        assert node.drops() == {"truncated": 1}


def test_long_headers_only_from_allowed_sources() -> None:
    with node_and_peer() as (node, peer):
        peer.send(LONG)
        peer.mark()
        assert node.drops() == {"unexpected_long_header": 1}
        node.engine.allow_source(peer.sockaddr)
        node.engine.allow_source(peer.sockaddr)
        peer.send(LONG)
        peer.send(LONG[:6])
        assert node.event() == (EVENT_LONG_HEADER, 0, b"", peer.sockaddr, LONG)
        with udp_socket() as stranger:
            stranger.sendto(LONG, node.udp.getsockname())
            peer.mark()
            assert node.drops() == {"unexpected_long_header": 2, "short": 1}
        node.engine.forbid_source(peer.sockaddr)
        peer.send(LONG)
        peer.mark()
        assert node.drops() == {"unexpected_long_header": 3, "short": 1}
        with pytest.raises(KeyError):
            node.engine.forbid_source(peer.sockaddr)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_control_datagrams_and_their_removal(family: socket.AddressFamily) -> None:
    with node_and_peer(family) as (node, peer):
        node.engine.install_control(CONTROL)
        datagram = b"\x55" + CONTROL + b"sealed by quic"
        peer.send(datagram)
        assert node.event() == (EVENT_CONTROL, 0, b"", peer.sockaddr, datagram)
        node.engine.remove(CONTROL)
        peer.send(datagram)
        peer.mark()
        assert node.drops() == {"unknown_id": 1}


def test_everything_may_come_through_a_channel_once() -> None:
    with node_and_peer() as (node, peer):
        node.engine.install_channel(CHANNEL)
        node.engine.install_control(CONTROL)
        header = b"\x41" + CHANNEL
        peer.send(header + peer.packet(good(node, peer, b"relayed")))
        assert node.receive()[14:] == b"relayed"
        peer.send(header + LONG)
        assert node.event() == (EVENT_LONG_HEADER, 0, CHANNEL, peer.sockaddr, LONG)
        peer.send(header + b"\x43" + CONTROL + b"quic")
        assert node.event() == (EVENT_CONTROL, 0, CHANNEL, peer.sockaddr, b"\x43" + CONTROL + b"quic")
        peer.send(header + peer.packet(b"\x04nonce..."))
        assert node.event() == (EVENT_LANE_MESSAGE, Peer.SESSION, CHANNEL, peer.sockaddr, b"\x04nonce...")
        assert node.drops() == {}
        peer.send(header + header + peer.packet(good(node, peer)))
        peer.send(header)
        peer.send(header + b"\x43" + CHANNEL)
        peer.send(header + b"\x00")
        peer.send(header + b"\x43" + wire_id(1))
        peer.mark()
        assert node.drops() == {"nested_channel": 2, "short": 1, "not_quic": 1, "unknown_id": 1}


def test_token_buckets_keep_one_id_from_filling_the_ring() -> None:
    with node_and_peer() as (node, peer):
        node.engine.install_control(CONTROL)
        node.engine.install_control(b"control2")
        for number in range(600):
            peer.send(b"\x43" + CONTROL + b"%d" % number)
            if number % 50 == 49:
                peer.mark()
        peer.send(b"\x43control2")
        peer.mark()
        events = node.poll()
        dropped = node.drops()["control_rate"]
        assert 256 <= 600 - dropped <= 500
        assert len(events) == 600 - dropped + 1
        assert events[-1].data == b"\x43control2"
        for _ in range(600):
            peer.send(peer.packet(b"\x04nonce..."))
            if peer.numbers[1] % 50 == 49:
                peer.mark()
        peer.mark()
        assert 256 <= 600 - node.drops()["message_rate"] <= 500


def test_flood_of_initials_leaves_room_for_live_sessions() -> None:
    with node_and_peer() as (node, peer):
        node.engine.install_control(CONTROL)
        node.engine.allow_source(peer.sockaddr)
        initial = b"\xc3\0\0\0\1" + bytes(1195)
        for number in range(1000):
            peer.send(initial)
            if number % 50 == 49:
                peer.mark()
        peer.send(b"\x43" + CONTROL + b"alive")
        peer.mark()
        # One event is the control datagram, one the source of the session.
        assert node.drops() == {"long_ring_full": 1000 - (node.engine.counters()["events"] - 2)}
        events = node.poll()
        assert events[0].data.endswith(b"alive")
        assert [event.kind for event in events[1:]] == [EVENT_LONG_HEADER] * 8
        more = [node.event() for _ in range(node.engine.counters()["events"] - 10)]
        assert all(event.data == initial for event in more)
        assert node.poll() == []
        # The ring is usable again after it was full and wrapped.
        for number in range(2000):
            peer.send(LONG + b"%d" % number)
            assert node.event().data == LONG + b"%d" % number


def test_full_tap_drops_and_counts() -> None:
    with node_and_peer() as (node, peer):
        for number in range(3000):
            peer.send(peer.packet(good(node, peer, bytes(1400)), number=number))
            if node.drops():
                break
        assert set(node.drops()) == {"tap_full"}
        while node.frames_waiting():
            node.receive()
        peer.numbers[1] = 3000
        peer.mark()


def test_retired_sessions_open_nothing_more() -> None:
    with node_and_peer() as (node, peer):
        node.engine.install_receive(2, 7, [b"newlane0"], material(99))
        peer.mark()
        node.engine.retire_receive(Peer.SESSION)
        peer.send(peer.packet(good(node, peer)))
        peer.packet(good(node, peer))
        marker = good(node, peer, b"new epoch")
        keys = material(99)
        peer.send(frame_packet.seal(keys, 0, b"newlane0", 0, marker))
        assert node.receive() == marker[1:]
        assert node.drops() == {"unknown_id": 1}
        with pytest.raises(KeyError):
            node.engine.retire_receive(Peer.SESSION)


def test_flood_of_garbage_keeps_the_counters_right() -> None:
    rng = random.Random(7)
    with node_and_peer() as (node, peer):
        node.engine.install_channel(CHANNEL)
        node.engine.install_control(CONTROL)
        starts = [b"", *Peer.LANES, CHANNEL, CONTROL]
        for number in range(5000):
            start = rng.choice(starts)
            first = bytes([rng.randrange(0x40, 0x80)]) if start else b""
            peer.send(first + start + rng.randbytes(rng.randrange(80)))
            if number % 100 == 99:
                peer.mark()
        counters = node.engine.counters()
        events = 0
        while polled := node.poll():
            events += len(polled)
        assert counters["udp_rx_datagrams"] == 5000 + peer.marks
        assert counters["events"] == events + 1  # the source of the session
        # Every datagram is a frame, an event or one drop.
        assert sum(node.drops().values()) + events + peer.marks == counters["udp_rx_datagrams"]
        assert node.engine.peer_counters(7)["rx_frames"] == peer.marks


def test_source_is_the_whole_address() -> None:
    """Same host, other port: another source."""
    with node_and_peer(socket.AF_INET) as (node, peer), udp_socket(socket.AF_INET) as other:
        node.engine.allow_source(raw_sockaddr(other))
        peer.send(LONG)
        other.sendto(LONG, node.udp.getsockname())
        assert node.event().source == raw_sockaddr(other)
        peer.mark()
        assert node.drops() == {"unexpected_long_header": 1}


def test_sessions_of_a_relay_carry_messages_but_no_frames() -> None:
    """Number 0 owns them: it has no MAC, so that even a frame from 00:00:00:00:00:00 is refused."""
    ids = [wire_id(0x900 + lane) for lane in range(8)]
    with node_and_peer() as (node, peer):
        node.engine.install_receive(900, 0, ids, material(90))

        def send(number: int, payload: bytes) -> None:
            peer.send(frame_packet.seal(material(90), 1, ids[1], number, payload))

        send(0, b"\x11" + bytes(34))
        assert node.event()[:2] == (EVENT_LANE_MESSAGE, 900)
        for number, source in enumerate((bytes(6), peer.mac, mac(1)), start=1):
            send(number, b"\x01" + frame(BROADCAST, source))
        peer.mark()
        assert node.drops() == {"unknown_kind": 3}
        node.engine.retire_receive(900)
        send(9, b"\x11" + bytes(34))
        peer.mark()
        assert node.drops() == {"unknown_kind": 3, "unknown_id": 1}
        for action in (node.engine.clear_route, node.engine.remove_peer):
            with pytest.raises(KeyError):
                action(0)
