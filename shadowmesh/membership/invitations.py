"""The invitations that this node has open for its network: who may join, and who has; sans-I/O.

The authority has laid down in a delegation what each grants.  Every change is written down before it counts
or is answered, so that a use is counted once, whatever happens in between; what can't be written is refused.
Of the secret of a token only the id and the key of the proofs are here.  Sessions are `core.guests`' matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec.structs import replace

from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import NotMember
from shadowmesh.membership.authority import BACKDATE
from shadowmesh.membership.certificate import Certificate, CertificateBody, date_text
from shadowmesh.membership.delegation import Credentials, Delegation, Grant, Scope
from shadowmesh.membership.guard import Guard
from shadowmesh.membership.network import Network
from shadowmesh.membership.signed import Bytes32
from shadowmesh.units import NodeId

MAX_INVITATIONS = 64
"""Of one node, closed ones included: what its relays take of it."""
MAX_WAITING = 16
"""Nodes that wait for a person's word on one invitation."""
MAX_TTL = 7 * 86_400
"""Seconds that an invitation is open at most: what is forgotten must not stay open."""
TOLD_AFTER = 86_400
"""Seconds after its end that whoever comes with an invitation is told why it is of no use."""
MIN_LABEL = 4
"""Characters of a NodeID by which a waiting node may be named."""


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """A grant that is given away."""

    node: Bytes32
    serial: int
    at: int
    source: str
    certificate: bytes


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has proved the secret, and waits for a person's word."""

    node: Bytes32
    at: int
    source: str
    """Where its relay saw it."""
    verdict: str = ""
    """"approved" or "refused"; empty while it waits."""


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """One token that was given out."""

    id: Bytes32
    key: Bytes32
    """Of the proofs."""
    name: str
    delegation: bytes
    created: int
    expires: int
    by_hand: bool = False
    revoked: bool = False
    uses: Annotated[list[Use], msgspec.Meta(max_length=64)] = []
    waiting: Annotated[list[Waiting], msgspec.Meta(max_length=MAX_WAITING)] = []
    turned_away: int = 0
    """How often somebody came in vain, since it was written down last."""

    @property
    def grants(self) -> list[Grant]:
        """All that it may be used for."""
        return Delegation.parse_untrusted(self.delegation).body.grants

    def state(self, now: float) -> str:
        """open, used, expired or revoked."""
        if self.revoked:
            return "revoked"
        if len(self.uses) >= len(self.grants):
            return "used"
        return "expired" if now > self.expires else "open"


class _Book(msgspec.Struct, frozen=True, kw_only=True):
    network: Bytes32
    invitations: list[Invitation] = []


@dataclass(frozen=True)
class Admitted:
    """What a joining node was given, checked against its token."""

    network: Network
    revocations: bytes
    """The newest list, as the authority signed it; empty if there is none."""
    credentials: Credentials


class Wait(Exception):
    """A person has to say whether the node may join."""


class Invitations:
    """All of one node.

    :param identity: of the node, which is the delegate.
    :param kept: what `keep` was called with last, empty if never. Raises ValueError if it is damaged.
    :param keep: writes them down; raises OSError.
    """

    def __init__(self, guard: Guard, identity: Identity, kept: bytes, keep: Callable[[bytes], None]) -> None:
        self._guard = guard
        self._identity = identity
        self._keep = keep
        try:
            book = msgspec.msgpack.decode(kept, type=_Book) if kept else None
        except UNDECODABLE:
            raise ValueError("it is no list of invitations") from None
        ours = book is not None and book.network == guard.network.id
        self._all: tuple[Invitation, ...] = tuple(book.invitations) if book is not None and ours else ()

    # Getters.

    @property
    def all(self) -> Sequence[Invitation]:
        """In the order in which they were made."""
        return self._all

    def state(self, invitation: Invitation) -> str:
        """open, used, expired or revoked."""
        return invitation.state(self._guard.clock.now())

    def find(self, invitation_id: bytes) -> Invitation | None:
        """The one that relays know by this id."""
        return next((one for one in self._all if one.id == invitation_id), None)

    def registrations(self) -> dict[bytes, int]:
        """What relays are to know: ids, and for how many seconds from now."""
        now = self._guard.clock.now()
        left = {one.id: int(one.expires + TOLD_AFTER - now) for one in self._all}
        return {invitation_id: seconds for invitation_id, seconds in left.items() if seconds > 0}

    # What people want.

    def add(
        self, invitation_id: bytes, key: bytes, name: str, delegation: bytes, ttl: int, by_hand: bool
    ) -> Invitation:
        """Open one. Raises ValueError; NotMember, BadPacket if the delegation is of no use here."""
        now = self._guard.clock.now()
        given = Delegation.parse_untrusted(delegation)
        given.check(self._guard.network, self._guard.revocations, now)
        if given.body.scope is not Scope.JOIN or given.delegate != self._identity.public:
            raise ValueError("the delegation lets this client sign nothing")
        if not 1 <= ttl <= MAX_TTL:
            raise ValueError(f"an invitation is open for {MAX_TTL // 86_400} days at most")
        made = Invitation(
            id=invitation_id,
            key=key,
            name=name,
            delegation=delegation,
            created=int(now),
            expires=int(now) + ttl,
            by_hand=by_hand,
        )
        self._commit((*self._with_room(now), made))
        return made

    def revoke(self, name: str) -> list[Invitation]:
        """Close every open one with this name; returns them as they are now. Raises ValueError."""
        found = [one for one in self._all if one.name == name and self.state(one) == "open"]
        if not found:
            raise ValueError(f"no open invitation is for {name}; `invite list` shows them")
        for one in found:
            self._change(one, revoked=True)
        return [self._now(one) for one in found]

    def decide(self, label: str, verdict: str) -> tuple[Invitation, NodeId]:
        """A person's word on a waiting node, named by its invitation or how its NodeID begins.

        :param verdict: "approved" or "refused".

        Raises ValueError.
        """
        found = [
            (one, waiting)
            for one in self._all
            for waiting in one.waiting
            if not waiting.verdict and _is_called(label, one, waiting)
        ]
        if len(found) != 1:
            many = "several nodes wait" if found else "nobody waits"
            raise ValueError(f"{many} as {label}; `invite pending` shows them with their NodeIDs")
        [(invitation, waiting)] = found
        others = [one for one in invitation.waiting if one is not waiting]
        self._change(invitation, waiting=[*others, replace(waiting, verdict=verdict)])
        return self._now(invitation), waiting.node

    # What guests want.

    def take(self, invitation_id: bytes, node: NodeId, source: str) -> Credentials:
        """The credentials of a node that has proved the secret; the same ones if it asks again.

        Raises Wait, NotMember; nothing is given that is not written down.
        """
        invitation, now = self.find(invitation_id), self._guard.clock.now()
        if invitation is None:
            raise NotMember("unknown_invitation", "the invitation is unknown here")
        delegation = Delegation.parse_untrusted(invitation.delegation)
        delegation.check(self._guard.network, self._guard.revocations, now)
        known = next((use for use in invitation.uses if use.node == node), None)
        if known is not None:
            again = Credentials(Certificate.parse_untrusted(known.certificate), delegation)
            again.admit(self._guard.network, self._guard.revocations, node, now)
            return again
        waiting = next((one for one in invitation.waiting if one.node == node), None)
        self._refuse_closed(invitation, waiting, now)
        if invitation.by_hand and (waiting is None or not waiting.verdict):
            if waiting is None:
                self._let_wait(invitation, node, source, now)
            raise Wait
        return self._give(invitation, delegation, node, source, now)

    def turn_away(self, invitation_id: bytes) -> None:
        """Somebody came with this one in vain."""
        invitation = self.find(invitation_id)
        if invitation is not None:  # a count is not worth a write for each try
            changed = replace(invitation, turned_away=invitation.turned_away + 1)
            self._all = tuple(changed if one is invitation else one for one in self._all)

    # Inside.

    def _refuse_closed(self, invitation: Invitation, waiting: Waiting | None, now: float) -> None:
        state = invitation.state(now)
        if waiting is not None and waiting.verdict == "refused":
            raise NotMember("join_refused", f"{self._guard.network.name} does not want this machine to join")
        if state == "revoked":
            raise NotMember("invitation_revoked", "the invitation was taken back")
        if state == "used":
            raise NotMember("invitation_used", "the invitation was used already")
        if state == "expired" and waiting is None:
            text = f"the invitation ended at {date_text(invitation.expires)}; ask for another"
            raise NotMember("invitation_expired", text)

    def _let_wait(self, invitation: Invitation, node: NodeId, source: str, now: float) -> None:
        others = invitation.waiting
        if len(others) >= MAX_WAITING:  # whoever was refused first makes room
            refused = next((one for one in others if one.verdict == "refused"), None)
            others = [one for one in others if one is not refused]
        if len(others) >= MAX_WAITING:
            raise NotMember("too_many_waiting", "too many machines wait to be let in by this invitation")
        one = Waiting(node=node, at=int(now), source=source)
        self._change(invitation, waiting=[*others, one])

    def _give(
        self, invitation: Invitation, delegation: Delegation, node: NodeId, source: str, now: float
    ) -> Credentials:
        current = self._guard.revocations.current
        gone = {use.serial for use in invitation.uses} | (current.serials if current is not None else set())
        grant = next((one for one in delegation.body.grants if one.serial not in gone), None)
        if grant is None:
            raise NotMember("invitation_revoked", "what the invitation has left to give was revoked")
        body = CertificateBody(
            network=self._guard.network.id,
            node=node,
            name=grant.name,
            addresses=grant.addresses,
            groups=grant.groups,
            rights=grant.rights,
            not_before=int(now) - BACKDATE,
            not_after=delegation.body.not_after,
            serial=grant.serial,
        )
        made = Credentials(Certificate.make(body, self._identity), delegation)
        made.admit(self._guard.network, self._guard.revocations, node, now)
        use = Use(
            node=node, serial=grant.serial, at=int(now), source=source, certificate=made.certificate.document
        )
        left = [one for one in invitation.waiting if one.node != node]
        self._change(invitation, uses=[*invitation.uses, use], waiting=left)
        return made

    def _with_room(self, now: float) -> tuple[Invitation, ...]:
        """All but those that nobody needs any more; of the closed ones, the oldest go first."""
        kept = [one for one in self._all if now <= self._forgotten_at(one)]
        while len(kept) >= MAX_INVITATIONS:
            closed = next((one for one in kept if one.state(now) != "open"), None)
            if closed is None:
                raise ValueError(f"{MAX_INVITATIONS} invitations are open here; revoke some")
            kept.remove(closed)
        return tuple(kept)

    @staticmethod
    def _forgotten_at(one: Invitation) -> int:
        if not one.uses:
            return one.expires + TOLD_AFTER
        return Delegation.parse_untrusted(one.delegation).body.not_after

    def _now(self, invitation: Invitation) -> Invitation:
        found = self.find(invitation.id)
        assert found is not None
        return found

    def _change(self, invitation: Invitation, **fields: object) -> None:
        changed = replace(invitation, **fields)
        self._commit(tuple(changed if one.id == invitation.id else one for one in self._all))

    def _commit(self, changed: tuple[Invitation, ...]) -> None:
        """Write down, then mean it. Raises NotMember("not_kept")."""
        book = _Book(network=self._guard.network.id, invitations=list(changed))
        try:
            self._keep(msgspec.msgpack.encode(book))
        except OSError as error:
            text = f"the inviting machine can't write its invitations down: {error.strerror}"
            raise NotMember("not_kept", text) from None
        self._all = changed


def text_of(invitation: Invitation) -> str:
    """What logs call it: never its id or key."""
    return f"invitation for {invitation.name}"


def uses_of(invitations: Sequence[Invitation]) -> dict[int, str]:
    """The NodeID, as text, that each serial was given to."""
    return {use.serial: node_id_text(use.node) for one in invitations for use in one.uses}


def _is_called(label: str, invitation: Invitation, waiting: Waiting) -> bool:
    prefix = len(label) >= MIN_LABEL and node_id_text(waiting.node).startswith(label.lower())
    return prefix or label == invitation.name
