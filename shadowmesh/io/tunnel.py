"""One end of a relay leg that runs over a stream: a UDP socket on this machine that stands for the other end.

Whoever has a UDP socket (a client's engine, a relay's forwarder) goes on talking UDP, to the socket made
here; its datagrams travel as bundles (`shadowmesh._ext.bundle`), one for each message of the stream.  The
only queue is the socket's own receive buffer: while the stream takes nothing, the kernel drops the newest.

Does NOT know the stream: `carrier.py` and the relay's terminator do.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Awaitable, Callable

from shadowmesh._ext.bundle import Bundler
from shadowmesh.io.udp import local_address, to_sockaddr
from shadowmesh.units import Address

QUEUE = 512 << 10
"""Bytes of datagrams that may wait, 40 ms at 100 Mbit/s.  Half of it halved the throughput on a busy machine,
twice as much brought a quarter more, and made whoever shares the leg wait a third longer (measured)."""
UNSENT = 128 << 10
"""Bytes that the kernel takes for a TCP connection before they can leave: more would be a second queue."""
_TCP_NOTSENT_LOWAT = 25
_SO_MEMINFO, _MEMINFO, _MEMINFO_DROPS = 55, struct.Struct("=9I"), 8
_SO_RCVBUFFORCE = 33


class Tunnel:
    """Between a UDP socket of this process and a stream; close it to free its port.

    :param bundler: shared by all tunnels of one thread.
    :param bound: where the UDP socket is bound that this one talks to; OSError if it can't be reached.
    """

    def __init__(self, bundler: Bundler, bound: Address) -> None:
        self._bundler = bundler
        host = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(bound.host, bound.host)
        self.family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._udp = socket.socket(self.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            _limit_queue(self._udp)
            # Connected: the kernel lets in nothing from anybody else.
            self._udp.connect((host, bound.port))
            bundler.prepare(self._udp.fileno())
        except BaseException:
            self._udp.close()
            raise
        self.address = local_address(self._udp)
        """What the other socket sees: where it sends what is to go into the stream."""
        self._target = to_sockaddr(Address(host, bound.port), self.family)
        self._dropped = 0
        self.sent = self.received = 0
        """Bundles into and out of the stream."""

    def close(self) -> None:
        """Free the port."""
        self._dropped = self.dropped
        self._udp.close()

    @property
    def dropped(self) -> int:
        """Datagrams that the kernel dropped since the start, because the stream was slower."""
        if self._udp.fileno() >= 0:
            found = self._udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            self._dropped = int(_MEMINFO.unpack(found)[_MEMINFO_DROPS])
        return self._dropped

    def deliver(self, bundle: bytes | bytearray | memoryview) -> None:
        """A message came from the stream. Raises ValueError, and delivers nothing, if it is no bundle."""
        self._bundler.scatter(self._udp.fileno(), self._target, bundle)
        self.received += 1

    async def pump(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send what comes as bundles, for ever; `send` returns when the stream takes more."""
        while True:
            bundle = self._bundler.collect(self._udp.fileno())
            if bundle:
                self.sent += 1
                await send(bundle)
                await asyncio.sleep(0)  # others have their turn even while the stream takes everything
            else:
                await _readable(self._udp)


def arrange_stream(connection: socket.socket) -> None:
    """Keep the queue in front of a TCP connection short."""
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT)


def _limit_queue(udp: socket.socket) -> None:
    try:
        udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, QUEUE)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE)


async def _readable(udp: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(udp, _resolve, ready)
    try:
        await ready
    finally:
        loop.remove_reader(udp)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
