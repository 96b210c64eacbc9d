"""The tickets that this relay has given out: who may come back without a Retry and without certificates.

One per node, in memory only, good once: a relay that starts anew knows none, and its clients set their
sessions up in full.  A ticket lives as long as its client's session, and `LIFETIME` after it.
"""

from __future__ import annotations

from dataclasses import dataclass

from shadowmesh.crypto.tls import PeerTicket
from shadowmesh.units import Address, NodeId

LIFETIME = 86400.0
"""Seconds after the end of a session during which it can be resumed: longer than a night."""
LEAST = 4096
"""Tickets that are kept at least; with more clients, one for each that there may be.  A ticket takes about
4 KB, most of it the client's ML-DSA-87 key; the oldest goes first."""


@dataclass(eq=False, repr=False)
class _Given:
    node: NodeId
    ticket: PeerTicket
    host: str
    """Where the client has proved to be."""
    expires_at: float | None = None
    """None while the session stands."""
    shown: bool = False
    """Whether it has proved an address."""

    def good(self, now: float) -> bool:
        return self.expires_at is None or now < self.expires_at


class Tickets:
    """All tickets of a relay, by name and by node.

    :param clients: that there may be.
    """

    def __init__(self, clients: int = 0) -> None:
        self._most = max(LEAST, clients)
        self._by_name: dict[bytes, _Given] = {}
        self._by_node: dict[NodeId, _Given] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def give(self, node: NodeId, ticket: PeerTicket, host: str) -> None:
        """`node` has a new ticket, in place of the one that it had; its session stands, at `host`."""
        self._forget(self._by_node.get(node))
        while len(self._by_name) >= self._most:
            self._forget(next(iter(self._by_name.values())))
        self._by_name[ticket.ticket] = self._by_node[node] = _Given(node, ticket, host)

    def move(self, node: NodeId, host: str) -> None:
        """The client has proved that it is at `host` now."""
        given = self._by_node.get(node)
        if given is not None:
            given.host = host

    def leave(self, node: NodeId, now: float) -> None:
        """The session is over; the ticket's time runs."""
        given = self._by_node.get(node)
        if given is not None:
            given.expires_at = now + LIFETIME

    def prove_address(self, name: bytes, source: Address, now: float) -> bool:
        """Whether whoever shows this name at `source` was there; true once.

        The name travels in the clear, so somebody on the way may show it first.  All that this gains is one
        handshake, which fails, or is answered at the client's own address.
        """
        given = self._by_name.get(name)
        if given is None or given.shown or given.host != source.host or not given.good(now):
            return False
        given.shown = True
        return True

    def take(self, name: bytes, now: float) -> PeerTicket | None:
        """The ticket of this name, which is used up."""
        given = self._by_name.get(name)
        self._forget(given)
        return given.ticket if given is not None and given.good(now) else None

    def expire(self, now: float) -> None:
        """Drop those whose time is over."""
        for given in [given for given in self._by_name.values() if not given.good(now)]:
            self._forget(given)

    def _forget(self, given: _Given | None) -> None:
        if given is not None:
            del self._by_name[given.ticket.ticket], self._by_node[given.node]
