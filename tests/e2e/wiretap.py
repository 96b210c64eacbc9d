"""Somebody who reads the whole underlay of a lab, and sends datagrams with any source address.

Sits at the switch, so it sees what a firewall at the receiver drops; what it injects is not seen again.  IPv4
only, one datagram per packet.  Knows nothing of ShadowMesh.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Self

from shadowmesh.testing.capture import Datagram, parse_datagram
from shadowmesh.testing.lab import SWITCH_BRIDGE, UNDERLAY_INTERFACE, Host, Lab
from shadowmesh.testing.natlab import nft
from tests.e2e.frames import mac_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 263, 1, 1
"""packet(7): a bridge hands what it only forwards to who listens promiscuously."""
SO_RCVBUFFORCE = 33
"""socket(7); Python has no name for it."""
BUFFER = 64 << 20
LARGEST = 65_536
DROPS = "wiretap"
"""Name of the nftables table that `deaf` makes."""

Place = tuple[str, int]
"""Address and port."""


class Wiretap:
    """Reads from `__enter__` on; `seen` grows with every `poll`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.seen: list[Datagram] = []

    def __enter__(self) -> Self:
        lab = self._lab
        lab.segment(True)
        self._socket = lab.switch.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self._socket.bind((SWITCH_BRIDGE, 3))  # ETH_P_ALL
        index = lab.switch.inside(lambda: socket.if_nametoindex(SWITCH_BRIDGE))
        everything = struct.pack("iHH8s", index, PACKET_MR_PROMISC, 0, b"")
        self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, everything)
        self._socket.setblocking(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._lab.segment(False)

    def poll(self) -> list[Datagram]:
        """Everything seen so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (_, _, kind, *_) = self._socket.recvfrom(LARGEST)
                datagram = parse_datagram(frame) if kind != socket.PACKET_OUTGOING else None
                if datagram is not None:
                    self.seen.append(datagram)
        return self.seen

    def between(self, source: Host, target: Host, begin: int = 0) -> list[Datagram]:
        """What went from one host to another, the first `begin` datagrams of all left out."""
        return [one for one in self.poll()[begin:] if (one.source, one.target) == (source.ipv4, target.ipv4)]

    def inject(self, source: Place, target: Place, payload: bytes) -> None:
        """Send one datagram, as if it came from `source`, to a host of the lab."""
        udp = (
            struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0) + payload
        )  # no checksum: RFC 768
        addresses = ipaddress.IPv4Address(source[0]).packed + ipaddress.IPv4Address(target[0]).packed
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses
        words = struct.unpack("!10H", header)
        total = sum(words)
        total = (total & 0xFFFF) + (total >> 16)
        checked = header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]
        self._socket.send(self._mac(target[0]) + b"\x02\0\0\0\0\x66" + b"\x08\x00" + checked + udp)

    def _mac(self, address: str) -> bytes:
        host = next(one for one in self._lab.hosts.values() if one.ipv4 == address)
        return mac_bytes(str((host.link(UNDERLAY_INTERFACE) or {})["address"]))


@contextlib.contextmanager
def listening(host: Host) -> Iterator[Callable[[], list[tuple[str, int, bytes]]]]:
    """Every UDP datagram that arrives at a host, whatever its port: (source, target port, payload) so far."""
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as listener:
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        listener.bind((UNDERLAY_INTERFACE, 0x0800))
        listener.setblocking(False)
        found: list[tuple[str, int, bytes]] = []

        def arrived() -> list[tuple[str, int, bytes]]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    datagram = parse_datagram(listener.recv(LARGEST))
                    if datagram is not None and datagram.target == host.ipv4:
                        found.append((datagram.source, datagram.target_port, datagram.payload))
            return found

        yield arrived


@contextlib.contextmanager
def deaf(host: Host, to: Host) -> Iterator[None]:
    """A host gets nothing that has the other's source address meanwhile: all of it is late."""
    chain = f"chain c {{\ntype filter hook input priority 0;\nip saddr {to.ipv4} drop\n}}"
    nft(host, f"table inet {DROPS} {{\n{chain}\n}}")
    try:
        yield
    finally:
        nft(host, f"delete table inet {DROPS}")
