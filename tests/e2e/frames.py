"""Raw Ethernet frames on an interface of a lab host: what the traffic tests send and count."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Self

from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from types import TracebackType

    from shadowmesh.testing.lab import Host

ETHERTYPE = 0x88B5
"""IEEE 802 local experimental ethertype 1: no protocol of the system answers it."""

BROADCAST = "ff:ff:ff:ff:ff:ff"
DELIVERY_TIMEOUT = 10.0
RESEND_EVERY = 10
"""Looks (of 20 ms) between two transmissions of a barrier frame."""


def mac_bytes(text: str) -> bytes:
    """The 6 bytes of a colon-separated MAC address."""
    return bytes.fromhex(text.replace(":", ""))


class Port:
    """A packet socket on one interface: sends any frame, receives the experimental ethertype.

    Bound to an ethertype, it is not handed what its own host sends: everything it gets came in.
    """

    def __init__(self, host: Host, interface: str) -> None:
        self.host = host
        self.mac = str((host.link(interface) or {})["address"])
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((interface, ETHERTYPE))
        self._socket.setblocking(False)
        self.received: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def frame(self, target: str, payload: bytes, source: str | None = None) -> bytes:
        """An Ethernet frame; from our own MAC if `source` isn't given."""
        header = mac_bytes(target) + mac_bytes(source or self.mac) + struct.pack("!H", ETHERTYPE)
        return header + payload

    def send(self, target: str, payload: bytes, source: str | None = None) -> bytes:
        """Send one frame and return it."""
        frame = self.frame(target, payload, source)
        self._socket.send(frame)
        return frame

    def poll(self) -> list[bytes]:
        """All frames received so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.received.append(self._socket.recv(65_536))
        return self.received

    def count(self, frame: bytes) -> int:
        """How often exactly this frame was received."""
        return self.poll().count(frame)

    def wait(self, frame: bytes, timeout: float = DELIVERY_TIMEOUT) -> None:
        """Wait until this frame has been received."""
        wait_until(
            lambda: frame in self.poll(),
            timeout,
            lambda: f"{self.host.name} did not receive {frame[:40].hex()}… of {len(frame)} bytes",
        )


def barrier(source: Port, target: Port, label: bytes) -> None:
    """Return when a frame sent now has arrived: what went the same way before has arrived or is lost."""
    looks = 0
    frame = source.frame(target.mac, b"barrier " + label + bytes(40))

    def arrived() -> bool:
        nonlocal looks
        if looks % RESEND_EVERY == 0:
            source.send(target.mac, frame[14:])
        looks += 1
        return frame in target.poll()

    wait_until(arrived, DELIVERY_TIMEOUT, f"barrier {label!r} from {source.host.name} to {target.host.name}")
