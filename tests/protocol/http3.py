"""Strangers that speak HTTP/3 with a relay in memory: stock aioquic, and qh3, which nobody here wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from aioquic import tls
from aioquic.h3.connection import H3Connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography.hazmat.primitives.asymmetric import ec

from shadowmesh.crypto.port import Credentials
from shadowmesh.units import Address
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.h3 import Http3
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import RELAY_IDENTITY, Mesh
from tests.unit.quic_pair import certify

qh3 = pytest.importorskip("qh3", reason="qh3 is not installed: pip install 'shadowmesh[dev]'")
ForeignH3Connection = pytest.importorskip("qh3.h3.connection").H3Connection
KEY = ec.generate_private_key(ec.SECP256R1())
CREDENTIALS = Credentials(certify(KEY, "relay.test"), (), KEY)
HTTP3 = Http3(lambda _: CREDENTIALS)
NO_ALPN = 0x100 + 120
REFUSED = 0x02


def mesh_with(http3: Http3 | None = HTTP3, limits: Limits | None = None) -> tuple[Mesh, MemoryRelay]:
    """A mesh whose relay speaks HTTP/3."""
    mesh = Mesh()
    mesh.relay = MemoryRelay(
        RELAY_IDENTITY,
        Admission(True, frozenset()),
        mesh.relay_address,
        mesh.network.now,
        1,
        limits=limits,
        http3=http3,
    )
    mesh.network.attach(mesh.relay)
    return mesh, mesh.relay


def stock(**options: Any) -> Any:
    """A classical connection of aioquic as it comes."""
    options.setdefault("alpn_protocols", ["h3"])
    groups = options.pop("groups", None)
    configuration = QuicConfiguration(is_client=True, server_name="relay.test", verify_mode=0, **options)
    connection = QuicConnection(configuration=configuration)
    if groups is not None:
        initialize = connection._initialize

        def with_groups(peer_cid: bytes) -> None:
            initialize(peer_cid)
            connection.tls._supported_groups = list(groups)

        connection._initialize = with_groups  # type: ignore[method-assign]
    return connection


def foreign(**options: Any) -> Any:
    """A connection of qh3, hybrid as it comes."""
    options.setdefault("alpn_protocols", ["h3"])
    configuration = qh3.QuicConfiguration(is_client=True, server_name="relay.test", verify_mode=0, **options)
    return qh3.QuicConnection(configuration=configuration)


@dataclasses.dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    ended: bool = False


class Browser:
    """A station on a `Network` that asks a relay."""

    def __init__(self, mesh: Mesh, address: Address | None = None, connection: Any = None) -> None:
        self.address = address or Address("203.0.113.9", 6000)
        self.connection = connection if connection is not None else stock()
        self.answers: dict[int, Answer] = {}
        self.closed: Any = None
        self.complete = self.stopped = False
        self.received: list[bytes] = []
        self._mesh = mesh
        self._to = (mesh.relay_address.host, mesh.relay_address.port)
        kind = H3Connection if isinstance(self.connection, QuicConnection) else ForeignH3Connection
        self.make: Callable[[Any], Any] = kind
        self.http: Any = None
        self.connection.connect(self._to, mesh.network.now)
        mesh.network.attach(self)

    def ask(self, path: str, method: str = "GET", body: bytes = b"", flush: bool = True) -> Answer:
        """Send a request as soon as that is possible; the answer fills itself."""
        self.until(lambda: self.complete)
        stream = self.connection.get_next_available_stream_id()
        headers = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", b"relay.test"),
            (b":path", path.encode()),
        ]
        self.http.send_headers(stream, headers, end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        answer = self.answers[stream] = Answer()
        if flush:
            self._mesh.network.flush(self)
        return answer

    def get(self, path: str, method: str = "GET", body: bytes = b"") -> Answer:
        """The whole answer to a request."""
        answer = self.ask(path, method, body)
        self.until(lambda: answer.ended)
        return answer

    def until(self, condition: Callable[[], bool]) -> None:
        self._mesh.network.run_until(condition, 10)

    def refused(self) -> int:
        """The code with which the relay ends this connection."""
        self.until(lambda: self.closed is not None)
        return int(self.closed.error_code)

    # A station.

    def receive(self, data: bytes, source: Address, now: float) -> None:
        self.received.append(data)
        self.connection.receive_datagram(data, (source.host, source.port), now)
        self._take_events()

    def deadline(self) -> float | None:
        timer: float | None = self.connection.get_timer()
        return timer

    def expire(self, now: float) -> None:
        self.connection.handle_timer(now)
        self._take_events()

    def transmit(self) -> list[tuple[bytes, Address]]:
        return [
            (data, Address(*to[:2])) for data, to in self.connection.datagrams_to_send(self._mesh.network.now)
        ]

    def _take_events(self) -> None:
        while (event := self.connection.next_event()) is not None:
            name = type(event).__name__
            if name == "HandshakeCompleted":
                self.complete = True
                self.http = self.make(self.connection)
            elif name == "StopSendingReceived":
                self.stopped = True
            elif name == "ConnectionTerminated":
                self.closed = event
            for one in self.http.handle_event(event) if self.http is not None else ():
                answer = self.answers.get(one.stream_id)
                if answer is None:
                    continue
                if type(one).__name__ == "HeadersReceived":
                    fields = {key.decode(): value.decode() for key, value in one.headers}
                    answer.status = int(fields.pop(":status"))
                    answer.headers = fields
                else:
                    answer.body += one.data
                answer.ended = answer.ended or one.stream_ended


def hybrid_of(relay: MemoryRelay) -> dict[str, int]:
    totals = relay.core.totals().http3
    assert totals is not None
    return totals.handshakes


GROUPS = {"x25519": [tls.Group.X25519], "p-256": [tls.Group.SECP256R1]}
