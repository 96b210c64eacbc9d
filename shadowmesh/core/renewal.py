"""Certificates renewed over sessions: what a member asks, what a delegate answers, and who is told.

    member                                   delegate
    RENEW_ASK                             ->             one in `ANSWER_PAUSE` from each member
                                          <- RENEWAL     the next certificate, or why not
    MEMBERSHIP to all peers and relays    ->             their sessions stand on the new one from then on

The rules are those of `membership.renewal`; here they meet sessions. Nothing of it ends a session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from shadowmesh.core.members import Members
from shadowmesh.errors import BadPacket, Failure, NotMember, RemoteProtocolError
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.guard import Membership, Standing
from shadowmesh.membership.renewal import Delegate, renew_at
from shadowmesh.path.backoff import Backoff
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import Message, Renewal, RenewAsk

ANSWER_PAUSE = 10.0
"""Seconds between two certificates that a delegate signs for one member: signing and checking takes 2 ms."""
ANSWER_TIMEOUT = 10.0
"""Seconds after which an unanswered RENEW_ASK counts as failed."""
WAKE_PAUSE = 20.0
"""Seconds between two members that are met because none in a session renews: 500 take three hours of days."""
FIRST_RETRY, RETRY, LATE_RETRY = 20.0, 600.0, 3600.0
"""Seconds between tries: the second one, and the longest pause before and after five minutes of failures."""


class Asked(Protocol):
    """A peer as this part sees it."""

    @property
    def name(self) -> str: ...
    @property
    def node_id(self) -> NodeId: ...
    @property
    def standing(self) -> Standing | None: ...
    def send(self, message: Message, now: float) -> None: ...
    def wake(self, now: float) -> None: ...


class Renewals:
    """Both sides of it, one per node. Call `tick` about once a second.

    :param random: returns n random bytes.
    :param tell: takes subject and line, for the log.
    :param announce: called when our credentials or our delegation changed, with `now`.
    """

    def __init__(
        self,
        members: Members,
        random: Callable[[int], bytes],
        drops: Counter[str],
        tell: Callable[[str, str], None],
        announce: Callable[[float], None],
    ) -> None:
        self.delegate: Delegate | None = None
        """By which certificates are renewed here, if they are."""
        self.last_error: Failure | None = None
        """Why the last try to renew our certificate failed."""
        self._members = members
        self._random = random
        self._drops = drops
        self._tell = tell
        self._announce = announce
        self._jitter = random(1)[0] / 255
        self._backoff = Backoff(random, FIRST_RETRY, RETRY, LATE_RETRY)
        self._act_at = 0.0
        self._asked: NodeId | None = None
        self._wake_at = 0.0
        self._next = 0
        self._answered: dict[NodeId, float] = {}

    def tick(self, peers: Sequence[Asked], now: float) -> None:
        """Ask for our next certificate if it is time; end our own delegation if that is."""
        membership = self._members.membership
        if membership is None:
            return
        clock = membership.clock.now()
        if self.delegate is not None and clock > self.delegate.until:
            line = "our delegation has ended: no certificates are renewed here any more [network.not-valid]"
            self._tell("network", line)
            self.set_delegate(None, now)
        if clock < renew_at(membership.certificate.body, self._jitter) or now < self._act_at:
            return
        if self._asked is not None:
            self._fail("no answer came", now)
        elif self.delegate is not None:
            self._renew_own(membership, self.delegate, now)
        else:
            self._ask(membership, peers, now)

    def adopt(self, credentials: Credentials, now: float) -> None:
        """These are ours from now on: everybody is told, and new handshakes show them."""
        assert self._members.membership is not None
        self._members.membership.credentials = credentials
        self._asked, self._act_at, self.last_error = None, 0.0, None
        self._backoff.reset()
        self._jitter = self._random(1)[0] / 255
        self._announce(now)

    def set_delegate(self, delegate: Delegate | None, now: float) -> None:
        """By this delegation certificates are renewed here from now on; None: no longer."""
        membership = self._members.membership
        assert membership is not None
        self.delegate = delegate
        renews = delegate.until if delegate is not None else 0
        if renews != membership.renews:
            membership.renews = renews
            self._announce(now)

    def handle_message(self, peer: Asked, message: Message, now: float) -> None:
        """A message of this part came from a peer. Raises RemoteProtocolError."""
        membership = self._members.membership
        if membership is None:
            raise RemoteProtocolError("a certificate is talked of, but there is no network here")
        if isinstance(message, RenewAsk):
            peer.send(self._answer(membership, peer, now), now)
        elif isinstance(message, Renewal):
            self._handle_renewal(membership, peer, message, now)

    # The delegate.

    def _answer(self, membership: Membership, peer: Asked, now: float) -> Renewal:
        standing = peer.standing
        if self.delegate is None or standing is None:
            return Renewal(refused="I have no delegation to renew certificates")
        if now < self._answered.get(peer.node_id, -ANSWER_PAUSE) + ANSWER_PAUSE:
            return Renewal(refused="you ask too often")
        self._answered = {node: at for node, at in self._answered.items() if now < at + ANSWER_PAUSE} | {
            peer.node_id: now
        }
        try:
            made = self.delegate.renew(standing.credentials, peer.node_id, membership)
        except NotMember as error:
            return Renewal(refused=str(error)[:200])
        self._tell(f"peer {peer.name}", "its certificate was renewed here")
        return Renewal(*made.documents)

    # The member.

    def _renew_own(self, membership: Membership, delegate: Delegate, now: float) -> None:
        try:
            made = delegate.renew(membership.credentials, membership.certificate.body.node, membership)
        except NotMember as error:
            self._fail(str(error), now)
        else:
            self._take(membership, made, "this machine itself", now)

    def _ask(self, membership: Membership, peers: Sequence[Asked], now: float) -> None:
        clock = membership.clock.now()
        able = [peer for peer in peers if peer.standing is not None and peer.standing.renews > clock]
        if not able:
            self._note("no member is connected that renews certificates")
            self._look_for_one(peers, now)
            return
        chosen = able[self._next % len(able)]
        self._next += 1
        self._asked, self._act_at = chosen.node_id, now + ANSWER_TIMEOUT
        chosen.send(RenewAsk(), now)

    def _look_for_one(self, peers: Sequence[Asked], now: float) -> None:
        """What a member may do is seen in a session with it, and not everybody has one just now."""
        away = [peer for peer in peers if peer.standing is None]
        if away and now >= self._wake_at:
            self._wake_at = now + WAKE_PAUSE
            away[self._next % len(away)].wake(now)
            self._next += 1

    def _handle_renewal(self, membership: Membership, peer: Asked, renewal: Renewal, now: float) -> None:
        if peer.node_id != self._asked:
            self._drops["unexpected_renewal"] += 1
            return
        if renewal.refused:
            self._fail(f"{peer.name} says: {renewal.refused}", now)
            return
        node = membership.certificate.body.node
        try:
            made = Credentials.parse_untrusted(renewal.certificate, renewal.delegation, renewal.basis)
            made.admit(membership.network, membership.revocations, node, membership.clock.now())
            self._require_same(membership, made)
        except (NotMember, BadPacket) as error:
            self._drops["bad_renewal"] += 1
            self._fail(f"what {peer.name} signed does not count: {error}", now)
        else:
            self._take(membership, made, peer.name, now)

    @staticmethod
    def _require_same(membership: Membership, made: Credentials) -> None:
        """Another certificate that is good for us, an old one perhaps, is not what we asked for."""
        ours, theirs = membership.certificate.body, made.certificate.body
        if theirs.serial != ours.serial or theirs.not_after <= ours.not_after:
            raise NotMember("not_renewed", "it is not the next one of ours")

    def _take(self, membership: Membership, made: Credentials, by: str, now: float) -> None:
        membership.keep(made)
        self.adopt(made, now)
        days = (made.certificate.body.not_after - membership.clock.now()) / 86_400
        self._tell("network", f"our certificate was renewed by {by}, for {days:.1f} days")

    def _fail(self, reason: str, now: float) -> None:
        self._note(reason)
        self._asked = None
        self._act_at = now + self._backoff.next_delay(now)

    def _note(self, reason: str) -> None:
        failure = Failure("network.not-renewed", reason)
        if failure != self.last_error:
            self._tell("network", f"our certificate is not renewed yet: {failure.told}")
        self.last_error = failure
