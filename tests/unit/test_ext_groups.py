"""Frames to groups: questions that are answered from what is known of the peers, and the broadcast budget."""

from __future__ import annotations

import ipaddress
import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowmesh._ext.engine import Engine
from shadowmesh._ext.origin import Origins
from shadowmesh.overlay.ownership import link_local, packed_prefix
from tests.unit.ext_harness import BROADCAST, Node, connect, frame, mac, node_and_peer
from tests.unit.test_ext_origin import MACS, arp, both, discovery, option

US, BOB, ROUTER = MACS[0], MACS[1], mac(4)


def asked() -> Origins:
    """With a third peer, who is a router."""
    fast, _ = both()
    fast.set_sources(3, ROUTER, [packed_prefix("fd77::4"), packed_prefix("10.77.0.4")], router=True)
    return fast


def arp_of(sender: str, target: str, hardware: bytes = US, operation: int = 1) -> bytes:
    """As our host sends it."""
    made = arp(sender, hardware, target, operation)
    return made[:6] + hardware + made[12:]


def solicitation(src: str, target: str, options: bytes = option(1, US)) -> bytes:
    made = discovery(135, src, target, options)
    return b"\x33\x33\xff\x00\x00\x02" + US + made[12:]


def icmpv6_checksum(packet: bytes) -> int:
    """RFC 8200 section 8.1, over an IPv6 packet with nothing between header and message."""
    message = packet[40:]
    data = packet[8:40] + len(message).to_bytes(4, "big") + bytes(3) + b"\x3a" + message
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def advertised(reply: bytes, target: str, hardware: bytes) -> tuple[bytes, str, int]:
    """Where it goes, and its flags; the rest has to be right."""
    packet = reply[14:]
    assert reply[6:14] == hardware + b"\x86\xdd"
    assert packet[:8] == bytes.fromhex("6000000000203aff")
    assert packet[40:42] == b"\x88\x00"
    assert packet[8:24] == packet[48:64] == ipaddress.IPv6Address(target).packed
    assert packet[64:] == b"\x02\x01" + hardware
    assert icmpv6_checksum(packet) == 0
    return reply[:6], str(ipaddress.IPv6Address(packet[24:40])), packet[44]


def test_arp_requests_are_answered() -> None:
    made = asked()
    sender, target = (ipaddress.IPv4Address(text).packed for text in ("10.77.0.1", "10.77.0.2"))
    head = bytes.fromhex("080600010800060400")
    expected = US + BOB + head + b"\x02" + BOB + target + US + sender
    assert made.resolve(US, arp_of("10.77.0.1", "10.77.0.2")) == expected
    assert made.resolve(US, arp_of("0.0.0.0", "10.77.0.2")) == expected[:-4] + bytes(4), "a probe"


@pytest.mark.parametrize(
    "frame",
    [
        arp_of("10.77.0.1", "10.77.0.9"),
        arp_of("10.77.0.1", "10.77.0.1"),
        arp_of("10.77.0.5", "10.77.0.1"),
        arp_of("10.77.0.2", "10.77.0.2"),
        arp_of("10.77.0.1", "192.168.5.9"),
        arp_of("10.77.0.1", "10.77.0.2", operation=2),
        arp_of("10.77.0.1", "10.77.0.2", BOB),
        arp_of("10.77.0.1", "10.77.0.2")[:41],
        arp_of("10.77.0.1", "10.77.0.2")[:12] + b"\x81\x00\x00\x0a" + arp_of("10.77.0.1", "10.77.0.2")[12:],
        solicitation("fd77::1", "fd77::9"),
        solicitation("fd77::1", "fd77::1"),
        solicitation("fd77::1", "fd77::2", b"")[:77],
        frame(BROADCAST, US, bytes(80)),
        frame(BROADCAST, US, b""),
        BROADCAST + US + b"\x86\xdd" + bytes(80),
    ],
)
def test_everything_else_is_not(frame: bytes) -> None:
    assert asked().resolve(US, frame) is None


def test_solicitations_are_answered() -> None:
    made = asked()
    for target, hardware in (("fd77::2", BOB), (link_local(BOB), BOB), ("fd77::4", ROUTER)):
        flags = 0x60 | (0x80 if hardware == ROUTER else 0)
        reply = made.resolve(US, solicitation("fd77::1", target))
        assert reply is not None
        assert advertised(reply, target, hardware) == (US, "fd77::1", flags)
        reply = made.resolve(US, solicitation("::", target, b""))
        assert reply is not None
        assert advertised(reply, target, hardware) == (b"\x33\x33\0\0\0\1", "ff02::1", flags & ~0x40)


def test_a_solicitation_that_no_receiver_would_take_is_not_answered() -> None:
    made, good = asked(), solicitation("fd77::1", "fd77::2")
    assert made.resolve(US, good) is not None
    for place, value in ((21, 254), (54, 136), (55, 1), (20, 17), (14, 0x40), (19, 23), (19, 33)):
        altered = bytearray(good)
        altered[place] = value
        assert made.resolve(US, bytes(altered)) is None, place


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"\x08\x06", b"\x86\xdd"]), st.binary(max_size=100))
def test_no_frame_is_too_short_or_too_strange(ethertype: bytes, content: bytes) -> None:
    asked().resolve(US, BROADCAST + US + ethertype + content)


def test_in_the_data_plane_and_as_addresses_change() -> None:
    with Node(1) as one, Node(2) as two:
        connect(one, two, 7)
        request = arp_of("10.77.0.1", "10.77.0.2")
        one.tap.send(request)
        assert two.receive() == request, "nobody is known to have it: all are asked"
        one.engine.set_sources(7, [packed_prefix("10.77.0.2")])
        one.tap.send(request)
        assert one.receive()[:14] == one.mac + two.mac + b"\x08\x06"
        unicast = two.mac + request[6:]
        one.tap.send(unicast)
        assert two.receive() == unicast, "whoever asks one member means it"
        one.engine.set_sources(7, [])
        one.tap.send(request)
        assert two.receive() == request
        assert one.engine.counters()["answered_requests"] == 1
        assert one.drops() == two.drops() == {}


def test_with_a_vnet_header() -> None:
    """The TAP's framing, which the answer has too."""
    with Node(1, features=["vnet_hdr"]) as node:
        node.engine.add_peer(7, mac(9))
        node.engine.set_sources(7, [packed_prefix("10.77.0.2")])
        node.tap.send(bytes(10) + arp_of("10.77.0.1", "10.77.0.2"))
        assert node.receive()[:24] == bytes(10) + node.mac + mac(9) + b"\x08\x06"


# ---- the budget ------------------------------------------------------------------------------


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten frames to groups at once, and one a second."""

    def engine(*arguments: object, features: object = None) -> Engine:
        return Engine(*arguments, features=features, broadcast=(1, 10))  # type: ignore[arg-type]

    monkeypatch.setattr("tests.unit.ext_harness.Engine", engine)


@pytest.mark.usefixtures("limited")
def test_what_goes_out_is_limited() -> None:
    with Node(1) as one, Node(2) as two:
        connect(one, two, 7)
        begun = time.monotonic()
        sent = [frame(BROADCAST, one.mac, b"%d" % number) for number in range(40)]
        for each in [*sent, frame(two.mac, one.mac, b"not to a group")]:
            one.tap.send(each)
        received = [two.receive()]
        while received[-1][:6] == BROADCAST:
            received.append(two.receive())
        passed = len(received) - 1
        assert 10 <= passed <= 11 + (time.monotonic() - begun)
        assert one.drops() == {"broadcast_budget": 40 - passed}
        assert two.drops() == {}


@pytest.mark.usefixtures("limited")
def test_what_comes_from_each_peer_is_limited() -> None:
    with node_and_peer() as (node, peer):
        begun = time.monotonic()
        for group in (BROADCAST, b"\x01\x00\x5e\x00\x00\x01"):
            for number in range(8):
                peer.send(peer.packet(b"\x01" + frame(group, peer.mac, b"%d" % number)))
        good = frame(node.mac, peer.mac, b"not to a group")
        peer.send(peer.packet(b"\x01" + good))
        passed = 0
        while node.receive() != good:
            passed += 1
        assert 10 <= passed <= 11 + (time.monotonic() - begun)
        assert node.drops() == {"broadcast_budget": 16 - passed}
        assert node.engine.peer_refusals(7)["broadcast_budget"] == 16 - passed


@pytest.mark.usefixtures("limited")
def test_who_goes_far_beyond_is_not_heard_for_a_moment() -> None:
    with node_and_peer() as (node, peer):
        for number in range(60):
            peer.send(peer.packet(b"\x01" + frame(BROADCAST, peer.mac, b"%d" % number)))
        peer.send(peer.packet(b"\x04message", lane=0))
        assert node.event().data == b"\x04message", "probes and their like are"
        unheard, begun = node.drops()["unheard_peer"], time.monotonic()
        assert 0 < unheard <= 40
        assert node.drops()["broadcast_budget"] == 50 - unheard
        good = frame(node.mac, peer.mac, b"not to a group")
        while not node.frames_waiting() or node.tap.recv(2000) != good:
            assert time.monotonic() < begun + 5.0
            peer.send(peer.packet(b"\x01" + good))
            os.sched_yield()
        assert node.drops()["unheard_peer"] > unheard


@pytest.mark.parametrize("broadcast", [(0, 1), (1, 0), (-1, 1), (1, 1_000_001)])
def test_budgets_that_are_none(broadcast: tuple[int, int]) -> None:
    with Node(1) as node, pytest.raises(ValueError, match=r"rate|burst"):
        Engine(node.udp.fileno(), node.tap_inside.fileno(), node.event_fd, mac(1), broadcast=broadcast)
