"""Payloads of frame packets that Python makes or reads: those of paths, and BIND/BOUND of the relay leg.

    EMPTY           03
    PROBE_REQUEST   04 | nonce (8) | zero (any number): as large as what is to be tried
    PROBE_REPLY     05 | nonce (8), the one of the request
    PATH_REQUEST    07 | challenge (8) | zero (26)
    PATH_RESPONSE   08 | echo (8) | challenge (8) | address (16) | port (2)
    PATH_COMPLETE   09 | echo (8) | address (16) | port (2) | zero (8)
    BIND            10 | number (8) | nonce (8) | challenge (8, zero: none) | zero (10)
    BOUND           11 | nonce (8) | challenge (8, zero: bound) | address (16) | port (2)

All integers are big-endian; an address is IPv6, or IPv4 in its mapped form (RFC 4291 section 2.5.5.2).
The address in an answer is where the sender of the answer saw the question come from.  BIND and
PATH_REQUEST are padded to the length of their answers, so that nobody answers with more than he received.
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
_PATH_SIZE = 35
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
    PATH_REQUEST = 0x07
    PATH_RESPONSE = 0x08
    PATH_COMPLETE = 0x09
    BIND = 0x10
    BOUND = 0x11
    OBSERVE = 0x12
    """This and the next are in `observe.py`."""
    OBSERVED = 0x13


class Bound(NamedTuple):
    """A relay's answer to BIND: what it saw, and what it wants echoed before it sends there."""

    nonce: bytes
    challenge: bytes
    observed: Address


class PathResponse(NamedTuple):
    """An answer to a path's challenge, with a challenge of its own."""

    echo: bytes
    challenge: bytes
    observed: Address


class PathComplete(NamedTuple):
    """The last message of a re-handshake."""

    echo: bytes
    observed: Address


def encode_address(address: Address) -> bytes:
    """Address (16) and port (2). A zone of a link-local address stays behind: it means nothing elsewhere."""
    return host_bytes(address.host) + address.port.to_bytes(2, "big")


def host_bytes(host: str) -> bytes:
    """The 16 bytes of an IPv6 address, or of an IPv4 address in its mapped form."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed


def host_text(packed: bytes) -> str:
    """The inverse of `host_bytes`."""
    host = ipaddress.IPv6Address(packed)
    return str(host.ipv4_mapped or host)


def encode_probe(kind: Kind, nonce: bytes, size: int = 0) -> bytes:
    """A probe request or reply; a request may be padded to `size` bytes of payload."""
    return (bytes((kind,)) + nonce).ljust(size, b"\0")


def parse_probe(payload: bytes) -> bytes:
    """The nonce of a probe. Raises BadPacket("malformed")."""
    padded = payload[:1] == bytes((Kind.PROBE_REQUEST,))
    if len(payload) < _PROBE_SIZE or (len(payload) > _PROBE_SIZE and not padded):
        raise BadPacket("malformed")
    return payload[1:_PROBE_SIZE]


def encode_path_request(challenge: bytes) -> bytes:
    """The first message of a re-handshake."""
    return (bytes((Kind.PATH_REQUEST,)) + challenge).ljust(_PATH_SIZE, b"\0")


def encode_path_response(echo: bytes, challenge: bytes, observed: Address) -> bytes:
    """The second: `echo` of the request's challenge, and where the request came from."""
    return bytes((Kind.PATH_RESPONSE,)) + echo + challenge + encode_address(observed)


def encode_path_complete(echo: bytes, observed: Address) -> bytes:
    """The third: `echo` of the response's challenge, and where the response came from."""
    return (bytes((Kind.PATH_COMPLETE,)) + echo + encode_address(observed)).ljust(_PATH_SIZE, b"\0")


def parse_path_request(payload: bytes) -> bytes:
    """Its challenge. Raises BadPacket("malformed")."""
    _check_path(payload)
    return payload[1:9]


def parse_path_response(payload: bytes) -> PathResponse:
    """Its contents. Raises BadPacket("malformed")."""
    _check_path(payload)
    return PathResponse(payload[1:9], payload[9:17], _parse_address(payload[17:35]))


def parse_path_complete(payload: bytes) -> PathComplete:
    """Its contents. Raises BadPacket("malformed")."""
    _check_path(payload)
    return PathComplete(payload[1:9], _parse_address(payload[9:27]))


def _check_path(payload: bytes) -> None:
    if len(payload) != _PATH_SIZE:
        raise BadPacket("malformed")


def _parse_address(data: bytes) -> Address:
    return Address(host_text(data[:16]), int.from_bytes(data[16:], "big"))


def encode_bind(number: int, nonce: bytes, challenge: bytes = NO_CHALLENGE) -> bytes:
    """A BIND; `number` grows with every BIND of a relay session, so that the newest source wins."""
    return bytes((Kind.BIND,)) + number.to_bytes(8, "big") + nonce + challenge + bytes(10)


def parse_bound(payload: bytes) -> Bound:
    """The contents of a BOUND. Raises BadPacket("malformed")."""
    if len(payload) != _LEG_SIZE or payload[0] != Kind.BOUND:
        raise BadPacket("malformed")
    return Bound(payload[1:9], payload[9:17], _parse_address(payload[17:35]))
