"""ext/ownership.pyx and origin.pyx: what a peer may send, against a slow twin and case by case."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowmesh._ext.origin import Origins
from shadowmesh.node.why import REFUSED
from shadowmesh.overlay.ownership import link_local, packed_prefix
from tests.reference import origin as reference
from tests.unit.ext_harness import Node, Peer, mac, material, node_and_peer, wait_until
from tests.unit.test_ext_firewall import icmp, ip_packet, tcp, udp

BOB, CAROL = 1, 2
MACS = {0: mac(1), BOB: mac(2), CAROL: mac(3)}
OWN = {
    0: ("10.77.0.1", "fd77::1"),
    BOB: ("10.77.0.2", "fd77::2", "192.168.5.0/24", "fd55::/48"),
    CAROL: ("10.77.0.3", "fd77::3", "192.168.5.7", "fd55::7"),
}
ALL_NODES = "ff02::1"


def parties(**bob: bool) -> dict[int, reference.Party]:
    """With the link-local addresses that go with their MACs."""
    return {
        number: reference.Party(
            MACS[number],
            tuple(ipaddress.ip_network(text) for text in (*texts, link_local(MACS[number]))),
            **(bob if number == BOB else {}),
        )
        for number, texts in OWN.items()
    }


def both(**bob: bool) -> tuple[Origins, reference.Origins]:
    fast, slow = Origins(), reference.Origins(parties(**bob))
    for number, party in slow.parties.items():
        packed = [packed_prefix(str(prefix)) for prefix in party.prefixes]
        fast.set_sources(number, party.mac, packed, others=party.others, dhcp=party.dhcp, router=party.router)
    return fast, slow


def ethernet(content: bytes, ethertype: int, tags: bytes = b"") -> bytes:
    return b"\xff" * 6 + MACS[BOB] + tags + ethertype.to_bytes(2, "big") + content


def ip(src: str, dst: str, protocol: int, payload: bytes, bits: int = 0) -> bytes:
    source = ipaddress.ip_address(src)
    packet = ip_packet(source, ipaddress.ip_address(dst), protocol, payload, bits)
    return ethernet(packet, 0x0800 if source.version == 4 else 0x86DD)


def arp(sender: str, hardware: bytes = MACS[BOB], target: str = "10.77.0.1", operation: int = 1) -> bytes:
    addresses = [ipaddress.IPv4Address(text).packed for text in (sender, target)]
    head = b"\x00\x01\x08\x00\x06\x04" + operation.to_bytes(2, "big")
    return ethernet(head + hardware + addresses[0] + bytes(6) + addresses[1], 0x0806)


def discovery(kind: int, src: str, target: str = "", options: bytes = b"", bits: int = 0) -> bytes:
    """One ICMPv6 message of RFC 4861; `target` of solicitations, advertisements and redirects."""
    fixed = {133: bytes(4), 134: bytes(12)}.get(kind)
    if fixed is None:
        fixed = bytes(4) + ipaddress.IPv6Address(target or src).packed + bytes(16 if kind == 137 else 0)
    return ip(src, ALL_NODES, 58, bytes([kind, 0, 0, 0]) + fixed + options, bits)


def option(kind: int, hardware: bytes = MACS[BOB]) -> bytes:
    return bytes([kind, 1]) + hardware


LL = link_local(MACS[BOB])
LL_CAROL = link_local(MACS[CAROL])

CASES = [
    ("pass", ip("10.77.0.2", "10.77.0.1", 6, tcp(5, 22, 2))),
    ("pass", ip("10.77.0.2", "10.77.0.1", 17, udp(5, 53))),
    ("pass", ip("fd77::2", "fd77::1", 6, tcp(5, 22, 2))),
    ("pass", ip("fd77::2", "fd77::1", 58, icmp(128))),
    ("pass", ip("10.77.0.2", "10.77.0.1", 47, b"")),
    ("pass", ip("192.168.5.9", "10.77.0.1", 1, icmp(8))),
    ("pass", ip("fd55::9", "fd77::1", 17, udp(5, 53))),
    ("spoofed_address", ip("10.77.0.1", "10.77.0.1", 6, tcp(5, 22, 2))),
    ("spoofed_address", ip("10.77.0.3", "10.77.0.1", 6, tcp(5, 22, 2))),
    ("spoofed_address", ip("10.77.0.3", "10.77.0.1", 1, icmp(8))),
    ("spoofed_address", ip("10.77.0.9", "10.77.0.1", 17, udp(5, 53))),
    ("spoofed_address", ip("192.168.5.7", "10.77.0.1", 17, udp(5, 53))),
    ("spoofed_address", ip("192.168.6.9", "10.77.0.1", 17, udp(5, 53))),
    ("spoofed_address", ip("fd77::3", "fd77::1", 6, tcp(5, 22, 2))),
    ("spoofed_address", ip("fd55::7", "fd77::1", 6, tcp(5, 22, 2))),
    ("spoofed_address", ip("::ffff:10.77.0.2", "fd77::1", 6, tcp(5, 22, 2))),
    ("spoofed_address", ip("10.77.0.3", "10.77.0.1", 17, b"\x00\x44\x00\x43", 0x0003)),
    # without an address: what asks for one
    ("pass", ip("0.0.0.0", "255.255.255.255", 17, udp(68, 67))),
    ("pass", ip("0.0.0.0", "224.0.0.22", 2, bytes(8))),
    ("spoofed_address", ip("0.0.0.0", "255.255.255.255", 17, udp(68, 53))),
    ("spoofed_address", ip("0.0.0.0", "10.77.0.1", 6, tcp(5, 22, 2))),
    ("pass", ip("::", "ff02::16", 58, icmp(143))),
    ("pass", discovery(133, "::")),
    ("spoofed_address", ip("::", "fd77::1", 58, icmp(128))),
    ("spoofed_address", ip("::", "ff02::1:2", 17, udp(546, 547))),
    # ARP
    ("pass", arp("10.77.0.2")),
    ("pass", arp("10.77.0.2", target="10.77.0.2")),
    ("pass", arp("10.77.0.2", operation=2)),
    ("pass", arp("0.0.0.0")),
    ("spoofed_address", arp("10.77.0.3")),
    ("spoofed_address", arp("10.77.0.1", operation=2)),
    ("spoofed_address", arp("10.77.0.2", MACS[CAROL])),
    ("spoofed_address", arp("0.0.0.0", MACS[CAROL])),
    ("malformed_packet", arp("10.77.0.2")[:-1]),
    ("malformed_packet", ethernet(b"\x00\x06\x08\x00\x06\x04" + bytes(22), 0x0806)),
    # neighbour discovery
    ("pass", discovery(135, "fd77::2", "fd77::3", option(1))),
    ("pass", discovery(135, LL, "fd77::3", option(1))),
    ("pass", discovery(135, "::", "fd77::2")),
    ("pass", discovery(136, "fd77::2", "fd77::2", option(2))),
    ("pass", discovery(133, LL, options=option(1))),
    ("spoofed_address", discovery(135, LL_CAROL, "fd77::1", option(1))),
    ("spoofed_address", discovery(135, "fe80::1234", "fd77::1", option(1))),
    ("spoofed_address", discovery(135, "::", "fd77::3")),
    ("spoofed_address", discovery(136, "fd77::2", "fd77::3", option(2))),
    ("spoofed_address", discovery(136, LL, "fd77::1", option(2))),
    ("spoofed_address", discovery(136, "fd77::2", "fd77::2", option(2, MACS[CAROL]))),
    ("spoofed_address", discovery(135, "fd77::2", "fd77::1", option(14) + option(1, MACS[CAROL]))),
    ("malformed_packet", discovery(136, "fd77::2", "fd77::2", bytes(8))),
    ("malformed_packet", discovery(136, "fd77::2", "fd77::2", b"\x02\x02" + MACS[BOB])),
    ("malformed_packet", discovery(136, "fd77::2", "fd77::2", b"\x02")),
    ("malformed_packet", ip("fd77::2", ALL_NODES, 58, bytes([136]) + bytes(22))),
    # DHCP and routers
    ("dhcp_guard", ip("10.77.0.2", "255.255.255.255", 17, udp(67, 68))),
    ("dhcp_guard", ip("10.77.0.2", "10.77.0.1", 17, udp(5000, 68))),
    ("dhcp_guard", ip(LL, "fd77::1", 17, udp(547, 546))),
    ("dhcp_guard", ip("10.77.0.2", "10.77.0.1", 17, udp(67, 68), 0x2000)),
    ("pass", ip("10.77.0.2", "10.77.0.1", 17, udp(68, 67))),
    ("pass", ip("10.77.0.2", "10.77.0.1", 17, udp(67, 68), 0x0003)),
    ("ra_guard", discovery(134, LL)),
    ("ra_guard", discovery(137, LL, "fd77::3")),
    ("ra_guard", discovery(134, LL, bits=0x2000)),
    ("ra_guard", discovery(136, "fd77::2", "fd77::2", option(2), 0x2000)),
    ("ra_guard", ip("10.77.0.2", "10.77.0.1", 1, icmp(5))),
    ("ra_guard", ip("10.77.0.2", "224.0.0.1", 1, icmp(9))),
    # what can't be told
    ("malformed_packet", ethernet(b"\x45" + bytes(30), 0x0800)),
    ("malformed_packet", ethernet(b"\xaa\xaa\x03\x00\x00\x00\x86\xdd" + bytes(60), 0x0050)),
    ("pass", ethernet(b"\x42\x42\x03" + bytes(40), 0x0026)),
    ("pass", ethernet(bytes(40), 0x88B5)),
]


@pytest.mark.parametrize(("verdict", "frame"), CASES)
@pytest.mark.parametrize("tags", [b"", b"\x81\x00\x00\x00", b"\x88\xa8\x00\x0a\x81\x00\x00\x14"])
def test_case_by_case(verdict: str, frame: bytes, tags: bytes) -> None:
    fast, slow = both()
    frame = frame[:12] + tags + frame[12:]
    assert (fast.judge(BOB, frame), slow.judge(BOB, frame)) == (verdict, verdict)


def test_extension_headers_hide_nothing() -> None:
    """RFC 7113: a router advertisement behind other headers, and behind an atomic fragment's."""
    fast, _ = both()
    for chain in ([60], [0, 60, 43], [44], [60, 44], [51]):
        payload, following = bytes([134]) + bytes(15), 58
        for header in reversed(chain):
            payload = (
                bytes([following, 2 if header == 51 else 0]) + bytes(14 if header == 51 else 6) + payload
            )
            following = header
        assert fast.judge(BOB, ip(LL, ALL_NODES, following, payload)) == "ra_guard", chain
    deep = bytes([60, 0]) * 1 + bytes(6)
    assert fast.judge(BOB, ip(LL, ALL_NODES, 60, deep * 12 + bytes([134]) + bytes(15))) == "malformed_packet"
    headless = bytes([58, 0, 0, 1]) + bytes(4)
    assert fast.judge(BOB, ip(LL, ALL_NODES, 44, headless)) == "malformed_packet"


def test_rights() -> None:
    fast, _ = both(dhcp=True)
    assert fast.judge(BOB, ip("10.77.0.2", "10.77.0.1", 17, udp(67, 68))) == "pass"
    assert fast.judge(BOB, discovery(134, LL)) == "ra_guard"
    fast, _ = both(router=True)
    assert fast.judge(BOB, ip("10.77.0.2", "10.77.0.1", 17, udp(67, 68))) == "dhcp_guard"
    assert fast.judge(BOB, discovery(134, LL, options=option(1))) == "pass"
    assert fast.judge(BOB, discovery(137, LL, "fd77::3", option(2, MACS[CAROL]))) == "pass"
    assert fast.judge(BOB, discovery(134, LL, options=option(1, MACS[CAROL]))) == "spoofed_address"
    assert fast.judge(BOB, discovery(134, LL_CAROL)) == "spoofed_address"
    fast, _ = both(others=True)
    assert fast.judge(BOB, ip("172.16.0.1", "10.77.0.1", 6, tcp(5, 22, 2))) == "pass"
    for taken in ("10.77.0.1", "10.77.0.3", "192.168.5.7"):
        assert fast.judge(BOB, ip(taken, "10.77.0.1", 6, tcp(5, 22, 2))) == "spoofed_address"
        assert fast.judge(BOB, arp(taken)) == "spoofed_address"


# ---- the tables ------------------------------------------------------------------------------


def test_addresses_move_from_one_peer_to_another() -> None:
    made = Origins()
    frame = ip("10.77.0.2", "10.77.0.1", 6, tcp(5, 22, 2))
    assert made.judge(BOB, frame) == "pass", "nothing is known of it yet"
    made.set_sources(BOB, MACS[BOB], [])
    assert made.judge(BOB, frame) == "spoofed_address"
    address, other = packed_prefix("10.77.0.2"), packed_prefix("10.77.0.3")
    made.set_sources(CAROL, MACS[CAROL], [address, address])
    with pytest.raises(ValueError, match="of peer 2 already"):
        made.set_sources(BOB, MACS[BOB], [other, address])
    assert made.judge(BOB, frame) == "spoofed_address"
    made.set_sources(CAROL, MACS[CAROL], [other])
    made.set_sources(BOB, MACS[BOB], [address])
    assert (made.judge(BOB, frame), made.judge(CAROL, frame)) == ("pass", "spoofed_address")
    for _ in range(200):
        made.set_sources(BOB, MACS[BOB], [address, packed_prefix("fd77::2")])
        made.set_sources(BOB, MACS[BOB], [address])
    made.set_sources(BOB, MACS[BOB], [packed_prefix("10.0.0.0/8")])
    assert made.judge(BOB, frame) == "pass"
    assert made.judge(BOB, ip("10.77.0.3", "10.77.0.1", 6, tcp(5, 22, 2))) == "spoofed_address"


@pytest.mark.parametrize(
    "prefix",
    [b"", bytes(4), bytes(6), bytes(16), bytes(18), b"\x0a\x00\x00\x01\x18", bytes(4) + b"\x21",
     bytes(16) + b"\x81", b"\xfd" + bytes(14) + b"\x01\x40", packed_prefix("::ffff:10.77.0.2")],
)  # fmt: skip
def test_prefixes_that_are_none(prefix: bytes) -> None:
    made = Origins()
    with pytest.raises(ValueError, match="prefix"):
        made.set_sources(BOB, MACS[BOB], [packed_prefix("10.77.0.2"), prefix])
    assert made.judge(BOB, ip("10.77.0.9", "10.77.0.1", 6, tcp(5, 22, 2))) == "pass", "nothing was changed"


def test_as_many_prefixes_as_a_peer_may_have() -> None:
    made = Origins()
    many = [packed_prefix(f"10.{number}.0.0/16") for number in range(161)]
    with pytest.raises(ValueError, match="at most 160 prefixes"):
        made.set_sources(BOB, MACS[BOB], many)
    made.set_sources(BOB, MACS[BOB], many[:160])
    assert made.judge(BOB, ip("10.159.0.1", "10.77.0.1", 6, tcp(5, 22, 2))) == "pass"
    assert made.judge(BOB, ip("10.160.0.1", "10.77.0.1", 6, tcp(5, 22, 2))) == "spoofed_address"


# ---- random frames ---------------------------------------------------------------------------

SOURCES4 = ["10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.9", "192.168.5.7", "192.168.5.8", "0.0.0.0"]
SOURCES6 = ["fd77::1", "fd77::2", "fd77::3", "fd55::7", "fd55::8", "::", LL, LL_CAROL, "fe80::9"]
SOURCES6 += ["::ffff:10.77.0.2"]
OPTIONS = [
    b"",
    option(1),
    option(2),
    option(1, MACS[CAROL]),
    option(2, MACS[CAROL]),
    option(5),
    bytes(8),
    b"\x01",
]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(["arp", "ipv4", "ipv4", "ipv6", "ipv6", "nd", "nd", "nd", "other"]))
    bits = draw(st.sampled_from([0, 0, 0, 0, 0x2000, 0x2003, 3, 1]))
    ports = draw(st.sampled_from([67, 68, 546, 53])), draw(st.sampled_from([67, 68, 546, 547, 53]))
    if kind == "arp":
        hardware = draw(st.sampled_from([MACS[BOB], MACS[BOB], MACS[CAROL]]))
        made = arp(draw(st.sampled_from(SOURCES4)), hardware, operation=draw(st.integers(1, 2)))
    elif kind == "nd":
        options = b"".join(draw(st.lists(st.sampled_from(OPTIONS), max_size=3)))
        target = draw(st.sampled_from(SOURCES6))
        made = discovery(draw(st.integers(132, 138)), draw(st.sampled_from(SOURCES6)), target, options, bits)
    elif kind == "other":
        made = ethernet(draw(st.binary(max_size=60)), draw(st.sampled_from([0x88B5, 0x20, 0x8100, 0x86DD])))
    else:
        four = kind == "ipv4"
        protocol = draw(st.sampled_from([6, 17, 17, 1, 58, 2, 47]))
        kinds = [5, 8, 9, 0] if four else [128, 131, 133, 134, 143]
        payload = {6: tcp(*ports, 2), 17: udp(*ports), 1: icmp(draw(st.sampled_from(kinds)))}.get(
            protocol, icmp(draw(st.sampled_from(kinds)))
        )
        for _ in range(0 if four or bits else draw(st.sampled_from([0, 0, 0, 1, 2, 9]))):
            payload, protocol = bytes([protocol, 0]) + bytes(6) + payload, draw(st.sampled_from([0, 60, 44]))
        source = draw(st.sampled_from(SOURCES4 if four else SOURCES6))
        made = ip(source, "10.77.0.1" if four else "fd77::1", protocol, payload, bits)
    tags = draw(st.sampled_from([b"", b"", b"\x81\x00\x00\x0a", b"\x81\x00\x00\x00" * 3]))
    made = made[:12] + tags + made[12:]
    return made[: draw(st.integers(14, len(made)))] if draw(st.integers(0, 9)) == 0 else made


@settings(max_examples=600, deadline=None)
@given(st.booleans(), st.booleans(), st.booleans(), st.lists(frames(), min_size=1, max_size=8))
def test_the_same_as_the_slow_twin(others: bool, dhcp: bool, router: bool, sent: list[bytes]) -> None:
    fast, slow = both(others=others, dhcp=dhcp, router=router)
    for frame in sent:
        assert fast.judge(BOB, frame) == slow.judge(BOB, frame), frame.hex()


# ---- in the data plane -----------------------------------------------------------------------


def to(node: Node, peer: Peer, frame: bytes) -> bytes:
    """As a payload, addressed and from whom it should."""
    return b"\x01" + node.mac + peer.mac + frame[12:]


def test_a_segment_header_rewrites_nothing_after_the_frame_was_judged() -> None:
    """A checksum in the place of the sender's address: what comes out of it there is what is judged."""
    with node_and_peer() as (node, peer):
        node.engine.set_own_addresses([packed_prefix("10.77.0.1")])
        node.engine.set_sources(7, [packed_prefix("10.77.0.2")])
        start, offset, wanted = 20, 10, 0x0001
        frame = to(node, peer, arp("10.77.0.2", hardware=peer.mac))[1:] + bytes(2)
        rest = (0xFFFF - wanted - sum(struct.unpack(f"!{len(frame[start:]) // 2}H", frame[start:]))) % 0xFFFF
        frame = frame[:-2] + struct.pack("!H", rest)
        peer.send(peer.packet(bytes((6, 1, 32, start, offset)) + frame))
        peer.mark()
        assert node.drops() == {"spoofed_address": 1}
        found = node.engine.peer_refusals(7)["example"]
        assert found[2] == ipaddress.IPv6Address("::ffff:10.77.0.1").packed


def test_the_end_of_a_peer_opens_its_guard_for_nothing_under_way() -> None:
    with node_and_peer() as (node, peer):
        engine = node.engine
        bad = to(node, peer, ip("10.77.0.3", "10.77.0.1", 6, tcp(5, 22, 2)))
        packets = [peer.packet(bad) for _ in range(128)]
        engine.remove_peer(7)
        for _ in range(60):
            engine.add_peer(7, peer.mac)
            engine.set_sources(7, [packed_prefix("10.77.0.2")])
            engine.install_receive(peer.SESSION, 7, peer.LANES, material(70))
            for packet in packets:
                peer.send(packet)
            wait_until(lambda: engine.peer_counters(7)["refused"] > 0)
            engine.remove_peer(7)
            assert not node.frames_waiting()
        engine.add_peer(8, peer.mac)
        engine.set_sources(8, [packed_prefix("10.77.0.2")])
        engine.install_receive(8, 8, peer.LANES, material(70))
        peer.mark()


def test_refused_frames_are_counted_by_peer_with_an_example() -> None:
    with node_and_peer() as (node, peer):
        engine = node.engine
        engine.set_own_addresses([packed_prefix("10.77.0.1")])
        engine.set_sources(7, [packed_prefix("10.77.0.2")])
        with pytest.raises(ValueError, match="of peer 0 already"):
            engine.set_sources(7, [packed_prefix("10.77.0.1")])
        good = to(node, peer, ip("10.77.0.2", "10.77.0.1", 6, tcp(5, 22, 2)))
        spoofed = to(node, peer, ip("10.77.0.3", "10.77.0.1", 6, tcp(5, 22, 2)))
        for payload in (spoofed, spoofed, good):
            peer.send(peer.packet(payload))
        assert node.receive() == good[1:]
        peer.mark()
        found = engine.peer_refusals(7)
        assert set(found) == {*REFUSED, "example"}
        assert found.pop("example") == (
            "spoofed_address",
            peer.mac,
            ipaddress.IPv6Address("::ffff:10.77.0.3").packed,
        )
        assert {reason: count for reason, count in found.items() if count} == {"spoofed_address": 2}
        assert node.drops() == {"spoofed_address": 2}
        assert engine.peer_counters(7)["refused"] == 2
        assert engine.peer_refusals(7)["example"] is None
        peer.send(peer.packet(b"\x01" + node.mac + mac(9) + good[13:]))
        peer.mark()
        assert engine.peer_refusals(7)["example"] == ("spoofed_source", mac(9), bytes(16))
        engine.set_sources(7, [packed_prefix("10.77.0.3")])
        peer.send(peer.packet(spoofed))
        assert node.receive() == spoofed[1:]
        engine.remove_peer(7)
        engine.set_own_addresses([packed_prefix("10.77.0.3")])
