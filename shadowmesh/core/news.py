"""What concerns the whole network: lists, keys and certificates, and everybody who is to hear of them.

Each is written down and used first (`members.py`, `renewal.py`), then passed on from here to all peers and
relays; each session gets what its other side did not know when it began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from shadowmesh.core.expiry import Expiry
from shadowmesh.core.members import Members
from shadowmesh.core.peers import PeerClient
from shadowmesh.core.relays import RelayClient
from shadowmesh.core.renewal import Renewals
from shadowmesh.errors import RemoteProtocolError
from shadowmesh.membership.guard import Membership
from shadowmesh.membership.roster import Roster
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import Message, NetworkNews, RevocationNews


class News:
    """One per node.

    :param invitation: what a node without a certificate shows; empty without one.
    :param peers: all of them, as they come.
    :param relays: all of them.
    :param random: returns n random bytes.
    :param tell: takes subject and line, for the log.
    """

    def __init__(
        self,
        membership: Membership | None,
        invitation: bytes,
        roster: Roster,
        peers: Mapping[NodeId, PeerClient],
        relays: Sequence[RelayClient],
        random: Callable[[int], bytes],
        drops: Counter[str],
        tell: Callable[[str, str], None],
    ) -> None:
        self.members = Members(
            membership, roster, drops, self._handle_list, self._handle_rotation, invitation
        )
        self.renewals = Renewals(self.members, random, drops, tell, self._announce)
        self._expiry = Expiry(tell)
        self._peers = peers
        self._relays = relays
        self._drops = drops
        self._tell = tell

    def tick(self, now: float) -> None:
        """Once a second: renew our certificate if it is time, and say which ones end."""
        self.renewals.tick(list(self._peers.values()), now)
        membership = self.members.membership
        if membership is None:
            return
        clock = membership.clock.now()
        self._expiry.look("network", membership.certificate.body, clock, own=True)
        for peer in self._peers.values():
            if peer.session is not None and peer.session.standing is not None:
                body = peer.session.standing.certificate.body
                self._expiry.look(f"peer {peer.member.name}", body, clock)

    def handle_relay_up(self, relay: RelayClient, now: float) -> None:
        """Tell a relay what it may not know; it shows nothing, so all of it."""
        # The network first: a list may be signed with the new key.
        for news in (
            self.members.network_for(0),
            self.members.news_for(0),
            self.members.shown_since_handshake(now),
        ):
            if news is not None:
                relay.send(news, now)

    def handle_relay_message(self, message: RevocationNews | NetworkNews, now: float) -> None:
        """What a relay passes on; what does not hold is counted."""
        try:
            if isinstance(message, RevocationNews):
                self.members.handle_news(message, now)
            else:
                self.members.handle_network(message, now)
        except RemoteProtocolError:
            if isinstance(message, RevocationNews):
                self._drops["bad_revocations"] += 1
            else:
                self._drops["bad_network"] += 1

    def _announce(self, now: float) -> None:
        """Our certificate or delegation is another one: sessions stand on it, and new ones begin with it."""
        self._send(self.members.show_again(now), now)

    def _handle_rotation(self, now: float) -> None:
        """The authority has a new key: pass it on to everybody who may not know."""
        news = self.members.network_for(0)
        assert news is not None
        self._tell("network", f"its authority has a new key, number {self.members.links + 1}")
        self._send(news, now)

    def _handle_list(self, now: float) -> None:
        """A newer revocation list counts from now on: act on it, and pass it on to everybody."""
        news = self.members.news_for(0)
        assert news is not None
        self._tell("network", f"revocation list {self.members.number} counts from now on")
        for peer in list(self._peers.values()):
            peer.enforce(now)
        self._send(news, now)

    def _send(self, message: Message, now: float) -> None:
        for peer in list(self._peers.values()):
            peer.send(message, now)
        for relay in self._relays:
            relay.send(message, now)
