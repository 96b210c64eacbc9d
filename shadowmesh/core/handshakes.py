"""The handshakes under way with one peer: the one that we dialled, and those that the peer did.

If both sides dial, the connection of the smaller NodeID survives.  Each handshake stays in the channel in
which it began, so a relay that offers another channel meanwhile takes nothing of it.  What becomes of a
handshake is for the owner of the peer, who gets the events of every link from the first to the last.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from shadowmesh.core.relays import RelayClient
from shadowmesh.core.rendezvous import Channel, Rendezvous
from shadowmesh.core.session import Session
from shadowmesh.core.setup import SetUp
from shadowmesh.core.shared import Shared
from shadowmesh.errors import BadPacket
from shadowmesh.session.link import CloseCode, Ended, Link, LinkEvent, accept
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Refused
from shadowmesh.units import NodeId
from shadowmesh.wire.headers import destination_id, is_initial
from shadowmesh.wire.messages import Introduction

MAX_HALF_OPEN = 4
"""Handshakes that one peer may have under way with us through one relay: who makes them up takes no other
relay's places."""
MAX_COLLISIONS = 2
"""In a row that are believed: each side dials once, and the second time nobody does at the same moment."""
MAX_RESTARTS = 2
"""Of the peer, told by one relay, that end a handshake of ours each before there is a session."""
REMEMBERED_INITIALS = 16
"""Latest Initials of a peer of which a late duplicate starts nothing."""


class Handshakes:
    """Dials, accepts, and decides collisions.

    :param node: the pinned NodeID of the peer.
    :param caller: whether our NodeID is the smaller one.
    :param rendezvous: has the channel in which to dial.
    :param transmit: sends a datagram of a link to the peer, through the channel in which that began.
    :param handle_link: takes the events of the links, those after the handshake too.
    :param setup: what traces tell of the peer.
    """

    def __init__(
        self,
        node: NodeId,
        caller: bool,
        shared: Shared,
        rendezvous: Rendezvous,
        transmit: Callable[[Link, Channel | None, bytes], None],
        handle_link: Callable[[Driver, LinkEvent, float], None],
        setup: SetUp,
    ) -> None:
        self.unconfirmed: Session | None = None
        """Agreed by us as the initiator, while an older session serves until the responder confirms."""
        self._node = node
        self._caller = caller
        self._shared = shared
        self._rendezvous = rendezvous
        self._transmit = transmit
        self._handle_link = handle_link
        self._setup = setup
        self._initiated: Driver | None = None
        self._accepted: list[Driver] = []
        self._channels: dict[Driver, Channel | None] = {}
        """Where each link began, until it ends."""
        self._collisions = 0
        """In a row that the other side told, without a session."""
        self._restarts: Counter[RelayClient] = Counter()
        """Handshakes of ours that ended by them, without a session."""
        self._first_ids: deque[bytes] = deque(maxlen=REMEMBERED_INITIALS)

    # Getters.

    @property
    def dialling(self) -> bool:
        """Whether a handshake is under way that we began."""
        return self._initiated is not None

    @property
    def under_way(self) -> bool:
        """Whether any handshake is."""
        return self.dialling or bool(self._accepted)

    def under_way_at(self, relay: RelayClient) -> bool:
        """Whether any is through this relay, or one that we began through another."""
        return self.dialling or any(self._relay_of(driver) is relay for driver in self._accepted)

    def channel_of(self, driver: Driver) -> Channel | None:
        """Where this link began; None once it has ended."""
        return self._channels.get(driver)

    # What the peer sends, and what becomes of it.

    def handle_initial_untrusted(self, datagram: bytes, channel: Channel | None, now: float) -> None:
        """A datagram of no known connection that came from the peer's place. Raises BadPacket."""
        if not is_initial(datagram):
            raise BadPacket("unknown_connection")
        relay = channel.relay if channel is not None else None
        if sum(self._relay_of(driver) is relay for driver in self._accepted) >= MAX_HALF_OPEN:
            raise BadPacket("too_many_handshakes")
        first_id = destination_id(datagram)
        if first_id in self._first_ids:
            raise BadPacket("late_initial")
        self._first_ids.append(first_id)
        opening = self._shared.new_opening()
        link = accept(self._shared.identity, self._node, opening, now, first_id, admit=self._admit)
        transmit = partial(self._transmit, link, channel)
        stage = self._setup.part("session.handshake", now, role="responder")
        driver = self._shared.links.add(link, transmit, self._handle_link, now, first_id, stage)
        self._accepted.append(driver)
        self._channels[driver] = channel
        self._shared.links.handle_datagram(driver, datagram, now)

    def must_wait(self, session: Session, replaces: bool) -> bool:
        """Keys of `session` are agreed: whether it must wait as `unconfirmed`.

        The responder takes it at once; so does an initiator that has nothing to lose, and another when
        the responder has confirmed that it can open the new packets.
        """
        if session.driver is self._initiated and replaces:
            self.unconfirmed = session
            return True
        if session.driver in self._accepted:
            self._accepted.remove(session.driver)
        return False

    def handle_confirmed(self, driver: Driver) -> Session | None:
        """The responder has its keys too; returns the session that waited for it, if one did."""
        self._collisions = 0
        self._restarts.clear()
        if driver is self._initiated:
            self._initiated = None
        return self._take_unconfirmed(driver)

    def handle_ended(self, driver: Driver) -> tuple[bool, Session | None]:
        """This link is over: whether it was the one that we dialled, and its unconfirmed session."""
        self._channels.pop(driver, None)
        if driver in self._accepted:
            self._accepted.remove(driver)
        dialled = driver is self._initiated
        if dialled:
            self._initiated = None
        return dialled, self._take_unconfirmed(driver)

    def in_vain(self, ended: Ended) -> bool:
        """A handshake has ended without a session: whether the way that it took may be why.

        A collision is nobody's fault; the third in a row may be a relay's invention.
        """
        if ended.code != CloseCode.COLLISION:
            self._collisions = 0
        elif ended.by_peer:
            self._collisions += 1
        return ended.code != CloseCode.COLLISION or (ended.by_peer and self._collisions > MAX_COLLISIONS)

    # Commands.

    def dial(self, now: float) -> None:
        """Begin a handshake; only while not `dialling`."""
        channel = self._rendezvous.channel
        opening, admit = self._shared.new_opening(), self._shared.members.admit
        link = Link.initiate(self._shared.identity, self._node, opening, now, admit=admit)
        transmit = partial(self._transmit, link, channel)
        stage = self._setup.part("session.handshake", now, role="initiator")
        self._initiated = driver = self._shared.links.add(link, transmit, self._handle_link, now, stage=stage)
        self._channels[driver] = channel

    def end_all(self, code: CloseCode, reason: str, now: float, at: RelayClient | None = None) -> None:
        """Close everything that is under way; `at`: only what is through this relay."""
        for driver in [*self._accepted, self._initiated]:
            if driver is not None and (at is None or self._relay_of(driver) is at):
                driver.link.close(code, reason)
                self._shared.links.pump(driver, now)

    def restart(self, relay: RelayClient, now: float) -> Channel | None:
        """The peer is a new process, says this relay: what is through it is in vain.

        Returns the channel of our own handshake if that was one too many: the relay may make all of them up.
        """
        ours = self._initiated if self._initiated and self._relay_of(self._initiated) is relay else None
        channel = self._channels[ours] if ours is not None else None
        self.end_all(CloseCode.COLLISION, "the way to the peer changed", now, at=relay)
        self._restarts[relay] += ours is not None
        if self._restarts[relay] <= MAX_RESTARTS:
            return None
        del self._restarts[relay]
        return channel

    # Inside.

    def _relay_of(self, driver: Driver) -> RelayClient | None:
        channel = self._channels.get(driver)
        return channel.relay if channel is not None else None

    def _admit(self, node: NodeId, shown: Introduction) -> None:
        """Members only; and if both sides dialled, the connection of the smaller NodeID survives."""
        self._shared.members.admit(node, shown)
        if self._initiated is not None:
            if self._caller:
                raise Refused(CloseCode.COLLISION, "my own connection to you is under way")
            self._initiated.link.close(CloseCode.COLLISION, "your connection to me is under way")
            self._shared.links.wake(self._initiated)

    def _take_unconfirmed(self, driver: Driver) -> Session | None:
        session = self.unconfirmed
        if session is None or session.driver is not driver:
            return None
        self.unconfirmed = None
        return session
