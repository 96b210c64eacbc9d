"""Slow twin of segmentation: a super-frame becomes frames by building each one anew from its fields.

Shares no code with ext/segment.pyx and ext/coalesce.pyx, and never patches: every header is written from
what was parsed.  Frames here carry complete checksums, so that a comparison sees every byte of them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

TCP, UDP = 6, 17
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 4, 5
VNET = struct.Struct("=BBHHHH")


def fold(data: bytes, total: int = 0) -> int:
    """One's complement sum of big-endian words."""
    data += bytes(len(data) % 2)
    total += sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Packet:
    """All fields of an Ethernet frame with TCP or UDP over IPv4 or IPv6."""

    ethernet: bytes
    source: bytes
    target: bytes
    protocol: int
    payload: bytes
    identity: int = 0
    sequence: int = 0
    acknowledged: int = 0
    flags: int = ACK
    options: bytes = b""
    ports: tuple[int, int] = (1000, 2000)
    window: int = 512

    def pseudo(self, length: int) -> int:
        """Sum of the pseudo header."""
        return fold(self.source + self.target + struct.pack("!HH", self.protocol, length))

    def transport(self, *, partial: bool) -> bytes:
        """Header and payload."""
        if self.protocol == UDP:
            head = struct.pack("!HHHH", *self.ports, 8 + len(self.payload), 0)
            place = 6
        else:
            offset = (5 + len(self.options) // 4) << 4
            head = struct.pack(
                "!HHIIBBHHH",
                *self.ports,
                self.sequence,
                self.acknowledged,
                offset,
                self.flags,
                self.window,
                0,
                0,
            )
            head += self.options
            place = 16
        total = self.pseudo(len(head) + len(self.payload))
        if not partial:
            total = (~fold(head + self.payload, total) & 0xFFFF) or 0xFFFF
        return head[:place] + struct.pack("!H", total) + head[place + 2 :] + self.payload

    def ip_header(self, length: int) -> bytes:
        """IPv4 or IPv6 header for `length` bytes behind it."""
        if len(self.source) == 16:
            return struct.pack("!IHBB", 6 << 28, length, self.protocol, 64) + self.source + self.target
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, self.identity, 0x4000, 64, self.protocol, 0)
        total = ~fold(head + self.source + self.target) & 0xFFFF
        return head[:10] + struct.pack("!H", total) + self.source + self.target

    def frame(self, *, partial: bool = False) -> bytes:
        """The whole frame."""
        body = self.transport(partial=partial)
        return self.ethernet + self.ip_header(len(body)) + body

    @property
    def start(self) -> int:
        """Offset of the transport header."""
        return len(self.ethernet) + (40 if len(self.source) == 16 else 20)

    @property
    def headers(self) -> int:
        """Size of all headers."""
        return self.start + (8 if self.protocol == UDP else 20 + len(self.options))

    @property
    def checksum_offset(self) -> int:
        """Of the checksum in the transport header."""
        return 6 if self.protocol == UDP else 16

    def segment(self) -> bytes:
        """The payload of kind 0x06."""
        flags = 0x01 | (0x04 if self.protocol == UDP else 0x02)
        return bytes([6, flags, self.headers, self.start, self.checksum_offset]) + self.frame(partial=True)

    def vnet(self, gso_size: int = 0) -> bytes:
        """The virtio_net_hdr of it as a super-frame, or of a single frame."""
        kinds = {(UDP, 4): GSO_UDP_L4, (UDP, 16): GSO_UDP_L4, (TCP, 4): GSO_TCPV4, (TCP, 16): GSO_TCPV6}
        kind = kinds[self.protocol, len(self.source)] if gso_size else GSO_NONE
        return VNET.pack(1, kind, self.headers, gso_size, self.start, self.checksum_offset)


def split(packet: Packet, size: int) -> list[Packet]:
    """What a network card would send of a super-frame with gso_size `size`."""
    pieces = [packet.payload[i : i + size] for i in range(0, len(packet.payload), size)]
    made = []
    for number, piece in enumerate(pieces):
        flags = packet.flags if packet.protocol == TCP else ACK
        if number > 0:
            flags &= ~CWR
        if number < len(pieces) - 1:
            flags &= ~(FIN | PSH)
        identity = (packet.identity + number) & 0xFFFF if len(packet.source) == 4 else 0
        sequence = (packet.sequence + number * size) & 0xFFFFFFFF if packet.protocol == TCP else 0
        made.append(replace(packet, payload=piece, flags=flags, identity=identity, sequence=sequence))
    return made


def parse(frame: bytes) -> Packet:
    """The fields of a frame whose headers are as `Packet.frame` writes them."""
    ethernet = 18 if frame[12:14] == b"\x81\x00" else 14
    ipv6 = frame[ethernet - 2 : ethernet] == b"\x86\xdd"
    ip = frame[ethernet:]
    size = 40 if ipv6 else 20
    source, target = (ip[8:24], ip[24:40]) if ipv6 else (ip[12:16], ip[16:20])
    protocol = ip[6] if ipv6 else ip[9]
    identity = 0 if ipv6 else int.from_bytes(ip[4:6], "big")
    body = ip[size:]
    ports = struct.unpack("!HH", body[:4])
    if protocol == UDP:
        return Packet(frame[:ethernet], source, target, UDP, body[8:], identity, ports=ports)
    sequence, acknowledged, offset, flags, window = struct.unpack("!IIBBH", body[4:16])
    end = (offset >> 4) * 4
    options, payload = body[20:end], body[end:]
    return Packet(
        frame[:ethernet], source, target, TCP, payload, identity, sequence, acknowledged, flags, options,
        ports, window,
    )  # fmt: skip


def from_tap(data: bytes) -> list[Packet]:
    """What the kernel makes of one write to a TAP: checks the header, the lengths and the partial sums."""
    flags, kind, hdr_len, gso_size, start, offset = VNET.unpack(data[:10])
    frame = data[10:]
    packet = parse(frame)
    assert flags == 1
    assert VNET.pack(flags, kind, hdr_len, gso_size, start, offset) == packet.vnet(gso_size)
    assert len(frame) - len(packet.ethernet) <= 65535
    assert packet.frame(partial=True) == frame
    if kind == GSO_NONE:
        return [packet]
    assert 0 < gso_size < len(packet.payload)
    return split(packet, gso_size)
