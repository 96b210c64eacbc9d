"""A relay's WebSocket service on loopback, and what tests of it need around it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from shadowmesh._ext.bundle import Bundler
from shadowmesh.config import RelayPeer
from shadowmesh.io.carrier import Carrier
from shadowmesh.io.udp import local_address, open_udp
from shadowmesh.units import Address
from shadowmesh_relay.config import WebSocketSection
from shadowmesh_relay.websocket import Origins, WebSocketService

GREETING = b"hello, here is a client"
HELLO = len(GREETING).to_bytes(2, "big") + GREETING


PROXY = (ip_network("127.0.0.0/8"),)


class Lab:
    """A service, the UDP socket that stands for the forwarder, and one for a client's engine."""

    def __init__(self, section: WebSocketSection) -> None:
        self.relay = open_udp("127.0.0.1", 0)
        self.engine = open_udp("127.0.0.1", 0)
        self.origins = Origins()
        self.in_use: set[Address] = set()
        self.service = WebSocketService(
            section,
            local_address(self.relay),
            self.origins,
            lambda: self.in_use,
            lambda: self.in_use,
        )
        self.service.open()
        listener = self.service._listener
        assert listener is not None
        self.port = listener.getsockname()[1]
        self.changes: asyncio.Queue[tuple[Address | None, str]] = asyncio.Queue()
        self.carriers: list[Carrier] = []

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/shadowmesh"

    def dial(self, proxy: str = "auto", tls: str = "any") -> Carrier:
        where = Address("127.0.0.1", self.port)
        peer = RelayPeer("127.0.0.1", 1, b"r" * 32, tcp=where, proxy=proxy, tls=tls)
        made = Carrier(
            peer,
            Bundler(),
            local_address(self.engine),
            lambda carrier, address, problem: self.changes.put_nowait((address, problem)),
        )
        self.carriers.append(made)
        return made

    async def change(self) -> tuple[Address | None, str]:
        return await asyncio.wait_for(self.changes.get(), 10.0)

    async def at_relay(self) -> tuple[bytes, Address]:
        """The next datagram that the forwarder would see."""
        return await self._receive(self.relay)

    async def at_engine(self) -> bytes:
        return (await self._receive(self.engine))[0]

    async def _receive(self, udp: socket.socket) -> tuple[bytes, Address]:
        loop = asyncio.get_running_loop()
        data, source = await asyncio.wait_for(loop.sock_recvfrom(udp, 65536), 10.0)
        return data, Address(*source[:2])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10.0):
            while not condition():  # noqa: ASYNC110 - counters tell nobody that they change
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        for carrier in self.carriers:
            await asyncio.gather(carrier.close(), return_exceptions=True)
        await self.service.stop()
        self.service.close()
        self.relay.close()
        self.engine.close()


@contextlib.asynccontextmanager
async def running(section: WebSocketSection) -> AsyncIterator[Lab]:
    lab = Lab(section)
    lab.service.start()
    try:
        yield lab
    finally:
        await lab.close()


def plain(**more: object) -> WebSocketSection:
    return WebSocketSection("127.0.0.1", 0, None, None, **more)  # type: ignore[arg-type]


def secure(certificate: tuple[Path, Path], **more: object) -> WebSocketSection:
    return WebSocketSection("127.0.0.1", 0, *certificate, **more)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def websocket(lab: Lab, **options: object) -> AsyncIterator[ClientConnection]:
    async with connect(lab.url, proxy=None, compression=None, close_timeout=0.5, **options) as made:  # type: ignore[arg-type]
        yield made


async def refused(lab: Lab, reason: str) -> None:
    await lab.until(lambda: lab.service.dropped()[reason] > 0)
    await lab.until(lambda: lab.service.connected == 0)
