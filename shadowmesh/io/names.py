"""The sockets of the resolver: UDP and TCP on one port of this node's own addresses, for this machine only.

A filter in the kernel drops what does not come over the loopback interface, which is the way of all packets
from this machine to its own addresses: whoever else asks costs no more than any packet to a closed port. What
is answered is no matter of this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence

from shadowmesh.errors import DeviceError
from shadowmesh.wire.dns import PORT

Serve = Callable[[bytes, bool], bytes | None]
"""A message and whether it came by TCP -> the answer, None for none."""

OTHER_PORT = 1053
"""Where port 53 is taken, or not for this process (CAP_NET_BIND_SERVICE)."""
MAX_QUESTION = 4096
"""Bytes: a name has 255 at most, and the rest are options of EDNS."""
AT_ONCE = 32
"""Questions that are answered (25 µs each) before the rest of the process has its turn."""
MAX_CONNECTIONS = 16
MAX_QUESTIONS = 100
"""Of one connection."""
IDLE_TIMEOUT, LIFE = 5.0, 30.0
"""Seconds for a whole question, and for a connection. RFC 7766 section 6.2.3 wants some seconds at least."""

_SO_ATTACH_FILTER = 26
_IP_FREEBIND = 15
_LOOPBACK_INDEX = 1
"""Of every network namespace. Source: linux/net_namespace.h."""
_FROM_HERE = (
    (0x20, 0, 0, 0xFFFFF000 + 8),  # load: index of the interface that it came in by (SKF_AD_IFINDEX)
    (0x15, 0, 1, _LOOPBACK_INDEX),  # another one: skip the next
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
    (0x06, 0, 0, 0),  # drop
)
"""Source: linux/filter.h, bpf_common.h: code, jump if true, jump if false, operand."""


class NamesServer:
    """Runs inside one event loop, from `start` to `stop`."""

    def __init__(self, addresses: Sequence[str], serve: Serve, *, moves: bool = True) -> None:
        """`moves`: whether OTHER_PORT will do too."""
        self._addresses = addresses
        self._serve = serve
        self._ports = (PORT, OTHER_PORT) if moves else (PORT,)
        self.port = PORT
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    @property
    def moved(self) -> bool:
        """Whether `port` is not that where resolvers are looked for."""
        return self.port != PORT

    async def start(self) -> None:
        """Listen on all addresses, at the same `port`. Raises DeviceError; then nothing is left open."""
        problems = []
        for port in self._ports:
            self.port = port
            try:
                for address in self._addresses:
                    await self._open(address)
            except OSError as error:
                await self.stop()
                problems.append(f"port {port} of {address}: {_why(error)}")
            else:
                return
        raise DeviceError("; ".join(problems))

    async def _open(self, address: str) -> None:
        udp = _listen(address, self.port, socket.SOCK_DGRAM)
        self._sockets.append(udp)
        asyncio.get_running_loop().add_reader(udp, self._read, udp)
        tcp = _listen(address, self.port, socket.SOCK_STREAM)
        self._servers.append(await asyncio.start_server(self._converse, sock=tcp, limit=MAX_QUESTION))

    async def stop(self) -> None:
        """Listen no more. Again is harmless."""
        for udp in self._sockets:
            asyncio.get_running_loop().remove_reader(udp)
            udp.close()
        for server in self._servers:
            server.close()
        for writer in self._connections:
            writer.transport.abort()
        await asyncio.gather(*filter(None, self._connections.values()), return_exceptions=True)
        self._sockets, self._servers = [], []

    def _read(self, udp: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                data, source = udp.recvfrom(MAX_QUESTION)
            except OSError:  # none is left, or the error of an answer that nobody took
                return
            reply = self._serve(data, False)
            if reply is not None:
                with contextlib.suppress(OSError):
                    udp.sendto(reply, source)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections[writer] = asyncio.current_task()
        try:
            async with asyncio.timeout(LIFE):
                for _ in range(MAX_QUESTIONS):
                    if not await self._answer(reader, writer):
                        break
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            del self._connections[writer]
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One question of a connection; False to end it."""
        async with asyncio.timeout(IDLE_TIMEOUT):
            size = int.from_bytes(await reader.readexactly(2), "big")
            data = await reader.readexactly(min(size, MAX_QUESTION))
        reply = self._serve(data, True)
        if reply is None or size > MAX_QUESTION:
            return False
        writer.write(len(reply).to_bytes(2, "big") + reply)
        await writer.drain()
        return True


def _listen(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A socket that takes packets of this machine only. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _take_only_ours(opened)  # first: nothing may come in between
        # An address that a bridge has just been given can't be bound for a second (duplicate detection).
        opened.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((address, port))
        if kind == socket.SOCK_STREAM:
            opened.listen(MAX_CONNECTIONS)
    except BaseException:
        opened.close()
        raise
    return opened


def _take_only_ours(opened: socket.socket) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _FROM_HERE))
    where = struct.pack("HP", len(_FROM_HERE), ctypes.addressof(program))  # struct sock_fprog
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, where)


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "may not listen below 1024 (CAP_NET_BIND_SERVICE)"
    return os.strerror(error.errno) if error.errno else str(error)
