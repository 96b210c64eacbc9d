"""Slow twin of ext/dissect.pyx, flows.pyx and judge.pyx: a frame judged with dicts and `ipaddress`.

Rules are decided by `overlay.firewall.Firewall.decide`, which shares no code with what is compiled. The table
of flows has no bound here: tests keep below the bound of the fast one.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from shadowmesh.overlay.firewall import Firewall
from shadowmesh.rules import Direction, Packet

Verdict = Literal["pass", "deny", "malformed"]

FIN, SYN, RST, ACK = 1, 2, 4, 16
EXTENSIONS = (0, 43, 44, 51, 60)


class Malformed(Exception):
    """The frame can't be judged."""


@dataclass(frozen=True)
class Seen:
    """A frame taken apart. `kind`: "plain", "later", "tcp", "udp", "request", "reply" or "error"."""

    packet: Packet
    inner: int = 0
    kind: str = "plain"
    first: bool = False
    datagram: int = 0
    flags: int = 0
    echo: int = 0
    quoted: bytes = b""


def take_apart(frame: bytes, direction: Direction, peer: str) -> Seen:
    """Raises Malformed."""
    if len(frame) < 14:
        raise Malformed
    tags: list[int] = []
    at = 12
    while int.from_bytes(frame[at : at + 2], "big") in (0x8100, 0x88A8):
        if len(tags) == 2 or len(frame) < at + 6:
            raise Malformed
        tags.append(int.from_bytes(frame[at + 2 : at + 4], "big") & 0xFFF)
        at += 4
    ethertype = int.from_bytes(frame[at : at + 2], "big")
    vlans = [tag for tag in tags if tag]
    packet = Packet(
        direction=direction,
        peer=peer,
        ethertype=ethertype,
        vlan=vlans[0] if vlans else 0,
        resolution=ethertype == 0x0806,
    )
    seen = Seen(packet, inner=vlans[1] if len(vlans) == 2 else 0)
    return network(seen, frame[at + 2 :], quoted=False)


def network(seen: Seen, data: bytes, *, quoted: bool) -> Seen:
    if seen.packet.ethertype == 0x0800:
        return ipv4(seen, data, quoted)
    if seen.packet.ethertype == 0x86DD:
        return ipv6(seen, data, quoted)
    return seen


def ipv4(seen: Seen, data: bytes, quoted: bool) -> Seen:
    if len(data) < 20 or data[0] >> 4 != 4:
        raise Malformed
    header = (data[0] & 15) * 4
    total = int.from_bytes(data[2:4], "big")
    total = min(total, len(data)) if quoted else total
    if header < 20 or not header <= total <= len(data):
        raise Malformed
    bits = int.from_bytes(data[6:8], "big")
    packet = replace_packet(
        seen.packet,
        protocol=data[9],
        src=ipaddress.ip_address(data[12:16]),
        dst=ipaddress.ip_address(data[16:20]),
    )
    offset = (bits & 0x1FFF) * 8
    seen = replace(seen, packet=packet, datagram=int.from_bytes(data[4:6], "big"))
    if offset:
        return later(seen, offset)
    return transport(replace(seen, first=bool(bits & 0x2000)), data[header:total], quoted)


def ipv6(seen: Seen, data: bytes, quoted: bool) -> Seen:
    total = 40 + int.from_bytes(data[4:6], "big")
    total = min(total, len(data)) if quoted else total
    if len(data) < 40 or data[0] >> 4 != 6 or total > len(data):
        raise Malformed
    protocol, rest, fragments = data[6], data[40:total], 0
    packet = replace_packet(
        seen.packet, src=ipaddress.ip_address(data[8:24]), dst=ipaddress.ip_address(data[24:40])
    )
    for _ in range(8):
        if protocol not in EXTENSIONS:
            break
        if len(rest) < 8:
            raise Malformed
        size = 8 if protocol == 44 else (rest[1] + 2) * 4 if protocol == 51 else (rest[1] + 1) * 8
        if size > len(rest):
            raise Malformed
        if protocol == 44:
            fragments += 1
            offset = int.from_bytes(rest[2:4], "big") & 0xFFF8
            seen = replace(seen, datagram=int.from_bytes(rest[4:8], "big"), first=bool(rest[3] & 1))
            if offset and fragments == 1:
                return later(replace(seen, packet=replace_packet(packet, protocol=rest[0])), offset)
        protocol, rest = rest[0], rest[size:]
    if fragments > 1 or protocol in EXTENSIONS:
        raise Malformed
    seen = transport(replace(seen, packet=replace_packet(packet, protocol=protocol)), rest, quoted)
    if protocol == 58 and not seen.first and data[7] == 255 and rest[0] in (135, 136):
        seen = replace(seen, packet=replace_packet(seen.packet, resolution=True))
    return seen


def later(seen: Seen, offset: int) -> Seen:
    if seen.packet.protocol == 6 and offset < 20:
        raise Malformed
    return replace(seen, kind="later", first=False)


def transport(seen: Seen, data: bytes, quoted: bool) -> Seen:
    protocol = seen.packet.protocol
    if protocol in (6, 17):
        if len(data) < (8 if quoted or protocol == 17 else 20):
            raise Malformed
        if protocol == 6 and not quoted:
            if not 20 <= (data[12] >> 4) * 4 <= len(data):
                raise Malformed
            seen = replace(seen, flags=data[13])
        packet = replace_packet(
            seen.packet,
            src_port=int.from_bytes(data[:2], "big"),
            dst_port=int.from_bytes(data[2:4], "big"),
        )
        return replace(seen, packet=packet, kind="tcp" if protocol == 6 else "udp")
    six = seen.packet.ethertype == 0x86DD
    if protocol != (58 if six else 1):
        return seen
    if len(data) < (4 if six else 8):
        raise Malformed
    roles = {8: "request", 0: "reply", 3: "error", 11: "error", 12: "error"}
    if six:
        roles = {128: "request", 129: "reply", 1: "error", 2: "error", 3: "error", 4: "error"}
    kind = roles.get(data[0], "plain")
    if kind != "plain" and len(data) < 8:
        raise Malformed
    return replace(seen, kind=kind, echo=int.from_bytes(data[4:6], "big"), quoted=data[8:])


def replace_packet(packet: Packet, **changes: object) -> Packet:
    import msgspec

    return msgspec.structs.replace(packet, **changes)


@dataclass
class Flow:
    """One connection, in the table of the direction in which it was opened."""

    generation: int
    allowed: bool
    rule: int
    last: int
    answered: bool = False
    flags: int = 0
    answer_flags: int = 0

    def closing(self) -> bool:
        either = self.flags | self.answer_flags
        return bool(either & RST or self.flags & self.answer_flags & FIN)

    def life(self, kind: str) -> int:
        if kind == "later":
            return 30
        if kind == "tcp":
            return 10 if self.closing() else 7440 if self.answered else 240
        if kind == "udp":
            return 300 if self.answered else 120
        return 60


def opposite(direction: Direction) -> Direction:
    return "out" if direction == "in" else "in"


@dataclass
class Wall:
    """All of the firewall: rules, and what passed before."""

    firewall: Firewall
    generation: int = 0
    flows: dict[Direction, dict[object, tuple[str, Flow]]] = field(
        default_factory=lambda: {"in": {}, "out": {}}
    )
    decided: Counter[tuple[Direction, int]] = field(default_factory=Counter)
    replies: Counter[tuple[Direction, int]] = field(default_factory=Counter)
    life: str = ""
    """Of the peer: one that is removed and added again is another."""

    def install(self, firewall: Firewall) -> None:
        self.firewall = firewall
        self.generation += 1
        self.decided.clear()
        self.replies.clear()

    def counters(self) -> list[list[list[int]]]:
        """As the fast one's: decided and replies, each by direction and rule."""
        rules = range(len(self.firewall.section.rules) + 2)
        both: tuple[Direction, Direction] = ("in", "out")
        return [
            [[counted[direction, rule] for rule in rules] for direction in both]
            for counted in (self.decided, self.replies)
        ]

    def judge(self, direction: Direction, peer: str, frame: bytes, now: int, life: str = "") -> Verdict:
        self.life = life
        try:
            seen = take_apart(frame, direction, peer)
        except Malformed:
            return "malformed"
        if frame[0] & 1 or seen.packet.src is None or seen.packet.resolution or seen.kind == "plain":
            allowed = self.by_rule(seen.packet)
        elif seen.kind == "later":
            allowed = self.find(direction, self.fragments(seen), now) is not None or self.by_rule(seen.packet)
        elif seen.kind == "error":
            allowed = self.about(seen, now) or self.by_rule(seen.packet)
        else:
            allowed = self.connection(seen, now)
        tracked = seen.packet.src is not None and not frame[0] & 1 and not seen.packet.resolution
        if allowed and seen.first and tracked:
            self.flows[direction][self.fragments(seen)] = ("later", Flow(0, True, 0, now))
        return "pass" if allowed else "deny"

    def asks(self, packet: Packet) -> tuple[bool, int]:
        """Allowed, and by which rule: the default is behind the last, ARP and ND behind that."""
        decision = self.firewall.decide(packet)
        rule = (
            len(self.firewall.section.rules) + packet.resolution if decision.rule is None else decision.rule
        )
        return decision.action == "allow", rule

    def by_rule(self, packet: Packet) -> bool:
        allowed, rule = self.asks(packet)
        self.decided[packet.direction, rule] += 1
        return allowed

    def find(self, direction: Direction, key: object, now: int) -> Flow | None:
        kind, flow = self.flows[direction].get(key, ("", None))
        if flow is None or max(0, now - flow.last) >= flow.life(kind):
            return None
        return flow

    def fragments(self, seen: Seen) -> object:
        packet = seen.packet
        protocol = packet.protocol if packet.ethertype == 0x0800 else 0
        return (
            "later",
            packet.peer,
            self.life,
            packet.vlan,
            seen.inner,
            packet.src,
            packet.dst,
            protocol,
            seen.datagram,
        )

    def key(self, seen: Seen) -> object:
        """Ours first, so that it is the same for both directions."""
        packet = seen.packet
        far, here = (packet.src, packet.src_port), (packet.dst, packet.dst_port)
        if packet.direction == "out":
            far, here = here, far
        opener = packet.direction if seen.kind == "request" else opposite(packet.direction)
        echo = (seen.echo, opener) if seen.kind in ("request", "reply") else None
        kind = packet.vlan, seen.inner, packet.protocol, packet.ethertype
        return packet.peer, self.life, kind, far, here, echo

    def turned(self, packet: Packet) -> Packet:
        return replace_packet(
            packet,
            direction=opposite(packet.direction),
            src=packet.dst,
            dst=packet.src,
            src_port=packet.dst_port,
            dst_port=packet.src_port,
        )

    def stands(self, flow: Flow, first: Packet) -> tuple[bool, int]:
        return (flow.allowed, flow.rule) if flow.generation == self.generation else self.asks(first)

    def connection(self, seen: Seen, now: int) -> bool:
        packet, key = seen.packet, self.key(seen)
        direction = packet.direction
        opens = seen.kind in ("udp", "request") or (
            seen.kind == "tcp" and seen.flags & (SYN | ACK | RST | FIN) == SYN
        )
        own = self.find(direction, key, now)
        if own is not None and seen.kind == "tcp" and opens and own.closing():
            del self.flows[direction][key]
            own = None
        if own is not None:
            own.allowed, own.rule = self.stands(own, packet)
            own.generation, own.last = self.generation, now
            own.flags |= seen.flags & (FIN | RST)
            if own.allowed:
                self.decided[direction, own.rule] += 1
                return True
        other = self.find(opposite(direction), key, now)
        if other is not None and seen.kind == "tcp" and opens and other.closing():
            other = None
        stands, rule = self.stands(other, self.turned(packet)) if other is not None else (False, 0)
        if other is not None and stands:
            self.replies[direction, rule] += 1
            other.answered = True
            other.last = max(other.last, now)
            other.answer_flags |= seen.flags & (FIN | RST)
            return True
        allowed, rule = self.asks(packet)
        self.decided[direction, rule] += 1
        if allowed and opens and own is None and other is None:
            kind = seen.kind if seen.kind in ("tcp", "udp") else "echo"
            self.flows[direction][key] = (kind, Flow(self.generation, True, rule, now))
        return allowed

    def about(self, seen: Seen, now: int) -> bool:
        """Is this ICMP error about a packet that went the other way in a connection that may go on?"""
        back = opposite(seen.packet.direction)
        empty = Packet(
            direction=back, peer=seen.packet.peer, ethertype=seen.packet.ethertype, vlan=seen.packet.vlan
        )
        try:
            quoted = network(Seen(empty, inner=seen.inner), seen.quoted, quoted=True)
        except Malformed:
            return False
        if quoted.kind not in ("tcp", "udp", "request", "reply", "error"):
            return False
        stands, rule = False, 0
        flow = self.find(back, self.key(quoted), now)
        if flow is not None:
            stands, rule = self.stands(flow, quoted.packet)
        else:
            flow = self.find(seen.packet.direction, self.key(quoted), now)
            if flow is not None:
                stands, rule = self.stands(flow, self.turned(quoted.packet))
        self.replies[seen.packet.direction, rule] += stands
        return stands
