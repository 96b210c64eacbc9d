"""Underlay captures: tcpdump to a file, a bounded pcap reader, and a search that also reads QUIC Initials.

The keys of QUIC v1 Initial packets follow from the client's first connection id (RFC 9001 section
5.2), so whoever captures can read them: a search for leaked plaintext has to look there as well.
Reads Ethernet captures with IPv4 or IPv6 and UDP; no other QUIC packet type is opened.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aioquic._buffer import Buffer, BufferReadError
from aioquic._crypto import CryptoError
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicHeader, QuicPacketType, QuicProtocolVersion, pull_quic_header

from shadowmesh.testing.lab import SWITCH_BRIDGE, Host, Lab
from shadowmesh.testing.process import LabError, Process

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

MAX_PACKET = 262_144
"""Bytes: tcpdump's own limit of one packet (snapshot length)."""

MAX_PACKETS = 2_000_000
MAX_CRYPTO_STREAM = 65_536
"""Bytes of one side's Initial CRYPTO stream that are kept: aioquic's own limit is smaller."""

CHANNEL_HEADER = 9
"""First byte of short-header form, then the 8 byte id of the channel; any datagram follows."""

SENTINEL_PORT = 9
"""UDP discard port: marks the first and last packet of a capture."""

_PCAP_MAGIC = {
    b"\xd4\xc3\xb2\xa1": "<",
    b"\xa1\xb2\xc3\xd4": ">",  # microseconds
    b"\x4d\x3c\xb2\xa1": "<",
    b"\xa1\xb2\x3c\x4d": ">",  # nanoseconds
}
_LINKTYPE_ETHERNET = 1


class Datagram(NamedTuple):
    """One UDP datagram: addresses as text, and its payload."""

    source: str
    source_port: int
    target: str
    target_port: int
    payload: bytes


def read_pcap(path: Path) -> Iterator[bytes]:
    """Every Ethernet frame of a pcap file (not pcapng).  A truncated last record ends the iteration.

    Raises `LabError` for another format and beyond `MAX_PACKETS`.
    """
    with path.open("rb") as stream:
        header = stream.read(24)
        order = _PCAP_MAGIC.get(header[:4])
        if order is None or len(header) < 24:
            raise LabError(f"{path} is not a pcap file")
        if struct.unpack(order + "I", header[20:24])[0] & 0xFFFF != _LINKTYPE_ETHERNET:
            raise LabError(f"{path} is not an Ethernet capture")
        for _ in range(MAX_PACKETS):
            record = stream.read(16)
            if len(record) < 16:
                return
            size = struct.unpack(order + "I", record[8:12])[0]
            if size > MAX_PACKET:
                raise LabError(f"{path}: a record of {size} bytes")
            frame = stream.read(size)
            if len(frame) < size:
                return
            yield frame
    raise LabError(f"{path} has more than {MAX_PACKETS} packets")


def parse_datagram(frame: bytes) -> Datagram | None:
    """The UDP datagram in an Ethernet frame, or None (other protocols, IP fragments, truncated)."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) >= 34:
        family, start = socket.AF_INET, 14 + (frame[14] & 15) * 4
        fragment = struct.unpack("!H", frame[20:22])[0] & 0x3FFF
        protocol, source, target = frame[23], frame[26:30], frame[30:34]
    elif kind == b"\x86\xdd" and len(frame) >= 54:
        family, start, fragment = socket.AF_INET6, 54, 0
        protocol, source, target = frame[20], frame[22:38], frame[38:54]
    else:
        return None
    if protocol != socket.IPPROTO_UDP or fragment or len(frame) < start + 8:
        return None
    source_port, target_port, size = struct.unpack("!HHH", frame[start : start + 6])
    # The UDP length bounds the payload: short frames carry Ethernet padding.  It is 0 in a super-datagram.
    end = start + size if size >= 8 else len(frame)
    source_host, target_host = socket.inet_ntop(family, source), socket.inet_ntop(family, target)
    return Datagram(source_host, source_port, target_host, target_port, frame[start + 8 : end])


def read_datagrams(path: Path) -> Iterator[Datagram]:
    """Every UDP datagram of a capture."""
    for frame in read_pcap(path):
        datagram = parse_datagram(frame)
        if datagram is not None:
            yield datagram


@dataclass
class _Stream:
    """CRYPTO data of one direction, put together by offset (RFC 9000 section 19.6)."""

    data: bytearray = field(default_factory=bytearray)
    expected_number: int = 0

    def put(self, offset: int, piece: bytes) -> None:
        end = offset + len(piece)
        if end <= MAX_CRYPTO_STREAM:
            if len(self.data) < end:
                self.data.extend(bytes(end - len(self.data)))
            self.data[offset:end] = piece


@dataclass
class InitialConnection:
    """What a passive listener can read of one QUIC handshake.

    `relayed`: seen inside channel packets.  `plaintexts`: payloads of the Initial packets, both
    directions.  `client` and `server` hold the CRYPTO streams (ClientHello, ServerHello).
    """

    key_cid: bytes
    client_cid: bytes
    relayed: bool
    plaintexts: list[bytes] = field(default_factory=list)
    client: _Stream = field(default_factory=_Stream)
    server: _Stream = field(default_factory=_Stream)

    def __post_init__(self) -> None:
        version = QuicProtocolVersion.VERSION_1
        self._from_client, self._from_server = CryptoPair(), CryptoPair()
        self._from_client.setup_initial(cid=self.key_cid, is_client=False, version=version)
        self._from_server.setup_initial(cid=self.key_cid, is_client=True, version=version)

    def open(self, packet: bytes, header_size: int, by_client: bool) -> bool:
        """Decrypt one Initial packet and keep its plaintext; False if the keys don't fit."""
        stream = self.client if by_client else self.server
        pair = self._from_client if by_client else self._from_server
        try:
            _, plain, number = pair.decrypt_packet(packet, header_size, stream.expected_number)
        except CryptoError:
            return False
        stream.expected_number = max(stream.expected_number, number + 1)
        self.plaintexts.append(plain)
        for offset, piece in _crypto_frames(plain):
            stream.put(offset, piece)
        return True


class InitialReader:
    """Feed datagrams in the order of the capture; collects `connections`.

    `unread` counts Initial packets that no known key opened: a capture that starts in the middle of a
    handshake, or a packet that isn't what it looks like.
    """

    def __init__(self) -> None:
        self.connections: list[InitialConnection] = []
        self.unread = 0
        self.retries = 0
        self._by_cid: dict[bytes, InitialConnection] = {}

    def feed(self, payload: bytes) -> None:
        """Look at one UDP payload, also behind one channel header.  Never raises on network bytes."""
        if payload[:1] >= b"\xc0":
            self._feed_long(payload, relayed=False)
        elif payload[:1] >= b"\x40" and payload[CHANNEL_HEADER : CHANNEL_HEADER + 1] >= b"\xc0":
            self._feed_long(payload[CHANNEL_HEADER:], relayed=True)

    def _feed_long(self, data: bytes, relayed: bool) -> None:
        # Packets can be coalesced (RFC 9000 section 12.2): go on behind each one's length.
        while data[:1] >= b"\xc0":
            buffer = Buffer(data=data)
            try:
                header = pull_quic_header(buffer, host_cid_length=8)
            except (ValueError, BufferReadError):
                return
            if header.version != QuicProtocolVersion.VERSION_1 or header.packet_length <= 0:
                return
            packet = data[: header.packet_length]
            if header.packet_type == QuicPacketType.RETRY:
                self.retries += 1
            elif header.packet_type == QuicPacketType.INITIAL:
                # A sealed frame packet behind a header may look long by chance: it then opens with no key.
                self.unread += not self._open(header, packet, buffer.tell(), relayed)
            data = data[header.packet_length :]

    def _open(self, header: QuicHeader, packet: bytes, header_size: int, relayed: bool) -> bool:
        known = self._by_cid.get(header.source_cid)
        if known and known.open(packet, header_size, by_client=True):
            return True
        known = self._by_cid.get(header.destination_cid)
        if known and known.open(packet, header_size, by_client=False):
            return True
        # A client's first Initial, or its first after a Retry: its destination id makes the keys.
        fresh = InitialConnection(header.destination_cid, header.source_cid, relayed)
        if not fresh.open(packet, header_size, by_client=True):
            return False
        self.connections.append(fresh)
        self._by_cid[header.source_cid] = fresh
        return True


def _crypto_frames(plain: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of the CRYPTO frames of an Initial's payload; stops at any frame it doesn't know."""
    buffer = Buffer(data=plain)
    try:
        while not buffer.eof():
            kind = buffer.pull_uint_var()
            if kind == 0x06:
                offset = buffer.pull_uint_var()
                yield offset, buffer.pull_bytes(buffer.pull_uint_var())
            elif kind in (0x02, 0x03):
                # ACK: largest, delay, count, first range, then pairs; 0x03 has three ECN counts behind them.
                buffer.pull_uint_var()
                buffer.pull_uint_var()
                ranges = buffer.pull_uint_var()
                for _ in range(1 + 2 * ranges + (3 if kind == 0x03 else 0)):
                    buffer.pull_uint_var()
            elif kind not in (0x00, 0x01):  # PADDING, PING
                return
    except (BufferReadError, ValueError):
        return


@dataclass
class SearchResult:
    """Outcome of `search`: what was looked through, and where which pattern was found."""

    packets: int
    bytes: int
    connections: list[InitialConnection]
    retries: int
    unread: int
    found: list[str]

    @property
    def initials(self) -> int:
        """Number of Initial packets that were decrypted."""
        return sum(len(connection.plaintexts) for connection in self.connections)


def search(paths: Iterable[Path], patterns: Mapping[str, bytes]) -> SearchResult:
    """Look for every pattern (label -> bytes) in all packets and in all decrypted Initials."""
    reader = InitialReader()
    result = SearchResult(0, 0, reader.connections, 0, 0, [])
    for path in paths:
        for number, frame in enumerate(read_pcap(path), 1):
            result.packets += 1
            result.bytes += len(frame)
            _match(frame, patterns, f"packet {number} of {path.name}", result.found)
            datagram = parse_datagram(frame)
            if datagram is not None:
                reader.feed(datagram.payload)
    for connection in reader.connections:
        where = f"Initial packets of connection {connection.key_cid.hex()}"
        for text in (*connection.plaintexts, bytes(connection.client.data), bytes(connection.server.data)):
            _match(text, patterns, where, result.found)
    result.retries, result.unread = reader.retries, reader.unread
    return result


def _match(data: bytes, patterns: Mapping[str, bytes], where: str, found: list[str]) -> None:
    found.extend(f"{label} in {where}" for label, pattern in patterns.items() if pattern in data)


def assert_absent(paths: Iterable[Path], patterns: Mapping[str, bytes]) -> SearchResult:
    """`search`, raising `LabError` that names every place if anything was found."""
    result = search(paths, patterns)
    if result.found:
        raise LabError("in clear on the underlay:\n" + "\n".join(result.found[:20]))
    return result


class Capture:
    """tcpdump of everything that crosses the switch, between `start` and `stop`.

    Starts and ends with a sentinel datagram between two hosts of the lab, so that nothing sent between
    the two calls can be missing from the file.
    """

    def __init__(self, lab: Lab, name: str = "underlay") -> None:
        self.lab = lab
        self.name = name
        self._process: Process | None = None

    @property
    def path(self) -> Path:
        """The file, in the lab's directory."""
        return self.lab.directory / f"{self.name}.pcap"

    def start(self) -> Capture:
        """Start tcpdump; returns when it is recording."""
        self.lab.segment(True)
        self._process = self.lab.switch.spawn(
            [
                "tcpdump",
                "-i",
                SWITCH_BRIDGE,
                "-n",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
                # In immediate mode a packet takes a slot of the snap length: room for 2,000 of 64 KiB, as
                # segmentation offload makes them.
                "-B",
                "131072",
                "-s",
                "65600",
                "-w",
                str(self.path),
            ],
            f"{self.name}.tcpdump.log",
        )
        self._process.wait_for_line("listening on", 10.0)
        self._sentinel(b"capture begins")
        return self

    def stop(self) -> Path:
        """Stop tcpdump and return the file.  `LabError` if the kernel dropped packets of the capture."""
        if self._process is None:
            raise LabError("the capture was not started")
        self._sentinel(b"capture ends")
        self._process.terminate()
        self.lab.segment(False)
        if "\n0 packets dropped by kernel" not in self._process.output():
            raise LabError(f"the capture is not complete\n{self._process.report()}")
        return self.path

    def _sentinel(self, text: bytes) -> None:
        hosts: list[Host] = list(self.lab.hosts.values())
        family = socket.AF_INET if hosts[0].ipv4 else socket.AF_INET6
        marker = text + b" " + self.lab.prefix.encode()
        process = self._process
        assert process is not None
        with hosts[0].socket(family, socket.SOCK_DGRAM) as sender:

            def recorded() -> bool:
                sender.sendto(marker, (hosts[1].address, SENTINEL_PORT))
                return marker in _tail_bytes(self.path)

            process.wait_for(recorded, 10.0, f"sentinel {marker!r} in the capture")


def _tail_bytes(path: Path, size: int = 65_536) -> bytes:
    """The last bytes of a growing file, empty while it does not exist."""
    if not path.exists():
        return b""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - size))
        return stream.read()
