"""What the tests of the threads need: an engine between sockets, and a peer in slow Python.

A TAP is posed by one end of an AF_UNIX datagram socketpair: read and write keep message borders.
Nothing sleeps: everything waits for a descriptor, with a deadline.

Why `Peer.mark` is enough to know that what was sent before it is counted: the threads handle
datagrams in order, and a marker that came out of the TAP was handled after them.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from shadowmesh._ext.engine import EVENT_SOURCE, Engine, Event, SendKeys
from shadowmesh._ext.forward import Forwarder
from tests.reference import frame_packet

DEADLINE = 5.0
"""Seconds until a wait is a failure; on a busy machine the events take milliseconds."""

BROADCAST = b"\xff" * 6

WIDE = 65507
"""Budget of a route that carries whatever there is; narrow ones have tests of their own."""


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number])


def wire_id(number: int) -> bytes:
    return number.to_bytes(8, "big")


def material(number: int) -> bytes:
    return bytes((number * 31 + i) & 0xFF for i in range(76))


def frame(destination: bytes, source: bytes, content: bytes = b"content") -> bytes:
    return destination + source + b"\x88\xb5" + content


def raw_sockaddr(sock: socket.socket) -> bytes:
    """The raw sockaddr of a bound loopback socket, as the kernel lays it out."""
    host, port, *_ = sock.getsockname()
    packed = socket.inet_pton(sock.family, host)
    if sock.family == socket.AF_INET:
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + packed + bytes(8)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0) + packed + bytes(4)


def udp_socket(family: socket.AddressFamily = socket.AF_INET6) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    return sock


def wait_readable(fd: int, deadline: float = DEADLINE) -> bool:
    return bool(select.select([fd], [], [], deadline)[0])


def wait_until(condition: Callable[[], bool], deadline: float = DEADLINE) -> None:
    """For counters, which have no descriptor: yields the processor in between."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "deadline"
        os.sched_yield()


def workers() -> int:
    """How many threads of engines and forwarders there are; a joined one may take a moment to go."""
    return sum(name.startswith("sm-") for name, _ in tasks())


def tasks() -> Iterator[tuple[str, str]]:
    """Name and status of every thread of this process; one that ends meanwhile is left out."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            yield (task / "comm").read_text().strip(), (task / "status").read_text()


class Plane:
    """A UDP socket and an eventfd, and what is common to engine and forwarder."""

    plane: Engine | Forwarder

    def __init__(self, family: socket.AddressFamily, udp: socket.socket | None = None) -> None:
        self.udp = udp or udp_socket(family)
        self.sockaddr = raw_sockaddr(self.udp)
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.seen: list[Event] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.plane.stop()
        self.udp.close()
        os.close(self.event_fd)

    def event(self, *, sources: bool = False) -> Event:
        """The next event, waiting for it; those of new sources only if asked for."""
        end = time.monotonic() + DEADLINE
        while not self.seen:
            assert wait_readable(self.plane.fileno(), max(0.0, end - time.monotonic())), "no event"
            self.seen.extend(self.plane.poll() if sources else self.poll())
        return self.seen.pop(0)

    def poll(self) -> list[Event]:
        """What is there now, without those of new sources."""
        return [event for event in self.plane.poll() if event.kind != EVENT_SOURCE]

    def drops(self) -> dict[str, int]:
        """Only what isn't zero."""
        return {reason: count for reason, count in self.plane.drops().items() if count}


class Node(Plane):
    """An engine whose TAP ends in `self.tap`; `features` as of `Engine`."""

    def __init__(
        self,
        number: int,
        family: socket.AddressFamily = socket.AF_INET6,
        features: Iterable[str] | None = None,
        start: bool = True,
    ) -> None:
        super().__init__(family)
        self.mac = mac(number)
        self.tap, self.tap_inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (self.tap, self.tap_inside):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.tap.settimeout(DEADLINE)
        self.engine = self.plane = Engine(
            self.udp.fileno(), self.tap_inside.fileno(), self.event_fd, self.mac, features=features
        )
        if start:
            self.engine.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.tap.close()
        self.tap_inside.close()

    def receive(self) -> bytes:
        """The next frame that the engine wrote to its TAP."""
        return self.tap.recv(65536)

    def frames_waiting(self) -> bool:
        return wait_readable(self.tap.fileno(), 0)


def connect(one: Node, other: Node, number: int, *, channels: tuple[bytes, bytes] = (b"", b"")) -> None:
    """Make two engines peers of each other, as `number` on both sides; one lane each way."""
    for index, (node, far) in enumerate(((one, other), (other, one))):
        node.engine.add_peer(number, far.mac)
        ids = [wire_id((number << 32) + (index << 16) + lane) for lane in range(2)]
        node.engine.install_receive(number, number, ids, material(2 * number + index))
        far_ids = wire_id((number << 32) + ((1 - index) << 16) + 1)
        keys = SendKeys(material(2 * number + 1 - index))
        node.engine.set_lane(number, keys, 1, far_ids)
        node.engine.set_endpoint(number, far.sockaddr, channels[index], budget=WIDE)


class Peer:
    """Peer 7 of one engine, in slow Python on a socket of its own: can send whatever it likes."""

    SESSION = 700
    LANES = tuple(wire_id(0x700 + lane) for lane in range(3))

    def __init__(self, node: Node) -> None:
        self.node = node
        self.mac = mac(77)
        self.udp = udp_socket(node.udp.family)
        self.udp.settimeout(DEADLINE)
        self.sockaddr = raw_sockaddr(self.udp)
        self.numbers = [0] * len(self.LANES)
        self.marks = 0
        node.engine.add_peer(7, self.mac)
        node.engine.install_receive(self.SESSION, 7, self.LANES, material(70))
        node.engine.set_lane(7, SendKeys(material(71)), 2, wire_id(0x7777))
        node.engine.set_endpoint(7, self.sockaddr, b"", budget=WIDE)

    def packet(self, payload: bytes, lane: int = 1, number: int | None = None, first: int = 0x43) -> bytes:
        if number is None:
            number = self.numbers[lane]
            self.numbers[lane] += 1
        return frame_packet.seal(material(70), lane, self.LANES[lane], number, payload, first)

    def send(self, datagram: bytes) -> None:
        self.udp.sendto(datagram, self.node.udp.getsockname())

    def mark(self) -> None:
        """Send a good frame and wait until it came out: all that was sent before is dealt with."""
        self.marks += 1
        marker = frame(self.node.mac, self.mac, b"marker %d" % self.marks)
        self.send(self.packet(b"\x01" + marker))
        assert self.node.receive() == marker

    def open(self, datagram: bytes) -> tuple[int, bytes]:
        assert datagram[1:9] == wire_id(0x7777)
        return frame_packet.open_packet(material(71), 2, datagram)


@contextmanager
def node_and_peer(
    family: socket.AddressFamily = socket.AF_INET6,
    features: Iterable[str] | None = None,
    start: bool = True,
) -> Iterator[tuple[Node, Peer]]:
    with Node(1, family, features, start) as node:
        peer = Peer(node)
        with peer.udp:
            yield node, peer
