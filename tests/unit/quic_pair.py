"""Two QUIC connections joined in memory, on virtual time; shared by the tests of shadowmesh.crypto."""

from __future__ import annotations

import datetime as dt
import functools
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent, StreamDataReceived
from aioquic.tls import CipherSuite
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.x509.oid import NameOID

from shadowmesh.crypto.quic import SessionConnection

ADDRESS = ("127.0.0.1", 4433)
STEP = 1e-6


def certify(key: Any, name: str = "shadowmesh", signer: Any = None) -> x509.Certificate:
    """A self-signed certificate (or one that `signer` signs), long expired: dates must not matter."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(dt.datetime(2020, 1, 1)).not_valid_after(dt.datetime(2021, 1, 1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    signer = signer or key
    algorithm = hashes.SHA256() if isinstance(signer, ec.EllipticCurvePrivateKey) else None
    return builder.sign(signer, algorithm)


@functools.cache
def identity(name: str) -> tuple[mldsa.MLDSA87PrivateKey, x509.Certificate]:
    """The ML-DSA-87 key and certificate of a node, the same for each name during one run."""
    key = mldsa.MLDSA87PrivateKey.from_seed_bytes(name.encode().ljust(32, b"."))
    return key, certify(key)


def public_of(name: str) -> bytes:
    return identity(name)[0].public_key().public_bytes_raw()


def session_client(name: str = "alice", **options: Any) -> SessionConnection:
    key, certificate = identity(name)
    return SessionConnection(is_client=True, certificate=certificate, private_key=key, **options)


def session_server(odcid: bytes, name: str = "bob", **options: Any) -> SessionConnection:
    key, certificate = identity(name)
    options.setdefault("path_validated", True)
    return SessionConnection(
        is_client=False,
        certificate=certificate,
        private_key=key,
        original_destination_connection_id=odcid,
        **options,
    )


def stock_client(**options: Any) -> QuicConnection:
    """aioquic as it comes, with ShadowMesh's ALPN and a classical key."""
    options.setdefault("alpn_protocols", ["shadowmesh/1"])
    options.setdefault("cipher_suites", [CipherSuite.CHACHA20_POLY1305_SHA256])
    configuration = QuicConfiguration(is_client=True, server_name="shadowmesh", verify_mode=0, **options)
    return QuicConnection(configuration=configuration)


def stock_server(odcid: bytes, **options: Any) -> QuicConnection:
    key = ed25519.Ed25519PrivateKey.generate()
    options.setdefault("alpn_protocols", ["shadowmesh/1"])
    configuration = QuicConfiguration(is_client=False, certificate=certify(key), private_key=key, **options)
    return QuicConnection(configuration=configuration, original_destination_connection_id=odcid)


@dataclass
class End:
    """One connection, ours or a foreign one with aioquic's interface, and what it reported when."""

    connection: Any
    events: list[tuple[float, QuicEvent]] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)

    def start(self, now: float) -> None:
        if isinstance(self.connection, SessionConnection):
            self.connection.start(now)
        else:
            self.connection.connect(ADDRESS, now)

    def receive(self, data: bytes, now: float) -> None:
        if isinstance(self.connection, SessionConnection):
            self.connection.receive(data, now)
        else:
            self.connection.receive_datagram(data, ADDRESS, now)

    def transmit(self, now: float) -> list[bytes]:
        while (event := self.connection.next_event()) is not None:
            self.events.append((now, event))
        if isinstance(self.connection, SessionConnection):
            return self.connection.transmit(now)
        try:
            return [data for data, _ in self.connection.datagrams_to_send(now)]
        except IndexError:  # stock aioquic has no path before the first datagram
            return []

    def timer(self) -> float | None:
        if not isinstance(self.connection, SessionConnection) and not self.sent and not self.events:
            return None
        timer: float | None = self.connection.get_timer()
        return timer

    def completed_at(self) -> float | None:
        """When the TLS handshake was complete on this side; works with foreign event classes too."""
        name = HandshakeCompleted.__name__
        return next((at for at, event in self.events if type(event).__name__ == name), None)

    def closed_with(self) -> Any:
        name = ConnectionTerminated.__name__
        return next((event for _, event in self.events if type(event).__name__ == name), None)

    def stream_data(self) -> bytes:
        name = StreamDataReceived.__name__
        parts: list[Any] = [event for _, event in self.events if type(event).__name__ == name]
        return b"".join(part.data for part in parts)


@dataclass
class Link:
    """How datagrams travel: one-way latency, random extra delay (so reordering), loss and duplication."""

    latency: float = 0.05
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0


class Pair:
    """Drives both ends until nothing is left to do or a condition holds. `now` starts far from zero."""

    def __init__(self, client: Any, server: Any, link: Link | None = None, seed: int = 1) -> None:
        self.client, self.server = End(client), End(server)
        self.link = link or Link()
        self.now = self.start = 1000.0
        self.tamper: Callable[[End, bytes], list[bytes]] = lambda _sender, data: [data]
        self._random = random.Random(seed)
        self._wire: list[tuple[float, int, End, bytes]] = []
        self._count = itertools.count()

    def connect(self) -> None:
        self.client.start(self.now)

    def run(self, until: Callable[[], bool] = lambda: False, seconds: float = 60.0) -> bool:
        """Run until the condition holds (True) or `seconds` have passed (False)."""
        deadline = self.now + seconds
        for _ in range(50_000):
            for end in (self.client, self.server):
                self._send(end)
            if until():
                return True
            following = self._next_time()
            if following is None or following > deadline:
                self.now = deadline
                return until()
            self.now = max(self.now, following)
            self._deliver()
        raise AssertionError("the pair does not come to rest: a timer loops")

    def handshake(self) -> bool:
        self.connect()
        return self.run(self.confirmed)

    def confirmed(self) -> bool:
        return bool(
            self.client.connection._handshake_confirmed and self.server.connection._handshake_confirmed
        )

    def round_trips(self, end: End) -> float | None:
        at = end.completed_at()
        return None if at is None else (at - self.start) / (2 * self.link.latency)

    def _next_time(self) -> float | None:
        times = [end.timer() for end in (self.client, self.server)]
        if self._wire:
            times.append(self._wire[0][0])
        return min((time for time in times if time is not None), default=None)

    def _deliver(self) -> None:
        while self._wire and self._wire[0][0] <= self.now:
            _, _, end, data = heapq.heappop(self._wire)
            end.receive(data, self.now)
        for end in (self.client, self.server):
            timer = end.timer()
            if timer is not None and timer <= self.now:
                ours = isinstance(end.connection, SessionConnection)
                end.connection.handle_timer(self.now if ours else self.now + STEP)

    def _send(self, end: End) -> None:
        other = self.server if end is self.client else self.client
        for datagram in end.transmit(self.now):
            end.sent.append(datagram)
            for data in self.tamper(end, datagram):
                copies = 2 if self._random.random() < self.link.duplicate else 1
                for _ in range(copies):
                    if self._random.random() >= self.link.loss:
                        at = self.now + self.link.latency + self._random.random() * self.link.jitter
                        heapq.heappush(self._wire, (at, next(self._count), other, data))


def session_pair(link: Link | None = None, seed: int = 1, **options: Any) -> Pair:
    """A client and a server of ours; `client_*` and `server_*` options go to one side."""
    sides: dict[str, dict[str, Any]] = {"client": {}, "server": {}}
    for name, value in options.items():
        side, _, option = name.partition("_")
        sides[side][option] = value
    client = session_client(**sides["client"])
    server = session_server(client.original_destination_connection_id, **sides["server"])
    return Pair(client, server, link, seed)
