"""HTTP/3 on the relay's own port: connections of strangers, sans-I/O, each of them small and short.

Role: it takes connections whose ClientHello asked for `h3` (`shadowmesh.session.port` has parted them from
sessions), speaks HTTP/3 over aioquic's class, and answers GET and HEAD with what `public.py` tells.  It knows
no client and no session, and nothing that it holds can become one.

A stranger has echoed a Retry token before anything here is spent.  Bounded are: connections at once, all and
of one network; handshakes and datagrams per second of all strangers together, so that members never wait for
them for long; datagrams, streams, bytes and life of each connection.  What is over a bound is dropped and
counted.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import pylsqpack
from aioquic.h3.connection import ErrorCode, H3Connection, Setting
from aioquic.h3.events import HeadersReceived
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent
from aioquic.quic.packet import QuicErrorCode

from shadowmesh.crypto.port import FOREIGN_STREAM_DATA, FOREIGN_STREAMS, Credentials, PortConnection, Terms
from shadowmesh.errors import BadPacket
from shadowmesh.session.port import PortLink
from shadowmesh.units import Address

from .clients import Knock, VisitorTotals
from .limits import Bucket, prefix_of
from .public import PublicStatus, page
from .tables import Tables

MAX_VISITORS = 64
"""Connections at once; each takes about 100 KB."""
MAX_PER_NETWORK = 8
"""Of these, of one IPv4 address or IPv6 /64."""
LIFETIME = 30.0
"""Seconds after which a connection ends, whatever it does."""
LINGER = 1.0
"""Seconds after the last request that a connection may send, for the answer to arrive."""
HANDSHAKES_PER_SECOND, HANDSHAKE_BURST = 10, 40
"""Of all strangers together: 4 ms each, so 4 % of a core."""
HELLOS_PER_SECOND, HELLO_BURST = 20, 40
"""ClientHellos that a relay without room for clients reads, to see who asks for HTTP/3: 1.5 ms each."""
PREFIX_HANDSHAKES_PER_SECOND, PREFIX_BURST = 2, 10
"""Of one IPv4 /24 or IPv6 /48."""
DATAGRAMS_PER_SECOND, DATAGRAM_BURST = 200, 400
"""Of all strangers together, after their ClientHellos; a request with its handshake takes about ten."""
MAX_DATAGRAMS = 256
"""Of one connection in its life."""
METHODS = ("GET", "HEAD")
ALL = "all"

log = logging.getLogger("shadowmesh.relay")


@dataclass(frozen=True)
class Http3:
    """What the operator wants.

    :param credentials: gives the certificate for a connection that begins now.
    :param show_clients: whether the world may know how many clients there are.
    """

    credentials: Callable[[float], Credentials]
    show_clients: bool = False


class _Http(H3Connection):
    """aioquic's, without CONNECT and without dynamic tables in either direction.

    By theirs a few bytes could name kilobytes; for ours the library would reserve what they allow (350 MB
    for a table of 4 GiB).  An encoder need not use what it may (RFC 9204, 3.2.3).
    """

    def _init_connection(self) -> None:
        self._decoder = pylsqpack.Decoder(0, 0)
        super()._init_connection()

    def _get_local_settings(self) -> dict[int, int]:
        return {
            Setting.QPACK_MAX_TABLE_CAPACITY: 0,
            Setting.QPACK_BLOCKED_STREAMS: 0,
            Setting.MAX_FIELD_SECTION_SIZE: FOREIGN_STREAM_DATA,
        }

    def _validate_settings(self, settings: dict[int, int]) -> None:
        super()._validate_settings(settings)
        settings.update({Setting.QPACK_MAX_TABLE_CAPACITY: 0, Setting.QPACK_BLOCKED_STREAMS: 0})


@dataclass(eq=False)
class Visitor:
    """One connection. `first_id`: what its datagrams name until it knows an id of ours, and late ones do."""

    connection: PortConnection
    source: Address
    network: str
    first_id: bytes
    expires_at: float
    deadline: float = 0.0
    ids: set[bytes] = field(default_factory=set)
    http: _Http | None = None
    datagrams: int = 0
    answered: set[int] = field(default_factory=set)
    """Streams whose request got its answer; their bodies are not looked at."""


class Visitors:
    """All of them. Call order as with `RelayCore`; datagrams go to `send` at once.

    :param http3: None: the port speaks no HTTP/3.
    :param drops: what was refused, by reason.
    :param state: whether the relay is draining, and the number of its clients.
    :param began: when the relay was started.
    """

    def __init__(
        self,
        http3: Http3 | None,
        tables: Tables,
        send: Callable[[Address, bytes], None],
        drops: Counter[str],
        state: Callable[[], tuple[bool, int]],
        began: float,
    ) -> None:
        self.http3 = http3
        self._handshakes: Counter[str] = Counter({"hybrid": 0, "classical": 0})
        self._answers: Counter[str] = Counter({"200": 0, "404": 0, "405": 0, "503": 0})
        self._tables = tables
        self._send = send
        self._drops = drops
        self._state = state
        self._began = began
        self._visitors: dict[Visitor, None] = {}
        self._by_id: dict[bytes, Visitor] = {}
        self._heard = Bucket(HELLOS_PER_SECOND, HELLO_BURST)
        self._entered = Bucket(HANDSHAKES_PER_SECOND, HANDSHAKE_BURST)
        self._entered_by_prefix = Bucket(PREFIX_HANDSHAKES_PER_SECOND, PREFIX_BURST)
        self._received = Bucket(DATAGRAMS_PER_SECOND, DATAGRAM_BURST)

    @property
    def deadline(self) -> float:
        """When `handle_timer` wants to be called."""
        return min((one.deadline for one in self._visitors), default=math.inf)

    def totals(self) -> VisitorTotals | None:
        """What there is now, and what has been; None where there is no HTTP/3."""
        if self.http3 is None:
            return None
        return VisitorTotals(
            connections=len(self._visitors), handshakes=dict(self._handshakes), requests=dict(self._answers)
        )

    def listen(self, now: float) -> bool:
        """Whether a relay without room for clients reads one more ClientHello, which may be a visitor's."""
        if self.http3 is None or self._heard.empty(ALL, now):
            return False
        self._heard.take(ALL, now)
        return True

    def classes(self, closed: BadPacket | None, knock: Knock, now: float) -> dict[str, Any]:
        """Arguments for `accept`: where the port speaks HTTP/3, a connection may turn out foreign.

        :param closed: why there are no new sessions now, if so.
        """
        if self.http3 is None:
            return {}
        terms = Terms(self.http3.credentials(now), partial(self._enter, closed=closed, knock=knock, now=now))
        return {"connect": partial(PortConnection, terms=terms), "make": PortLink}

    def _enter(self, foreign: bool, closed: BadPacket | None, knock: Knock, now: float) -> bool:
        """Whether a connection may go on, asked when its ClientHello tells what it is."""
        if foreign:
            return self._admit(knock, now)
        if closed is not None:
            self._drops[closed.reason] += 1
        return closed is None

    def _admit(self, knock: Knock, now: float) -> bool:
        networks = [one.network for one in self._visitors]
        if len(networks) >= MAX_VISITORS or networks.count(knock.network) >= MAX_PER_NETWORK:
            self._drops["http3_too_many"] += 1
            return False
        prefix = prefix_of(knock.origin.host)
        if self._entered.empty(ALL, now) or self._entered_by_prefix.empty(prefix, now):
            self._drops["http3_handshake_rate"] += 1
            return False
        self._entered.take(ALL, now)
        self._entered_by_prefix.take(prefix, now)
        return True

    def adopt(self, connection: PortConnection, knock: Knock, now: float) -> None:
        """Take over a connection that is no session."""
        visitor = Visitor(connection, knock.source, knock.network, connection.first_id, now + LIFETIME)
        self._visitors[visitor] = None
        self._by_id[visitor.first_id] = visitor
        self._pump(visitor, now)

    def sources(self) -> set[Address]:
        """Where answers go."""
        return {visitor.source for visitor in self._visitors}

    def find(self, connection_id: bytes) -> Visitor | None:
        """Whom datagrams with this destination id are from."""
        return self._by_id.get(connection_id)

    def handle_datagram(self, visitor: Visitor, data: bytes, now: float) -> None:
        """Take a datagram of a visitor; too many are dropped."""
        visitor.datagrams += 1
        if visitor.datagrams > MAX_DATAGRAMS:  # without ids of ours the forwarder drops what goes on coming
            visitor.connection.close(ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="too many datagrams")
            self._pump(visitor, now)
        if visitor.datagrams > MAX_DATAGRAMS or self._received.empty(ALL, now):
            self._drops["http3_datagram_rate"] += 1
            return
        self._received.take(ALL, now)
        visitor.connection.receive(data, now)
        self._pump(visitor, now)

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        for visitor in [one for one in self._visitors if one.deadline <= now]:
            if now >= visitor.expires_at:
                visitor.connection.close(ErrorCode.H3_NO_ERROR, reason_phrase="that is all")
            else:
                visitor.connection.handle_timer(now)
            self._pump(visitor, now)

    def close(self, now: float) -> None:
        """End all of them."""
        for visitor in list(self._visitors):
            visitor.connection.close(ErrorCode.H3_NO_ERROR, reason_phrase="the relay is going down")
            self._pump(visitor, now)

    def _pump(self, visitor: Visitor, now: float) -> None:
        connection = visitor.connection
        while (event := connection.next_event()) is not None:
            if isinstance(event, ConnectionTerminated):
                break
            try:
                self._handle_event_untrusted(visitor, event, now)
            except Exception as error:
                # aioquic parses here what a stranger sent; whatever escapes it ends that connection only.
                log.debug("an HTTP/3 connection failed: %r", error)
                self._drops["http3_failed"] += 1
                connection.close(QuicErrorCode.INTERNAL_ERROR)
        for datagram in connection.transmit(now):
            self._send(visitor.source, datagram)
        if event is not None or connection.closed or connection.closed_by_peer is not None:
            self._forget(visitor)
        else:
            self._synchronise(visitor, connection.host_cids())
            timer = connection.get_timer()
            visitor.deadline = visitor.expires_at if timer is None else min(visitor.expires_at, timer)

    def _handle_event_untrusted(self, visitor: Visitor, event: QuicEvent, now: float) -> None:
        if isinstance(event, HandshakeCompleted):
            self._handshakes["hybrid" if visitor.connection.key_exchange else "classical"] += 1
            visitor.http = _Http(visitor.connection)
        if visitor.http is None or visitor.connection.closed:
            return
        for received in visitor.http.handle_event(event):
            # What else there is, is a body: it means nothing with GET and HEAD (RFC 9110, 9.3.1).
            if isinstance(received, HeadersReceived) and received.stream_id not in visitor.answered:
                self._answer(visitor, visitor.http, received, now)

    def _answer(self, visitor: Visitor, http: _Http, request: HeadersReceived, now: float) -> None:
        stream = request.stream_id
        visitor.answered.add(stream)
        fields = dict(request.headers)
        method = fields.get(b":method", b"").decode("latin-1")
        path = fields.get(b":path", b"").decode("latin-1").partition("?")[0]
        status, body = page(path, self._status(now)) if method in METHODS else (405, b"")
        headers = [(b":status", b"%d" % status), (b"cache-control", b"no-store")]
        if method != "HEAD":  # where it may be left out, and aioquic's own client takes it for a mistake
            headers.append((b"content-length", b"%d" % len(body)))
        headers += [(b"content-type", b"application/json")] if body else []
        headers += [(b"allow", ", ".join(METHODS).encode())] if status == 405 else []
        sends = bool(body) and method == "GET"
        try:
            http.send_headers(stream, headers, end_stream=not sends)
            if sends:
                http.send_data(stream, body, end_stream=True)
        except (RuntimeError, ValueError):  # aioquic's answer to STOP_SENDING: nobody wants it any more
            return
        self._answers[str(status)] += 1
        if status == 405 and not request.stream_ended:
            # RFC 9114, 4.1: who has answered may say that the rest is not wanted.
            visitor.connection.stop_stream(stream, ErrorCode.H3_NO_ERROR)
        if len(visitor.answered) >= FOREIGN_STREAMS:
            visitor.expires_at = min(visitor.expires_at, now + LINGER)

    def _status(self, now: float) -> PublicStatus:
        draining, clients = self._state()
        shown = self.http3 is not None and self.http3.show_clients
        return PublicStatus(
            uptime=int(now - self._began), draining=draining, clients=clients if shown else msgspec.UNSET
        )

    def _synchronise(self, visitor: Visitor, current: set[bytes]) -> None:
        for connection_id in visitor.ids - current:
            del self._by_id[connection_id]
            self._tables.remove(connection_id)
        for connection_id in current - visitor.ids:
            self._by_id[connection_id] = visitor
            self._tables.install_control(connection_id)
        visitor.ids = set(current)

    def _forget(self, visitor: Visitor) -> None:
        del self._visitors[visitor]
        self._synchronise(visitor, set())
        del self._by_id[visitor.first_id]
