"""MAC addresses of the overlay: each is bound to a NodeID, so members need no learning."""

from __future__ import annotations

import hashlib

from shadowmesh.units import NodeId


def mac_of(node_id: NodeId) -> bytes:
    """The MAC (6 bytes) of a node's TAP: from SHA-256("shadowmesh mac" || NodeID), made locally
    administered (bit 1 of the first byte) and unicast (bit 0 clear). Source: IEEE 802-2014, 8.2.
    """
    mac = bytearray(hashlib.sha256(b"shadowmesh mac" + node_id).digest()[:6])
    mac[0] = mac[0] & 0xFC | 0x02
    return bytes(mac)


def mac_text(mac: bytes) -> str:
    """`02:1f:...`, as ip-link(8) shows it."""
    return mac.hex(":")
