"""Fragments in the threads: what leaves, and what comes out of packets lost, doubled and mixed."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import frame_packet
from tests.reference.fragment import HEADER, cut
from tests.reference.offload import TCP, UDP, split
from tests.unit.ext_harness import (
    BROADCAST,
    Node,
    Peer,
    connect,
    frame,
    mac,
    material,
    node_and_peer,
    wait_until,
    wire_id,
)
from tests.unit.test_ext_budget import CHANNEL, PACKET, opened, point
from tests.unit.test_ext_offload import ALL, collect, packet, send_together

LARGEST = 16320
"""Bytes of the largest frame that the engine takes."""


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("relayed", [False, True])
def test_frames_are_cut_as_the_twin_does(relayed: bool) -> None:
    with node_and_peer() as (node, peer):
        frames = 0

        @settings(max_examples=60, deadline=None)
        @given(st.integers(0, LARGEST - 14), st.integers(1000, 1500))
        def check(size: int, budget: int) -> None:
            nonlocal frames
            point(node, peer, budget, relayed=relayed)
            payload = b"\x01" + mac(77) + mac(1) + content(size + 2)
            node.tap.send(payload[1:])
            room = budget - PACKET - CHANNEL * relayed
            expected = [payload] if len(payload) <= room else cut(payload, frames, room)
            frames += len(payload) > room
            assert [opened(peer, budget, relayed=relayed) for _ in expected] == expected

        check()
        assert node.drops() == {}
        assert frames > 0
        wait_until(lambda: node.engine.counters()["fragmented_frames"] == frames)


def test_segments_that_do_not_fit_are_cut_too() -> None:
    """UDP super-frames of large datagrams, and single frames with a partial checksum; TCP is cut smaller."""
    budget = 1100
    with node_and_peer(features=ALL) as (node, peer):
        point(node, peer, budget, relayed=False)
        large = packet(mac(77), mac(1), UDP, content(5000))
        single = packet(mac(77), mac(1), TCP, content(1300))
        node.tap.send(large.vnet(1400) + large.frame(partial=True))
        node.tap.send(single.vnet() + single.frame(partial=True))
        sent = [part.segment() for part in split(large, 1400)] + [single.segment()]
        expected = [
            piece for number, one in enumerate(sent[:3]) for piece in cut(one, number, budget - PACKET)
        ]
        expected += [sent[3], *cut(sent[4], 3, budget - PACKET)]
        assert [opened(peer, budget, relayed=False) for _ in expected] == expected


@pytest.mark.parametrize("features", [ALL, ()])
@pytest.mark.parametrize("budget", [1000, 1452])
def test_between_two_engines(budget: int, features: tuple[str, ...]) -> None:
    with Node(1, features=features) as one, Node(2, features=features) as two:
        connect(one, two, 5)
        one.engine.set_endpoint(5, two.sockaddr, b"", budget=budget)
        head = bytes(10) if features else b""
        sizes = [14, budget - PACKET - 1, budget - PACKET, 1500, 4000, 9000, LARGEST]
        for size in sizes:
            made = frame(two.mac, one.mac, content(size - 14))
            one.tap.send(head + made)
            assert two.receive() == head + made
        assert one.drops() == two.drops() == {}
        larger = sum(size > budget - PACKET - 1 for size in sizes)
        wait_until(lambda: one.engine.peer_counters(5)["tx_frames"] == len(sizes))
        assert one.engine.counters()["fragmented_frames"] == larger
        assert two.engine.counters()["reassembled_frames"] == larger
        sent, received = one.engine.peer_counters(5), two.engine.peer_counters(5)
        assert received["rx_frames"] == len(sizes)
        assert sent["tx_bytes"] == received["rx_bytes"] == sum(sizes)


def test_a_group_frame_is_whole_for_routes_of_every_budget() -> None:
    """The header of a part lies in the frame for as long as it is sealed; the next peer must not see it."""
    with Node(1) as one, Node(2) as two, Node(3) as three, Node(4) as four:
        others = {1: (two, 1000), 2: (three, 65507), 3: (four, 1232)}
        for number, (node, budget) in others.items():
            connect(one, node, number)
            one.engine.set_endpoint(number, node.sockaddr, b"", budget=budget)
        for size in (1500, 9000):
            made = frame(BROADCAST, one.mac, content(size))
            one.tap.send(made)
            assert [node.receive() for node, _ in others.values()] == [made] * 3


def test_joined_segments_and_fragments_share_no_buffer() -> None:
    """Segments of one flow in fragments, all in one batch: each is written before the next is made."""
    with node_and_peer(features=ALL) as (node, peer):
        parts = [packet(mac(1), mac(77), UDP, random.Random(i).randbytes(1301)) for i in range(8)]
        pieces = [piece for i, one in enumerate(parts) for piece in cut(one.segment(), i, 900)]
        assert len({len(piece) for piece in pieces}) == 1
        send_together(peer, [peer.packet(piece) for piece in pieces])
        assert collect(node, len(parts))[0] == parts


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[bytes], list[tuple[int, int, int]]]:
    """Frames, and (frame, part, lane) in the order of arrival: lost, repeated, out of order."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    frames = [frame(mac(1), mac(77), rng.randbytes(rng.randint(500, 2500))) for _ in range(20)]
    order = []
    for number, made in enumerate(frames):
        for index in range(len(cut(b"\x01" + made, number, 450))):
            if rng.random() > 0.05:
                order.append((number, index, rng.choice([1, 2])))
            if rng.random() < 0.2:
                order.append((number, index, 0))  # once more the same packet, if it was sent
    places = [at + rng.uniform(0, 6) for at in range(len(order))]
    return frames, [what for _, what in sorted(zip(places, order, strict=True))]


def test_no_frame_comes_out_damaged_or_twice() -> None:
    """Over two lanes, as when the path changes under load."""
    with node_and_peer() as (node, peer):
        numbers, duplicates = 0, 0

        @settings(max_examples=40, deadline=None)
        @given(arrivals())
        def check(drawn: tuple[list[bytes], list[tuple[int, int, int]]]) -> None:
            nonlocal numbers, duplicates
            frames, order = drawn
            pieces = [cut(b"\x01" + made, numbers + i, 450) for i, made in enumerate(frames)]
            numbers += len(frames)
            sealed: dict[tuple[int, int], bytes] = {}
            for number, index, lane in order:
                if lane and (number, index) not in sealed:
                    sealed[number, index] = peer.packet(pieces[number][index], lane)
                elif (number, index) in sealed:
                    duplicates += 1
                if (number, index) in sealed:
                    peer.send(sealed[number, index])
            arrived = Counter(number for number, _ in sealed)
            expected = [made for i, made in enumerate(frames) if arrived[i] == len(pieces[i])]
            assert sorted(node.receive() for _ in expected) == sorted(expected)
            for datagram in sealed.values():  # everything again, long after the frames were complete
                peer.send(datagram)
            duplicates += len(sealed)
            peer.mark()
            assert not node.frames_waiting()

        check()
        drops = node.drops()
        assert drops.pop("duplicate") == duplicates
        assert set(drops) <= {"incomplete_frame"}


def fragmented(peer: Peer, payload: bytes, number: int = 1, lane: int = 1) -> None:
    for piece in cut(payload, number, 400):
        peer.send(peer.packet(piece, lane))


INSIDE = {
    "another member's MAC": (b"\x01" + frame(mac(1), mac(78), bytes(800)), "spoofed_source"),
    "for somebody else": (b"\x01" + frame(mac(9), mac(77), bytes(800)), "not_for_us"),
    "a segment that contradicts its frame": (b"\x06\x02\xff\xff\xff" + bytes(800), "malformed_segment"),
    "a segment of another member": (
        packet(mac(1), mac(78), UDP, bytes(800)).segment(), "spoofed_source",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("payload", "reason"), INSIDE.values(), ids=INSIDE.keys())
def test_what_was_put_together_keeps_the_rules(payload: bytes, reason: str) -> None:
    with node_and_peer() as (node, peer):
        fragmented(peer, payload)
        peer.mark()
        assert node.drops() == {reason: 1}


def test_fragments_of_fragments_and_messages_are_refused() -> None:
    with node_and_peer() as (node, peer):
        inner = cut(b"\x01" + frame(mac(1), mac(77), bytes(2000)), 5, 900)[0]
        for payload in (inner, b"\x04" + bytes(800)):
            peer.send(peer.packet(cut(payload, 6, 400)[0]))
        peer.mark()
        assert node.drops() == {"malformed_fragment": 2}
        assert node.poll() == []


def test_lane_0_and_relays_send_no_fragments() -> None:
    payload = b"\x01" + frame(mac(1), mac(77), bytes(800))
    with node_and_peer() as (node, peer):
        fragmented(peer, payload, lane=0)
        node.engine.install_receive(900, 0, [wire_id(0), wire_id(1)], material(90))
        for number, piece in enumerate(cut(payload, 1, 400)):
            peer.send(frame_packet.seal(material(90), 1, wire_id(1), number, piece))
        peer.mark()
        assert node.drops() == {"unexpected_kind": 2 * len(cut(payload, 1, 400))}


def test_parts_of_two_epochs_or_peers_never_meet() -> None:
    """The same frame id in both: a process that was restarted counts from 0 again."""
    payload = b"\x01" + frame(mac(1), mac(77), content(500))
    one, two = cut(payload, 1, 400)
    with node_and_peer() as (node, peer):
        node.engine.install_receive(800, 7, [wire_id(0), wire_id(1)], material(80))
        node.engine.add_peer(8, mac(78))
        node.engine.install_receive(801, 8, [wire_id(2), wire_id(3)], material(81))
        peer.send(peer.packet(one))
        peer.send(frame_packet.seal(material(80), 1, wire_id(1), 0, two))
        peer.send(frame_packet.seal(material(81), 1, wire_id(3), 0, two))
        peer.mark()
        peer.send(peer.packet(two))
        assert node.receive() == payload[1:]
        assert node.drops() == {}


def test_a_removed_peer_takes_its_parts_with_it() -> None:
    """Whoever gets its number next starts with nothing."""
    payload = b"\x01" + frame(mac(1), mac(77), content(500))
    one, two = cut(payload, 1, 400)
    with node_and_peer() as (node, peer):
        peer.send(peer.packet(one))
        peer.mark()
        node.engine.remove_peer(7)
        peer.udp.close()
        again = Peer(node)
        with again.udp:
            again.send(again.packet(two))
            again.mark()
            assert not node.frames_waiting()


def test_a_frame_above_the_largest_is_too_big() -> None:
    with node_and_peer() as (node, peer):
        point(node, peer, 1000, relayed=False)
        node.tap.send(frame(mac(77), mac(1), bytes(LARGEST - 13)))
        node.tap.send(frame(mac(77), mac(1)))
        assert opened(peer, 1000, relayed=False) == b"\x01" + frame(mac(77), mac(1))
        assert node.drops() == {"too_big": 1}


def test_the_twin_cuts_evenly() -> None:
    pieces = cut(bytes(1001), 7, 1000)
    assert [len(piece) for piece in pieces] == [HEADER.size + 501, HEADER.size + 500]
    assert pieces[1][: HEADER.size] == bytes([2, 0, 0, 0, 7, 1, 2])
