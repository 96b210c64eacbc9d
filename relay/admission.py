"""Who may use this relay: a list of NodeIDs, members of its networks, holders of a token, or everybody.

Nobody, unless the configuration says so. A certificate of a network that the relay serves counts or
refuses; that of any other network is not looked at.  Whoever none of these admits may still be asked about
(`hook.py`), if there is somebody to ask.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from shadowmesh.crypto.authority_key import NetworkId
from shadowmesh.crypto.token import proven_token
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.guard import Guard, Standing
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import Introduction


@dataclass(frozen=True)
class Belonging:
    """A client's place in a network that the relay serves."""

    guard: Guard
    standing: Standing
    shown: bytes
    """As it came, for the other members."""


@dataclass(frozen=True)
class Ground:
    """What a client was let in by, besides its NodeID."""

    belonging: Belonging | None = None
    guest: bool = False
    token: bytes | None = None
    asked: bool = False
    """The operator's program said yes."""


class Admission:
    """The decision on an authenticated NodeID.

    :param is_open: admit everybody.
    :param nodes: the NodeIDs that are admitted otherwise.
    :param guards: one for each network whose members are admitted.
    :param tokens: whoever holds one of them is admitted.
    :param asks: whether a program decides on everybody else.
    """

    def __init__(
        self,
        is_open: bool,
        nodes: frozenset[NodeId],
        guards: Sequence[Guard] = (),
        tokens: Sequence[bytes] = (),
        asks: bool = False,
    ) -> None:
        self.asks = asks
        self._tokens = tuple(tokens)
        self._open = is_open
        self._nodes = nodes
        self._guards: dict[NetworkId, Guard] = {guard.network.id: guard for guard in guards}

    def may_invite(self, belonging: Belonging | None) -> bool:
        """Whether a client may bring guests: they must have a reason to be let in again as members."""
        return self._open or belonging is not None

    def allows(self, node: NodeId) -> bool:
        """Whether this node may have a session with the relay without being a member of anything."""
        return self._open or node in self._nodes

    def token_of(self, node: NodeId, shown: Introduction, relay: NodeId) -> bytes | None:
        """The token of ours that HELLO of this node proves it holds."""
        proof = shown.token
        if not isinstance(proof, bytes):
            return None
        return proven_token(self._tokens, proof, shown.nonce, node, relay)

    def holds(self, ground: Ground, node: NodeId) -> bool:
        """Whether a client that is here would be let in again, by what it showed when it came."""
        if ground.belonging is not None:
            guard = ground.belonging.guard
            return self._guards.get(guard.network.id) is guard
        by_token = ground.token is not None and any(
            hmac.compare_digest(ground.token, token) for token in self._tokens
        )
        return ground.guest or ground.asked or by_token or self.allows(node)

    def belonging_untrusted(self, node: NodeId, shown: bytes) -> Belonging | None:
        """The network of ours that `node` shows a certificate of; None if it shows none.

        Raises BadPacket, and NotMember for a certificate of such a network that does not count.
        """
        if not shown or not self._guards:
            return None
        try:
            network = Standing.parse_untrusted(shown).certificate.body.network
        except BadPacket:
            raise NotMember("malformed", "what you show of your membership can't be taken apart") from None
        guard = self._guards.get(network)
        return Belonging(guard, guard.check_untrusted(node, shown), shown) if guard is not None else None


def claimed_network(shown: bytes) -> NetworkId | None:
    """The network that a certificate says it is of; nobody has checked it. None if there is none."""
    try:
        return Standing.parse_untrusted(shown).certificate.body.network if shown else None
    except BadPacket:
        return None
