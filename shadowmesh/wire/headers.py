"""Headers of datagrams, as asyncio sees them: which kind, for whom, through which channel.

    long header   11xxxxxx | version (4) | dcid length (1) | dcid | ...     RFC 9000 section 17.2
    short header  01xxxxxx | id (8) | ...          id = QUIC connection id, lane or relay channel
    channel       01xxxxxx | channel id (8) | any datagram of the above (never another channel)

The packet path reads the same headers in Cython; this module serves control datagrams only.
"""

from __future__ import annotations

from shadowmesh.errors import BadPacket
from shadowmesh.units import CHANNEL_OVERHEAD, ID_SIZE

LONG_HEADER = 0x80
FIXED_BIT = 0x40
_DCID_LENGTH_AT = 5
INITIAL_MINIMUM = 1200
"""A client pads datagrams that carry an Initial to at least this size. Source: RFC 9000 section 14.1."""


def destination_id(datagram: bytes) -> bytes:
    """The id that says which connection a control datagram is for. Raises BadPacket("short"|"not_quic")."""
    if not datagram or not datagram[0] & FIXED_BIT:
        raise BadPacket("not_quic")
    if not datagram[0] & LONG_HEADER:
        if len(datagram) <= ID_SIZE:
            raise BadPacket("short")
        return datagram[1 : 1 + ID_SIZE]
    if len(datagram) <= _DCID_LENGTH_AT:
        raise BadPacket("short")
    start, size = _DCID_LENGTH_AT + 1, datagram[_DCID_LENGTH_AT]
    if len(datagram) < start + size:
        raise BadPacket("short")
    return datagram[start : start + size]


def is_initial(datagram: bytes) -> bool:
    """Whether a server may make a connection of this: a version 1 Initial of the required size."""
    return (
        len(datagram) >= INITIAL_MINIMUM
        and datagram[0] & 0xF0 == LONG_HEADER | FIXED_BIT
        and datagram[1:5] == b"\0\0\0\1"
    )


def through_channel(channel: bytes, datagram: bytes) -> bytes:
    """`datagram` behind the 9-byte header of a relay channel; its first byte keeps the inner low bits."""
    return bytes((FIXED_BIT | datagram[0] & 0x3F,)) + channel + datagram


def split_channel(datagram: bytes) -> tuple[bytes, bytes]:
    """The channel id and the datagram behind it. Raises BadPacket("short")."""
    if len(datagram) <= CHANNEL_OVERHEAD:
        raise BadPacket("short")
    return datagram[1:CHANNEL_OVERHEAD], datagram[CHANNEL_OVERHEAD:]
