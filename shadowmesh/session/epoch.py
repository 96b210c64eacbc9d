"""Keys of one epoch of a session: what a handshake or a rekey leaves to be installed. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from shadowmesh.crypto.keys import wipe


@dataclass(frozen=True, repr=False, kw_only=True)
class EpochKeys:
    """Material (76 bytes, `crypto.keys`) and 8 receiver ids of both directions, lane 0 first."""

    epoch: int
    send_keys: bytearray
    receive_keys: bytearray
    send_lanes: list[bytes]
    receive_lanes: list[bytes]

    def wipe(self) -> None:
        """Overwrite the key material; called once it is installed."""
        wipe(self.send_keys)
        wipe(self.receive_keys)
