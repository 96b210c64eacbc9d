"""A box in a cable that impairs IP packets, sans-I/O: frames and `now` in, frames and a deadline out.

    host -- near | box | far -- switch          `UP` is from near to far, `DOWN` the other way

Each direction has a `Stage` (impair.py) for all packets, and others for packets to and from chosen remote
addresses.  A changed bit lies behind the UDP header, whose checksum is made right again: the receiver's
kernel passes it on, as from an attacker on the way.  After `rebind` the box is a NAT of UDP ports
(nat.py); addresses stay.  UDP and TCP alone are impaired: ARP, neighbour discovery and ICMP pass at once.
Sends no ICMP; what becomes of frames outside is the business of `cable.py`.
"""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shadowmesh.testing.impair import Delayed, Impairment, Stage, flip
from shadowmesh.testing.nat import PORT_RESTRICTED, Nat, Ports
from shadowmesh.units import Address

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

UP, DOWN = "up", "down"

ETHERNET = 14
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP, FRAGMENT = 6, 17, 44
"""Protocol numbers; the last is IPv6's extension header. Source: IANA, RFC 8200 section 4.5."""
UDP_HEADER = 8
UDP_CHECKSUM = 6
"""Offset in the UDP header. Source: RFC 768."""

BEHAVIOUR = replace(PORT_RESTRICTED, ports=Ports.RANDOM)
"""Of the NAT after `rebind`: every one of its lives gives another port."""


@dataclass(frozen=True)
class Datagram:
    """Where things are in a frame with UDP or TCP; `udp` is the offset of a UDP header, 0 without one.

    `end` is behind the IP packet: short frames are padded.
    """

    source: bytes
    target: bytes
    payload: int
    end: int
    udp: int
    fragment: bool


def parse(frame: bytes) -> Datagram | None:
    """None for what is not impaired: no IP, or neither UDP, TCP nor a fragment of one."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == IPV4 and len(frame) >= ETHERNET + 20:
        header = 4 * (frame[14] & 15)
        end = ETHERNET + int.from_bytes(frame[16:18], "big")
        # Source: RFC 791 section 3.1. More-fragments flag and offset; the offset alone.
        position = int.from_bytes(frame[20:22], "big")
        protocol, fragment, first = frame[23], bool(position & 0x3FFF), not position & 0x1FFF
        source, target = frame[26:30], frame[30:34]
    elif kind == IPV6 and len(frame) >= ETHERNET + 40:
        header = 40
        end = ETHERNET + 40 + int.from_bytes(frame[18:20], "big")
        protocol, source, target = frame[20], frame[22:38], frame[38:54]
        fragment, first = protocol == FRAGMENT, protocol != FRAGMENT
        if fragment and len(frame) >= ETHERNET + 48:
            header, protocol = 48, frame[ETHERNET + 40]
    else:
        return None
    if protocol not in (TCP, UDP) or end > len(frame):
        return None
    transport = ETHERNET + header
    has_header = protocol == UDP and first and end >= transport + UDP_HEADER
    payload = min(transport + UDP_HEADER * first, end)
    return Datagram(source, target, payload, end, transport if has_header else 0, fragment)


def adjust(checksum: int, old: int, new: int) -> int:
    """The checksum of a datagram in which one 16-bit word changes. Source: RFC 1624 section 3, equation 3."""
    if not checksum:  # RFC 768: the sender made none
        return 0
    total = (checksum ^ 0xFFFF) + (old ^ 0xFFFF) + new
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (total ^ 0xFFFF) or 0xFFFF


def damaged(frame: bytes, found: Datagram, damage: int) -> bytes:
    """The frame with one bit behind the ports changed, and a UDP checksum that says nothing of it."""
    if found.payload >= found.end:
        return frame
    changed = bytearray(frame)
    changed[found.payload : found.end] = flip(frame[found.payload : found.end], damage)
    if found.udp:
        index = next(i for i in range(found.payload, found.end) if changed[i] != frame[i])
        word = index - (index - found.udp) % 2
        # The last word of an odd datagram counts with a zero behind it. Source: RFC 768.
        pair = [bytes(part[word : min(word + 2, found.end)]).ljust(2, b"\0") for part in (frame, changed)]
        _set_checksum(changed, found.udp, *(int.from_bytes(one, "big") for one in pair))
    return bytes(changed)


def with_port(frame: bytes, udp: int, offset: int, port: int) -> bytes:
    """The frame with another UDP port: the source at offset 0, the destination at 2."""
    changed = bytearray(frame)
    where = slice(udp + offset, udp + offset + 2)
    old, changed[where] = int.from_bytes(frame[where], "big"), port.to_bytes(2, "big")
    _set_checksum(changed, udp, old, port)
    return bytes(changed)


def _set_checksum(frame: bytearray, udp: int, old: int, new: int) -> None:
    where = slice(udp + UDP_CHECKSUM, udp + UDP_CHECKSUM + 2)
    frame[where] = adjust(int.from_bytes(frame[where], "big"), old, new).to_bytes(2, "big")


class Box:
    """See the module's text; `drops` and `passed` count packets by direction.

    :param random: where everything random comes from.
    """

    def __init__(self, random: random.Random) -> None:
        self.drops: dict[str, Counter[str]] = {UP: Counter(), DOWN: Counter()}
        """By reason: those of `Stage`, and nat (no mapping, or a remote that was not written to)."""
        self.passed: dict[str, Counter[str]] = {UP: Counter(), DOWN: Counter()}
        """packets, and of these damaged and doubled ones."""
        self._random = random
        self._stages: dict[tuple[str, bytes], Stage] = {}
        self._translates = False
        self._nats: dict[bytes, Nat] = {}
        self._under_way: Delayed[tuple[str, bytes]] = Delayed()
        for direction in (UP, DOWN):
            self.impair(direction, Impairment(), [])

    @property
    def deadline(self) -> float | None:
        """When `poll` has something next."""
        return self._under_way.deadline

    def impair(self, direction: str, impairment: Impairment, remotes: Sequence[str]) -> None:
        """Set what happens to packets to (`UP`) or from (`DOWN`) these addresses, by default all others."""
        for key in [_packed(remote) for remote in remotes] or [b""]:
            if stage := self._stages.get((direction, key)):
                stage.impairment = impairment
            else:
                self._stages[direction, key] = Stage(impairment, self._random, self.drops[direction])

    def clear(self) -> None:
        """Be a plain cable again; what is under way arrives as it was to."""
        self._translates = False
        self._nats = {}
        self._stages = {key: stage for key, stage in self._stages.items() if not key[1]}
        for stage in self._stages.values():
            stage.impairment = Impairment()

    def rebind(self) -> None:
        """Become a NAT of UDP ports, or lose all its mappings: whoever sends gets another port."""
        self._translates = True
        self._nats = {}

    def put(self, frame: bytes, direction: str, now: float) -> None:
        """A frame has come in on the side that `direction` leads away from."""
        found = parse(frame)
        if found is None:
            self._under_way.put((direction, frame), now)
            return
        if self._translates and found.udp:
            translated = self._translate(frame, found, direction, now)
            if translated is None:
                self.drops[direction]["nat"] += 1
                return
            frame = translated
        remote = found.target if direction == UP else found.source
        stage = self._stages.get((direction, remote)) or self._stages[direction, b""]
        fates = stage.judge(found.end - ETHERNET, now, int(found.fragment))
        passed = self.passed[direction]
        passed["packets"] += bool(fates)
        passed["doubled"] += len(fates) > 1
        for late, damage in fates:
            passed["damaged"] += damage is not None
            arriving = frame if damage is None else damaged(frame, found, damage)
            self._under_way.put((direction, arriving), now + late)

    def poll(self, now: float) -> list[tuple[str, bytes]]:
        """Frames to let out, each with its direction."""
        return self._under_way.poll(now)

    def _translate(self, frame: bytes, found: Datagram, direction: str, now: float) -> bytes | None:
        ports = frame[found.udp : found.udp + 4]
        source = Address(_text(found.source), int.from_bytes(ports[:2], "big"))
        target = Address(_text(found.target), int.from_bytes(ports[2:], "big"))
        inside = found.source if direction == UP else found.target
        nat = self._nats.get(inside)
        if nat is None:
            nat = self._nats[inside] = Nat(BEHAVIOUR, _text(inside), self._random)
        if direction == UP:
            return with_port(frame, found.udp, 0, nat.outbound(source, target, now).port)
        internal = nat.inbound(source, target, now)
        return internal and with_port(frame, found.udp, 2, internal.port)


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
