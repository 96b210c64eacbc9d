"""Requests to a gateway for a port of its outside address: PCP (RFC 6887) and NAT-PMP (RFC 6886).

    PCP MAP request    02 01 | 0 (2) | lifetime (4) | client address (16)
                       nonce (12) | 17 | 0 (3) | port (2) | wished port (2) | wished address (16)     60 bytes
    PCP MAP response   02 81 | 0 | result (1) | lifetime (4) | epoch (4) | 0 (12)
                       nonce (12) | 17 | 0 (3) | port (2) | outside port (2) | outside address (16)   60 bytes
    NAT-PMP address    request 00 00; response 00 80 | result (2) | epoch (4) | address (4)
    NAT-PMP UDP port   request 00 01 | 0 (2) | port (2) | wished port (2) | lifetime (4)
                       response 00 81 | result (2) | epoch (4) | port (2) | outside port (2) | lifetime (4)

All integers are big-endian; lifetime 0 deletes.  Both go to UDP port 5351.  Bytes only: who is asked,
when, and what is believed is decided in `shadowmesh.path.portmap`.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

from shadowmesh.errors import BadPacket

PORT = 5351
NONCE_SIZE = 12
MAX_REPLY = 1100
"""Bytes. Source: RFC 6887 section 7."""

_PCP_VERSION, _PMP_VERSION = 2, 0
_MAP, _UDP, _RESPONSE = 1, 17, 0x80
_PCP_HEADER = struct.Struct(">BBHI16s")
_PCP_MAP = struct.Struct(">12sB3xHH16s")
_PCP_REPLY_HEADER = struct.Struct(">BBBBII12x")
_PMP_HEADER = struct.Struct(">BBHI")
_PMP_ADDRESS_SIZE, _PMP_PORT_SIZE = 12, 16

UNSUPPORTED_VERSION = 1
"""The same number in both protocols."""
PCP_RESULTS = {
    1: "unsupported version",
    2: "not authorized",
    3: "malformed request",
    4: "unsupported opcode",
    5: "unsupported option",
    6: "malformed option",
    7: "network failure",
    8: "no resources",
    9: "unsupported protocol",
    10: "quota exceeded",
    11: "cannot provide the external port",
    12: "address mismatch: another NAT is between here and the gateway",
    13: "too many remote peers",
}
"""Source: RFC 6887 section 7.4."""
PMP_RESULTS = {
    1: "unsupported version",
    2: "not authorized",
    3: "network failure",
    4: "out of resources",
    5: "unsupported opcode",
}
"""Source: RFC 6886 section 3.5."""


class MapReply(NamedTuple):
    """A gateway's answer about one port; `result` 0 is success. PCP tells `host`, NAT-PMP leaves it empty."""

    result: int
    lifetime: int = 0
    host: str = ""
    port: int = 0


def encode_pcp_map(
    nonce: bytes, client: str, port: int, lifetime: int, wished_host: str = "", wished_port: int = 0
) -> bytes:
    """A PCP request for UDP `port` of `client`, our address as the gateway sees it."""
    wished = _packed(wished_host) if wished_host else bytes(10) + b"\xff\xff" + bytes(4)
    header = _PCP_HEADER.pack(_PCP_VERSION, _MAP, 0, lifetime, _packed(client))
    return header + _PCP_MAP.pack(nonce, _UDP, port, wished_port, wished)


def parse_pcp_map_untrusted(data: bytes, nonce: bytes, port: int) -> MapReply:
    """The answer to our request. Raises BadPacket("portmap_malformed" | "portmap_foreign").

    A gateway that knows only NAT-PMP answers in that form; that too reads as UNSUPPORTED_VERSION.
    """
    if len(data) >= 4 and data[0] == _PMP_VERSION and data[1] & _RESPONSE:
        return MapReply(UNSUPPORTED_VERSION)
    if len(data) > MAX_REPLY or len(data) < _PCP_REPLY_HEADER.size or data[0] != _PCP_VERSION:
        raise BadPacket("portmap_malformed")
    _, opcode, _, result, lifetime, _epoch = _PCP_REPLY_HEADER.unpack_from(data)
    if opcode != _RESPONSE | _MAP:
        raise BadPacket("portmap_foreign")
    if result == UNSUPPORTED_VERSION:
        return MapReply(result)
    if len(data) < _PCP_REPLY_HEADER.size + _PCP_MAP.size:
        raise BadPacket("portmap_malformed")
    echoed, protocol, inside, outside, packed = _PCP_MAP.unpack_from(data, _PCP_REPLY_HEADER.size)
    if echoed != nonce or protocol != _UDP or inside != port:
        raise BadPacket("portmap_foreign")
    address = ipaddress.IPv6Address(packed)
    return MapReply(result, lifetime, str(address.ipv4_mapped or address), outside)


def encode_pmp_address() -> bytes:
    """A NAT-PMP question for the gateway's outside address."""
    return bytes((_PMP_VERSION, 0))


def encode_pmp_map(port: int, lifetime: int, wished_port: int = 0) -> bytes:
    """A NAT-PMP request for a UDP port."""
    return struct.pack(">BBHHHI", _PMP_VERSION, _MAP, 0, port, wished_port, lifetime)


def parse_pmp_untrusted(data: bytes, port: int) -> MapReply:
    """The answer to either NAT-PMP request: `host` set, or else `port` and `lifetime`.

    Raises BadPacket("portmap_malformed" | "portmap_foreign").
    """
    if len(data) > MAX_REPLY or len(data) < _PMP_HEADER.size or not data[1] & _RESPONSE:
        raise BadPacket("portmap_malformed")
    version, opcode, result, _epoch = _PMP_HEADER.unpack_from(data)
    if version != _PMP_VERSION:
        return MapReply(UNSUPPORTED_VERSION)
    if opcode not in (_RESPONSE, _RESPONSE | _MAP):
        raise BadPacket("portmap_foreign")
    if result:
        return MapReply(result)
    if opcode == _RESPONSE:
        if len(data) < _PMP_ADDRESS_SIZE:
            raise BadPacket("portmap_malformed")
        return MapReply(0, host=str(ipaddress.IPv4Address(data[8:12])))
    if len(data) < _PMP_PORT_SIZE:
        raise BadPacket("portmap_malformed")
    inside, outside, lifetime = struct.unpack_from(">HHI", data, _PMP_HEADER.size)
    if inside != port:
        raise BadPacket("portmap_foreign")
    return MapReply(0, lifetime=lifetime, port=outside)


def _packed(host: str) -> bytes:
    address = ipaddress.ip_address(host)
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed
