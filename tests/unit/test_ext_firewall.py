"""ext/judge.pyx: compiled rules, dissection and the flow table against slow twins, and their bounds."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowmesh._ext.firewall import Firewall as Wall
from shadowmesh.overlay.compilation import Compiled, Party
from shadowmesh.overlay.firewall import Firewall
from shadowmesh.rules import (
    FirewallSection,
    Ports,
    Protocol,
    Rule,
    alternatives,
    parse_network,
    parse_protocol,
)
from tests.reference import firewall as reference

PARTIES = [
    Party("bob", "b" * 52, ("admin",), number=1),
    Party("carol", "c" * 52, number=2),
    Party("dave", "d" * 52, ("admin", "ops"), number=3),
]
V4 = [ipaddress.ip_address(text) for text in ("10.77.0.1", "10.77.0.2", "10.78.0.9")]
V6 = [ipaddress.ip_address(text) for text in ("fd77::1", "fd77::2", "::ffff:10.77.0.1")]
PORTS = [22, 53, 5000, 5001]


def ethernet(content: bytes, ethertype: int, vlans: tuple[int, ...] = (), group: bool = False) -> bytes:
    tags = b"".join(b"\x81\x00" + vlan.to_bytes(2, "big") for vlan in vlans)
    return (b"\x03" if group else b"\x02") + bytes(11) + tags + ethertype.to_bytes(2, "big") + content


def ip_packet(
    src: object, dst: object, protocol: int, payload: bytes, bits: int = 0, number: int = 7
) -> bytes:
    assert isinstance(src, ipaddress.IPv4Address | ipaddress.IPv6Address)
    assert isinstance(dst, ipaddress.IPv4Address | ipaddress.IPv6Address)
    if src.version == 4:
        head = bytes([0x45, 0]) + (20 + len(payload)).to_bytes(2, "big") + number.to_bytes(2, "big")
        head += bits.to_bytes(2, "big") + bytes([64, protocol, 0, 0])
        return head + src.packed + dst.packed + payload
    if bits:
        offset = (bits & 0x1FFF) << 3 | (bits >> 13 & 1)
        payload = bytes([protocol, 0]) + offset.to_bytes(2, "big") + number.to_bytes(4, "big") + payload
        protocol = 44
    head = bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([protocol, 255])
    return head + src.packed + dst.packed + payload


def tcp(src_port: int, dst_port: int, flags: int) -> bytes:
    return (
        src_port.to_bytes(2, "big") + dst_port.to_bytes(2, "big") + bytes(8) + bytes([0x50, flags]) + bytes(6)
    )


def udp(src_port: int, dst_port: int) -> bytes:
    return src_port.to_bytes(2, "big") + dst_port.to_bytes(2, "big") + bytes(4)


def icmp(kind: int, number: int = 0, content: bytes = b"") -> bytes:
    return bytes([kind, 0, 0, 0]) + number.to_bytes(2, "big") + bytes(2) + content


def tcp_frame(src: str, dst: str, src_port: int, dst_port: int, flags: int = reference.SYN) -> bytes:
    packet = ip_packet(
        ipaddress.ip_address(src), ipaddress.ip_address(dst), 6, tcp(src_port, dst_port, flags)
    )
    return ethernet(packet, 0x0800)


def udp_frame(src: str, dst: str, src_port: int, dst_port: int) -> bytes:
    packet = ip_packet(ipaddress.ip_address(src), ipaddress.ip_address(dst), 17, udp(src_port, dst_port))
    return ethernet(packet, 0x0800)


def section(*rules: Rule, inbound: str = "deny", outbound: str = "allow") -> FirewallSection:
    return FirewallSection(inbound=inbound, outbound=outbound, rules=rules)  # type: ignore[arg-type]


def wall(*rules: Rule, inbound: str = "deny", outbound: str = "allow", buckets: int = 64) -> Wall:
    made = Wall(buckets=buckets)
    made.install(Firewall(section(*rules, inbound=inbound, outbound=outbound), PARTIES).compiled())
    return made


def allow_in(protocol: str, *ports: int) -> Rule:
    return Rule(
        line=1,
        action="allow",
        direction="in",
        protocols=(parse_protocol(protocol),),
        dst_ports=tuple(Ports(port, port) for port in ports),
    )


# ---- random rules and frames ------------------------------------------------------------------

NETWORKS = [parse_network(text) for text in ("10.77.0.0/16", "10.77.0.2", "fd77::/64", "::/0", "0.0.0.0/0")]
PROTOCOLS = [parse_protocol(text) for text in ("tcp", "udp", "icmp", "icmpv6", "47")]
RANGES = [Ports(22, 22), Ports(50, 5000), Ports(0, 65535), Ports(5001, 5001)]


def some(values: list[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    protocols = draw(some(list(PROTOCOLS)))
    with_ports = bool(protocols) and all(
        isinstance(protocol, Protocol) and protocol.number in (6, 17) for protocol in protocols
    )
    rule = Rule(
        line=1,
        action=draw(st.sampled_from(["allow", "deny"])),
        direction=draw(st.sampled_from(["in", "out"])),
        peers=draw(some(["bob", "c" * 52])),  # type: ignore[arg-type]
        groups=draw(some(["admin", "ops"])),  # type: ignore[arg-type]
        src=draw(some(list(NETWORKS))),  # type: ignore[arg-type]
        dst=draw(some(list(NETWORKS))),  # type: ignore[arg-type]
        protocols=protocols,  # type: ignore[arg-type]
        src_ports=draw(some(list(RANGES))) if with_ports else (),  # type: ignore[arg-type]
        dst_ports=draw(some(list(RANGES))) if with_ports else (),  # type: ignore[arg-type]
        ethertypes=draw(some([0x0806, 0x0800, 0x86DD, 0x88B5])),  # type: ignore[arg-type]
        vlans=draw(some([0, 10, 20])),  # type: ignore[arg-type]
    )
    return rule if any(alternatives(rule)) else Rule(line=1, action=rule.action, direction=rule.direction)


@st.composite
def packets(draw: st.DrawFn, depth: int = 0) -> tuple[int, bytes]:
    """An ethertype and an IP packet, whole or a fragment, sometimes with extension headers or cut."""
    addresses = draw(st.sampled_from([V4, V6]))
    src, dst = draw(st.sampled_from(addresses)), draw(st.sampled_from(addresses))
    six = addresses is V6
    flags = draw(st.sampled_from([2, 18, 16, 17, 4, 3]))
    ports = draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))
    kinds = [6, 6, 17, 17, 58 if six else 1, 47]
    protocol = draw(st.sampled_from(kinds))
    if protocol == 6:
        payload = tcp(*ports, flags)
    elif protocol == 17:
        payload = udp(*ports)
    elif protocol == 47:
        payload = bytes(4)
    else:
        kind = draw(st.sampled_from([128, 129, 3, 135, 136, 134] if six else [8, 0, 3, 11, 13]))
        quoted = draw(packets(depth=1))[1] if depth == 0 and kind in (3, 11) else b""
        payload = icmp(kind, draw(st.integers(1, 2)), quoted[: draw(st.integers(20, 80))])
    bits = draw(st.sampled_from([0, 0, 0, 0, 0x2000, 0x2003, 0x0003, 0x0001]))
    extensions = draw(st.integers(0, 9)) if six and not bits and draw(st.integers(0, 5)) == 0 else 0
    for _ in range(extensions):
        payload = bytes([protocol, 0]) + bytes(6) + payload
        protocol = 60
    packet = ip_packet(src, dst, protocol, payload, bits, draw(st.integers(7, 8)))
    if draw(st.integers(0, 15)) == 0:
        packet = packet[: draw(st.integers(0, len(packet)))]
    return (0x86DD if six else 0x0800), packet


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    vlans = draw(st.sampled_from([(), (), (), (10,), (20,), (0,), (10, 20), (10, 10), (1, 2, 3)]))
    if draw(st.integers(0, 9)) == 0:
        return ethernet(bytes(28), draw(st.sampled_from([0x0806, 0x88B5, 0x0042])), vlans)
    ethertype, packet = draw(packets())
    padding = bytes(draw(st.sampled_from([0, 0, 6])))
    return ethernet(packet + padding, ethertype, vlans, draw(st.integers(0, 9)) == 0)


def answer(frame: bytes, flags: int) -> bytes:
    """The frame that would answer this one, as far as it can be told."""
    at = 14
    while frame[at - 2 : at] == b"\x81\x00":
        at += 4
    ip, made = frame[at:], bytearray(frame)
    six = frame[at - 2 : at] == b"\x86\xdd"
    size, first, protocol = (16, 8, 6) if six else (4, 12, 9)
    transport = at + (40 if six else 20)
    if len(ip) < (40 if six else 20) + 20:
        return frame
    made[at + first : at + first + 2 * size] = ip[first + size : first + 2 * size] + ip[first : first + size]
    if ip[protocol] in (6, 17):
        made[transport : transport + 4] = (
            made[transport + 2 : transport + 4] + made[transport : transport + 2]
        )
        made[transport + 13] = flags
    elif ip[protocol] in (1, 58):
        made[transport] = {8: 0, 128: 129, 0: 8, 129: 128}.get(made[transport], made[transport])
    return bytes(made)


PAUSES = [0, 0, 0, 5, 31, 130, 301]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 4), st.sampled_from([2, 18, 16, 17, 4]), st.sampled_from(PAUSES)),
        st.tuples(
            st.booleans(), st.sampled_from(["bob", "carol", "dave"]), frames(), st.sampled_from(PAUSES)
        ),
        st.lists(rules(), max_size=6),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.timeout(120)  # on a busy machine; a second or two by itself
@settings(max_examples=100, deadline=None)
@given(
    st.lists(rules(), max_size=6),
    st.sampled_from(["allow", "deny"]),
    st.sampled_from(["allow", "deny"]),
    STEPS,
)
def test_it_decides_as_the_twin(
    first: list[Rule],
    inbound: str,
    outbound: str,
    steps: list[tuple[bool, str, bytes, int] | tuple[int, int, int] | list[Rule]],
) -> None:
    """Frames in both directions, answers to them, time and new rules: verdicts are equal, one by one."""
    fast = Wall(buckets=64)
    slow: reference.Wall | None = None
    now = 1000
    seen: list[tuple[bool, str, bytes]] = [(False, "bob", b"")]
    for step in [first, *steps]:
        if isinstance(step, list):
            firewall = Firewall(section(*step, inbound=inbound, outbound=outbound), PARTIES)
            fast.install(firewall.compiled())
            slow = slow or reference.Wall(firewall)
            slow.install(firewall)
            continue
        if len(step) == 3:
            back, flags, pause = step
            outgoing, peer, frame = seen[-min(back, len(seen))]
            outgoing, frame = not outgoing, answer(frame, flags)
        else:
            outgoing, peer, frame, pause = step
        seen.append((outgoing, peer, frame))
        now += pause
        assert slow is not None
        expected = slow.judge("out" if outgoing else "in", peer, frame, now)
        number = slow.firewall.parties[peer].number
        assert fast.judge(outgoing, number, frame, now) == expected, (peer, outgoing, frame.hex())
    assert slow is not None
    assert counted(fast) == slow.counters()


def counted(made: Wall) -> list[list[list[int]]]:
    counters = made.counters()
    assert counters is not None
    return [counters["decided"], counters["replies"]]


# ---- connections, one by one -------------------------------------------------------------------

IN, OUT = False, True
BOB, CAROL = 1, 2
HERE, THERE = "10.77.0.1", "10.77.0.2"


def test_replies_pass_and_nothing_else() -> None:
    made = wall()
    assert made.judge(OUT, BOB, udp_frame(HERE, THERE, 5000, 53), 1) == "pass"
    assert made.judge(IN, BOB, udp_frame(THERE, HERE, 53, 5000), 1) == "pass"
    assert made.judge(IN, BOB, udp_frame(THERE, HERE, 53, 5001), 1) == "deny", "another port"
    assert made.judge(IN, CAROL, udp_frame(THERE, HERE, 53, 5000), 1) == "deny", "another peer, same address"
    assert made.judge(IN, BOB, udp_frame(THERE, "10.77.0.9", 53, 5000), 1) == "deny"
    assert made.judge(IN, BOB, udp_frame(THERE, HERE, 53, 5000), 1, serial=77) == "deny", "its successor"
    counters = made.counters()
    assert counters is not None
    assert counters["replies"] == [[1, 0], [0, 0]]
    assert counters["flows"] == [0, 1]


@pytest.mark.parametrize(("answered", "lasts"), [(False, 120), (True, 300)], ids=["unanswered", "answered"])
def test_udp_is_known_as_long_as_rfc_4787_says(answered: bool, lasts: int) -> None:
    made = wall()
    reply = udp_frame(THERE, HERE, 53, 5000)
    made.judge(OUT, BOB, udp_frame(HERE, THERE, 5000, 53), 1000)
    if answered:
        assert made.judge(IN, BOB, reply, 1000) == "pass"
    late = made.judge(IN, BOB, reply, 1000 + lasts)
    made.judge(OUT, BOB, udp_frame(HERE, THERE, 5000, 53), 2000)
    if answered:
        made.judge(IN, BOB, reply, 2000)
    assert (late, made.judge(IN, BOB, reply, 2000 + lasts - 1)) == ("deny", "pass")


def test_tcp_is_known_by_its_syn_and_ends() -> None:
    made = wall()
    answer = tcp_frame(THERE, HERE, 80, 5000, reference.SYN | reference.ACK)
    assert made.judge(OUT, BOB, tcp_frame(HERE, THERE, 5000, 80, reference.ACK), 1) == "pass"
    assert made.judge(IN, BOB, answer, 1) == "deny", "what is under way opens nothing"
    made.judge(OUT, BOB, tcp_frame(HERE, THERE, 5000, 80), 1)
    assert made.judge(IN, BOB, answer, 1) == "pass"
    assert made.judge(IN, BOB, answer, 7000) == "pass"
    made.judge(IN, BOB, tcp_frame(THERE, HERE, 80, 5000, reference.RST), 7000)
    assert made.judge(IN, BOB, answer, 7009) == "pass"
    assert made.judge(IN, BOB, answer, 7019) == "deny"
    assert made.judge(IN, BOB, tcp_frame(THERE, HERE, 80, 5000), 7010) == "deny", "no opening from there"
    made.judge(OUT, BOB, tcp_frame(HERE, THERE, 5000, 80), 7020)
    assert made.judge(IN, BOB, answer, 7020) == "pass", "the same ports again"


def test_an_echo_reply_comes_back_and_a_request_does_not() -> None:
    made = wall()

    def echo(kind: int, src: str, dst: str) -> bytes:
        addresses = ipaddress.ip_address(src), ipaddress.ip_address(dst)
        return ethernet(ip_packet(*addresses, 1, icmp(kind, 9)), 0x0800)

    assert made.judge(OUT, BOB, echo(8, HERE, THERE), 1) == "pass"
    assert made.judge(IN, BOB, echo(0, THERE, HERE), 1) == "pass"
    assert made.judge(IN, BOB, echo(8, THERE, HERE), 1) == "deny", "the same number, asked from there"


def test_new_rules_judge_known_connections_again() -> None:
    made = wall(allow_in("udp", 53))
    query, answer = udp_frame(THERE, HERE, 5000, 53), udp_frame(HERE, THERE, 53, 5000)
    assert made.judge(IN, BOB, query, 1) == "pass"
    made.install(Firewall(section(outbound="deny"), PARTIES).compiled())
    assert made.judge(OUT, BOB, answer, 1) == "deny", "no reply to what is denied now"
    made.install(Firewall(section(), PARTIES).compiled())
    assert made.judge(IN, BOB, query, 1) == "deny"
    assert made.judge(OUT, BOB, answer, 1) == "pass", "by the default, but as no new connection"
    assert made.judge(IN, BOB, query, 1) == "deny"
    made.install(Firewall(section(allow_in("udp", 53)), PARTIES).compiled())
    assert made.judge(IN, BOB, query, 1) == "pass"


def test_later_fragments_follow_the_first() -> None:
    made = wall(allow_in("udp", 53))
    here, there = ipaddress.ip_address(HERE), ipaddress.ip_address(THERE)
    first = ethernet(ip_packet(there, here, 17, udp(5000, 53), bits=0x2000), 0x0800)
    later = ethernet(ip_packet(there, here, 17, bytes(64), bits=0x0001), 0x0800)
    assert made.judge(IN, BOB, later, 1) == "deny", "without the first one, a rule with ports does not match"
    assert made.judge(IN, BOB, first, 1) == "pass"
    assert made.judge(IN, BOB, later, 1) == "pass"
    assert made.judge(IN, CAROL, later, 1) == "deny"
    assert made.judge(IN, BOB, later, 31) == "deny"
    made.judge(IN, BOB, first, 40)
    made.judge(IN, BOB, first, 60)
    assert made.judge(IN, BOB, later, 80) == "pass", "the id was used again"
    other = ethernet(ip_packet(there, here, 17, bytes(64), bits=0x0001, number=8), 0x0800)
    assert made.judge(IN, BOB, other, 1) == "deny"


# ---- bounds ------------------------------------------------------------------------------------


def opened(made: Wall, peer: int, ports: range, now: int, *, answered: bool) -> int:
    """UDP from the peer, from each of these ports; how many of the answers are known as such."""
    known = 0
    for port in ports:
        assert made.judge(IN, peer, udp_frame(THERE, HERE, port, 53), now) == "pass"
        if answered:
            known += made.judge(OUT, peer, udp_frame(HERE, THERE, 53, port), now) == "pass"
    return known


def test_a_flood_costs_nobody_an_established_connection() -> None:
    """64 places: bob has some answered connections; carol floods, once without answers, once with."""
    made = wall(allow_in("udp", 53), outbound="deny", buckets=8)
    kept = range(1000, 1008)
    assert opened(made, BOB, kept, 1, answered=True) == len(kept)
    opened(made, CAROL, range(2000, 5000), 1, answered=False)
    opened(made, CAROL, range(5000, 8000), 1, answered=True)
    for port in kept:
        assert made.judge(OUT, BOB, udp_frame(HERE, THERE, 53, port), 2) == "pass"
    counters = made.counters()
    assert counters is not None
    assert counters["flows"][0] <= 64
    assert opened(made, BOB, range(9000, 9016), 2, answered=True) >= 8, "and bob can open new ones"


def test_one_peer_holds_a_quarter_and_a_place_of_each_bucket_at_most() -> None:
    made = wall(allow_in("udp", 53), outbound="deny", buckets=8)
    opened(made, CAROL, range(2000, 4000), 1, answered=True)
    counters = made.counters()
    assert counters is not None
    assert 16 <= counters["flows"][0] <= 16 + 8


def test_with_a_quarter_of_the_table_what_is_opened_next_is_still_known() -> None:
    made = wall(allow_in("udp", 53), outbound="deny", buckets=512)
    known = [opened(made, CAROL, range(port, port + 1), 1, answered=True) for port in range(1000, 9000)]
    # Until it has its share, a bucket of eight answered ones of its own refuses: some of the first 1,024.
    assert sum(known[2000:]) == len(known[2000:])
    counters = made.counters()
    assert counters is not None
    assert 1024 <= counters["flows"][0] <= 1024 + 512


def test_counters_go_on_where_only_the_members_changed() -> None:
    made = wall(allow_in("udp", 53))
    query = udp_frame(THERE, HERE, 5000, 53)
    rules = Firewall(section(allow_in("udp", 53)), PARTIES).compiled()
    for same, decided in ((True, 2), (True, 4), (False, 1), (True, 3)):
        made.judge(IN, BOB, query, 1)
        made.install(rules, same_rules=same)
        made.judge(IN, BOB, query, 1)
        counters = made.counters()
        assert counters is not None
        assert counters["decided"][0][0] == decided


def test_places_whose_time_is_over_are_found_again() -> None:
    made = wall(allow_in("udp", 53), outbound="deny", buckets=8)
    for start in range(1000, 50_000, 1000):
        assert opened(made, BOB, range(start, start + 8), start, answered=True) == 8
    counters = made.counters()
    assert counters is not None
    assert counters["flows"][0] <= 16


def test_four_thousand_rules_and_ten_thousand_flows() -> None:
    rules = [allow_in("tcp", port) for port in range(4000)]
    made = Wall()
    made.install(Firewall(section(*rules), PARTIES).compiled())
    assert made.judge(IN, BOB, tcp_frame(THERE, HERE, 5000, 3999), 1) == "pass"
    for number in range(10_000):
        made.judge(OUT, 1 + number % 3, udp_frame(HERE, THERE, number, 53), 1)
    known = sum(
        made.judge(IN, 1 + number % 3, udp_frame(THERE, HERE, 53, number), 1) == "pass"
        for number in range(10_000)
    )
    assert known > 9_990, "one in thirty tables has a bucket that more than eight of them share"
    counters = made.counters()
    assert counters is not None
    assert counters["decided"][0][3999] == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"entries": b"x"}, "entries must have a multiple of 88 bytes"),
        ({"order": b"\xff\xff"}, "an order of the firewall leads to no entry"),
        ({"spans": b""}, "has no classes"),
        ({"spans": b"\xff" * 16}, "leads out of the order"),
        ({"classes": b"\x01\x00"}, "a peer is of no class"),
        ({"classes": bytes(8194)}, "2 bytes for each peer"),
        ({"rules": 0}, "is of no rule"),
        ({"rules": 4001}, "rules must be 0..4000"),
        ({"rules": True}, "rules must be an integer"),
        ({"entries": None}, "entries must be bytes"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(change: dict[str, object], problem: str) -> None:
    made = wall(allow_in("tcp", 22))
    good = Firewall(section(allow_in("tcp", 23)), PARTIES).compiled()
    with pytest.raises((ValueError, TypeError), match=problem):
        made.install(good._replace(**change))  # type: ignore[arg-type]
    assert made.judge(IN, BOB, tcp_frame(THERE, HERE, 5000, 22), 1) == "pass", "nothing has changed"
    assert isinstance(good, Compiled)


def test_without_rules_everything_passes() -> None:
    made = Wall()
    assert (made.judge(IN, BOB, b"", 1), made.counters()) == ("pass", None)
    with pytest.raises(ValueError, match="power of two"):
        Wall(buckets=3)


# ---- in the engine -----------------------------------------------------------------------------


def test_the_engine_asks_it_in_both_directions() -> None:
    from tests.unit.ext_harness import node_and_peer, wait_until

    party = [Party("far", "f" * 52, number=7)]
    with node_and_peer() as (node, peer):

        def to_us(content: bytes) -> bytes:
            return node.mac + peer.mac + content

        def to_peer(content: bytes) -> bytes:
            return peer.mac + node.mac + content

        query = udp_frame(HERE, THERE, 5000, 53)[12:]
        answer = udp_frame(THERE, HERE, 53, 5000)[12:]
        deny_arp = Rule(line=1, action="deny", direction="out", ethertypes=(0x0806,))
        node.engine.set_firewall(Firewall(section(deny_arp), party).compiled())
        peer.send(peer.packet(b"\x01" + to_us(answer)))
        wait_until(lambda: node.drops() == {"firewall_in": 1})
        node.tap.send(to_peer(query))
        assert peer.open(peer.udp.recv(2000))[1] == b"\x01" + to_peer(query)
        peer.send(peer.packet(b"\x01" + to_us(answer)))
        assert node.receive() == to_us(answer)
        node.tap.send(to_peer(b"\x08\x06" + bytes(28)))
        node.tap.send(b"\xff" * 6 + node.mac + b"\x08\x06" + bytes(28))
        node.tap.send(to_peer(b"\x08\x00" + bytes(3)))
        wait_until(lambda: node.drops() == {"firewall_in": 1, "firewall_out": 2, "firewall_malformed": 1})
        counters = node.engine.firewall_counters()
        assert counters is not None
        assert counters["replies"][0] == [0, 1, 0]
        with pytest.raises(ValueError, match="leads out"):
            node.engine.set_firewall(Firewall(section(), party).compiled()._replace(spans=b"\xff" * 16))
        node.engine.set_firewall(None)
        assert node.engine.firewall_counters() is None
        peer.send(peer.packet(b"\x01" + to_us(b"\x08\x00" + bytes(3))))
        assert node.receive() == to_us(b"\x08\x00" + bytes(3))
