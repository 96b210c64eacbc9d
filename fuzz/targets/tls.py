"""However the messages of a TLS handshake are altered, repeated, left out or cut, a side raises
`tls.Alert` or waits; only a side that saw its peer's own flight ends it, and then both export the same.

An input is a program: what is done to each message of a handshake that goes on in memory, with our hybrid key
exchange and our certificates; and which policy the server has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from aioquic import tls
from aioquic._buffer import Buffer

from fuzz.program import Program
from shadowmesh.crypto.tls import FOREIGN_POLICY, NODE_POLICY, SERVER_NAME, HybridContext, TlsPolicy
from tests.unit.quic_pair import identity

COVERS = ("shadowmesh.crypto.tls", "shadowmesh.crypto.hybrid", "shadowmesh.crypto.rebound")
CAPACITY = 65536
EPOCHS = (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT)
GENUINE, ALTER, AGAIN, LEAVE_OUT, CUT, INSERT, WHOLE, RESIZE = range(8)
BLIND_RUNS = 40
"""Of the tests: an input takes milliseconds."""

MESSAGES = 12
"""Of one handshake, more than there are."""

PLACES = 16384
"""Altered bytes are at places below this."""


def _alter(place: int, mask: int) -> bytes:
    return bytes([ALTER]) + place.to_bytes(2, "big") + bytes([mask])


SEEDS = [
    b"\0",
    b"\1",
    *(
        b"\0" + bytes(number) + _alter(place, 1)
        for number in range(7)
        for place in (0, 3, 4, 6, 38, 60, 90, 200)
    ),
    *(b"\0" + bytes(number) + bytes([what]) for number in range(7) for what in (AGAIN, LEAVE_OUT)),
    *(b"\0" + bytes(number) + bytes([CUT, 0, size]) for number in range(7) for size in (1, 50)),
    b"\0" + bytes([INSERT, 0, 44, 0, 4, 0xAA, 0xAA, 0, 0]),
    b"\0" + bytes([WHOLE, 0, 40]) + b"\1\0\0\x24\3\3" + bytes(34),
    b"\1" + bytes([RESIZE, 0, 50, 0xFF]),
]


class Side:
    """One context, what it writes, and whether it lives."""

    def __init__(self, is_client: bool, policy: TlsPolicy) -> None:
        stock = tls.Context(is_client=is_client, server_name=SERVER_NAME, verify_mode=0)
        key, certificate = identity("alice" if is_client else "bob")
        stock.certificate = certificate
        stock.certificate_private_key = cast("Any", key)
        stock.handshake_extensions = [(tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, b"\1\2\3\4")]
        self.context = HybridContext(stock, policy)
        self.out = {epoch: Buffer(capacity=CAPACITY) for epoch in EPOCHS}
        self.failed = False

    def receive(self, data: bytes) -> None:
        """Bytes from the other side; an alert ends it."""
        if not self.failed:
            try:
                self.context.handle_message(data, self.out)
            except tls.Alert:
                self.failed = True

    def written(self) -> Iterator[bytes]:
        """Whole messages since the last call."""
        for epoch in EPOCHS:
            data = self.out[epoch].data
            self.out[epoch].seek(0)
            while data:
                size = 4 + int.from_bytes(data[1:4], "big")
                yield data[:size]
                data = data[size:]

    @property
    def done(self) -> bool:
        """Whether the peer is authenticated and everything agreed on."""
        states = (tls.State.CLIENT_POST_HANDSHAKE, tls.State.SERVER_POST_HANDSHAKE)
        return not self.failed and self.context.state in states


def altered(message: bytes, program: Program) -> bytes:
    """What the receiver gets instead of a message."""
    what = program.number() % 8
    if what == ALTER:
        place, changed = program.number(2) % len(message), bytearray(message)
        changed[place] ^= program.number()
        return bytes(changed)
    if what == AGAIN:
        return message * 2
    if what == LEAVE_OUT:
        return b""
    if what == CUT:
        return message[: program.number(2) % len(message)]
    if what == INSERT:
        place, content = program.number(2) % len(message), program.string()
        return sized(message[:place] + content + message[place:])
    if what == WHOLE:
        return program.string()
    if what == RESIZE:
        return sized(message[: 4 + program.number(2)] + bytes([program.number()]))
    return message


def sized(message: bytes) -> bytes:
    """With the length in its header that it has."""
    return message[:1] + max(len(message) - 4, 0).to_bytes(3, "big") + message[4:]


def target(data: bytes) -> None:
    """One handshake."""
    program = Program(data)
    foreign = bool(program.number() % 2)
    client = Side(True, NODE_POLICY)
    server = Side(False, FOREIGN_POLICY if foreign else NODE_POLICY)
    client.receive(b"")
    touched = {id(client): False, id(server): False}
    for _ in range(MESSAGES):
        for sender, receiver in ((client, server), (server, client)):
            for message in list(sender.written()):
                given = altered(message, program) if program else message
                touched[id(receiver)] |= given != message
                receiver.receive(given)
    check(client, server, touched[id(client)], touched[id(server)], foreign)


def check(client: Side, server: Side, to_client: bool, to_server: bool, foreign: bool) -> None:
    """What holds at the end."""
    if foreign:
        assert not server.done, "our node protocol was spoken with the other policy"
        assert not client.done
    if to_client:
        assert not client.done, "a handshake ended that was altered"
    if to_server:
        assert not server.done, "a handshake ended that was altered"
    if not (to_client or to_server or foreign):
        assert client.done
        assert server.done
    if client.done and server.done:
        assert client.context.export(b"label", b"", 32) == server.context.export(b"label", b"", 32)
    for side, name in ((client, "bob"), (server, "alice")):
        if side.done:
            public = identity(name)[0].public_key().public_bytes_raw()
            assert side.context.peer_mldsa_public == public
        else:
            with contextlib.suppress(Exception):
                assert side.context.export(b"label", b"", 32)
