"""A server's connection on a port that speaks HTTP/3 beside sessions: ALPN in the ClientHello decides.

Role: until its ClientHello is complete, nobody knows whom a connection is with.  One that offers `h3`, and
not `shadowmesh/1`, goes on under `FOREIGN_POLICY`, with another certificate, no tickets and small limits;
whoever drives it takes it out of the session machinery (`shadowmesh.session.port`).  Every other connection
goes on as if this module did not exist.  A node never accepts what the foreign policy answers (other groups,
other signatures), and a foreign connection proves no ML-DSA-87 key, so neither can become the other.

It speaks no HTTP and does not decide who may come in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aioquic import tls
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from shadowmesh import units
from shadowmesh.crypto.quic import SessionConnection
from shadowmesh.crypto.tls import FOREIGN_POLICY, HybridContext, TlsPolicy

FOREIGN_STREAMS = 32
"""Requests that one foreign connection may send in all: the limit is never raised."""
FOREIGN_UNI_STREAMS = 8
"""Its unidirectional streams in all: HTTP/3 has three, and clients open reserved ones to see what happens."""
FOREIGN_STREAM_DATA = 8192
"""Bytes of one of its streams in all: the header of a request is a few hundred, and no body is wanted."""
FOREIGN_DATA = 65536
"""Bytes of all its streams in all."""
FOREIGN_IDLE = 10.0
"""Seconds without a packet."""


@dataclass(frozen=True, repr=False)
class Credentials:
    """An ordinary certificate, the chain that it comes with, and its key."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    key: EllipticCurvePrivateKey | RSAPrivateKey


@dataclass(frozen=True)
class Terms:
    """What a port offers besides sessions.

    `enter(foreign)` is asked once per connection, before anything expensive is done for it.
    """

    credentials: Credentials
    enter: Callable[[bool], bool]


class PortContext(HybridContext):
    """The TLS state of a connection that may turn out to be foreign."""

    def __init__(self, stock: tls.Context, policy: TlsPolicy, terms: Terms) -> None:
        super().__init__(stock, policy)
        self._terms = terms

    def _check_client_hello(self, hello: tls.ClientHello) -> None:
        offered = hello.alpn_protocols or []
        if set(offered) & set(FOREIGN_POLICY.alpn) and units.ALPN not in offered:
            self._turn()
        super()._check_client_hello(hello)
        if not self._terms.enter(self.policy is FOREIGN_POLICY):
            raise QuicConnectionError(
                QuicErrorCode.CONNECTION_REFUSED, QuicFrameType.CRYPTO, "not now, try again later"
            )

    def _turn(self) -> None:
        self._follow(FOREIGN_POLICY)
        self.certificate = self._terms.credentials.certificate
        self.certificate_chain = list(self._terms.credentials.chain)
        self.certificate_private_key: Any = self._terms.credentials.key
        self.get_session_ticket_cb = None  # a ticket is a member's, and asking for one uses it up


class PortConnection(SessionConnection):
    """A server's connection whose ClientHello decides what it is."""

    def __init__(self, *, terms: Terms, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._terms = terms

    @property
    def foreign(self) -> bool:
        """Whether this is no session, nor will ever be one."""
        return self.hybrid is not None and self.hybrid.policy is FOREIGN_POLICY

    @property
    def first_id(self) -> bytes:
        """What the first datagrams are addressed to: the Retry's id, or what the client made up."""
        return self._retry_source_connection_id or self._original_destination_connection_id

    def _context(self, stock_context: tls.Context) -> HybridContext:
        return PortContext(stock_context, self.policy, self._terms)

    def _alpn_handler(self, alpn_protocol: str) -> None:
        if self.foreign:
            self._configuration.idle_timeout = FOREIGN_IDLE
            for limit, value in (
                (self._local_max_data, FOREIGN_DATA),
                (self._local_max_streams_bidi, FOREIGN_STREAMS),
                (self._local_max_streams_uni, FOREIGN_UNI_STREAMS),
            ):
                limit.value = limit.sent = value
            self._local_max_stream_data_bidi_remote = FOREIGN_STREAM_DATA
            self._local_max_stream_data_uni = FOREIGN_STREAM_DATA
            parameters = self._serialize_transport_parameters()
            self.tls.handshake_extensions = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, parameters)]
        super()._alpn_handler(alpn_protocol)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        if not self.foreign:
            super()._write_connection_limits(builder, space)

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        if not self.foreign:
            super()._write_stream_limits(builder, space, stream)
