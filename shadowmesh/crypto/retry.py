"""Stateless address validation before a connection object exists: the gate in front of a QUIC server.

Role: given a long-header datagram that belongs to no connection, say what to do: make a connection
(`Admit`), answer with a Retry or a Version Negotiation packet (`Reply`), or nothing (`Drop`).  It keeps no
state per client, so that a flood of Initials from forged addresses costs one HMAC each and no memory.  It
does not send, count, limit rates, or route the packets of connections that exist: look up the destination
connection id first.

Retry (RFC 9000, 8.1.2), token of 49 to 61 bytes:

    expiry in ms (8) | odcid length (1) | odcid (8..20) | HMAC-SHA256 (32)

The HMAC covers, besides, the source address and port and the connection id that the Retry gave to the
client, so a token serves one client for one attempt.  `now` may be any clock that every process sharing
the secret sees alike.  Never more bytes go out than came in: only datagrams of 1200 bytes and more are
answered, and an answer is smaller than 600.

A token of 32 bytes is the name of a ticket (Retry tokens are longer): `known` says whether it was given to
the host that sends it, and is good just once.  One that is not counts as none (RFC 9000, 8.1.3): the client
may have moved, or we may have started anew.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from aioquic.quic.packet import encode_quic_retry

from shadowmesh.errors import BadPacket
from shadowmesh.units import ID_SIZE, MAX_QUIC_DATAGRAM, Address

TOKEN_LIFETIME = 10.0
"""Seconds: clients return the token at once (RFC 9000, 8.1.4); this covers an Initial lost several times."""

SECRET_SIZE = 32
QUIC_V1 = 1
MIN_ODCID_SIZE = 8
"""Source: RFC 9000, 7.2: the first destination id of a client has at least 8 bytes of entropy."""

MAX_CID_SIZE = 20
_MAC_SIZE = 32
_TYPE_INITIAL = 0


TICKET_SIZE = 32
"""Bytes in the name of a ticket: random, so that nobody can guess one."""


@dataclass(frozen=True, slots=True)
class Admit:
    """The source holds its address: make a connection with both ids; its path is validated."""

    original_destination_connection_id: bytes
    retry_source_connection_id: bytes | None
    """None: it showed a ticket, so that it got no Retry."""
    since: float = field(default=0.0, compare=False)
    """When the client has tried at the latest: the time of the Retry, or of the ticket's arrival."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these bytes back to the source."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """Do nothing but count the reason."""

    reason: str


class TokenGate:
    """Decides about datagrams that belong to no connection.

    :param secret: 32 random bytes, kept for one run.
    :param known: whether this name of a ticket, shown by this source at this time, proves its address.
    """

    def __init__(self, secret: bytes, known: Callable[[bytes, Address, float], bool]) -> None:
        if len(secret) != SECRET_SIZE:
            raise ValueError(f"the secret of a token gate has {SECRET_SIZE} bytes")
        self._secret = secret
        self._known = known

    def check(self, datagram: bytes, source: Address, now: float) -> Admit | Reply | Drop:
        """Judge one datagram; never raises for what is in it."""
        try:
            return self._check(datagram, source, now)
        except BadPacket as error:
            return Drop(error.reason)

    def _check(self, datagram: bytes, source: Address, now: float) -> Admit | Reply | Drop:
        if len(datagram) < MAX_QUIC_DATAGRAM:  # RFC 9000, 14.1
            raise BadPacket("short")
        reader = _Reader(datagram)
        first = reader.take(1)[0]
        version = int.from_bytes(reader.take(4), "big")
        if not first & 0x80 or version == 0:
            raise BadPacket("not_initial")  # a short header, or a Version Negotiation: never answer that
        destination = reader.take(reader.take(1)[0])
        source_id = reader.take(reader.take(1)[0])
        if version != QUIC_V1:
            # RFC 9000, 6.1: it tells a newer client at once what we speak, and a probe sees what every
            # QUIC server does.  It costs no state and no cryptography.
            return Reply(_version_negotiation(destination, source_id))
        if (first >> 4) & 7 != 4 | _TYPE_INITIAL:  # fixed bit set, type Initial
            raise BadPacket("not_initial")
        if not MIN_ODCID_SIZE <= len(destination) <= MAX_CID_SIZE or len(source_id) > MAX_CID_SIZE:
            raise BadPacket("connection_id")
        token = reader.take(reader.take_varint())
        if len(token) == TICKET_SIZE:
            if self._known(token, source, now):
                return Admit(destination, None, now)
        elif token:
            return self._open(token, destination, source, now)
        return Reply(self._retry(destination, source_id, source, now))

    def _retry(self, odcid: bytes, client_id: bytes, source: Address, now: float) -> bytes:
        retry_id = os.urandom(ID_SIZE)
        body = int((now + TOKEN_LIFETIME) * 1000).to_bytes(8, "big") + bytes([len(odcid)]) + odcid
        return encode_quic_retry(
            version=QUIC_V1,
            source_cid=retry_id,
            destination_cid=client_id,
            original_destination_cid=odcid,
            retry_token=body + self._mac(body, retry_id, source),
            unused=os.urandom(1)[0] & 0x0F,
        )

    def _open(self, token: bytes, retry_id: bytes, source: Address, now: float) -> Admit:
        """What a token of ours admits; `BadPacket("token")`."""
        body, mac = token[:-_MAC_SIZE], token[-_MAC_SIZE:]
        if not hmac.compare_digest(mac, self._mac(body, retry_id, source)):
            raise BadPacket("token")
        remaining = int.from_bytes(body[:8], "big") / 1000 - now
        if not 0 <= remaining <= TOKEN_LIFETIME + 1:  # a clock that was set back must not prolong a token
            raise BadPacket("token_expired")
        return Admit(body[9:], retry_id, min(now, now + remaining - TOKEN_LIFETIME))

    def _mac(self, body: bytes, retry_id: bytes, source: Address) -> bytes:
        # Every part but the last has a length of its own or a fixed one, so no two inputs coincide.
        address = ipaddress.ip_address(source.host.partition("%")[0]).packed
        bound = bytes([len(address)]) + address + source.port.to_bytes(2, "big")
        return hmac.digest(
            self._secret, b"retry" + bound + bytes([len(retry_id)]) + retry_id + body, hashlib.sha256
        )


def _version_negotiation(destination: bytes, source_id: bytes) -> bytes:
    """Source: RFC 8999, 6; the ids of unknown versions may have 255 bytes, and are swapped."""
    return b"".join(
        (
            bytes([0xC0 | os.urandom(1)[0] & 0x3F]),
            bytes(4),
            bytes([len(source_id)]),
            source_id,
            bytes([len(destination)]),
            destination,
            QUIC_V1.to_bytes(4, "big"),
        )
    )


class _Reader:
    """Reads from the front; `BadPacket("malformed")` past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise BadPacket("malformed")
        self._at += size
        return self._data[self._at - size : self._at]

    def take_varint(self) -> int:
        """Source: RFC 9000, 16."""
        first = self.take(1)[0]
        rest = self.take((1 << (first >> 6)) - 1)
        return int.from_bytes(bytes([first & 0x3F]) + rest, "big")
