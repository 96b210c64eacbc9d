"""What a client keeps of its relay sessions, so that the next ones take one round trip: tickets.

A ticket is a name that the relay chose and a key that both sides derived; it is good once.  This module
turns tickets into the content of a file and back; it reads and writes none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated

import msgspec

from shadowmesh.crypto.keys import ROOT_SIZE
from shadowmesh.crypto.retry import TICKET_SIZE
from shadowmesh.crypto.tls import PeerTicket
from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import LocalProtocolError
from shadowmesh.units import NodeId

MAX_TICKETS = 64
"""Relays whose tickets are kept; one relay more, and its sessions are set up in full."""
_VERSION = 1
_MLDSA87_KEY_SIZE = 2592

_Id = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Name = Annotated[bytes, msgspec.Meta(min_length=TICKET_SIZE, max_length=TICKET_SIZE)]
_Secret = Annotated[bytes, msgspec.Meta(min_length=ROOT_SIZE, max_length=ROOT_SIZE)]
_Key = Annotated[bytes, msgspec.Meta(min_length=_MLDSA87_KEY_SIZE, max_length=_MLDSA87_KEY_SIZE)]


class RelayTicket(msgspec.Struct, frozen=True):
    """By this a session with `relay` is resumed, once. Never logged: `repr` shows nothing of it."""

    relay: _Id
    name: _Name
    secret: _Secret
    mldsa: _Key
    """The relay's ML-DSA-87 key, which it proved in the session that the ticket comes from."""

    def __repr__(self) -> str:
        return "RelayTicket()"

    def for_tls(self) -> PeerTicket:
        """The same for the connection that resumes."""
        return PeerTicket.of(self.name, self.secret, self.mldsa)


class _File(msgspec.Struct, frozen=True):
    version: int
    node: _Id
    """Whose tickets these are: an identity that was replaced leaves them behind."""
    tickets: Annotated[list[RelayTicket], msgspec.Meta(max_length=MAX_TICKETS)]


MAX_FILE_SIZE = MAX_TICKETS * 2900
"""Bytes; a ticket takes 2,733."""
_decoder = msgspec.msgpack.Decoder(_File)


def encode(node: NodeId, tickets: Iterable[RelayTicket]) -> bytes:
    """The tickets of `node` as a file; those beyond `MAX_TICKETS` are left out."""
    return msgspec.msgpack.encode(_File(_VERSION, node, list(tickets)[:MAX_TICKETS]))


def decode(data: bytes, node: NodeId, relays: Collection[NodeId]) -> list[RelayTicket]:
    """The tickets of `node` for `relays` in a file. LocalProtocolError if it is damaged or not ours."""
    try:
        kept = _decoder.decode(data)
    except UNDECODABLE:
        raise LocalProtocolError("it is damaged") from None
    if kept.version != _VERSION:
        raise LocalProtocolError("another release wrote it")
    if kept.node != node:
        raise LocalProtocolError("it belongs to another identity")
    return [ticket for ticket in kept.tickets if ticket.relay in relays]
