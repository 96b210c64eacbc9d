"""What the node does about its network: admits members, and spreads and enforces revocation lists.

The rules are those of `membership`; here they meet sessions. Without a network everybody is admitted whom the
configuration pins.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from shadowmesh.errors import BadPacket, NotMember, RemoteProtocolError
from shadowmesh.membership.guard import Membership, ShowLimit, Standing, show_invitation
from shadowmesh.membership.roster import Member, Roster
from shadowmesh.session.link import HANDSHAKE_TIMEOUT, CloseCode
from shadowmesh.session.machine import Refused
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import Introduction, NetworkNews, RevocationNews, ShownMembership


class Members:
    """One per node.

    :param membership: None without a network.
    :param roster: the members that the configuration names; `learn` adds to it.
    :param handle_news: called when a newer revocation list counts, with `now`.
    :param handle_rotation: called when the authority has a new key, with `now`.
    :param invitation: the id of the invitation by which this node is about to join, if it is.
    """

    def __init__(
        self,
        membership: Membership | None,
        roster: Roster,
        drops: Counter[str],
        handle_news: Callable[[float], None],
        handle_rotation: Callable[[float], None],
        invitation: bytes = b"",
    ) -> None:
        self.membership = membership
        self._invitation = invitation
        self.roster = roster
        self._configured = frozenset(member.node_id for member in roster.members)
        self.on_learned: Callable[[Member], None] = lambda _: None
        """Called with a member of which something new is known, before the first frame from it counts."""
        self._drops = drops
        self._handle_news = handle_news
        self._handle_rotation = handle_rotation
        self._changed_at = -math.inf

    def show(self) -> bytes:
        """Our membership field of HELLO and CHALLENGE."""
        if self._invitation:
            return show_invitation(self._invitation)
        return self.membership.show() if self.membership is not None else b""

    def show_again(self, now: float) -> ShownMembership:
        """What live sessions are to be shown: it has changed now."""
        self._changed_at = now
        return ShownMembership(self.show())

    def shown_since_handshake(self, now: float) -> ShownMembership | None:
        """For a session that is new: what we show, if that has changed since its handshake may have begun."""
        if now > self._changed_at + HANDSHAKE_TIMEOUT:
            return None
        return ShownMembership(self.show())

    def admit(self, node: NodeId, shown: Introduction) -> None:
        """Raises Refused, with a reason for the operators of both sides; BadPacket."""
        try:
            self.standing(node, shown.membership)
        except NotMember as error:
            self._drops["not_member"] += 1
            assert self.membership is not None
            clock = self.membership.clock.now() if error.of_dates else None
            raise Refused(CloseCode.REFUSED, str(error), clock) from None

    def standing(self, node: NodeId, shown: bytes) -> Standing | None:
        """What a peer showed, checked; None without a network. Raises NotMember, BadPacket."""
        return self.membership.check_untrusted(node, shown) if self.membership is not None else None

    def handle_shown(
        self, node: NodeId, limit: ShowLimit, message: ShownMembership, now: float
    ) -> Standing | None:
        """What a peer shows in a session that runs; None if it does not count. Raises RemoteProtocolError."""
        if self.membership is None:
            return None
        limit.take(now)
        try:
            return self.standing(node, message.shown)
        except BadPacket as error:
            raise RemoteProtocolError(f"bad control message: {error.reason}") from None
        except NotMember:
            self._drops["not_member"] += 1
            return None

    def learn(self, member: Member, standing: Standing | None) -> Member:
        """A member as its certificate names it; what the configuration says goes before."""
        if standing is None:
            return member
        certificate = standing.certificate
        learned = replace(member, groups=tuple(certificate.body.groups))
        if member.node_id in self._configured:
            learned = replace(learned, addresses=member.addresses or certificate.hosts)
        else:
            learned = replace(learned, name=certificate.body.name, addresses=certificate.hosts)
        self.roster.put(learned)
        if learned != member:
            self.on_learned(learned)
        return learned

    def is_configured(self, node: NodeId) -> bool:
        """Whether `peers:` lists this node."""
        return node in self._configured

    def is_revoked(self, node: NodeId) -> bool:
        """Whether the newest list names this node."""
        current = self.membership.revocations.current if self.membership is not None else None
        return current is not None and node in current.nodes

    def revokes(self, standing: Standing) -> bool:
        """Whether the newest list names this certificate or its node."""
        membership = self.membership
        return membership is not None and membership.revocations.revokes(standing.certificate)

    @property
    def revoked(self) -> str:
        """What whoever the list names is, for people."""
        return self.membership.revocations.revoked if self.membership is not None else ""

    @property
    def number(self) -> int:
        """Of the newest revocation list; 0 while there is none."""
        return self.membership.revocations.number if self.membership is not None else 0

    def recheck(self, standing: Standing | None) -> None:
        """Raises NotMember if a session must end."""
        if self.membership is not None and standing is not None:
            self.membership.recheck(standing)

    @property
    def links(self) -> int:
        """How many new keys of the authority are known here."""
        return len(self.membership.network.links) if self.membership is not None else 0

    def network_for(self, links: int) -> NetworkNews | None:
        """Our network, for whoever knows of so many new keys of its authority; None if that is as new."""
        if self.membership is None or self.links <= links:
            return None
        return NetworkNews(self.membership.network.document)

    def handle_network(self, news: NetworkNews, now: float) -> bool:
        """A network that somebody sent; returns whether it was newer. Raises RemoteProtocolError."""
        if self.membership is None:
            raise RemoteProtocolError("a network came, but there is none here")
        try:
            newer = self.membership.merge_network_untrusted(news.document)
        except (NotMember, BadPacket) as error:
            raise RemoteProtocolError(f"the network's new key is refused: {error}") from None
        if newer:
            self._handle_rotation(now)
        return newer

    def news_for(self, number: int) -> RevocationNews | None:
        """Our list, for whoever has the one with `number`; None if that is as new."""
        current = self.membership.revocations.current if self.membership is not None else None
        return RevocationNews(current.document) if current is not None and current.number > number else None

    def handle_news(self, news: RevocationNews, now: float) -> bool:
        """A list that somebody sent; returns whether it was newer. Raises RemoteProtocolError."""
        if self.membership is None:
            raise RemoteProtocolError("a revocation list came, but there is no network here")
        try:
            newer = self.membership.revocations.merge_untrusted(news.document)
        except (NotMember, BadPacket) as error:
            raise RemoteProtocolError(f"the revocation list is refused: {error}") from None
        if newer:
            self._handle_news(now)
        return newer
