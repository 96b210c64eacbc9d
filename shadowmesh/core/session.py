"""An established session with a peer, as the core keeps it: its link, keys in the data plane, and probes."""

from __future__ import annotations

from typing import Any

from shadowmesh.core.shared import Shared
from shadowmesh.path.prober import Prober
from shadowmesh.session.lane import ControlLane
from shadowmesh.session.link import CloseCode
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Agreement
from shadowmesh.units import LANES

FIRST_FRAME_LANE = 1
"""Lane 0 is asyncio's."""


class Session:
    """Installs the receive lanes when made; `retire` takes them out again.

    :param peer: handle of the peer in the data plane.
    """

    def __init__(self, shared: Shared, driver: Driver, peer: int, agreement: Agreement, now: float) -> None:
        self.handle = shared.new_handle()
        self.driver = driver
        self.instance = agreement.instance
        self.established_at = now
        self.epoch = 0
        self.prober = Prober(shared.random, now)
        self._shared = shared
        self._peer = peer
        self._lane = ControlLane(agreement.send_keys, agreement.send_lanes[0])
        self._send_keys: Any = shared.tables.new_send_keys(agreement.send_keys)
        self._send_lanes = agreement.send_lanes
        self._next_lane = FIRST_FRAME_LANE
        self.spent = False
        shared.tables.install_receive(self.handle, peer, agreement.receive_lanes, agreement.receive_keys)
        agreement.wipe()

    @property
    def lanes_left(self) -> int:
        """Sealing lanes of this epoch that were never used."""
        return LANES - self._next_lane

    def seal(self, payload: bytes) -> bytes:
        """A packet of asyncio's own lane."""
        return self._lane.seal(payload)

    def take_lane(self) -> None:
        """Let frames go out on a fresh lane; with none left, they stay on the last one."""
        if self.lanes_left:
            lane = self._next_lane
            self._next_lane += 1
            self._shared.tables.set_lane(self._peer, self._send_keys, lane, self._send_lanes[lane])
        else:
            self.spent = True

    def close(self, code: CloseCode, reason: str, now: float) -> None:
        """Tell the peer that this session is over; its receive lanes stay until `retire`."""
        self.driver.link.close(code, reason)
        self._shared.links.pump(self.driver, now)

    def retire(self) -> None:
        """Take the receive lanes out of the data plane and forget the keys."""
        self._shared.tables.retire_receive(self.handle)
        self._lane.wipe()
