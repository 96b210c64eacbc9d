"""Of whatever stream of frames in both directions, the firewall passes exactly what its slow twin does."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from ipaddress import ip_address

from shadowmesh._ext.firewall import Firewall as Wall
from shadowmesh.overlay.compilation import Party
from shadowmesh.overlay.firewall import Firewall
from shadowmesh.rules import FirewallSection, Ports, Rule, parse_network, parse_protocol
from tests.reference import firewall as twin

COVERS: tuple[str, ...] = ()
STEP = struct.Struct("!HBB")
"""Size of the frame behind it, from or to whom, and seconds since the one before."""

PARTIES = [Party("bob", "", ("admin",), number=1), Party("carol", "", number=2)]
TCP, UDP, ICMP = (parse_protocol(name) for name in ("tcp", "udp", "icmp"))
RULES = (
    Rule(
        line=1,
        action="allow",
        direction="in",
        groups=("admin",),
        protocols=(TCP,),
        dst_ports=(Ports(22, 80),),
    ),
    Rule(line=2, action="deny", direction="out", peers=("carol",), dst=(parse_network("fd77::/64"),)),
    Rule(line=3, action="allow", direction="in", protocols=(UDP, ICMP), vlans=(0, 10)),
    Rule(line=4, action="deny", direction="out", ethertypes=(0x0806,)),
)
OPEN = FirewallSection(inbound="deny", outbound="allow", rules=RULES)
FIREWALLS = [Firewall(OPEN, PARTIES), Firewall(FirewallSection(inbound="deny", outbound="deny"), PARTIES)]


def _ip(generator: random.Random, payload: bytes, protocol: int) -> bytes:
    hosts = generator.sample([1, 2, 3], 2)
    if generator.random() < 0.5:
        packed = b"".join(ip_address(f"10.77.0.{host}").packed for host in hosts)
        bits = generator.choice([0, 0, 0, 0x2000, 3]).to_bytes(2, "big")
        size = (20 + len(payload)).to_bytes(2, "big")
        return (
            b"\x08\x00\x45\x00" + size + b"\x00\x07" + bits + bytes([64, protocol, 0, 0]) + packed + payload
        )
    packed = b"".join(ip_address(f"fd77::{host}").packed for host in hosts)
    protocol = 58 if protocol == 1 else protocol
    for _ in range(generator.choice([0, 0, 0, 1, 8])):
        payload = bytes([protocol, 0]) + bytes(6) + payload
        protocol = generator.choice([0, 60])
    return (
        b"\x86\xdd\x60\x00\x00\x00"
        + len(payload).to_bytes(2, "big")
        + bytes([protocol, 255])
        + packed
        + payload
    )


def _frame(generator: random.Random) -> bytes:
    ports = struct.pack("!HH", *(generator.choice([22, 53, 5000]) for _ in range(2)))
    kind = generator.choice([6, 6, 17, 1])
    payload = ports + bytes(8) + bytes([0x50, generator.choice([2, 18, 16, 17, 4])]) + bytes(6)
    if kind == 1:
        payload = bytes([generator.choice([8, 0, 3, 128, 129, 1, 135])]) + bytes(7)
        payload += _ip(generator, ports + bytes(8), 17)[2:] if generator.random() < 0.5 else b""
    tag = generator.choice([b"", b"", b"\x81\x00\x00\x0a", b"\x88\xa8\x00\x0a\x81\x00\x00\x14"])
    return bytes(12) + tag + _ip(generator, payload, kind)


def _seed(number: int) -> bytes:
    """Some frames of two peers, in both directions, some of them several times in a row."""
    generator = random.Random(number)
    frames = [_frame(generator) for _ in range(generator.randint(2, 16))]
    frames += generator.choices(frames, k=8)
    frames += [frame for frame in frames[-4:] for _ in range(4)]
    return b"".join(
        STEP.pack(len(frame), generator.randrange(32), generator.choice([0, 0, 1, 40])) + frame
        for frame in frames
    )


SEEDS = [_seed(number) for number in range(20)]


def _steps(data: bytes) -> Iterator[tuple[bool, int, bool, bytes, int]]:
    """Outbound, peer, new rules before it, frame and time."""
    now = 1000
    while len(data) >= STEP.size:
        size, what, seconds = STEP.unpack(data[: STEP.size])
        now += seconds
        yield bool(what & 1), what >> 1 & 1, what & 0x1E == 0x1E, data[STEP.size : STEP.size + size], now
        data = data[STEP.size + size :]


def target(data: bytes) -> None:
    """Both from the beginning, step by step."""
    fast, slow = Wall(buckets=1024), twin.Wall(FIREWALLS[0])
    fast.install(FIREWALLS[0].compiled())
    for count, (outbound, peer, renewed, frame, now) in enumerate(_steps(data)):
        if renewed:
            fast.install(FIREWALLS[count % 2].compiled())
            slow.install(FIREWALLS[count % 2])
        verdict = slow.judge("out" if outbound else "in", PARTIES[peer].name, frame, now)
        assert fast.judge(outbound, PARTIES[peer].number, frame, now) == verdict
        counters = fast.counters()
        assert counters is not None
        assert [counters["decided"], counters["replies"]] == slow.counters()
