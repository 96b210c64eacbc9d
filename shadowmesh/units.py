"""Types and limits that more than one layer needs, each with its unit, source and reason.

Seconds (float, monotonic) and bytes are bare; every other unit is in the name.
"""

from __future__ import annotations

from typing import NamedTuple

NodeId = bytes
"""Identity of a node: 32 bytes, SHA-256 over both public keys (docs/protocol.md, section 2)."""

NODE_ID_SIZE = 32
ID_SIZE = 8
"""Receiver ids, channel ids and QUIC connection ids: 8 bytes, so that one table serves all three."""

LANES = 8
"""Lanes per epoch and direction; lane 0 belongs to asyncio."""

FRAME_PACKET_OVERHEAD = 29
"""First byte 1, receiver id 8, number 4, tag 16."""

CHANNEL_OVERHEAD = 9
"""First byte 1, channel id 8."""

NUMBER_LIMIT = 1 << 31
"""Packet numbers of one lane stop here: 32 bits on the wire, one bit of margin."""

REKEY_AFTER = 120
"""Seconds after which a session takes fresh keys. Source: WireGuard's REKEY_AFTER_TIME. One costs 1.5 ms."""

EPOCH_LIFETIME = 300.0
"""Seconds after which the keys of an epoch seal nothing: two and a half tries, and a bound for how long
someone who withholds control messages can keep old keys, or a revoked member, in use."""

DEFAULT_MTU = 1380
"""TAP MTU: 1500 less 40 (IPv6), 8 (UDP), 9 (channel), 29 (packet), 5 (segment header) and 18 (Ethernet with
VLAN tag) is 1391; rounded down."""

BUDGET = 1452
"""Largest UDP payload to a path that nothing better is known of: 1500 less 40 (IPv6) and 8 (UDP)."""

MAX_QUIC_DATAGRAM = 1200
"""Payload of our QUIC datagrams: what RFC 9000 section 14 lets every path carry."""

PROTOCOL_VERSIONS: tuple[int, ...] = (1,)
"""Versions of the session protocol that this release speaks, newest first."""

ALPN = "shadowmesh/1"


class Whole(bytes):
    """A datagram that IP must not fragment on its way: a path's probe."""


class Address(NamedTuple):
    """An underlay address. `host` is textual IPv4 or IPv6, never the v4-mapped form."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


RIGHT_BRIDGE, RIGHT_DHCP, RIGHT_RA = "bridge", "dhcp", "ra"
"""Rights, of a certificate or of `peers[].rights`: to have stations behind it, and send from what nobody else
owns; to serve DHCP; to send router advertisements and redirects."""

RIGHTS = (RIGHT_BRIDGE, RIGHT_DHCP, RIGHT_RA)
