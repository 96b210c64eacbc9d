"""The inviter's side of joining: guests that come by an invitation, in sessions that carry no frames.

Our relays know the ids of the invitations; who shows one there may call us.  The session with a guest is as
any other, but its keys are never installed: it has no lane, no peer number and no place in the roster.  All
that it may send is one JOIN.  What it is given is decided by `membership.invitations`.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from functools import partial

from shadowmesh.core.relays import RelayClient
from shadowmesh.core.shared import Shared
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.invitations import Invitation, Invitations, Wait, text_of
from shadowmesh.membership.roster import MIN_PREFIX
from shadowmesh.membership.token import proof, proves
from shadowmesh.session.link import CloseCode, Ended, LinkEvent, Ready, Received, accept
from shadowmesh.session.links import Driver
from shadowmesh.units import ID_SIZE, Address, NodeId
from shadowmesh.values import printable
from shadowmesh.wire.headers import destination_id, is_initial
from shadowmesh.wire.messages import (
    Answer,
    Call,
    Close,
    Invite,
    Invited,
    Join,
    Joined,
    JoinRefused,
    JoinWait,
    Message,
    Registration,
)

MAX_GUESTS = 8
"""At once."""
CALLS_PER_SECOND = 4
"""Handshakes that guests may begin; one takes 9 ms."""
STAY = 75.0
"""Seconds that a guest is kept: a relay keeps it 60."""
TELL_EVERY = 60.0
"""Seconds between two lines in the log about the same invitation in vain."""


@dataclass(eq=False)
class _Guest:
    node: NodeId
    invitation: bytes
    source: str
    relay: RelayClient
    send: bytes
    receive: bytes
    ends_at: float
    driver: Driver | None = None
    binding: bytes = b""
    asked: bool = False


class Guests:
    """One per node.

    :param invitations: those of our network; None for a node that can't invite.
    """

    def __init__(self, invitations: Invitations | None, shared: Shared, drops: Counter[str]) -> None:
        self.invitations = invitations
        self.refused: dict[str, str] = {}
        """Relay -> why it does not know all of our invitations."""
        self._shared = shared
        self._drops = drops
        self._guests: list[_Guest] = []
        self._told: dict[bytes, float] = {}
        self._calls: deque[float] = deque(maxlen=CALLS_PER_SECOND)
        """When the latest were taken."""

    # Getters.

    @property
    def deadline(self) -> float | None:
        """When `handle_timer` wants to be called."""
        return min((guest.ends_at for guest in self._guests), default=None)

    # Relays.

    def handle_relay_up(self, relay: RelayClient, now: float) -> None:
        """Tell it of all our invitations."""
        self.refused.pop(relay.name, None)
        known = self.invitations.registrations() if self.invitations is not None else {}
        if known:
            add = [Registration(invitation, seconds) for invitation, seconds in known.items()]
            relay.send(Invite(add=add), now)

    def handle_invited(self, relay: RelayClient, message: Invited) -> None:
        """It does not take them."""
        self.refused[relay.name] = message.refused
        self._shared.tell(
            f"relay {relay.name}", f"does not take invitations: {message.refused} [invite.not-taken]"
        )

    def handle_relay_down(self, relay: RelayClient, now: float) -> None:
        """Its channels are gone."""
        for guest in [guest for guest in self._guests if guest.relay is relay]:
            self._end(guest, CloseCode.TIMEOUT, "the relay is lost", now)

    def handle_call(self, relay: RelayClient, call: Call, now: float) -> None:
        """A guest wants to speak to us."""
        if self.invitations is None or self.invitations.find(call.invitation) is None:
            self._drops["unknown_guest"] += 1
            relay.send(Answer(call.send), now)
            return
        busy = len(self._calls) == CALLS_PER_SECOND and now - self._calls[0] < 1.0
        if busy or len(self._guests) >= MAX_GUESTS:
            self._drops["too_many_guests"] += 1
            relay.send(Answer(call.send), now)
            return
        self._calls.append(now)
        receive = self._shared.random(ID_SIZE)
        self._shared.tables.install_channel(receive)
        self._guests.append(
            _Guest(call.node, call.invitation, printable(call.source), relay, call.send, receive, now + STAY)
        )
        relay.send(Answer(call.send, receive), now)

    def handle_close(self, relay: RelayClient, send: bytes, now: float) -> None:
        """A channel is gone."""
        for guest in [one for one in self._guests if one.relay is relay and one.send == send]:
            self._end(guest, CloseCode.TIMEOUT, "its channel is closed", now)

    # Guests.

    def find(self, channel: bytes, source: Address) -> _Guest | None:
        """Whose channel this is, if it was the channel's relay that sent a datagram through it."""
        for guest in self._guests:
            if guest.receive == channel and guest.relay.leg.knows(source):
                return guest
        return None

    def handle_initial_untrusted(self, guest: _Guest, datagram: bytes, now: float) -> None:
        """The first datagram of its one connection. Raises BadPacket."""
        if not is_initial(datagram):
            raise BadPacket("unknown_connection")
        if guest.driver is not None:
            raise BadPacket("late_initial")
        first_id, opening = destination_id(datagram), self._shared.new_opening()
        link = accept(self._shared.identity, guest.node, opening, now, first_id)
        guest.driver = self._shared.links.add(
            link, partial(self._transmit, guest), partial(self._handle_link, guest), now, first_id
        )
        self._shared.links.handle_datagram(guest.driver, datagram, now)

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        for guest in [guest for guest in self._guests if now >= guest.ends_at]:
            self._end(guest, CloseCode.TIMEOUT, "your time as a guest is over", now)

    def handle_verdict(self, invitation: Invitation, node: NodeId, now: float) -> None:
        """A person has decided about a node; it may be here and wait for that."""
        for guest in list(self._guests):
            if (guest.node, guest.invitation) == (node, invitation.id) and guest.asked:
                self._decide(guest, now)

    def close(self, now: float) -> None:
        """Say goodbye to all."""
        for guest in list(self._guests):
            self._end(guest, CloseCode.SHUTDOWN, "the client is going down", now)

    # Inside.

    def _handle_link(self, guest: _Guest, _driver: Driver, event: LinkEvent, now: float) -> None:
        if isinstance(event, Ready):
            guest.binding = event.agreement.binding
            event.agreement.wipe()  # no frames are taken from a guest
        elif isinstance(event, Received):
            self._handle_message(guest, event.message, now)
        elif isinstance(event, Ended):
            self._forget(guest, now)

    def _handle_message(self, guest: _Guest, message: Message, now: float) -> None:
        invitation = self.invitations.find(guest.invitation) if self.invitations is not None else None
        if not isinstance(message, Join) or guest.asked:
            self._end(guest, CloseCode.PROTOCOL, "a guest may send one JOIN", now)
        elif invitation is None:
            self._refuse(guest, NotMember("unknown_invitation", "the invitation is unknown here"), now)
        elif not proves(message.proof, invitation.key, b"joiner", guest.binding):
            self._drops["bad_join_proof"] += 1
            self._refuse(guest, NotMember("wrong_secret", "the proof of the invitation does not hold"), now)
        else:
            guest.asked = True
            self._decide(guest, now)

    def _decide(self, guest: _Guest, now: float) -> None:
        """Its proof holds."""
        book, members = self.invitations, self._shared.members
        assert book is not None
        invitation = book.find(guest.invitation)
        key = invitation.key if invitation is not None else b""
        who = f"{node_id_text(guest.node)[:MIN_PREFIX]} at {guest.source}"
        try:
            credentials = book.take(guest.invitation, guest.node, guest.source)
        except Wait:
            self._say(guest, JoinWait(proof(key, b"inviter", guest.binding)), now)
            self._shared.tell(self._subject(guest), f"{who} waits for `invite approve`")
            return
        except NotMember as error:
            self._refuse(guest, error, now)
            return
        assert members.membership is not None
        news = members.news_for(0)
        if news is not None:
            self._say(guest, news, now)
        certificate, delegation, _ = credentials.documents
        self._say(
            guest,
            Joined(
                proof=proof(key, b"inviter", guest.binding),
                network=members.membership.network.document,
                certificate=certificate,
                delegation=delegation,
            ),
            now,
        )
        self._shared.tell(self._subject(guest), f"used by {who}, who is {credentials.certificate.body.name}")

    def _refuse(self, guest: _Guest, error: NotMember, now: float) -> None:
        """Name the reason to the joiner, count it, and tell it once a minute."""
        self._drops["join_refused"] += 1
        if self.invitations is not None:
            self.invitations.turn_away(guest.invitation)
        if now - self._told.get(guest.invitation, -TELL_EVERY) >= TELL_EVERY:
            self._told = {one: at for one, at in self._told.items() if now - at < TELL_EVERY}
            self._told[guest.invitation] = now
            who = f"{node_id_text(guest.node)[:MIN_PREFIX]} at {guest.source}"
            self._shared.tell(self._subject(guest), f"{who} was refused: {error} [join.refused]")
        self._say(guest, JoinRefused(error.reason, str(error)[:200]), now)

    def _subject(self, guest: _Guest) -> str:
        invitation = self.invitations.find(guest.invitation) if self.invitations is not None else None
        return text_of(invitation) if invitation is not None else "invitation"

    def _say(self, guest: _Guest, message: Message, now: float) -> None:
        if guest.driver is not None and guest.driver.link.established:
            guest.driver.link.send(message)
            self._shared.links.pump(guest.driver, now)

    def _transmit(self, guest: _Guest, datagram: bytes) -> None:
        guest.relay.transmit_through(guest.send, datagram)

    def _end(self, guest: _Guest, code: CloseCode, reason: str, now: float) -> None:
        if guest.driver is not None and not guest.driver.link.ended:
            guest.driver.link.close(code, reason)
            self._shared.links.pump(guest.driver, now)
        self._forget(guest, now)

    def _forget(self, guest: _Guest, now: float) -> None:
        if guest in self._guests:
            self._guests.remove(guest)
            self._shared.tables.remove(guest.receive)
            guest.relay.send(Close(guest.send), now)
