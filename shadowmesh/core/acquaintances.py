"""Members that are known before there is a session: what they have shown others, checked as in a session.

A relay of the network says with PRESENT which certificate a member has, and a peer with ROSTER of those that
no relay tells of; what is not known yet is asked for, a few at a time, and kept for the next start.  So names
and addresses are known of whom nobody has talked to.  A certificate from here lets nobody in: a session shows
it anew.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from shadowmesh.core.members import Members
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.asking import AskBudget
from shadowmesh.membership.guard import Standing
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import (
    MAX_ASKED,
    MAX_ROSTER,
    Acquaintance,
    CertificateAsked,
    CertificateShown,
    Message,
    Roster,
)

ASK_TIMEOUT = 10.0
"""Seconds after which an unanswered question is asked again: the member was away just then, or the relay is
short of time."""
MAX_TRIES = 6
"""Times that a question is asked; then the next PRESENT brings it up."""
MAX_ASKED_OF_PEERS, MAX_ASKED_OF_ONE = 4, 2
"""Questions of all that are open to peers, and to one of them: relays are always asked."""
MAX_VAIN, DEAF_FOR = 8, 300.0
"""Questions to one peer in a row that may bring no certificate that counts; then, for so many seconds, nobody
whom it names is asked for."""
KEEP_EVERY = 30.0
"""Seconds at least between two times that the known members are written down."""
MARK_SIZE = 8
"""Bytes of a certificate's fingerprint that tell it from the member's one before."""


class Source(Protocol):
    """A relay, or a peer, that can be asked."""

    def send(self, message: Message, now: float) -> None:
        """Send a message; dropped when it can't be told anything just now."""


@dataclass
class _Question:
    source: Source
    relay: bool
    at: float = 0.0
    tries: int = 0


class Acquaintances:
    """One per node.

    :param most: members whose certificates are kept.
    :param learn: called with each member's node and checked certificate, and `now`.
    """

    def __init__(
        self,
        members: Members,
        kept: Iterable[tuple[NodeId, bytes]],
        most: int,
        drops: Counter[str],
        learn: Callable[[NodeId, Standing, float], None],
    ) -> None:
        self._members = members
        self._most = most
        self._drops = drops
        self._learn = learn
        self._shown: OrderedDict[NodeId, tuple[bytes, Standing]] = OrderedDict()
        self._waiting: OrderedDict[NodeId, _Question] = OrderedDict()
        self._asked: dict[NodeId, _Question] = {}
        self._vain: Counter[Source] = Counter()
        self._deaf_until: dict[Source, float] = {}
        self._from_relays: set[NodeId] = set()
        """Members of which a relay tells whoever is in the network."""
        self.version = 0
        """Rises when there are more of the others."""
        self._changed = False
        self._keep_at = 0.0
        for node, shown in kept:
            self._take(node, shown)
        self._changed = False

    @property
    def known(self) -> int:
        """Members whose certificates are here."""
        return len(self._shown)

    def standings(self) -> Iterator[tuple[NodeId, Standing]]:
        """Whoever is known, and what they have shown."""
        return ((node, standing) for node, (_, standing) in self._shown.items())

    def standing(self, node: NodeId) -> Standing | None:
        """What this member has shown, if it is known."""
        known = self._shown.get(node)
        return known[1] if known is not None else None

    def roster(self, reader: NodeId) -> Roster:
        """What `reader` is told: members of which it will not hear from a relay of the network."""
        return Roster(
            [
                Acquaintance(node, standing.certificate.fingerprint[:MARK_SIZE])
                for node, (_, standing) in self._shown.items()
                if node != reader and node not in self._from_relays and not self._members.revokes(standing)
            ][-MAX_ROSTER:]
        )

    def handle_present(self, relay: Source, node: NodeId, mark: bytes, now: float) -> None:
        """A relay has named a member of ours and the beginning of its certificate's fingerprint."""
        if len(mark) == MARK_SIZE:
            self._from_relays.add(node)
            self._handle_named(relay, node, mark, now, relay=True)

    def handle_message(
        self,
        peer: Source,
        budget: AskBudget,
        message: Roster | CertificateAsked | CertificateShown,
        now: float,
    ) -> None:
        """What a peer says; `budget` is what it may ask."""
        if self._members.membership is None:
            self._drops["unexpected_message"] += 1
        elif isinstance(message, Roster):
            for one in message.members:
                if one.node != self._members.membership.certificate.body.node:
                    self._handle_named(peer, one.node, one.certificate, now, relay=False)
        elif isinstance(message, CertificateShown):
            self.handle_shown(peer, message, now)
        else:
            for node in message.nodes:
                if node in self._shown and budget.take(now):
                    peer.send(CertificateShown(node, self._shown[node][0]), now)

    def handle_shown(self, source: Source, message: CertificateShown, now: float) -> None:
        """The answer to a question of ours."""
        asked = self._asked.get(message.node)
        if asked is None or asked.source is not source:
            self._drops["unasked_certificate"] += 1
            return
        del self._asked[message.node]
        if self._take(message.node, message.membership):
            self._vain.pop(source, None)
            self._learn(message.node, self._shown[message.node][1], now)
        else:
            self._count_vain(asked, now)
        self._ask(now)

    def handle_session(self, node: NodeId, shown: bytes, standing: Standing) -> None:
        """A member has shown us this itself."""
        self._store(node, shown, standing)

    def _handle_named(self, source: Source, node: NodeId, mark: bytes, now: float, relay: bool) -> None:
        known = self.standing(node)
        if self._members.membership is None or self._members.is_revoked(node):
            return
        asked = self._asked.get(node)
        if asked is not None and (asked.relay or not relay):
            return
        if known is not None and known.certificate.fingerprint[:MARK_SIZE] == mark:
            self._learn(node, known, now)
        elif self._makes_room(source, relay, now):
            if relay:
                self._asked.pop(node, None)
                self._waiting[node] = _Question(source, relay)
            else:
                self._waiting.setdefault(node, _Question(source, relay))
            self._ask(now)

    def _makes_room(self, source: Source, relay: bool, now: float) -> bool:
        """Whether one more may wait: of the peer that has named most, the newest gives way to others."""
        if not relay and now < self._deaf_until.get(source, now):
            return False
        if len(self._waiting) < self._most:
            return True
        held = Counter(one.source for one in self._waiting.values() if not one.relay)
        if not held:
            return False
        most, count = held.most_common(1)[0]
        if not relay and count <= held[source] + 1:
            return False
        del self._waiting[
            next(node for node in reversed(self._waiting) if self._waiting[node].source is most)
        ]
        return True

    def _count_vain(self, question: _Question, now: float) -> None:
        """Who names members and shows no certificate of theirs is not asked for long."""
        if question.relay:
            return
        self._vain[question.source] += 1
        if self._vain[question.source] >= MAX_VAIN:
            del self._vain[question.source]
            self._deaf_until[question.source] = now + DEAF_FOR
            for node in [node for node, one in self._waiting.items() if one.source is question.source]:
                del self._waiting[node]

    def handle_tick(self, now: float) -> list[tuple[NodeId, bytes]] | None:
        """Once a second; returns what is to be written down, if that has changed."""
        late = [node for node, question in self._asked.items() if now - question.at > ASK_TIMEOUT]
        for node in late:
            question = self._asked.pop(node)
            if question.tries < MAX_TRIES:
                self._waiting.setdefault(node, question)
            self._count_vain(question, now)
        self._ask(now)
        if not self._changed or now < self._keep_at:
            return None
        self._keep_at = now + KEEP_EVERY
        return self.take_changes()

    def take_changes(self) -> list[tuple[NodeId, bytes]] | None:
        """What is to be written down, if it has changed since it was taken last."""
        changed, self._changed = self._changed, False
        return [(node, shown) for node, (shown, _) in self._shown.items()] if changed else None

    def _ask(self, now: float) -> None:
        """What the answers to all open questions take must fit what a relay lets wait for us."""
        while len(self._asked) < MAX_ASKED:
            node = self._next()
            if node is None:
                return
            question = self._waiting.pop(node)
            question.at, question.tries = now, question.tries + 1
            self._asked[node] = question
            question.source.send(CertificateAsked([node]), now)

    def _next(self) -> NodeId | None:
        """Relays first, and no peer at the cost of the others."""
        relay = next((node for node, one in self._waiting.items() if one.relay), None)
        if relay is not None:
            return relay
        asked = Counter(one.source for one in self._asked.values() if not one.relay)
        if asked.total() >= MAX_ASKED_OF_PEERS:
            return None
        free = (node for node, one in self._waiting.items() if asked[one.source] < MAX_ASKED_OF_ONE)
        return next(free, None)

    def _take(self, node: NodeId, shown: bytes) -> bool:
        """Raises nothing: a member that does not count here is not known, and its session will say why."""
        try:
            standing = self._members.standing(node, shown)
        except (NotMember, BadPacket):
            self._drops["bad_certificate"] += 1
            return False
        known = self.standing(node)
        if standing is None:
            return False
        if known is not None and _age(standing) < _age(known):
            self._drops["bad_certificate"] += 1  # valid still, but the member has a newer one
            return False
        self._store(node, shown, standing)
        return True

    def _store(self, node: NodeId, shown: bytes, standing: Standing) -> None:
        known = self._shown.pop(node, None)
        self._shown[node] = (shown, standing)
        if len(self._shown) > self._most:
            self._shown.popitem(last=False)
        if known is None or known[1].certificate.fingerprint != standing.certificate.fingerprint:
            self._changed = True
            self.version += node not in self._from_relays


def _age(standing: Standing) -> tuple[int, int]:
    """The later of two certificates of one member: serials rise, and what renews one keeps its serial."""
    body = standing.certificate.body
    return body.serial, body.not_after
