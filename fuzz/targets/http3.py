"""Whatever a stranger writes to its streams, HTTP/3 answers or ends the connection; nothing is raised."""

from __future__ import annotations

from collections import Counter

import pylsqpack
from aioquic.h3.connection import encode_frame, encode_settings
from aioquic.quic.events import HandshakeCompleted, StreamDataReceived
from aioquic.quic.packet import QuicFrameType

from shadowmesh.crypto.port import PortConnection, Terms
from shadowmesh.units import Address
from shadowmesh_relay.h3 import Visitor, Visitors
from shadowmesh_relay.testing import MemoryForwarder
from tests.protocol.http3 import CREDENTIALS, HTTP3
from tests.unit.quic_pair import identity

COVERS = ("shadowmesh_relay.h3",)
KEY, CERTIFICATE = identity("relay")
STREAMS = (0, 2, 4, 6)
PATHS = (b"/live", b"/status", b"/nothing")
DONE = HandshakeCompleted(alpn_protocol="h3", early_data_accepted=False, session_resumed=False)
VISITORS = Visitors(HTTP3, MemoryForwarder(), lambda _, __: None, Counter(), lambda: (False, 0), 0.0)


def _header(method: bytes, path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    fields = [(b":method", method), (b":scheme", b"https"), (b":authority", b"relay.test"), (b":path", path)]
    return encode_frame(0x1, pylsqpack.Encoder().encode(0, [*fields, *more])[1])


SEEDS = [
    b"\x00" + encode_frame(0x4, encode_settings({0x1: 4096, 0x7: 16, 0x21: 1})) + encode_frame(0x7, b"\x00"),
    b"\x02\x3f\xe1\x1f",
    b"\x03\x80",
    b"\x21 a stream of a reserved type",
    *(_header(b"GET", path, (b"user-agent", b"probe/1.0 (of some length)")) for path in PATHS),
    _header(b"POST", b"/live", (b"content-length", b"5")) + encode_frame(0x0, b"hello"),
    _header(b"GET", b"/live") + encode_frame(0x21, b"grease") + _header(b"GET", b"/live"),
]


def target(data: bytes) -> None:
    """The input in four parts, each on another stream of one connection."""
    connection = PortConnection(
        terms=Terms(CREDENTIALS, lambda _: True),
        is_client=False,
        certificate=CERTIFICATE,
        private_key=KEY,
        original_destination_connection_id=bytes(8),
    )
    visitor = Visitor(connection, Address("203.0.113.9", 6000), "203.0.113.9", bytes(8), 30.0)
    VISITORS._handle_event_untrusted(visitor, DONE, 0.0)
    size = len(data) // len(STREAMS) + 1
    connection._local_max_streams_uni.value = len(STREAMS)
    for number, stream in enumerate(STREAMS):
        connection._get_or_create_stream(QuicFrameType.STREAM_BASE, stream)
        part, ends = data[number * size : (number + 1) * size], bool(stream % 4 == 0 and len(data) % 2)
        whole = data if number == len(data) % len(STREAMS) else part
        VISITORS._handle_event_untrusted(visitor, StreamDataReceived(whole, ends, stream), 0.0)
    assert len(visitor.answered) <= len(STREAMS)
