"""The processes of `relay.py`: sources and sinks of trains of datagrams, a forwarder, and its bare limit.

Judges nothing.  A train is what a client sends of one super-frame: datagrams of one size to one channel, as
one message with UDP_SEGMENT, or datagram by datagram.  Everything between the system calls is prepared
before, and one call moves hundreds of datagrams, so that Python is a few per cent of what a process does.
Each process is forked, pinned to one core, and counts in memory that it shares with its parent.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import multiprocessing
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.flood import LIBC, MSG_WAITFORONE, Header, Message, Vector
from shadowmesh._ext.forward import Forwarder
from shadowmesh.io.udp import open_udp, to_sockaddr
from shadowmesh.units import Address
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.steering import Steering, open_steered

HOST = "127.0.0.1"
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
"""linux/udp.h."""
SO_MEMINFO = 55
"""asm-generic/socket.h."""
MSG_TRUNC = 0x20
"""recv(2): the length of the datagram, however little of it is asked for."""
SEGMENTS, BYTES = 64, 65507
"""Of one message with UDP_SEGMENT, as the product sends them."""
GRO_MESSAGES, SINGLE_MESSAGES = 8, 64
"""Messages that one call fetches, as in ext/udp.pyx."""
HEADER = 9
PROBE = struct.Struct("!B8sQB")
"""Of a latency probe: first byte, id, nanoseconds of CLOCK_MONOTONIC, whether it goes through the relay."""
PROBE_SIZE = 200
CLIENTS = 100
"""Between which the channels are."""
PROBED, MODERATE, FLOODING = CLIENTS + 1, CLIENTS + 2, CLIENTS + 3
"""Clients of their own: who is asked for delays, and the two of the question of shares."""


@dataclass(frozen=True)
class Shape:
    """What is sent: `size` bytes of UDP payload; `joined`: a train is one message with UDP_SEGMENT."""

    size: int
    joined: bool

    @property
    def length(self) -> int:
        """Datagrams of a train."""
        return min(SEGMENTS, BYTES // self.size)

    def __str__(self) -> str:
        return f"{self.size} B {'GSO' if self.joined else 'single'}"


def channel_id(number: int, threads: int = 1) -> bytes:
    """Spread like random ones, and the same in each process; it leads to the thread of its source."""
    drawn = ((number + 1) * 0x9E3779B97F4A7C15 & (1 << 64) - 1).to_bytes(8, "big")
    return Steering(threads, lambda _: drawn).new_id(number % CLIENTS % threads)


class Messages:
    """`count` messages of sendmmsg or recvmmsg, with vectors of their own.

    :param sizes: bytes of the vectors of each message, which follow each other in one buffer.
    :param step: of UDP_SEGMENT, 0: none.
    """

    def __init__(self, count: int, sizes: Sequence[int], step: int = 0) -> None:
        self.buffer = ctypes.create_string_buffer(count * sum(sizes))
        self.headers = (Message * count)()
        self.vectors = (Vector * (count * len(sizes)))()
        self._control = ctypes.create_string_buffer(
            struct.pack("=QiiH6x", 16 + 2, SOL_UDP, UDP_SEGMENT, step), 24
        )
        place = ctypes.addressof(self.buffer)
        for number, message in enumerate(self.headers):
            for index, size in enumerate(sizes):
                vector = self.vectors[number * len(sizes) + index]
                vector.base, vector.length = place, size
                place += size
            header: Header = message.header
            header.vectors = ctypes.pointer(self.vectors[number * len(sizes)])
            header.vector_count = len(sizes)
            if step:
                header.control, header.control_length = ctypes.addressof(self._control), 24


class Child:
    """A process on its cores that counts into `counts`; `cpu` is what it used so far, in seconds."""

    def __init__(self, cores: set[int], run: Callable[..., None], *arguments: object, room: int = 8) -> None:
        context = multiprocessing.get_context("fork")
        shared = mmap.mmap(-1, 8 * room)
        self.counts: Any = (ctypes.c_uint64 * room).from_buffer(shared)
        self._process = context.Process(
            target=_pinned, args=(cores, run, self.counts, *arguments), daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def cpu(self) -> float:
        """Of all threads, as the scheduler counts it: /proc/PID/task/*/schedstat, first field, ns."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _pinned(cores: set[int], run: Callable[..., None], *arguments: object) -> None:
    # Ctrl-C is the parent's, who ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.sched_setaffinity(0, cores)
    run(*arguments)


def served(threads: int = 1) -> list[socket.socket]:
    """The sockets as a relay opens them."""
    links = open_steered(HOST, 0, threads)
    for link in links:
        link.setblocking(True)
        link.setsockopt(SOL_UDP, UDP_GRO, 1)
    return links


def bound(joining: bool = True) -> socket.socket:
    """A blocking socket with the buffers of the product."""
    link = open_udp(HOST, 0)
    link.setblocking(True)
    link.setsockopt(SOL_UDP, UDP_GRO, int(joining))
    return link


# ---- sources ---------------------------------------------------------------------------------


def source(
    counts: Any, target: int, shape: Shape, channels: Sequence[int], rate: int, threads: int = 1
) -> None:
    """Send trains to the port `target`, each to one of the channels in turn; 0: as fast as it goes.

    Counts datagrams.
    """
    sizes = [shape.size * shape.length] if shape.joined else [shape.size]
    per_channel = 1 if shape.joined else shape.length
    messages = Messages(len(channels) * per_channel, sizes, shape.size if shape.joined else 0)
    content = memoryview(messages.buffer).cast("B")
    for place in range(0, len(content), shape.size):
        number = place // shape.size // shape.length
        content[place : place + HEADER] = b"\x43" + channel_id(channels[number], threads)
    at_once = 8 if shape.joined else SINGLE_MESSAGES
    worth = shape.length if shape.joined else 1  # datagrams of a message
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        link.connect((HOST, target))
        paced(counts, link.fileno(), messages, at_once, worth, rate)


def paced(counts: Any, fd: int, messages: Messages, at_once: int, worth: int, rate: int) -> None:
    """Send messages worth so many datagrams each, over and over; 0: as fast as it goes. Counts datagrams."""
    begin, position, sent = time.monotonic(), 0, 0
    total = len(messages.headers)
    while True:
        due = at_once
        if rate:
            due = min(at_once, (int((time.monotonic() - begin) * rate) - sent) // worth)
            if due <= 0:
                time.sleep(max(worth / rate / 2, 50e-6))
                continue
        due = min(due, total - position)
        done = LIBC.sendmmsg(fd, ctypes.byref(messages.headers[position]), due, 0)
        if done < 0 and ctypes.get_errno() not in (errno.ENOBUFS, errno.EAGAIN, errno.ECONNREFUSED):
            raise OSError(ctypes.get_errno(), "sendmmsg")
        position = (position + max(0, done)) % total
        sent += max(0, done) * worth
        counts[0] = sent


def probes(counts: Any, relay: int, sink: int, number: int, interval: float) -> None:
    """Send `number` probes each way in turns: to the port of the sink, and to that of the relay."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        for i in range(2 * number):
            time.sleep(interval)
            relayed = i % 2
            stamp = PROBE.pack(0x43, channel_id(-PROBED), time.monotonic_ns(), relayed)
            link.sendto(stamp.ljust(PROBE_SIZE, b"\0"), (HOST, relay if relayed else sink))
            counts[0] += 1


# ---- sinks -----------------------------------------------------------------------------------


def sink(counts: Any, link: socket.socket, shape: Shape) -> None:
    """Count the datagrams that come, without copying them."""
    messages = Messages(SINGLE_MESSAGES, [16])
    headers = messages.headers
    fd, size = link.fileno(), shape.size
    while True:
        done = LIBC.recvmmsg(fd, headers, SINGLE_MESSAGES, MSG_TRUNC | MSG_WAITFORONE, None)
        for i in range(done):
            counts[0] += headers[i].length // size


def delays(counts: Any, link: socket.socket) -> None:
    """Note the delay of each probe: counts[0] of them went directly, counts[1] through the relay.

    From counts[2] on, in turns: nanoseconds of a direct one, of one through the relay.
    """
    while True:
        data = link.recv(PROBE_SIZE)
        now = time.monotonic_ns()
        _, _, stamp, relayed = PROBE.unpack(data[: PROBE.size])
        counts[2 + 2 * counts[relayed] + relayed] = now - stamp
        counts[relayed] += 1


# ---- what is between them --------------------------------------------------------------------


def forwarder(
    counts: Any, links: Sequence[socket.socket], sink_port: int, special: dict[int, int], channels: int
) -> None:
    """A relay's forwarder with so many channels between `CLIENTS`, which are all at the port of one sink.

    `special`: clients of their own and their ports; each has the channel minus its number to itself.
    Counts datagrams: received, sent, refused for the client's share, lost in the kernel's queue; the time.
    """
    for link in links:
        link.setblocking(False)
    threads = len(links)
    event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    plane = Forwarder(links[0].fileno(), event_fd, *(link.fileno() for link in links[1:]))
    limits = Limits()
    plane.set_limits(packet_rate=limits.packets_per_second, byte_rate=limits.bytes_per_second)
    for client in range(CLIENTS):
        plane.add_client(client, _sockaddr(sink_port), thread=client % threads)
    for client, port in special.items():
        plane.add_client(client, _sockaddr(port))
        plane.install_channel(channel_id(-client), client, client, b"arriving")
    for number in range(channels):
        plane.install_channel(channel_id(number, threads), *pair_of(number), b"arriving")
    plane.start()
    while True:
        statistics, drops = plane.counters(), plane.drops()
        counts[0], counts[1] = statistics["udp_rx_datagrams"], statistics["udp_tx_datagrams"]
        counts[2] = drops["client_share"]
        counts[3] = sum(map(_lost, links))
        counts[4] = time.monotonic_ns()
        time.sleep(0.02)


def _lost(link: socket.socket) -> int:
    """In the kernel's queue: sock_diag(7), SK_MEMINFO_DROPS."""
    return int(struct.unpack("=9I", link.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[8])


def pair_of(number: int) -> tuple[int, int]:
    """The clients of a channel."""
    return number % CLIENTS, number // CLIENTS % CLIENTS


def _sockaddr(port: int) -> bytes:
    return to_sockaddr(Address(HOST, port), socket.AF_INET)


def bare(counts: Any, link: socket.socket, target: int, shape: Shape) -> None:
    """What a relay does, and nothing of it but the system calls: receive with UDP_GRO, send with UDP_SEGMENT.

    No table, no id, one target.  Single datagrams are gathered, as the forwarder gathers them.
    """
    fd = link.fileno()
    if shape.joined:
        size = shape.size * shape.length
        messages = Messages(GRO_MESSAGES, [size])
        out = Messages(GRO_MESSAGES, [size], shape.size)
    else:
        messages = Messages(SINGLE_MESSAGES, [shape.size])
        out = Messages(1, [shape.size] * SINGLE_MESSAGES, shape.size)
    name = ctypes.create_string_buffer(_sockaddr(target), 16)
    for message in out.headers:
        message.header.name, message.header.name_length = ctypes.addressof(name), 16
    _send_from(out, messages)
    _relay(counts, fd, messages, out, shape)


def _send_from(out: Messages, into: Messages) -> None:
    """Send from the buffers that were received into."""
    place = ctypes.addressof(into.buffer)
    for vector in out.vectors:
        vector.base = place
        place += vector.length


def _relay(counts: Any, fd: int, messages: Messages, out: Messages, shape: Shape) -> None:
    while True:
        done = LIBC.recvmmsg(fd, messages.headers, len(messages.headers), MSG_WAITFORONE, None)
        if done <= 0:
            continue
        if shape.joined:
            LIBC.sendmmsg(fd, out.headers, done, 0)
            done *= shape.length
        else:
            out.headers[0].header.vector_count = done
            LIBC.sendmmsg(fd, out.headers, 1, 0)
        counts[1] += done
        counts[4] = time.monotonic_ns()
