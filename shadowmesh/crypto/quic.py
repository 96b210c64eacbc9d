"""One QUIC connection of a session: aioquic's state machine with our TLS, on a path without addresses.

Role: the fixed transport parameters, the cures for what aioquic lacks, and a small surface for the layers
above: `start`, `receive`, `transmit`, timers, results.  It opens no socket, reads no clock, knows no peer
address: the path layer below chooses where datagrams go, so that the peer can't make us send elsewhere
(preferred addresses and QUIC's own migration have no effect).  What the streams carry is the session's.

After each `start`, `receive` or `handle_timer`, whoever drives a connection calls `next_event()` until it
gives None, then `transmit(now)`, then `get_timer()`; and `handle_timer(now)` when that time has come.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic import connection as stock
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    Limit,
    QuicConnection,
    QuicConnectionError,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicHeader, QuicProtocolVersion
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey

from shadowmesh import units
from shadowmesh.crypto.rebound import rebind
from shadowmesh.crypto.tls import NODE_POLICY, SERVER_NAME, HybridContext, PeerTicket, TlsPolicy
from shadowmesh.errors import LocalProtocolError

VIRTUAL_ADDRESS = ("virtual", 0)
"""The one address that aioquic sees. Its host is no IP address, so that no preferred address matches it."""

INITIAL_WINDOW = 32
"""Packets in the first flight: a server's is 13, a client's second one 11.  RFC 9002 (7.2) would have 10,
which costs a round trip; 32 packets are less than one page of a web site."""

CLIENT_INITIAL_RTT, SERVER_INITIAL_RTT = 0.1, 0.333
"""Seconds of round trip that are assumed before one was measured; what is lost is repeated after two of them.
A server has 1.0 by RFC 9002 (6.2.2), and repeats a flight of 13 packets, 3 ms of work, for every client that
is far away or busy if it is impatient.  A client may be (aioquic's 0.1): what it repeats is small, and a
server that sees it repeated answers at once."""

EARLY_PACKETS = 16
"""Packets kept per epoch while their keys are missing: one flight of 13 that overtakes its first packet."""

MAX_PENDING_CRYPTO = 32768
"""Bytes of handshake data kept out of order per epoch; a flight is 12.2 KB. aioquic would keep 512 KiB."""

MAX_GAPS = 128
"""Holes in what came of a stream, or of a handshake's data; each further piece is compared with one after
another.  Every second packet of a whole window makes 114; single bytes made 16,000, and a second of work."""

MAX_FRAMES = 128
"""Frames in one packet.  Nodes send fewer than ten, browsers a few dozen; 1150 of a byte took 0.6 ms."""

MAX_DATAGRAM = 1500
"""Bytes of a datagram that is looked at: nodes send 1200, browsers what fits into an Ethernet frame."""

FLOW_WINDOW = 262144
"""Bytes that a peer may send ahead of what was delivered, per stream and connection: control only."""

BIDI_STREAMS = 8
"""Streams that a peer may have open at once; the protocol uses few. Unidirectional ones: none."""

IDLE_TIMEOUT = 60.0
"""Seconds without a packet; `renew_idle` counts the data plane's packets too."""

TIMER_STEP = 1e-6
"""Seconds added to a timer's time: with an exact clock, a rounding by one ulp in aioquic loops for ever."""

logger = logging.getLogger("shadowmesh.quic")

_EPOCHS: dict[frozenset[tls.Epoch], frozenset[tls.Epoch]] = {}
"""The few different sets of epochs in which a frame may come, one of each."""


class _EarlyPair(CryptoPair):
    """The keys of one epoch, and the packets that arrived before them."""

    def __init__(self) -> None:
        super().__init__()
        self.early: list[bytes] = []
        self._discarded = False

    def decrypt_packet(
        self, packet: bytes, encrypted_offset: int, expected_packet_number: int
    ) -> tuple[bytes, bytes, int]:
        if not self.recv.is_valid() and not self._discarded and len(self.early) < EARLY_PACKETS:
            self.early.append(packet)
        return super().decrypt_packet(packet, encrypted_offset, expected_packet_number)

    def teardown(self) -> None:
        self._discarded = True
        self.early.clear()
        super().teardown()


class _Handlers(dict[int, tuple[Any, frozenset[tls.Epoch]]]):
    """aioquic's handlers of frames, asked for once for each frame."""

    left = 0
    """Frames that this packet may still have."""

    def __getitem__(self, frame_type: int) -> tuple[Any, frozenset[tls.Epoch]]:
        self.left -= 1
        if self.left < 0:
            raise QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "too many frames")
        return super().__getitem__(frame_type)


def _check_gaps(receiver: QuicStreamReceiver, frame_type: int) -> None:
    if len(receiver._ranges) > MAX_GAPS:
        raise QuicConnectionError(QuicErrorCode.INTERNAL_ERROR, frame_type, "too many gaps")


class HybridConnection(QuicConnection):
    """aioquic's connection with `HybridContext` as its TLS, hardened against what arrives before it.

    Error contract: `receive_datagram` never raises; whatever escapes aioquic closes the connection with
    INTERNAL_ERROR, and a closed connection ignores everything.
    """

    def __init__(self, *, configuration: QuicConfiguration, policy: TlsPolicy, **arguments: Any) -> None:
        super().__init__(configuration=configuration, **arguments)
        self.policy = policy
        self.hybrid: HybridContext | None = None
        self._released = False
        self._loss._cc.congestion_window = INITIAL_WINDOW * self._max_datagram_size
        self._handlers = _Handlers(
            # aioquic makes 31 sets, 7 KB, for each connection.
            (kind, (handle, _EPOCHS.setdefault(epochs, epochs)))
            for kind, (handle, epochs) in vars(self)["_QuicConnection__frame_handlers"].items()
        )
        vars(self)["_QuicConnection__frame_handlers"] = self._handlers

    @property
    def handshake_confirmed(self) -> bool:
        """Both sides have authenticated each other; before this, trust nothing (RFC 9001, 4.1.2)."""
        return self._handshake_confirmed

    @property
    def closed(self) -> bool:
        """Closing, draining or terminated: nothing is accepted any more."""
        return self._close_pending or self._state in stock.END_STATES

    def receive_datagram(self, data: bytes, addr: stock.NetworkAddress, now: float) -> None:
        if self.closed or len(data) > MAX_DATAGRAM:
            return
        try:
            super().receive_datagram(data, addr, now)
            self._replay_early(addr, now)
            if self._handshake_confirmed and not self._released:
                self._release()
        except Exception:
            # Anything: aioquic parses unauthenticated bytes here, and is known to let some errors escape.
            logger.exception("internal error while receiving; the connection is closed [program.bug]")
            self.close(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.PADDING, "internal error")

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls = self.hybrid = self._context(self.tls)
        for epoch in (tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT):
            self._cryptos[epoch] = _EarlyPair()

    def _context(self, stock_context: tls.Context) -> HybridContext:
        """The TLS state in place of aioquic's."""
        return HybridContext(stock_context, self.policy)

    def _replay_early(self, addr: stock.NetworkAddress, now: float) -> None:
        """Handle the packets whose keys have come; aioquic drops them, which costs up to a PTO each."""
        for epoch in (tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT):
            pair = self._cryptos.get(epoch)
            if not isinstance(pair, _EarlyPair) or not pair.early or not pair.recv.is_valid():
                continue
            packets, pair.early = pair.early, []
            for packet in packets:
                path = self._find_network_path(addr)
                path.bytes_received -= len(packet)  # counted when it came; RFC 9000, 8.1 counts once
                super().receive_datagram(packet, addr, now)

    def _release(self) -> None:
        """Drop buffers and objects of the handshake: more than half of a connection's memory."""
        self._released = True
        self._configuration.session_ticket = None
        self._crypto_buffers = {}
        for epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE):
            self._crypto_streams[epoch] = QuicStream()
        if self.hybrid is not None:
            self.hybrid.release()

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self._take_crypto(context, frame_type, buf)
        stream = self._crypto_streams.get(context.epoch)
        if stream is not None:
            _check_gaps(stream.receiver, frame_type)

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream(frame_type, stream_id)
        _check_gaps(stream.receiver, frame_type)
        return stream

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        self._handlers.left = MAX_FRAMES
        return super()._payload_received(context, plain, crypto_frame_required)

    _take_crypto = rebind(QuicConnection._handle_crypto_frame, MAX_PENDING_CRYPTO=MAX_PENDING_CRYPTO)


class SessionConnection(HybridConnection):
    """The connection between two nodes, or a node and its relay, over whatever path carries its datagrams."""

    def __init__(
        self,
        *,
        is_client: bool,
        certificate: x509.Certificate,
        private_key: MLDSA87PrivateKey,
        groups: tuple[int, ...] = NODE_POLICY.groups,
        idle_timeout: float = IDLE_TIMEOUT,
        path_validated: bool = False,
        ticket: PeerTicket | None = None,
        fetch_ticket: Callable[[bytes], PeerTicket | None] | None = None,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        """`path_validated`: the rendezvous or the token gate has proved the path, so that no 3x limit holds.

        A server needs `original_destination_connection_id`: from the first Initial, or from the token gate
        together with `retry_source_connection_id`. `groups` are TLS code points, the best first.
        A client resumes by `ticket`, whose name also stands for the token that proves its address; a server
        looks names up by `fetch_ticket`.
        """
        super().__init__(
            configuration=QuicConfiguration(
                certificate=certificate,
                connection_id_length=units.ID_SIZE,
                idle_timeout=idle_timeout,
                initial_rtt=CLIENT_INITIAL_RTT if is_client else SERVER_INITIAL_RTT,
                is_client=is_client,
                max_data=FLOW_WINDOW,
                max_datagram_size=units.MAX_QUIC_DATAGRAM,
                max_stream_data=FLOW_WINDOW,
                private_key=private_key,
                server_name=SERVER_NAME if is_client else None,
                session_ticket=ticket,
                supported_versions=[QuicProtocolVersion.VERSION_1],
                token=ticket.ticket if ticket is not None else b"",
                verify_mode=0,  # ssl.CERT_NONE: there is no chain; the session handshake checks the NodeID
            ),
            policy=dataclasses.replace(NODE_POLICY, groups=groups),
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
            session_ticket_fetcher=fetch_ticket,
        )
        self._virtual_path = QuicNetworkPath(VIRTUAL_ADDRESS, is_validated=path_validated or is_client)
        for limit, value in ((self._local_max_streams_bidi, BIDI_STREAMS), (self._local_max_streams_uni, 0)):
            limit.value = limit.sent = value

    # --- results ---

    @property
    def peer_mldsa_public(self) -> bytes:
        """The raw ML-DSA-87 key (2592 bytes) that the peer proved; `LocalProtocolError` before that."""
        return self._completed().peer_mldsa_public

    @property
    def key_exchange(self) -> str | None:
        """Name of the negotiated group, for people; None before the handshake."""
        return self.hybrid.group.name if self.hybrid is not None and self.hybrid.group is not None else None

    @property
    def cipher(self) -> str | None:
        """Name of the TLS cipher suite, for people; None before the handshake."""
        return self.hybrid.cipher_name if self.hybrid is not None else None

    @property
    def resumed(self) -> bool:
        """Whether a ticket took the place of both certificates; False before the handshake."""
        return self.hybrid is not None and self.hybrid.session_resumed

    @property
    def begun(self) -> bool:
        """Whether any packet has opened: False after an Initial that was garbage."""
        return self._state is not stock.QuicConnectionState.FIRSTFLIGHT

    def unsent(self, stream_id: int) -> int:
        """Bytes written to a stream that the peer has not acknowledged, or leaves no room for."""
        stream = self._streams.get(stream_id)
        return len(stream.sender._buffer) if stream is not None else 0

    @property
    def closed_by_peer(self) -> ConnectionTerminated | None:
        """The peer's goodbye, known at once; aioquic's own event comes after the draining period."""
        return self._close_event if self._state is stock.QuicConnectionState.DRAINING else None

    def export(self, label: bytes, context: bytes, length: int) -> bytes:
        """TLS exporter (RFC 8446, 7.5); `LocalProtocolError` before the handshake is complete, or wiped."""
        return self._completed().export(label, context, length)

    def wipe_exporter(self) -> None:
        """Forget the exporter secret; call it once the session's keys are derived."""
        if self.hybrid is not None:
            self.hybrid.wipe_exporter()

    def host_cids(self) -> set[bytes]:
        """Connection ids that the peer may send to now; ConnectionIdIssued and -Retired tell of changes.

        A client's first packets to a server go to `original_destination_connection_id` (or the Retry's id).
        """
        return {connection_id.cid for connection_id in self._host_cids}

    # --- input ---

    def start(self, now: float) -> None:
        """Begin the handshake as a client."""
        self.connect(VIRTUAL_ADDRESS, now)

    def receive(self, data: bytes, now: float) -> None:
        """Handle one datagram of this connection, from wherever the path layer took it. Never raises."""
        self.receive_datagram(data, VIRTUAL_ADDRESS, now)

    def handle_timer(self, now: float) -> None:
        if self._close_at is not None:
            super().handle_timer(now + TIMER_STEP)

    def mark_path_validated(self) -> None:
        """The path layer has proved the peer's address: send without the 3x limit of RFC 9000, 8.1."""
        self._virtual_path.is_validated = True

    def renew_idle(self, now: float) -> None:
        """An authentic packet of the data plane has come: the connection is not idle either."""
        if self._close_at is not None and not self.closed:
            self._close_at = max(self._close_at, now + self._idle_timeout())

    # --- output ---

    def transmit(self, now: float) -> list[bytes]:
        """Datagrams to send now, each at most 1200 bytes. Never raises."""
        if not self._network_paths or self._state in stock.END_STATES:
            return []
        try:
            datagrams = [data for data, address in self.datagrams_to_send(now) if address == VIRTUAL_ADDRESS]
        except Exception:
            # A close that can't even be written (no keys yet), or state left torn by an error before it.
            logger.exception("internal error while sending; the connection is dropped [program.bug]")
            self._close_event = self._close_event or ConnectionTerminated(
                QuicErrorCode.INTERNAL_ERROR, QuicFrameType.PADDING, "internal error"
            )
            self._close_end()
            return []
        path = self._virtual_path
        if not path.is_validated and path.bytes_sent > 3 * path.bytes_received:
            return []  # a goodbye, which aioquic does not hold to the limit of RFC 9000 section 8.1
        return datagrams

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, or None; the same clock as every `now`."""
        return None if self._close_at is None else super().get_timer()

    # --- aioquic's methods ---

    def _completed(self) -> HybridContext:
        if not self._handshake_complete or self.hybrid is None:
            raise LocalProtocolError("the TLS handshake is not complete")
        return self.hybrid

    def _find_network_path(self, addr: stock.NetworkAddress) -> QuicNetworkPath:
        return self._virtual_path

    def connect(self, addr: stock.NetworkAddress, now: float) -> None:
        super().connect(addr, now)
        self._network_paths = [self._virtual_path]

    def _receive_version_negotiation_packet(self, header: QuicHeader, now: float) -> None:
        """Ignore it: we speak one version, and a forged one would end the attempt (RFC 9000, 21.12)."""

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """Let the window slide; aioquic doubles it for ever, so that a peer could fill memory in the end."""
        data, streams = self._local_max_data, self._local_max_streams_bidi
        if data.value - data.used < FLOW_WINDOW // 2:
            data.value = data.used + FLOW_WINDOW
        for limit in (data, streams):
            if limit.value != limit.sent:
                self._write_limit(builder, limit)

    def _write_limit(self, builder: QuicPacketBuilder, limit: Limit) -> None:
        frame = builder.start_frame(
            limit.frame_type,
            capacity=stock.CONNECTION_LIMIT_FRAME_CAPACITY,
            handler=self._on_connection_limit_delivery,
            handler_args=(limit,),
        )
        frame.push_uint_var(limit.value)
        limit.sent = limit.value

    def _write_stream_limits(
        self,
        builder: QuicPacketBuilder,
        space: QuicPacketSpace,
        stream: QuicStream,
    ) -> None:
        """The same per stream: the window is `FLOW_WINDOW` ahead of what was delivered in order."""
        delivered = stream.receiver.starting_offset()
        limit = stream.max_stream_data_local
        if limit - delivered < FLOW_WINDOW // 2:
            limit = delivered + FLOW_WINDOW
            stream.max_stream_data_local = limit
        if stream.max_stream_data_local_sent != limit:
            frame = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=stock.MAX_STREAM_DATA_FRAME_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            assert stream.stream_id is not None  # only CRYPTO streams have none
            frame.push_uint_var(stream.stream_id)
            frame.push_uint_var(limit)
            stream.max_stream_data_local_sent = limit
