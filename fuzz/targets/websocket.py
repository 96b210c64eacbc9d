"""Whatever a stranger writes to the TCP port of a relay, its connection ends in bounded time with one
reason, and only whole bundles of a WebSocket on our path reach the forwarder, datagram by datagram.

The bytes go over loopback to the relay's own service, in two pieces; then the stranger is done writing.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from ipaddress import ip_network

from websockets.frames import Frame, Opcode

from shadowmesh.io.udp import local_address, open_udp
from shadowmesh.units import Address
from shadowmesh_relay.config import WebSocketSection
from shadowmesh_relay.websocket import PATH, Connection, Origins, WebSocketService
from tests.unit.websocket_lab import HELLO

COVERS = ("shadowmesh_relay.websocket", "shadowmesh.io.tunnel")
PEER = Address("198.51.100.7", 5000)
REASONS = frozenset(
    f"websocket_{name}"
    for name in ("timeout", "broken", "malformed", "refused", "not_admitted", "queue_full")
)
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"


def _request(path: str = PATH, more: bytes = KEY) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: relay.test\r\n".encode()
    return head + b"Upgrade: websocket\r\nConnection: Upgrade\r\n" + more + b"\r\n"


def _frame(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


HELD = [
    _request() + _frame(Opcode.BINARY, HELLO),
    _request() + _frame(Opcode.BINARY, HELLO[:9], False) + _frame(Opcode.CONT, HELLO[9:]),
    _request()
    + _frame(Opcode.PING, b"?")
    + _frame(Opcode.BINARY, HELLO * 3)
    + _frame(Opcode.CLOSE, b"\x03\xe8"),
    _request() + _frame(Opcode.TEXT, b"hello"),
    _request("/other"),
    _request("/shadowmesh?x", KEY + b"X-Forwarded-For: 203.0.113.5, 198.51.100.7\r\n")
    + _frame(Opcode.BINARY, HELLO),
    _request(PATH, b"Sec-WebSocket-Version: 12\r\n"),
    b"\x16\x03\x01\x02\0\1",
]
SEEDS = [bytes([number % 2]) + one for number, one in enumerate(HELD)]


class Lab:
    """The service without its listener, and the UDP socket that stands for the forwarder."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.relay = open_udp("127.0.0.1", 0)
        self.relay.setblocking(False)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.origins = Origins()
        self.services = [self._service(()), self._service((ip_network("198.51.100.0/24"),))]

    def _service(self, trusted: tuple[object, ...]) -> WebSocketService:
        section = WebSocketSection("127.0.0.1", 0, None, None, trusted_proxies=trusted)  # type: ignore[arg-type]
        return WebSocketService(section, local_address(self.relay), self.origins, set, set)

    def received(self) -> list[bytes]:
        found = []
        try:
            while True:
                found.append(self.relay.recv(65536))
        except BlockingIOError:
            return found


_labs: list[Lab] = []


def close() -> None:
    """The next input starts another."""
    while _labs:
        lab = _labs.pop()
        lab.relay.close()
        lab.listener.close()
        lab.loop.close()


async def converse(listener: socket.socket, service: WebSocketService, data: bytes) -> bytes:
    """One connection from its first byte to its last."""
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    for end in (ours, theirs):
        end.setblocking(False)
    connection = Connection(service, theirs, PEER)
    serving = asyncio.create_task(connection.serve())
    loop = asyncio.get_running_loop()
    for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
        try:
            await loop.sock_sendall(ours, piece)
        except OSError:  # it has been closed
            break
        for _ in range(3):
            await asyncio.sleep(0)
    answer = bytearray()
    try:
        ours.shutdown(socket.SHUT_WR)
        while piece := await loop.sock_recv(ours, 65536):
            answer += piece
    except OSError:
        pass
    await serving
    service.drops["websocket_queue_full"] += connection.queue_drops
    connection.close()
    ours.close()
    return bytes(answer)


def bundled(data: bytes) -> bool:
    """Whether these bytes may be datagrams of a bundle: the forwarder's own door takes no others."""
    return 21 <= len(data) <= 65507


def target(data: bytes) -> None:
    """The first byte says whether the stranger is a proxy that the relay knows."""
    if not _labs:
        _labs.append(Lab())
    lab = _labs[0]
    service = lab.services[data[0] % 2 if data else 0]
    before = Counter(service.drops)
    answer = lab.loop.run_until_complete(converse(lab.listener, service, data[1:]))
    drops = Counter(service.drops) - before
    assert set(drops) <= REASONS, drops
    arrived = lab.received()
    assert answer.startswith(b"HTTP/1.1 101 ") or not arrived, "a datagram without a WebSocket"
    assert all(bundled(one) for one in arrived)
    assert sum(len(one) for one in arrived) <= len(data)
    assert not lab.origins._origins
    assert not service._places._held, "a place is still taken"
