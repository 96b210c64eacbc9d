"""An established session with a peer, as the core keeps it: its link, and the epochs of its keys.

An epoch is agreed by the handshake, each later one by a rekey: the initiator begins when the keys grow old,
lanes or packet numbers run out, or too many forgeries came; the responder asks.  The initiator seals with a
new epoch at once, the responder when the first authentic packet of it has come; both go on to receive the
old one for `OLD_LANES`, so that no frame under way is lost.  Which path packets take is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shadowmesh.core.shared import Shared
from shadowmesh.crypto.keys import Direction
from shadowmesh.errors import RemoteProtocolError
from shadowmesh.membership.asking import AskBudget
from shadowmesh.membership.guard import ShowLimit, Standing
from shadowmesh.session.epoch import EpochKeys
from shadowmesh.session.lane import ControlLane
from shadowmesh.session.link import CloseCode, Received
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Agreement
from shadowmesh.session.rekey import Rekey
from shadowmesh.units import EPOCH_LIFETIME, ID_SIZE, LANES, NUMBER_LIMIT
from shadowmesh.wire.messages import RekeyAnswer, RekeyAsk, RekeyOffer

FIRST_FRAME_LANE = 1
"""Lane 0 is asyncio's."""
OLD_LANES = 10.0
"""Seconds that an epoch is received on after its successor was heard: far more than a packet is late."""
REKEY_PAUSE = 1.0
"""Seconds at least between two epochs: what a peer that asks or offers all the time can cost is 1.5 ms of CPU
a second (measured)."""
ASK_AFTER = 5.0
"""Seconds that the initiator is late with a rekey before the responder asks for it."""
LANES_RESERVE = 1
"""Unused sealing lanes at which it is time for a rekey: a change of path should always find one."""
NUMBER_MARGIN = 1 << 26
"""Packets before the limit of a lane at which it is time: 30 s at 2 million packets per second."""
FAILED_OPENS_LIMIT = 1 << 36
"""Packets that failed to open, at which an epoch is given up. Source: RFC 9001 section 6.6."""
FAILED_OPENS_REKEY = FAILED_OPENS_LIMIT >> 1
"""Such packets at which it is time for a rekey."""


class _Sending:
    """One epoch in the sealing direction."""

    def __init__(self, shared: Shared, keys: EpochKeys, now: float) -> None:
        self.epoch = keys.epoch
        self.agreed_at = now
        self.expires_at = now + EPOCH_LIFETIME
        self.control = ControlLane(keys.send_keys, keys.send_lanes[0], self.expires_at)
        self.keys: Any = shared.tables.new_send_keys(keys.send_keys, self.expires_at)
        self.lanes = keys.send_lanes
        self.next_lane = FIRST_FRAME_LANE

    def wipe(self) -> None:
        self.control.wipe()
        self.keys.wipe()


@dataclass
class _Receiving:
    """One epoch in the opening direction: its handle in the data plane, and when it is taken out."""

    handle: int
    dies_at: float | None = None


class Session:
    """Installs the receive lanes when made; `retire` takes them out again.

    Sealing of frames moves only by `take_lane`, and by a rekey of a session that has taken one.

    :param peer: handle of the peer in the data plane.
    """

    def __init__(self, shared: Shared, driver: Driver, peer: int, agreement: Agreement, now: float) -> None:
        self.driver = driver
        self.instance = agreement.instance
        self.standing: Standing | None = None
        """The peer's membership; None without a network."""
        self.shown = agreement.membership
        """What that stands on."""
        self.asks = AskBudget()
        """What the peer may ask of us about others."""
        self.roster_told: int | None = None
        """Version of our roster that the peer has."""
        self.shows = ShowLimit()
        self.established_at = now
        self._shared = shared
        self._peer = peer
        self._rekey = Rekey(shared.identity, agreement)
        self._rekey_at: float | None = None
        self._receiving: list[_Receiving] = []
        self._sending = self._install(agreement, now)
        self._pending: _Sending | None = None
        """Agreed, but the peer has not shown yet that it can open it."""
        agreement.wipe()

    # Getters.

    @property
    def deadline(self) -> float:
        """When `handle_timer` wants to be called."""
        times = [self._sending.expires_at, self._rekey_at, *(old.dies_at for old in self._receiving)]
        return min(time for time in times if time is not None)

    @property
    def epoch(self) -> int:
        """The epoch that seals now."""
        return self._sending.epoch

    def epoch_age(self, now: float) -> float:
        """Seconds since that epoch was agreed."""
        return now - self._sending.agreed_at

    @property
    def lanes_left(self) -> int:
        """Sealing lanes of this epoch that were never used."""
        return LANES - self._sending.next_lane

    def receives_as(self, handle: int) -> bool:
        """Whether the data plane knows one of our epochs by this handle."""
        return any(one.handle == handle for one in self._receiving)

    # Input.

    def handle_authentic(self, handle: int, now: float) -> None:
        """A packet of the epoch with this handle was opened."""
        newest = self._receiving[-1]
        if handle != newest.handle:
            return
        for old in self._receiving[:-1]:
            old.dies_at = min(old.dies_at or now + OLD_LANES, now + OLD_LANES)
        self._adopt_pending()

    def handle_message(self, received: Received, now: float) -> bool:
        """A control message of the peer; returns whether the peer must be shown a packet of a new epoch.

        Raises RemoteProtocolError: the session is to be closed.
        """
        message = received.message
        if isinstance(message, RekeyAsk):
            if self._rekey.handle_ask(message):
                self._want_rekey(now)
        elif isinstance(message, RekeyOffer):
            self._handle_offer(message, received.raw, now)
        elif isinstance(message, RekeyAnswer):
            keys = self._rekey.handle_answer(message, received.raw)
            self._pending = self._install(keys, now)
            keys.wipe()
            self._adopt_pending()
            return True
        return False

    def _handle_offer(self, offer: RekeyOffer, raw: bytes, now: float) -> None:
        newest = self._pending or self._sending
        # Before epoch 1 the offer may come right behind a late RESPONSE; later ones follow our ANSWER.
        if newest.epoch and now < newest.agreed_at + REKEY_PAUSE:
            raise RemoteProtocolError("REKEY_OFFER came too soon after the one before")
        lanes = self._new_lanes()
        answer, keys = self._rekey.handle_offer(offer, raw, lanes)
        self._adopt_pending()  # its successor shows that the initiator has it
        self._pending = self._install(keys, now)
        keys.wipe()
        self.driver.link.send_encoded(answer)

    # Commands.

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`. May close the session."""
        for one in [one for one in self._receiving if one.dies_at is not None and one.dies_at <= now]:
            self._remove(one)
        if now >= self._sending.expires_at:
            self.close(CloseCode.TIMEOUT, "its keys grew too old: no rekey came through", now)
        elif self._rekey_at is not None and now >= self._rekey_at:
            self._rekey_at = None
            offer = self._rekey.role is Direction.INITIATOR
            self.driver.link.send_encoded(
                self._rekey.offer(self._new_lanes()) if offer else self._rekey.ask()
            )
            self._shared.links.pump(self.driver, now)

    def handle_tick(self, next_number: int, failed_opens: int, now: float) -> None:
        """Once a second: the packet number that the sealing lane has come to, and forgeries seen.

        Both are of the newest epoch only while no older one is received.
        """
        alone = len(self._receiving) == 1
        if alone and failed_opens >= FAILED_OPENS_LIMIT:
            self.close(CloseCode.TIMEOUT, "too many forged packets", now)
            return
        forged = alone and failed_opens >= FAILED_OPENS_REKEY
        if forged or self.lanes_left <= LANES_RESERVE or next_number > NUMBER_LIMIT - NUMBER_MARGIN:
            self._want_rekey(now)

    def seal(self, payload: bytes, now: float) -> bytes | None:
        """A packet of asyncio's own lane; None once the keys have expired."""
        return self._sending.control.seal(payload, now)

    def take_lane(self) -> None:
        """Let frames go out on a fresh lane; with none left, they stay on the last one until the rekey."""
        sending = self._sending
        if self.lanes_left:
            lane = sending.next_lane
            sending.next_lane += 1
            self._shared.tables.set_lane(self._peer, sending.keys, lane, sending.lanes[lane])

    def close(self, code: CloseCode, reason: str, now: float) -> None:
        """Tell the peer that this session is over; its receive lanes stay until `retire`."""
        self.driver.link.close(code, reason)
        self._shared.links.pump(self.driver, now)

    def retire(self) -> None:
        """Take the receive lanes out of the data plane and forget the keys."""
        for one in list(self._receiving):
            self._remove(one)
        for sending in (self._sending, self._pending):
            if sending is not None:
                sending.wipe()
        self._rekey.wipe()

    # Inside.

    def _want_rekey(self, now: float) -> None:
        if self._rekey_at is not None:
            newest = self._pending or self._sending
            self._rekey_at = min(self._rekey_at, max(now, newest.agreed_at + REKEY_PAUSE))

    def _new_lanes(self) -> list[bytes]:
        return [self._shared.random(ID_SIZE) for _ in range(LANES)]

    def _install(self, keys: EpochKeys, now: float) -> _Sending:
        """Receive the epoch of `keys` beside the newest one; older ones go. Returns its sealing side."""
        for old in self._receiving[:-1]:
            self._remove(old)
        for newest in self._receiving:
            newest.dies_at = now + EPOCH_LIFETIME  # nothing that the peer seals is valid later
        handle = self._shared.new_handle()
        self._shared.tables.install_receive(handle, self._peer, keys.receive_lanes, keys.receive_keys)
        self._shared.receivers[handle] = self._peer
        self._receiving.append(_Receiving(handle))
        late = 0.0 if self._rekey.role is Direction.INITIATOR else ASK_AFTER
        self._rekey_at = now + self._shared.rekey_after + late
        return _Sending(self._shared, keys, now)

    def _adopt_pending(self) -> None:
        """Seal with the pending epoch, if there is one; frames take a lane of it at once."""
        if self._pending is None:
            return
        old, self._sending = self._sending, self._pending
        self._pending = None
        if old.next_lane > FIRST_FRAME_LANE:
            self.take_lane()
        old.wipe()

    def _remove(self, one: _Receiving) -> None:
        self._receiving.remove(one)
        self._shared.tables.retire_receive(one.handle)
        del self._shared.receivers[one.handle]
