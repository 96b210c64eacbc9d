"""Super-frames: cut, joined, and everything that may go wrong in between, against the slow twin.

The TAP is a socketpair, so the engine is told that it has a virtio_net_hdr.
"""

from __future__ import annotations

import random
import socket
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowmesh._ext.engine import Engine
from tests.reference.offload import (
    ACK,
    CWR,
    FIN,
    PSH,
    TCP,
    UDP,
    VNET,
    Packet,
    from_tap,
    parse,
    split,
)
from tests.unit.ext_harness import (
    BROADCAST,
    Node,
    Peer,
    connect,
    frame,
    mac,
    node_and_peer,
    wait_until,
)

ALL = ("vnet_hdr", "join_tcp", "join_udp", "udp_gso", "udp_gro")
UDP_SEGMENT = 103
NO_CHECK = 11
"""SO_NO_CHECK of a UDP socket: the kernel refuses UDP_SEGMENT with EINVAL then."""

ETHERTYPES = {4: b"\x08\x00", 16: b"\x86\xdd"}


def packet(
    target: bytes, source: bytes, protocol: int, payload: bytes, *, family: int = 4, vlan: bool = False
) -> Packet:
    tag = b"\x81\x00\x00\x07" if vlan else b""
    ethernet = target + source + tag + ETHERTYPES[family]
    return Packet(ethernet, bytes(range(1, family + 1)), bytes(range(50, 50 + family)), protocol, payload)


@st.composite
def super_frames(draw: st.DrawFn) -> tuple[Packet, int]:
    """A super-frame from 2 to 77, and its gso_size."""
    gso_size = draw(st.integers(1, 1500))
    size = draw(st.integers(1, min(60_000, gso_size * 70)))
    payload = random.Random(size).randbytes(size)
    made = packet(
        mac(77), mac(1), draw(st.sampled_from([TCP, UDP])), payload,
        family=draw(st.sampled_from([4, 16])), vlan=draw(st.booleans()),
    )  # fmt: skip
    return replace(
        made,
        identity=draw(st.integers(0, 0xFFFF)) if len(made.source) == 4 else 0,
        sequence=draw(st.integers(0, 0xFFFFFFFF)) if made.protocol == TCP else 0,
        flags=ACK | draw(st.sampled_from([0, PSH, FIN, FIN | PSH, CWR, CWR | PSH]))
        if made.protocol == TCP
        else ACK,
        options=draw(st.sampled_from([b"", bytes(12), bytes(40)])) if made.protocol == TCP else b"",
    ), gso_size


@pytest.mark.parametrize("features", [ALL, ("vnet_hdr",)])
def test_super_frames_are_cut_as_the_twin_does(features: tuple[str, ...]) -> None:
    with node_and_peer(features=features) as (node, peer):

        @settings(max_examples=60, deadline=None)
        @given(super_frames())
        def check(drawn: tuple[Packet, int]) -> None:
            whole, gso_size = drawn
            node.tap.send(whole.vnet(gso_size) + whole.frame(partial=True))
            expected = [part.segment() for part in split(whole, gso_size)]
            assert [peer.open(peer.udp.recv(65536))[1] for _ in expected] == expected

        check()
        assert node.drops() == {}
        assert (node.engine.counters()["udp_gso_sends"] > 0) == ("udp_gso" in features)


def to_node(protocol: int, size: int, gso_size: int, sequence: int, port: int, last: int) -> list[Packet]:
    """The segments of one super-frame from 77 to 1."""
    whole = replace(
        packet(mac(1), mac(77), protocol, random.Random(sequence).randbytes(size)),
        identity=0 if protocol == UDP else 7, sequence=sequence if protocol == TCP else 0,
        flags=ACK | last if protocol == TCP else ACK, ports=(port, 2000),
    )  # fmt: skip
    made = split(whole, gso_size)
    return [replace(part, identity=0) for part in made] if protocol == UDP else made


@st.composite
def streams(draw: st.DrawFn) -> list[int | Packet]:
    """Segments of super-frames of three flows; an int in between is the place of an earlier one to repeat."""
    made: list[int | Packet] = []
    position = 0
    for _ in range(draw(st.integers(1, 6))):
        protocol = draw(st.sampled_from([TCP, UDP]))
        size = draw(st.integers(1, 9000))
        parts = to_node(
            protocol, size, draw(st.sampled_from([400, 1000, 1300])), position,
            draw(st.integers(1, 3)), draw(st.sampled_from([0, PSH, FIN])),
        )  # fmt: skip
        position += size
        made += parts
    for _ in range(draw(st.integers(0, 6))):
        what = draw(st.sampled_from(["lose", "swap", "repeat"]))
        place = draw(st.integers(0, len(made) - 1))
        if what == "lose" and len(made) > 1:
            del made[place]
        elif what == "swap":
            other = draw(st.integers(0, len(made) - 1))
            made[place], made[other] = made[other], made[place]
        elif what == "repeat":
            made.insert(draw(st.integers(0, len(made))), place)
    return made


def send_together(peer: Peer, datagrams: list[bytes]) -> None:
    """By UDP_SEGMENT as far as sizes allow: what goes together is one batch of the receiver."""
    while datagrams:
        size, count = len(datagrams[0]), 1
        while count < min(40, len(datagrams)) and len(datagrams[count - 1]) == size >= len(datagrams[count]):
            count += 1
        control = (socket.IPPROTO_UDP, UDP_SEGMENT, size.to_bytes(2, "little"))
        peer.udp.sendmsg([b"".join(datagrams[:count])], [control], 0, peer.node.udp.getsockname())
        datagrams = datagrams[count:]


def collect(node: Node, count: int) -> tuple[list[Packet], int]:
    """`count` packets out of the TAP, and in how many writes they came."""
    got: list[Packet] = []
    writes = 0
    while len(got) < count:
        got += from_tap(node.tap.recv(70_000))
        writes += 1
    return got, writes


def without_identity(packets: list[Packet]) -> list[Packet]:
    """A join counts the id of IPv4 on from the first: of unfragmented packets it means nothing (RFC 6864)."""
    return [replace(part, identity=0) for part in packets]


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
def test_streams_come_out_as_they_were_sealed() -> None:
    """Lost, repeated and swapped: every packet once, in the order of arrival, byte for byte."""
    with node_and_peer(features=ALL) as (node, peer):
        repeated = 0

        @settings(max_examples=80, deadline=None)
        @given(streams())
        def check(stream: list[int | Packet]) -> None:
            nonlocal repeated
            sealed: list[bytes] = []
            expected: list[Packet] = []
            for item in stream:
                if isinstance(item, Packet):
                    expected.append(item)
                    sealed.append(peer.packet(item.segment()))
                elif sealed:
                    repeated += 1
                    sealed.append(sealed[item % len(sealed)])
            send_together(peer, sealed)
            got, _ = collect(node, len(expected))
            assert without_identity(got) == without_identity(expected)

        check()
        wait_until(lambda: node.drops() == ({"duplicate": repeated} if repeated else {}))
        assert not node.frames_waiting()


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("family", [4, 16])
@pytest.mark.parametrize("missing", [*ALL, None])
def test_between_two_engines(protocol: int, family: int, missing: str | None) -> None:
    """Super-frames in at one, out at the other, with every single offload forced off."""
    features = [name for name in ALL if name != missing]
    taps = "vnet_hdr" in features
    with Node(1, features=features) as one, Node(2, features=features) as two:
        connect(one, two, 5)
        position = 0
        for size in (1, 1300, 1301, 5000, 40_000, 64_000):
            whole = replace(
                packet(two.mac, one.mac, protocol, random.Random(size).randbytes(size), family=family),
                sequence=position if protocol == TCP else 0, flags=ACK | PSH if protocol == TCP else ACK,
            )  # fmt: skip
            position += size
            parts = split(whole, 1300)
            if taps:
                one.tap.send(whole.vnet(1300 if size > 1300 else 0) + whole.frame(partial=True))
                assert collect(two, len(parts))[0] == parts
            else:
                for part in parts:
                    one.tap.send(part.frame())
                    assert two.receive() == part.frame()
        assert one.drops() == two.drops() == {}
        assert one.engine.features() == {name: name in features and (taps or "u" in name[:1]) for name in ALL}
        joined = taps and f"join_{'tcp' if protocol == TCP else 'udp'}" in features
        # A join takes segments of one batch: with GRO they are, without it that depends on timing.
        coalesced = two.engine.counters()["coalesced_frames"] > 0
        assert coalesced if joined and {"udp_gso", "udp_gro"}.issubset(features) else joined or not coalesced


def test_a_tap_without_header_gets_finished_checksums() -> None:
    with node_and_peer(features=()) as (node, peer):
        for protocol in (TCP, UDP):
            for part in to_node(protocol, 2501, 1300, 5, 1, PSH):
                peer.send(peer.packet(part.segment()))
                assert node.receive() == part.frame()
        assert node.drops() == {}


def test_partial_checksums_of_single_frames() -> None:
    """Flagged where one byte can tell the place, finished by us where it can't."""
    with node_and_peer(features=ALL) as (node, peer):
        sent = packet(mac(77), mac(1), TCP, b"x")
        node.tap.send(sent.vnet() + sent.frame(partial=True))
        assert peer.open(peer.udp.recv(65536))[1] == sent.segment()
        plain = frame(mac(77), mac(1), bytes(400))
        node.tap.send(VNET.pack(1, 0, 300, 0, 14, 16) + plain)
        assert peer.open(peer.udp.recv(65536))[1] == bytes([6, 1, 32, 14, 16]) + plain
        node.tap.send(VNET.pack(1, 0, 300, 0, 300, 16) + plain)
        assert peer.open(peer.udp.recv(65536))[1] == b"\x01" + plain[:316] + b"\xff\xff" + plain[318:]
        node.tap.send(VNET.pack(0, 0, 0, 0, 0, 0) + plain)
        assert peer.open(peer.udp.recv(65536))[1] == b"\x01" + plain
        plain = frame(mac(1), mac(77), bytes(100))
        peer.send(peer.packet(bytes([6, 1, 32, 14, 16]) + plain))
        assert node.receive() == VNET.pack(0, 0, 0, 0, 0, 0) + plain[:30] + b"\xff\xff" + plain[32:]


def good(protocol: int) -> bytearray:
    return bytearray(to_node(protocol, 100, 1300, 5, 1, 0)[0].segment())


def changed(protocol: int, place: int, value: int) -> bytes:
    made = good(protocol)
    made[place] = value
    return bytes(made)


FRAME = 5
MALFORMED = {
    "empty": b"\x06",
    "no frame": b"\x06\x01\x0e\x0e\x00" + bytes(13),
    "checksum not partial": changed(TCP, 1, 0x02),
    "unknown flag": changed(TCP, 1, 0x0B),
    "both protocols": changed(TCP, 1, 0x07),
    "the other protocol": changed(TCP, 1, 0x05),
    "header length beyond the frame": changed(UDP, 2, 255),
    "header length beyond a frame that can't be joined": b"\x06\x01\xff\x0e\x02" + frame(mac(1), mac(77)),
    "checksum beyond a frame that can't be joined": b"\x06\x01\xff\xc8\x32" + frame(mac(1), mac(77)),
    "header length not that of TCP": changed(TCP, 2, 58),
    "checksum in the Ethernet header": changed(TCP, 3, 13),
    "checksum start not TCP's": changed(TCP, 3, 33),
    "checksum offset of UDP on TCP": changed(TCP, 4, 6),
    "checksum beyond the headers": changed(UDP, 4, 200),
    "IP length too long": changed(TCP, FRAME + 17, 255),
    "IP version": changed(TCP, FRAME + 14, 0x65),
    "IP header length": changed(TCP, FRAME + 14, 0x44),
    "fragment": changed(TCP, FRAME + 20, 0x20),
    "another protocol inside": changed(TCP, FRAME + 23, 1),
    "ethertype": changed(TCP, FRAME + 13, 1),
    "TCP header length": changed(TCP, FRAME + 46, 0x40),
    "TCP header beyond the frame": bytes(good(TCP)[: FRAME + 14 + 20 + 19]),
    "UDP length": changed(UDP, FRAME + 39, 0),
    "cut short": bytes(good(TCP)[:-1]),
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("features", [ALL, ()])
def test_malformed_segments(payload: bytes, features: tuple[str, ...]) -> None:
    with node_and_peer(features=features) as (node, peer):
        peer.send(peer.packet(payload))
        sent = to_node(TCP, 100, 1300, 5, 1, 0)[0]
        peer.send(peer.packet(sent.segment()))
        received = node.tap.recv(65536)
        assert parse(received[10:] if features else received).payload == sent.payload
        assert node.drops() == {"malformed_segment": 1}


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_segments_never_break_the_engine(content: bytes) -> None:
    node, peer = SHARED
    before = sum(node.plane.drops().values())
    peer.send(peer.packet(b"\x06" + content))
    wait_until(lambda: sum(node.plane.drops().values()) == before + 1)
    assert set(node.drops()) <= {"malformed_segment", "spoofed_source", "not_for_us"}


SHARED: tuple[Node, Peer]


@pytest.fixture(scope="module", autouse=True)
def _shared() -> object:
    global SHARED
    with node_and_peer(features=ALL) as SHARED:
        yield


def test_segments_keep_the_rules_of_frames() -> None:
    with node_and_peer(features=ALL) as (node, peer):
        for target, source in ((mac(1), mac(78)), (mac(2), mac(77))):
            peer.send(peer.packet(packet(target, source, TCP, b"x").segment()))
        wait_until(lambda: node.drops() == {"spoofed_source": 1, "not_for_us": 1})


def test_group_super_frames_reach_every_peer_whole() -> None:
    with Node(1, features=ALL) as one, Node(2, features=ALL) as two, Node(3, features=ALL) as three:
        connect(one, two, 1)
        connect(one, three, 2)
        whole = packet(BROADCAST, one.mac, UDP, random.Random(1).randbytes(9000))
        one.tap.send(whole.vnet(1000) + whole.frame(partial=True))
        for node in (two, three):
            assert collect(node, 9)[0] == split(whole, 1000)


def test_joins_what_is_contiguous_and_nothing_else() -> None:
    """One GRO'd datagram, so one batch: how often the TAP is written does not depend on timing."""
    with Node(1, features=ALL) as one, Node(2, features=ALL) as two:
        connect(one, two, 5)
        whole = replace(packet(two.mac, one.mac, TCP, bytes(20_000)), flags=ACK | PSH)
        one.tap.send(whole.vnet(1000) + whole.frame(partial=True))
        assert collect(two, 20) == (split(whole, 1000), 1)
        wait_until(lambda: two.engine.counters()["coalesced_frames"] == 1)
        counters = two.engine.counters()
        assert counters["tap_tx_frames"] == 20
        assert counters["udp_gro_receives"] == 1
        assert one.engine.counters()["split_frames"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"acknowledged": 5},
        {"window": 511},
        {"ports": (1001, 2000)},
        {"options": bytes(12)},
        {"flags": ACK | CWR},
        {"sequence": 1001},
        {"source": b"\x09\x09\x09\x09"},
        {},
    ],
    ids=str,
)
def test_segments_whose_headers_differ_are_not_joined(change: dict[str, Any]) -> None:
    """Two in one datagram of the kernel, so in one batch; the last case shows that they join otherwise."""
    first = replace(packet(mac(1), mac(77), TCP, bytes(1000)), ports=(1000, 2000))
    second = replace(first, sequence=1000, payload=bytes(900))
    second = replace(second, **change)
    with node_and_peer(features=ALL) as (node, peer):
        send_together(peer, [peer.packet(part.segment()) for part in (first, second)])
        got, writes = collect(node, 2)
        assert without_identity(got) == [first, second]
        assert writes == (2 if change else 1)


def test_joined_frames_never_exceed_what_ip_can_tell() -> None:
    """One stream in messages that the receiver takes in one batch whenever it is late."""
    with node_and_peer(features=ALL) as (node, peer):
        for _ in range(20):
            parts = [
                replace(packet(mac(1), mac(77), TCP, bytes(1400)), sequence=number * 1400)
                for number in range(120)
            ]
            send_together(peer, [peer.packet(part.segment()) for part in parts])
            got, _ = collect(node, len(parts))
            assert without_identity(got) == parts


def test_super_frames_that_can_not_be_cut() -> None:
    with node_and_peer(features=ALL) as (node, peer):
        whole = packet(mac(77), mac(1), TCP, bytes(3000))
        data = whole.frame(partial=True)
        bad = {
            "no size": VNET.pack(1, 1, 54, 0, 34, 16),
            "checksum not partial": VNET.pack(0, 1, 54, 1000, 34, 16),
            "UFO": VNET.pack(1, 3, 54, 1000, 34, 16),
            "IPv6 over IPv4": VNET.pack(1, 4, 54, 1000, 34, 16),
            "start in the IP header": VNET.pack(1, 1, 54, 1000, 33, 16),
            "start beyond": VNET.pack(1, 1, 54, 1000, 4000, 16),
        }
        for head in bad.values():
            node.tap.send(head + data)
        node.tap.send(b"short")
        node.tap.send(whole.vnet(1000) + data)
        for _ in range(3):
            peer.udp.recv(65536)
        assert node.drops() == {"unsplittable": len(bad), "frame_size": 1}


def test_a_kernel_that_refuses_gso_at_run_time() -> None:
    with node_and_peer(socket.AF_INET, features=ALL) as (node, peer):
        assert node.engine.features()["udp_gso"]
        node.udp.setsockopt(socket.SOL_SOCKET, NO_CHECK, 1)
        whole = packet(mac(77), mac(1), TCP, random.Random(2).randbytes(10_000))
        for _ in range(2):
            node.tap.send(whole.vnet(1000) + whole.frame(partial=True))
            got = [peer.open(peer.udp.recv(65536))[1] for _ in range(10)]
            assert got == [part.segment() for part in split(whole, 1000)]
        assert not node.engine.features()["udp_gso"]
        assert node.engine.counters()["udp_gso_refused"] == 1
        assert node.drops() == {}


def test_features_are_checked() -> None:
    with node_and_peer() as (node, _):
        fds = node.udp.fileno(), node.tap_inside.fileno(), node.event_fd
        with pytest.raises(ValueError, match="not speed"):
            Engine(*fds, mac(1), features=["speed"])
        assert node.engine.features() == {
            "vnet_hdr": False, "join_tcp": False, "join_udp": False, "udp_gso": True, "udp_gro": True,
        }  # fmt: skip


def test_twin_agrees_with_itself() -> None:
    """What the twin cuts has contiguous sequences and complete checksums."""
    parts = split(replace(packet(mac(1), mac(2), TCP, bytes(2500)), sequence=0xFFFFFF00), 1000)
    assert [len(part.payload) for part in parts] == [1000, 1000, 500]
    assert all((b.sequence - a.sequence) & 0xFFFFFFFF == 1000 for a, b in pairwise(parts))
    assert all(parse(part.frame()) == part for part in parts)
