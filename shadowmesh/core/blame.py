"""Which relays have disappointed on the way to one peer, and for how long they are asked last.

A relay may answer us well and yet lose what it is to forward.  Each time that this is noticed it is trusted
less, so that it can't draw traffic to itself again and again.
"""

from __future__ import annotations

from shadowmesh.core.relays import RelayClient

FIRST, LONGEST = 60.0, 3600.0
"""Seconds that a relay is asked last: at first, and at most; each time twice as long."""


class Blame:
    """Of one peer."""

    def __init__(self) -> None:
        self._until: dict[RelayClient, float] = {}
        self._times: dict[RelayClient, int] = {}

    def add(self, relay: RelayClient, now: float) -> None:
        """A channel at this relay did not carry."""
        if now >= self._until.get(relay, 0.0) + LONGEST:
            self._times.pop(relay, None)
        times = self._times[relay] = self._times.get(relay, 0) + 1
        self._until[relay] = now + min(LONGEST, FIRST * float(1 << min(times - 1, 16)))

    def lasts(self, relay: RelayClient, now: float) -> bool:
        """Whether it is still asked last."""
        return now < self._until.get(relay, 0.0)
