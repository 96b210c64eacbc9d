"""Payloads of frame packets that Python makes or reads: probes, and BIND/BOUND of the relay leg.

    probe request   04 | nonce (8)
    probe reply     05 | nonce (8), the one of the request
    BIND            10 | number (8) | nonce (8) | challenge (8, zero: none) | zero (10)
    BOUND           11 | nonce (8) | challenge (8, zero: bound) | address (16) | port (2)

All integers are big-endian; an address is IPv6, or IPv4 in its mapped form (RFC 4291 section 2.5.5.2).
BIND is padded to the length of BOUND, so that a relay never answers with more than it received.
"""

from __future__ import annotations

import enum
import ipaddress
from typing import NamedTuple

from shadowmesh.errors import BadPacket
from shadowmesh.units import Address

NONCE_SIZE = 8
NO_CHALLENGE = bytes(8)
_LEG_SIZE = 35
_PROBE_SIZE = 9


class Kind(enum.IntEnum):
    """First byte of an opened payload."""

    PADDING = 0x00
    FRAME = 0x01
    FRAGMENT = 0x02
    EMPTY = 0x03
    PROBE_REQUEST = 0x04
    PROBE_REPLY = 0x05
    SEGMENT = 0x06
    BIND = 0x10
    BOUND = 0x11


class Bound(NamedTuple):
    """A relay's answer to BIND: what it saw, and what it wants echoed before it sends there."""

    nonce: bytes
    challenge: bytes
    observed: Address


def encode_probe(kind: Kind, nonce: bytes) -> bytes:
    """A probe request or reply."""
    return bytes((kind,)) + nonce


def parse_probe(payload: bytes) -> bytes:
    """The nonce of a probe. Raises BadPacket("malformed")."""
    if len(payload) != _PROBE_SIZE:
        raise BadPacket("malformed")
    return payload[1:]


def encode_bind(number: int, nonce: bytes, challenge: bytes = NO_CHALLENGE) -> bytes:
    """A BIND; `number` grows with every BIND of a relay session, so that the newest source wins."""
    return bytes((Kind.BIND,)) + number.to_bytes(8, "big") + nonce + challenge + bytes(10)


def parse_bound(payload: bytes) -> Bound:
    """The contents of a BOUND. Raises BadPacket("malformed")."""
    if len(payload) != _LEG_SIZE or payload[0] != Kind.BOUND:
        raise BadPacket("malformed")
    host = ipaddress.IPv6Address(payload[17:33])
    observed = Address(str(host.ipv4_mapped or host), int.from_bytes(payload[33:], "big"))
    return Bound(payload[1:9], payload[9:17], observed)
