"""Steady traffic among hosts of a lab, for tests that do something to the nodes under it.

Every 100 ms an ICMP echo request from each host to each other one, and between each two a TCP connection
whose stream is echoed and compared.  One thread with one event loop serves all of it.  It says when what last
came through, and judges nothing but the bytes: those of TCP must be the ones that were sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from shadowmesh.testing.lab import Host

INTERVAL = 0.1
"""Seconds between two echo requests of a pair, and between two blocks of a stream."""
BLOCK = 4096
"""Bytes of a TCP block: three segments."""
PATIENCE = 3.0
"""Seconds that a block may take before its connection is given up: TCP itself would wait for minutes."""
TCP_PORT = 7008
_ECHO = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number (RFC 792)."""
_SOL_RAW, _ICMP_FILTER = 255, 1
_ONLY_REPLIES = struct.pack("=I", 0xFFFF_FFFF & ~1)
"""raw(7): a bit for each type that is not wanted; 0 is the echo reply."""

Pair = tuple[str, str]


@dataclass
class Beat:
    """What one direction of a pair has seen; times are of the monotonic clock, 0.0 for never."""

    replied_at: float = 0.0
    gap: float = 0.0
    """Seconds between two replies at most, since `Pulse.forget_gaps`."""
    streamed_at: float = 0.0
    """When TCP last brought a block there and back."""


@dataclass
class Totals:
    """Of all pairs."""

    requests: int = 0
    replies: int = 0
    blocks: int = 0
    connections: int = 0
    altered: list[Pair] = field(default_factory=list)
    """Pairs whose TCP brought other bytes than were sent."""
    errors: Counter[str] = field(default_factory=Counter)


class Pulse:
    """A context manager: the traffic flows inside of it.

    :param hosts: name to host and its address in the overlay (IPv4).
    """

    def __init__(self, hosts: Mapping[str, tuple[Host, str]], seed: int = 1) -> None:
        self.beats = {pair: Beat() for pair in itertools.permutations(hosts, 2)}
        self.totals = Totals()
        self.late = 0.0
        """Seconds that this thread itself was late at most, since `forget_gaps`: then a gap says little."""
        self._hosts = dict(hosts)
        self._pairs = list(self.beats)
        self._random = random.Random(seed)
        self._sockets: dict[str, socket.socket] = {}
        self._listeners: list[socket.socket] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="pulse")

    def __enter__(self) -> Self:
        for name, (host, _) in self._hosts.items():
            raw = host.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            self._sockets[name] = raw
            raw.setsockopt(_SOL_RAW, _ICMP_FILTER, _ONLY_REPLIES)
            raw.setblocking(False)
            listener = host.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("0.0.0.0", TCP_PORT))
            listener.setblocking(False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for one in [*self._sockets.values(), *self._listeners]:
            one.close()

    def forget_gaps(self) -> None:
        """Measure gaps from now on."""
        for beat in self.beats.values():
            beat.gap = 0.0
        self.late = 0.0

    def since(self, pair: Pair) -> float:
        """Seconds since the last reply to this pair, or of a gap before that: the largest of both."""
        beat = self.beats[pair]
        return max(beat.gap, time.monotonic() - beat.replied_at)

    def silent(self, after: float, streams: bool = True) -> list[Pair]:
        """Pairs through which nothing came later than `after`."""
        return [
            pair
            for pair, beat in self.beats.items()
            if beat.replied_at <= after or (streams and beat.streamed_at <= after)
        ]

    # All that follows runs in the thread.

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for raw in self._sockets.values():
            loop.add_reader(raw, self._receive, raw)
        servers = [await asyncio.start_server(self._answer, sock=one) for one in self._listeners]
        streams = [asyncio.create_task(self._stream(*pair)) for pair in self._pairs if pair[0] < pair[1]]
        try:
            await self._ping()
        finally:
            for raw in self._sockets.values():
                loop.remove_reader(raw)
            for task in streams:
                task.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            for server in servers:
                server.close()

    async def _ping(self) -> None:
        due = time.monotonic()
        for sequence in itertools.count():
            if self._stop.is_set():
                return
            for number, (source, target) in enumerate(self._pairs):
                with contextlib.suppress(OSError):
                    packet = echo_request(number, sequence & 0xFFFF)
                    self._sockets[source].sendto(packet, (self._hosts[target][1], 0))
                    self.totals.requests += 1
            due += INTERVAL
            self.late = max(self.late, time.monotonic() - due)
            due = max(due, time.monotonic() - INTERVAL)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _receive(self, raw: socket.socket) -> None:
        for _ in range(256):
            try:
                packet = raw.recv(2048)
            except OSError:
                return
            number = int.from_bytes(packet[24:26])
            if len(packet) < 28 or number >= len(self._pairs):
                continue
            beat, now = self.beats[self._pairs[number]], time.monotonic()
            if beat.replied_at:
                beat.gap = max(beat.gap, now - beat.replied_at)
            beat.replied_at = now
            self.totals.replies += 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The other end of a stream: everything back, until it falls silent."""
        try:
            while data := await asyncio.wait_for(reader.read(65_536), 4 * PATIENCE):
                writer.write(data)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # cancelled only when all of this ends
        finally:
            writer.transport.abort()

    async def _stream(self, source: str, target: str) -> None:
        """One connection after the other from `source` to `target`."""
        # The flag too: a cancellation that meets the end of what `wait_for` waits for is lost in Python 3.11.
        while not self._stop.is_set():
            near = self._hosts[source][0].socket(socket.AF_INET, socket.SOCK_STREAM)
            near.setblocking(False)
            # The reset that SO_LINGER 0 sends: no connection is left in TIME_WAIT.
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with near:
                try:
                    await self._blocks(near, source, target)
                except (OSError, TimeoutError) as error:
                    self.totals.errors[type(error).__name__] += 1
            await asyncio.sleep(INTERVAL)

    async def _blocks(self, near: socket.socket, source: str, target: str) -> None:
        """Blocks to and fro, until the connection fails."""
        loop, address = asyncio.get_running_loop(), self._hosts[target][1]
        await asyncio.wait_for(loop.sock_connect(near, (address, TCP_PORT)), PATIENCE)
        self.totals.connections += 1
        while not self._stop.is_set():
            block = self._random.randbytes(BLOCK)
            if not await asyncio.wait_for(_echoed(loop, near, block), PATIENCE):
                self.totals.altered.append((source, target))
                return
            now = time.monotonic()
            self.beats[source, target].streamed_at = self.beats[target, source].streamed_at = now
            self.totals.blocks += 1
            await asyncio.sleep(INTERVAL)


async def _echoed(loop: asyncio.AbstractEventLoop, near: socket.socket, block: bytes) -> bool:
    await loop.sock_sendall(near, block)
    answer = b""
    while len(answer) < len(block):
        piece = await loop.sock_recv(near, len(block) - len(answer))
        if not piece:
            raise ConnectionError("closed by the other end")
        answer += piece
    return answer == block


def echo_request(identifier: int, sequence: int) -> bytes:
    """An ICMP echo request without data. Source: RFC 792; the checksum is that of RFC 1071."""
    total = 0x0800 + identifier + sequence
    total = (total & 0xFFFF) + (total >> 16)
    return _ECHO.pack(8, 0, ~total & 0xFFFF, identifier, sequence)
