"""What a route may carry: nothing larger than its budget leaves, and TCP arrives as it was sent."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.offload import ACK, PSH, TCP, UDP, Packet, split
from tests.unit.ext_harness import BROADCAST, Node, Peer, connect, mac, node_and_peer
from tests.unit.test_ext_offload import ALL, collect, packet

PACKET, CHANNEL, SEGMENT = 29, 9, 5
"""Bytes that docs/protocol.md puts around a payload, before it, and before the frame in it."""


def point(node: Node, peer: Peer, budget: int, *, relayed: bool) -> None:
    node.engine.set_endpoint(7, peer.sockaddr, b"channel!" if relayed else b"", budget=budget)


def opened(peer: Peer, budget: int, *, relayed: bool) -> bytes:
    """The payload of the next datagram, which must be within the budget."""
    datagram = peer.udp.recv(65536)
    assert len(datagram) <= budget
    return peer.open(datagram[CHANNEL if relayed else 0 :])[1]


@st.composite
def tcp_super_frames(draw: st.DrawFn) -> tuple[Packet, int]:
    """A super-frame from 1 to 77 and its gso_size."""
    size = draw(st.integers(2, 60_000))
    made = packet(
        mac(77), mac(1), TCP, random.Random(size).randbytes(size),
        family=draw(st.sampled_from([4, 16])), vlan=draw(st.booleans()),
    )  # fmt: skip
    made = replace(
        made, sequence=draw(st.integers(0, 0xFFFFFFFF)), flags=ACK | draw(st.sampled_from([0, PSH])),
        options=draw(st.sampled_from([b"", bytes(12), bytes(40)])),
    )  # fmt: skip
    return made, draw(st.integers(800, 9000))


@pytest.mark.parametrize("relayed", [False, True])
def test_tcp_is_cut_to_what_fits(relayed: bool) -> None:
    with node_and_peer(features=ALL) as (node, peer):

        @settings(max_examples=60, deadline=None)
        @given(tcp_super_frames(), st.integers(1000, 1500))
        def check(drawn: tuple[Packet, int], budget: int) -> None:
            whole, gso_size = drawn
            point(node, peer, budget, relayed=relayed)
            node.tap.send(whole.vnet(gso_size) + whole.frame(partial=True))
            room = budget - PACKET - CHANNEL * relayed - SEGMENT - whole.headers
            expected = [part.segment() for part in split(whole, min(gso_size, room))]
            assert [opened(peer, budget, relayed=relayed) for _ in expected] == expected

        check()
        assert node.drops() == {}


@pytest.mark.parametrize("budget", [1000, 1232, 1452])
def test_tcp_between_two_engines_with_a_budget(budget: int) -> None:
    """What was cut smaller than the kernel asked for is joined like any other segments."""
    with Node(1, features=ALL) as one, Node(2, features=ALL) as two:
        connect(one, two, 5)
        one.engine.set_endpoint(5, two.sockaddr, b"", budget=budget)
        payload = random.Random(budget).randbytes(40_000)
        whole = replace(packet(two.mac, one.mac, TCP, payload), flags=ACK | PSH)
        one.tap.send(whole.vnet(1326) + whole.frame(partial=True))
        parts = split(whole, min(1326, budget - PACKET - SEGMENT - whole.headers))
        got, writes = collect(two, len(parts))
        assert got == parts
        assert writes < len(parts)
        assert one.drops() == two.drops() == {}


def test_the_budget_of_the_next_frame_is_the_newest() -> None:
    with node_and_peer(features=ALL) as (node, peer):
        whole = packet(mac(77), mac(1), TCP, bytes(4000))
        for budget in (1452, 1100, 65507, 1000):
            point(node, peer, budget, relayed=False)
            node.tap.send(whole.vnet(1326) + whole.frame(partial=True))
            for part in split(whole, min(1326, budget - PACKET - SEGMENT - whole.headers)):
                assert opened(peer, budget, relayed=False) == part.segment()


def test_a_group_is_cut_for_the_narrowest_route() -> None:
    with Node(1, features=ALL) as one, Node(2, features=ALL) as two, Node(3, features=ALL) as three:
        connect(one, two, 1)
        connect(one, three, 2)
        one.engine.set_endpoint(2, three.sockaddr, b"", budget=1000)
        one.engine.add_peer(3, mac(9))
        whole = packet(BROADCAST, one.mac, TCP, random.Random(1).randbytes(9000))
        one.tap.send(whole.vnet(1300) + whole.frame(partial=True))
        parts = split(whole, 1000 - PACKET - SEGMENT - whole.headers)
        for node in (two, three):
            assert collect(node, len(parts))[0] == parts


def test_udp_keeps_its_datagrams() -> None:
    """A datagram is a datagram: only TCP may be cut otherwise than the kernel said."""
    with Node(1, features=ALL) as one, Node(2, features=ALL) as two:
        connect(one, two, 5)
        one.engine.set_endpoint(5, two.sockaddr, b"", budget=1000)
        whole = packet(two.mac, one.mac, UDP, random.Random(3).randbytes(9000))
        one.tap.send(whole.vnet(1300) + whole.frame(partial=True))
        assert collect(two, 7)[0] == split(whole, 1300)
