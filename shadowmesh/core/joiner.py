"""The joiner's side: a new node that has a token and nothing else yet.

It comes to the token's relay as a guest, calls the inviter, proves the secret, and is given its certificate
and the network's documents.  All of that is checked against the token before it counts; nothing is written
here.  The session carries no frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from shadowmesh.core.failure import failure_of
from shadowmesh.core.relays import RelayClient
from shadowmesh.core.shared import Shared
from shadowmesh.errors import BadPacket, Failure, NotMember
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.guard import Guard
from shadowmesh.membership.invitations import Admitted
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import Revocations
from shadowmesh.membership.token import Token, proof, proves
from shadowmesh.session.link import CloseCode, Confirmed, Ended, Link, LinkEvent, Ready, Received
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Agreement
from shadowmesh.units import ID_SIZE
from shadowmesh.values import printable
from shadowmesh.wire.messages import (
    Close,
    Join,
    Joined,
    JoinRefused,
    JoinWait,
    Message,
    Open,
    Opened,
    RevocationNews,
)

RETRY = 2.0
"""Seconds between two calls of an inviter that does not answer."""
OPEN_TIMEOUT = 5.0


@dataclass(frozen=True)
class Rejected:
    """It will not become one by this token."""

    reason: str
    text: str


class Joiner:
    """One per node that joins.

    :param clock: seconds since 1970.
    """

    def __init__(self, token: Token, shared: Shared, clock: SteadyClock) -> None:
        self.outcome: Admitted | Rejected | None = None
        self.waits = False
        """Whether a person at the inviter has to decide, and it was the inviter who said so."""
        self.problem: Failure | None = None
        """Why the inviter could not be reached so far."""
        self._token = token
        self._shared = shared
        self._clock = clock
        self._relay: RelayClient | None = None
        self._receive = b""
        self._send = b""
        self._driver: Driver | None = None
        self._binding = b""
        self._shown = b""
        self._list = b""
        self._act_at: float | None = None

    @property
    def deadline(self) -> float | None:
        """When `handle_timer` wants to be called."""
        return self._act_at

    # The relay.

    def handle_relay_up(self, relay: RelayClient, now: float) -> None:
        """We are its guest: call the inviter."""
        self._relay = relay
        self._call(now)

    def handle_relay_down(self, now: float) -> None:
        """It has left us, or our time is over; it is dialled again by itself."""
        self._relay = None
        self._hang_up("the relay is lost", now)
        self._act_at = None

    def handle_opened(self, opened: Opened, now: float) -> None:
        """The answer to our call."""
        if opened.receive != self._receive or self._send:
            return
        if opened.refused or len(opened.send) != ID_SIZE:
            words = f"the inviter can't be reached: {printable(opened.refused) or 'no channel'}"
            self.problem = Failure("join.unanswered", words)
            self._drop_channel(now)
            self._act_at = now + RETRY
            return
        self._send = opened.send
        link = Link.initiate(self._shared.identity, self._token.inviter, self._shared.new_opening(), now)
        self._act_at = None
        self._driver = self._shared.links.add(link, self._transmit, self._handle_link, now)

    def handle_close(self, send: bytes, now: float) -> None:
        """The channel is gone."""
        if send and send == self._send:
            self._hang_up("the channel is closed", now)
            self._act_at = now + RETRY

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        if self._act_at is not None and now >= self._act_at:
            self._drop_channel(now)
            self._call(now)

    # Inside.

    def _call(self, now: float) -> None:
        self._act_at = None
        if self._relay is None or self.outcome is not None:
            return
        self._receive = self._shared.random(ID_SIZE)
        self._shared.tables.install_channel(self._receive)
        self._relay.send(Open(self._token.inviter, self._receive), now)
        self._act_at = now + OPEN_TIMEOUT

    def _transmit(self, datagram: bytes) -> None:
        if self._relay is not None and self._send:
            self._relay.transmit_through(self._send, datagram)

    def _handle_link(self, driver: Driver, event: LinkEvent, now: float) -> None:
        if driver is not self._driver:
            return
        if isinstance(event, Ready):
            self._note(event.agreement)
        elif isinstance(event, Confirmed):
            driver.link.send(Join(proof(self._token.key, b"joiner", self._binding)))
            self._shared.links.pump(driver, now)
        elif isinstance(event, Received):
            self._handle_message(event.message, now)
        elif isinstance(event, Ended):
            self._driver = None
            failure = failure_of(event)
            self.problem = Failure(failure.error_id, f"the inviter can't be reached: {failure}")
            self._drop_channel(now)
            self._act_at = now + RETRY

    def _note(self, agreement: Agreement) -> None:
        self._binding, self._shown = agreement.binding, agreement.membership
        agreement.wipe()  # no frames are sent

    def _handle_message(self, message: Message, now: float) -> None:
        try:
            if isinstance(message, JoinRefused):
                raise NotMember(message.reason, printable(message.text))
            if isinstance(message, JoinWait):
                self._require_proof(message.proof)
                self.waits = True
            elif isinstance(message, Joined):
                self.outcome = self._check(message)
                self._hang_up("joined", now)
            elif not isinstance(message, RevocationNews):
                raise BadPacket("unexpected_message")
            else:
                self._list = message.document
        except NotMember as error:
            self.outcome = Rejected(error.reason, str(error))
            self._hang_up("not joined", now)
        except BadPacket:
            text = "what the inviter sent can't be taken apart; is its release another one?"
            self.outcome = Rejected("malformed", text)
            self._hang_up("not joined", now)

    def _require_proof(self, shown: bytes) -> None:
        if not proves(shown, self._token.key, b"inviter", self._binding):
            raise NotMember("inviter_unproved", "the inviter does not know the secret of the invitation")

    def _check(self, joined: Joined) -> Admitted:
        """Everything against the token. Raises NotMember, BadPacket."""
        self._require_proof(joined.proof)
        network = Network.parse_untrusted(joined.network)
        if network.id != self._token.network:
            text = "the inviter is in another network than the invitation names"
            raise NotMember("another_network", text)
        guard = Guard(network, Revocations(network, self._list, lambda _: None), self._clock)
        guard.check_untrusted(self._token.inviter, self._shown)
        credentials = Credentials.parse_untrusted(joined.certificate, joined.delegation, b"")
        credentials.admit(network, guard.revocations, self._shared.identity.node_id, self._clock.now())
        return Admitted(network, self._list, credentials)

    def _hang_up(self, reason: str, now: float) -> None:
        driver, self._driver = self._driver, None
        if driver is not None and not driver.link.ended:
            driver.link.close(CloseCode.SHUTDOWN, reason)
            self._shared.links.pump(driver, now)
        self._drop_channel(now)

    def _drop_channel(self, now: float) -> None:
        if self._receive:
            self._shared.tables.remove(self._receive)
        if self._send and self._relay is not None:
            self._relay.send(Close(self._send), now)
        self._receive = self._send = b""
