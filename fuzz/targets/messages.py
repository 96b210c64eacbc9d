"""Whatever bytes a stream brings, they become messages within the limit, or BadPacket."""

from __future__ import annotations

import contextlib

from fuzz.traffic import handshake_messages
from shadowmesh.errors import BadPacket
from shadowmesh.wire import messages
from shadowmesh.wire.messages import (
    Answer,
    Close,
    Interest,
    Open,
    Opened,
    Present,
    RekeyAnswer,
    RekeyAsk,
    RekeyOffer,
    RevocationNews,
    Ticket,
)
from shadowmesh.wire.reassembly import Reassembler

SEEDS = [
    *handshake_messages(),
    *(
        messages.encode(message)
        for message in (
            Interest(add=[bytes(32)] * 5, remove=[b"r" * 32]),
            Present(b"n" * 32, b"i" * 8),
            Open(b"n" * 32, b"r" * 8),
            Answer(b"s" * 8, b"r" * 8),
            Opened(b"r" * 8, refused="the node is busy"),
            Close(b"s" * 8),
            Ticket(b"t" * 32),
            RekeyAsk(7),
            RekeyOffer(7, bytes(1600), [b"r" * 8] * 8),
            RekeyAnswer(7, bytes(1600), [b"r" * 8] * 8),
            RevocationNews(bytes(5000)),
        )
    ),
]


def target(data: bytes) -> None:
    """One stream, in two pieces."""
    reassembler = Reassembler()
    with contextlib.suppress(BadPacket):
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            for message_type, body in reassembler.feed_untrusted(piece):
                assert len(body) <= reassembler.limit
                messages.decode(message_type, body)
