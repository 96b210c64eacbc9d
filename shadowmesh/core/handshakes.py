"""The handshakes under way with one peer: the one that we dialled, and those that the peer did.

If both sides dial, the connection of the smaller NodeID survives.  What becomes of a handshake is for the
owner of the peer, who gets the events of every link from the first to the last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from shadowmesh.core.session import Session
from shadowmesh.core.setup import SetUp
from shadowmesh.core.shared import Shared
from shadowmesh.errors import BadPacket
from shadowmesh.session.link import CloseCode, Link, LinkEvent, accept
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Refused
from shadowmesh.units import NodeId
from shadowmesh.wire.headers import destination_id, is_initial
from shadowmesh.wire.messages import Introduction

MAX_HALF_OPEN = 4
"""Handshakes that one peer may have under way with us."""
REMEMBERED_INITIALS = 16
"""Latest Initials of a peer of which a late duplicate starts nothing."""


class Handshakes:
    """Dials, accepts, and decides collisions.

    :param node: the pinned NodeID of the peer.
    :param caller: whether our NodeID is the smaller one.
    :param transmit: sends a datagram of a link to the peer.
    :param handle_link: takes the events of the links, those after the handshake too.
    :param setup: what traces tell of the peer.
    """

    def __init__(
        self,
        node: NodeId,
        caller: bool,
        shared: Shared,
        transmit: Callable[[Link, bytes], None],
        handle_link: Callable[[Driver, LinkEvent, float], None],
        setup: SetUp,
    ) -> None:
        self.unconfirmed: Session | None = None
        """Agreed by us as the initiator, while an older session serves until the responder confirms."""
        self._node = node
        self._caller = caller
        self._shared = shared
        self._transmit = transmit
        self._handle_link = handle_link
        self._setup = setup
        self._initiated: Driver | None = None
        self._accepted: list[Driver] = []
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

    # What the peer sends, and what becomes of it.

    def handle_initial_untrusted(self, datagram: bytes, now: float) -> None:
        """A datagram of no known connection that came from the peer's place. Raises BadPacket."""
        if not is_initial(datagram):
            raise BadPacket("unknown_connection")
        if len(self._accepted) >= MAX_HALF_OPEN:
            raise BadPacket("too_many_handshakes")
        first_id = destination_id(datagram)
        if first_id in self._first_ids:
            raise BadPacket("late_initial")
        self._first_ids.append(first_id)
        opening = self._shared.new_opening()
        link = accept(self._shared.identity, self._node, opening, now, first_id, admit=self._admit)
        transmit = partial(self._transmit, link)
        stage = self._setup.part("session.handshake", now, role="responder")
        driver = self._shared.links.add(link, transmit, self._handle_link, now, first_id, stage)
        self._accepted.append(driver)
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
        if driver is self._initiated:
            self._initiated = None
        return self._take_unconfirmed(driver)

    def handle_ended(self, driver: Driver) -> tuple[bool, Session | None]:
        """This link is over: whether it was the one that we dialled, and its unconfirmed session."""
        if driver in self._accepted:
            self._accepted.remove(driver)
        dialled = driver is self._initiated
        if dialled:
            self._initiated = None
        return dialled, self._take_unconfirmed(driver)

    # Commands.

    def dial(self, now: float) -> None:
        """Begin a handshake; only while not `dialling`."""
        opening, admit = self._shared.new_opening(), self._shared.members.admit
        link = Link.initiate(self._shared.identity, self._node, opening, now, admit=admit)
        transmit = partial(self._transmit, link)
        stage = self._setup.part("session.handshake", now, role="initiator")
        self._initiated = self._shared.links.add(link, transmit, self._handle_link, now, stage=stage)

    def end_all(self, code: CloseCode, reason: str, now: float) -> None:
        """Close everything that is under way."""
        for driver in [*self._accepted, self._initiated]:
            if driver is not None:
                driver.link.close(code, reason)
                self._shared.links.pump(driver, now)

    # Inside.

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
