"""What one datagram, and the data of one connection out of order, may cost: bounded, whoever sends it.

Initial keys are known to everybody who sees the connection id (RFC 9001 section 5.2), so that a stranger who
has echoed a token seals whatever he likes into an Initial; a member does so in every packet.
"""

from __future__ import annotations

import pytest
from aioquic import tls
from aioquic.buffer import encode_uint_var

from shadowmesh.crypto.quic import FLOW_WINDOW, MAX_DATAGRAM, MAX_FRAMES, MAX_GAPS, SessionConnection
from tests.unit.quic_pair import Pair, session_pair

PING, CRYPTO, STREAM = b"\x01", b"\x06", b"\x0e"
PATIENCE = 0.06
"""Seconds until the ClientHello is there, and the answer is not."""


def sealed(sender: SessionConnection, epoch: tls.Epoch, payload: bytes) -> bytes:
    """A packet as `sender` seals it; `payload` is what it would never send."""
    number = sender._packet_number
    sender._packet_number += 1
    target = sender._peer_cid.cid
    if epoch is tls.Epoch.ONE_RTT:
        head = b"\x43" + target + number.to_bytes(4, "big")
        return sender._cryptos[epoch].encrypt_packet(head, payload, number)
    source = sender.host_cid
    payload = payload.ljust(1200, b"\0")  # RFC 9000 section 14.1
    head = b"\xc3\0\0\0\1" + bytes((len(target),)) + target + bytes((len(source),)) + source + b"\0"
    head += (0x4000 | len(payload) + 4 + 16).to_bytes(2, "big") + number.to_bytes(4, "big")
    return sender._cryptos_initial[1].encrypt_packet(head, payload, number)


def piece(kind: bytes, offset: int, data: bytes = b"x") -> bytes:
    stream = b"\0" if kind == STREAM else b""
    return kind + stream + encode_uint_var(offset) + encode_uint_var(len(data)) + data


def begun() -> Pair:
    """A handshake whose ClientHello has come in part: the first datagram of two."""
    pair = session_pair()
    first: list[bytes] = []

    def lose_the_second(_sender: object, data: bytes) -> list[bytes]:
        first.append(data)
        return [data] if len(first) == 1 else []

    pair.tamper = lose_the_second
    pair.connect()
    pair.run(seconds=PATIENCE)
    assert pair.server.connection.begun
    assert not pair.server.connection.closed
    return pair


def standing() -> Pair:
    pair = session_pair()
    assert pair.handshake()
    return pair


def taken(pair: Pair, epoch: tls.Epoch, payload: bytes) -> None:
    server = pair.server.connection
    server.receive(sealed(pair.client.connection, epoch, payload), pair.now)
    pair.server.transmit(pair.now)


def reason(pair: Pair) -> str | None:
    event = pair.server.connection._close_event
    return event.reason_phrase if event is not None else None


@pytest.mark.parametrize(
    ("kind", "epoch", "make"),
    [
        (CRYPTO, tls.Epoch.INITIAL, begun),
        (CRYPTO, tls.Epoch.ONE_RTT, standing),
        (STREAM, tls.Epoch.ONE_RTT, standing),
    ],
)
def test_single_bytes_out_of_order_end_the_connection(kind: bytes, epoch: tls.Epoch, make: object) -> None:
    """16,000 of them took a second of the only thread, and each datagram with 170 more 70 ms."""
    pair: Pair = make()  # type: ignore[operator]
    server = pair.server.connection
    sent, offset = 0, 3000
    while not server.closed and sent < 4 * MAX_GAPS:
        payload = b"".join(piece(kind, offset + 2 * number) for number in range(64))
        taken(pair, epoch, payload)
        sent, offset = sent + 64, offset + 128
    assert reason(pair) == "too many gaps"
    assert sent <= 2 * MAX_GAPS


def test_a_window_of_which_every_second_packet_is_lost_is_put_together() -> None:
    """What an honest peer's worst network makes: 114 gaps, and then all of it is there."""
    pair = standing()
    size = 1150
    content = b"y" * (FLOW_WINDOW // size * size)
    offsets = range(0, len(content), size)
    for some in (offsets[1::2], offsets[0::2]):
        for offset in some:
            taken(pair, tls.Epoch.ONE_RTT, piece(STREAM, offset, content[offset : offset + size]))
    assert not pair.server.connection.closed
    assert pair.server.stream_data() == content


@pytest.mark.parametrize(("epoch", "make"), [(tls.Epoch.INITIAL, begun), (tls.Epoch.ONE_RTT, standing)])
def test_a_packet_has_so_many_frames_and_no_more(epoch: tls.Epoch, make: object) -> None:
    pair: Pair = make()  # type: ignore[operator]
    taken(pair, epoch, PING * (MAX_FRAMES - 1))  # the padding is one more
    assert not pair.server.connection.closed
    taken(pair, epoch, PING * (MAX_FRAMES + 1))
    assert reason(pair) == "too many frames"


def test_a_datagram_that_no_path_carries_is_not_looked_at() -> None:
    pair = standing()
    server = pair.server.connection
    for size, seen in ((MAX_DATAGRAM, True), (MAX_DATAGRAM + 1, False)):
        before = server._spaces[tls.Epoch.ONE_RTT].largest_received_packet
        packet = sealed(pair.client.connection, tls.Epoch.ONE_RTT, PING.ljust(size - 29, b"\0"))
        assert len(packet) == size
        server.receive(packet, pair.now)
        assert (server._spaces[tls.Epoch.ONE_RTT].largest_received_packet > before) is seen
