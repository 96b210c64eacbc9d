"""Whom a client calls unasked: at a relay to which it comes, and elsewhere, when a relay is about to go.

Never more at once than a relay takes.  How a peer is called, and who calls else, is `rendezvous.py`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from shadowmesh.core.peers import PeerClient
from shadowmesh.core.relays import RelayClient

AT_ONCE = 8
"""Peers that are called without knowing that they are there: below a relay's 10 openings per second."""
ARRIVAL = 1.0
"""Seconds after we came to a relay in which whom it names was there before us, and waits to be called."""


class Calls:
    """How many may still be called at each relay."""

    def __init__(self) -> None:
        self._left: dict[int, tuple[float, int]] = {}
        """By index of the relay: until when, and how many, of those whom we meet there."""

    def handle_relay_up(self, relay: RelayClient, peers: Iterable[PeerClient], now: float) -> None:
        """We came to a relay: call who is known. Sessions that wait for a path come first."""
        wanted = [one for one in peers if one.session is not None or one.demand.wanted(now)]
        called = sorted(wanted, key=lambda peer: peer.session is None)[:AT_ONCE]
        for peer in called:
            peer.rendezvous.handle_relay_up(relay, now)
        self._left[relay.index] = (now + ARRIVAL, AT_ONCE - len(called))

    def handle_met(self, relay: RelayClient, peer: PeerClient, now: float) -> None:
        """A member that was not known when we came could not be called then: call it, as it won't call us."""
        until, left = self._left.get(relay.index, (now, 0))
        if now < until and left and peer.demand.wanted(now):
            self._left[relay.index] = (until, left - 1)
            peer.rendezvous.handle_relay_up(relay, now)

    def handle_tick(self, relays: Iterable[RelayClient], peers: Collection[PeerClient], now: float) -> None:
        """A relay that is going down is left once no peer is met there; few peers at a time go elsewhere."""
        for relay in relays:
            if not relay.leaving:
                continue
            here = [peer for peer in peers if peer.rendezvous.needs(relay)]
            openings = 0
            for peer in here:
                if openings < AT_ONCE:
                    openings += peer.rendezvous.handle_leave(relay, now)
            if not here:
                relay.leave(now)
