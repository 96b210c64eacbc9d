"""Handshakes whose turn has not come yet.

To begin one takes the relay's only thread 4 ms, and all that a client sends meanwhile has to wait.  If
everybody were let in who comes at once, after a restart say, each handshake would take as long as all of
them together; then clients and relay repeat what only waits, time out, and begin anew, until none gets
through.  So the relay begins one at a time, when those under way have had what they need, the oldest first,
and those with a ticket before all others: they cost half.

Kept is the first flight of proved addresses only, and the ids that begun handshakes were for as long as
their tokens are good: a token is good for one (RFC 9000, 8.1.4).  Whoever waited too long is forgotten: its
client is about to give up, and the work would be for nothing.  Begins nothing by itself, and counts
nobody's limits.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from shadowmesh.crypto.retry import TOKEN_LIFETIME, Admit
from shadowmesh.session.links import Driver
from shadowmesh.units import Address

from .clients import Knock

MAX_WAITING = 1024
"""With a ticket, and as many without: 8 s of work, and 4 MB."""
PATIENCE = 6.0
"""Seconds since the Retry: a client gives a handshake 10 s in all (session/link.py), up to 3 of them before
anything answers (core/relays.py)."""
ANSWERED = 0.5
"""Seconds after which a client that repeats its first flight may have lost our answer."""
FIRST_FLIGHT = 3
"""Datagrams kept: a ClientHello takes two, and one may come twice."""

MAX_FIRST = 1500
"""Bytes of each of them: QUIC's first ones fit into any path."""

_Key = tuple[bytes, Address]


@dataclass(eq=False)
class Turn:
    """A handshake that waits."""

    admit: Admit
    knock: Knock
    destination: bytes
    """The id that its datagrams are for."""
    datagrams: list[bytes]


class Waiting:
    """All of them."""

    def __init__(self) -> None:
        self._resuming: dict[_Key, Turn] = {}
        self._others: dict[_Key, Turn] = {}
        self._networks: Counter[str] = Counter()
        self._begun: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._resuming) + len(self._others)

    def full(self, ticket: bool) -> bool:
        """Whether nobody more fits in."""
        return len(self._queue(ticket)) >= MAX_WAITING

    def of(self, network: str) -> int:
        """How many wait there (`clients.network_of`)."""
        return self._networks[network]

    def sources(self) -> set[Address]:
        """Where answers to those who wait will go."""
        return {address for queue in (self._resuming, self._others) for _, address in queue}

    def keep(self, destination: bytes, source: Address, data: bytes) -> bool:
        """Keep a further datagram of one that waits; False if it is of none."""
        key = (destination, source)
        turn = self._resuming.get(key) or self._others.get(key)
        if turn is None:
            return False
        if len(turn.datagrams) < FIRST_FLIGHT and len(data) <= MAX_FIRST:
            turn.datagrams.append(data)
        return True

    def begun(self, destination: bytes, now: float) -> None:
        """A handshake whose first datagrams are for this id begins."""
        while self._begun and next(iter(self._begun.values())) < now - TOKEN_LIFETIME:
            del self._begun[next(iter(self._begun))]
        self._begun[destination] = now

    def answered(self, destination: bytes, driver: Driver | None, now: float) -> bool:
        """Whether a client says again what is answered: who waits repeats itself.

        :param driver: the connection that the id leads to; None if there is none any more.
        """
        age = now - self._begun.get(destination, -math.inf)
        if driver is None:
            return age <= TOKEN_LIFETIME
        return destination == driver.first_id and driver.link.key_exchange is not None and age < ANSWERED

    def put(self, turn: Turn) -> None:
        """One more waits; there must be room."""
        ticket = turn.admit.retry_source_connection_id is None
        self._queue(ticket)[turn.destination, turn.knock.source] = turn
        self._networks[turn.knock.network] += 1

    def next(self, now: float) -> tuple[Turn | None, int]:
        """Whose turn it is, and how many have been forgotten because they waited too long."""
        late = 0
        while (turn := self._take()) is not None:
            if now - turn.admit.since <= PATIENCE and turn.destination not in self._begun:
                break
            late += 1
        return turn, late

    def _take(self) -> Turn | None:
        queue = self._resuming or self._others
        if not queue:
            return None
        turn = queue.pop(next(iter(queue)))
        network = turn.knock.network
        self._networks[network] -= 1
        if not self._networks[network]:
            del self._networks[network]
        return turn

    def _queue(self, ticket: bool) -> dict[_Key, Turn]:
        return self._resuming if ticket else self._others
