"""Where a packet goes, or came from: an underlay address, directly or through a relay's channel."""

from __future__ import annotations

from typing import NamedTuple

from shadowmesh.units import CHANNEL_OVERHEAD, FRAME_PACKET_OVERHEAD, Address


class Way(NamedTuple):
    """`address` is the peer's own, or its relay's with the channel (8 bytes) under which that forwards."""

    address: Address
    channel: bytes = b""

    @property
    def relayed(self) -> bool:
        """Whether it leads through a relay."""
        return bool(self.channel)

    @property
    def overhead(self) -> int:
        """Bytes that a sealed payload grows by until it is a UDP payload."""
        return FRAME_PACKET_OVERHEAD + (CHANNEL_OVERHEAD if self.channel else 0)
