"""A sealing lane of asyncio: lane 0 for probes and BIND, another to a relay's second port; no frames."""

from __future__ import annotations

import math

from shadowmesh._ext.aead import PacketKeys
from shadowmesh.errors import LocalProtocolError
from shadowmesh.units import NUMBER_LIMIT


class ControlLane:
    """Seals payloads for one lane of the peer, numbered from 0.

    :param material: the 76 bytes of `frame_keys`; copied, not kept.
    :param receiver_id: the 8-byte id that the peer allotted to that lane.
    :param expires_at: when these keys stop to seal.
    :param lane: its number, which nobody else may seal for.
    """

    def __init__(
        self, material: bytearray, receiver_id: bytes, expires_at: float = math.inf, lane: int = 0
    ) -> None:
        self._lane = lane
        self._keys = PacketKeys(material)
        self._receiver_id = receiver_id
        self._expires_at = expires_at
        self._number = 0

    def seal(self, payload: bytes, now: float) -> bytes | None:
        """A frame packet with the next number; None once the keys have expired."""
        if now >= self._expires_at:
            return None
        if self._number >= NUMBER_LIMIT:
            raise LocalProtocolError(f"lane {self._lane} is used up")
        packet: bytes = self._keys.seal(self._lane, self._receiver_id, self._number, payload)
        self._number += 1
        return packet

    def wipe(self) -> None:
        """Forget the keys; nothing can be sealed any more."""
        self._keys.wipe()
