"""Slow twin of ext/ownership.pyx and origin.pyx: who may send a frame, with sets and `ipaddress`.

Takes frames apart by itself, but for what makes a packet malformed, which is the firewall's twin's matter.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from tests.reference.firewall import Malformed, Seen, take_apart

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNASKED = (131, 132, 133, 135, 143)
"""ICMPv6 that a node sends before it has an address."""


@dataclass
class Party:
    """What one peer may do."""

    mac: bytes
    prefixes: tuple[Network, ...]
    others: bool = False
    dhcp: bool = False
    router: bool = False


@dataclass
class Origins:
    """Peers by number; 0 is ourselves."""

    parties: dict[int, Party] = field(default_factory=dict)

    def owns(self, number: int, address: Address) -> bool:
        """Its own, or in its prefixes (or anywhere, with `others`) and nobody's own."""
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            return False
        party = self.parties[number]
        host = ipaddress.ip_network(address)
        if host in party.prefixes:
            return True
        if any(host in one.prefixes for other, one in self.parties.items() if other != number):
            return False
        return party.others or any(address in prefix for prefix in party.prefixes)

    def judge(self, number: int, frame: bytes) -> str:
        """What `shadowmesh._ext.origin.Origins.judge` says."""
        if number not in self.parties:
            return "pass"
        if self._is_plain(number, frame):
            return "pass"
        try:
            seen = take_apart(frame, "in", "")
        except Malformed:
            return "malformed_packet"
        at = 14
        while frame[at - 2 : at] in (b"\x81\x00", b"\x88\xa8"):
            at += 4
        data = frame[at:]
        if seen.packet.ethertype == 0x0806:
            return self._arp(number, data)
        if seen.packet.src is None:
            snap = seen.packet.ethertype < 0x600 and len(data) >= 8 and data[:2] == b"\xaa\xaa"
            hidden = data[6:8] in (b"\x08\x00", b"\x08\x06", b"\x86\xdd")
            return "malformed_packet" if snap and hidden else "pass"
        if not self._may_send(number, seen, data):
            return "spoofed_address"
        return "pass" if seen.kind == "later" else self._rights(number, seen, data)

    def _may_send(self, number: int, seen: Seen, data: bytes) -> bool:
        src, protocol = ipaddress.ip_address(str(seen.packet.src)), seen.packet.protocol
        if int(src):
            return self.owns(number, src)
        if src.version == 4:
            return protocol == 2 or (seen.kind == "udp" and seen.packet.dst_port == 67)
        return protocol == 58 and seen.kind != "later" and upper(data)[0] in UNASKED

    def _rights(self, number: int, seen: Seen, data: bytes) -> str:
        """What takes a right, and neighbour discovery."""
        party, six, protocol = self.parties[number], data[0] >> 4 == 6, seen.packet.protocol
        body = upper(data)
        if seen.kind == "udp" and seen.packet.dst_port == (546 if six else 68) and not party.dhcp:
            return "dhcp_guard"
        if protocol == 1 and not six and body[0] in (5, 9) and not party.router:
            return "ra_guard"
        if protocol == 58 and six and 133 <= body[0] <= 137:
            if has_fragment_header(data) or (body[0] in (134, 137) and not party.router):
                return "ra_guard"
            return self._discovery(number, ipaddress.ip_address(str(seen.packet.src)), body)
        return "pass"

    def _is_plain(self, number: int, frame: bytes) -> bool:
        """TCP and UDP are judged by their place alone where nothing stands before them."""
        if frame[12:14] == b"\x08\x00" and len(frame) >= 42 and frame[14] == 0x45:
            protocol, port, client = frame[23], frame[36:38], b"\x00\x44"
            source: Address = ipaddress.IPv4Address(frame[26:30])
        elif frame[12:14] == b"\x86\xdd" and len(frame) >= 62 and frame[14] >> 4 == 6:
            protocol, port, client = frame[20], frame[56:58], b"\x02\x22"
            source = ipaddress.IPv6Address(frame[22:38])
        else:
            return False
        return (protocol == 6 or (protocol == 17 and port != client)) and self.owns(number, source)

    def _arp(self, number: int, data: bytes) -> str:
        if len(data) < 28 or data[:6] != b"\x00\x01\x08\x00\x06\x04":
            return "malformed_packet"
        sender = ipaddress.IPv4Address(data[14:18])
        mac = self.parties[number].mac
        fine = data[8:14] == mac and (int(sender) == 0 or self.owns(number, sender))
        return "pass" if fine else "spoofed_address"

    def _discovery(self, number: int, src: Address, body: bytes) -> str:
        start = {133: 8, 134: 16, 135: 24, 136: 24, 137: 40}[body[0]]
        if len(body) < start:
            return "malformed_packet"
        claims = body[0] == 136 or (body[0] == 135 and int(src) == 0)
        if claims and not self.owns(number, ipaddress.IPv6Address(body[8:24])):
            return "spoofed_address"
        left = body[start:]
        for _ in range(64):
            if not left:
                return "pass"
            size = left[1] * 8 if len(left) >= 8 else 0
            if not 0 < size <= len(left):
                break
            meant = left[0] == 1 or (left[0] == 2 and body[0] != 137)
            if meant and left[2:8] != self.parties[number].mac:
                return "spoofed_address"
            left = left[size:]
        return "malformed_packet"


def headers(data: bytes) -> list[tuple[int, bytes]]:
    """The protocol and the rest from each header of an IPv6 packet on; lengths are right."""
    protocol, rest = data[6], data[40 : 40 + int.from_bytes(data[4:6], "big")]
    found = [(protocol, rest)]
    while protocol in (0, 43, 44, 51, 60):
        size = 8 if protocol == 44 else (rest[1] + 2) * 4 if protocol == 51 else (rest[1] + 1) * 8
        protocol, rest = rest[0], rest[size:]
        found.append((protocol, rest))
    return found


def upper(data: bytes) -> bytes:
    """What IP carries, of a packet that is not malformed and no later fragment."""
    if data[0] >> 4 == 4:
        return data[(data[0] & 15) * 4 : int.from_bytes(data[2:4], "big")]
    return headers(data)[-1][1]


def has_fragment_header(data: bytes) -> bool:
    return any(protocol == 44 for protocol, _ in headers(data))
