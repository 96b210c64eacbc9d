"""Payloads by which a client learns how a second port of a relay sees it (docs/protocol.md, 7.5).

    OBSERVE         12 | nonce (8) | zero (18)                  client -> second port, lane 1 of the leg
    OBSERVED        13 | nonce (8) | address (16) | port (2)    second port -> client, lane 0 of the leg

All integers are big-endian; an address is IPv6, or IPv4 in its mapped form (RFC 4291 section 2.5.5.2).
Both have the same size, so a relay never answers with more than it received.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from shadowmesh.errors import BadPacket
from shadowmesh.units import Address
from shadowmesh.wire.payload import NONCE_SIZE, Kind

OBSERVE_LANE = 1
"""Of the client's packets to the second port; the forwarder of the relay knows lane 0 only."""
OBSERVED_LANE = 0
"""Of the relay's; its forwarder seals in lane 1."""
_SIZE = 27


class Observed(NamedTuple):
    """What the second port saw."""

    nonce: bytes
    address: Address


def encode_observe(nonce: bytes) -> bytes:
    """A question; its answer has the same nonce."""
    return (bytes((Kind.OBSERVE,)) + nonce).ljust(_SIZE, b"\0")


def parse_observe(payload: bytes) -> bytes:
    """Its nonce. Raises BadPacket("malformed")."""
    if len(payload) != _SIZE or payload[0] != Kind.OBSERVE:
        raise BadPacket("malformed")
    return payload[1 : 1 + NONCE_SIZE]


def encode_observed(nonce: bytes, address: Address) -> bytes:
    """An answer, to OBSERVE or to NAT_TEST."""
    host = ipaddress.ip_address(address.host.partition("%")[0])
    packed = host.packed if host.version == 6 else bytes(10) + b"\xff\xff" + host.packed
    return bytes((Kind.OBSERVED,)) + nonce + packed + address.port.to_bytes(2, "big")


def parse_observed(payload: bytes) -> Observed:
    """Its contents. Raises BadPacket("malformed")."""
    if len(payload) != _SIZE or payload[0] != Kind.OBSERVED:
        raise BadPacket("malformed")
    host = ipaddress.IPv6Address(payload[9:25])
    address = Address(str(host.ipv4_mapped or host), int.from_bytes(payload[25:], "big"))
    return Observed(payload[1:9], address)
