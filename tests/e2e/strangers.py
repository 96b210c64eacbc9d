"""A host that is nobody's member: raw datagrams from any address, valid-looking Initials, what comes back.

A raw socket writes the whole IPv4 packet, so its source may be invented.  Sources out of `LIED` have a route
to the stranger's own host, so that what is sent to them can be counted there: a victim of reflection.
"""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from shadowmesh.testing.lab import UNDERLAY_INTERFACE

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host
    from shadowmesh.testing.mesh import Node

LIED = "10.66"
"""First half of the addresses that a stranger invents: 65,536 of them."""
ETH_P_IP = 0x0800


@dataclass(frozen=True)
class Came:
    """A datagram that came back."""

    source_port: int
    target: str
    target_port: int
    payload: bytes


class Stranger:
    """Sends from `host` under addresses that it makes up, and sees what is answered to them.

    :param victims: the hosts that are to reach the invented addresses through this one.
    """

    def __init__(self, host: Host, victims: Iterable[Host]) -> None:
        self.host = host
        for victim in victims:
            victim.ip_batch([f"route add {LIED}.0.0/16 via {host.ipv4} dev {UNDERLAY_INTERFACE}"])
        self._out = host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._tap = host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        self._tap.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._tap.bind((UNDERLAY_INTERFACE, ETH_P_IP))
        self._tap.setblocking(False)

    def close(self) -> None:
        self._out.close()
        self._tap.close()

    def send(self, data: bytes, source: str, source_port: int, target: Host, target_port: int) -> None:
        """One datagram, as if it came from `source`; without a checksum, which IPv4 permits."""
        assert target.ipv4 is not None
        udp = struct.pack("!HHHH", source_port, target_port, 8 + len(data), 0) + data
        ends = socket.inet_aton(source) + socket.inet_aton(target.ipv4)
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0) + ends
        self._out.sendto(head + udp, (target.ipv4, 0))

    def came(self) -> list[Came]:
        """All UDP to invented addresses since the last call."""
        found: list[Came] = []
        while True:
            try:
                frame = self._tap.recv(65536)
            except BlockingIOError:
                return found
            target = socket.inet_ntoa(frame[30:34])
            if frame[23] == socket.IPPROTO_UDP and target.startswith(f"{LIED}."):
                ports = struct.unpack("!HHH", frame[34:40])
                found.append(Came(ports[0], target, ports[1], frame[42 : 34 + ports[2]]))

    def came_until_quiet(self, quiet: float = 0.3, limit: float = 10.0) -> list[Came]:
        """The same, until nothing came for `quiet` seconds."""
        found: list[Came] = []
        end, last = time.monotonic() + limit, time.monotonic()
        while time.monotonic() < min(end, last + quiet):
            new = self.came()
            if new:
                found += new
                last = time.monotonic()
            time.sleep(0.02)
        return found


@contextmanager
def stranger(host: Host, *victims: Host) -> Iterator[Stranger]:
    """One that is closed afterwards."""
    made = Stranger(host, victims)
    try:
        yield made
    finally:
        made.close()


def liar(number: int) -> str:
    """An invented address."""
    return f"{LIED}.{number >> 8 & 255}.{number & 255}"


def initial(token: bytes = b"", size: int = 1200, destination: bytes = b"", version: int = 1) -> bytes:
    """A first datagram as a client's: it opens with no key, which nobody finds out before the token."""
    destination = destination or secrets.token_bytes(8)
    head = b"\xc3" + version.to_bytes(4, "big") + b"\x08" + destination + b"\x08" + secrets.token_bytes(8)
    head += (0x4000 | len(token)).to_bytes(2, "big") + token
    head += (0x4000 | max(0, size - len(head) - 2)).to_bytes(2, "big")
    return head + secrets.token_bytes(max(0, size - len(head)))


def token_of(retry: bytes) -> tuple[bytes, bytes] | None:
    """Token, and id of the server, of a Retry; None if it is none."""
    header = pull_quic_header(Buffer(data=retry), host_cid_length=8)
    if header.packet_type is not QuicPacketType.RETRY:
        return None
    return header.token, header.source_cid


def resident(node: Node) -> int:
    """VmRSS of a daemon, bytes."""
    lines = Path(f"/proc/{node.running_process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024


class Flood:
    """Calls `send` with a rising number, `rate` times a second, while the body runs; `sent` counts."""

    def __init__(self, send: Callable[[int], None], rate: int) -> None:
        self.sent = 0
        self._send, self._rate = send, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flood")

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._stop.wait(0.005):
            due = int((time.monotonic() - begun) * self._rate)
            # What a busy machine has missed is not made up for in one go.
            for _ in range(min(due - self.sent, self._rate // 10)):
                self._send(self.sent)
                self.sent += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
