"""The home relay: which of ours is asked first for channels, and why; it changes seldom.

Another relay takes the place of one that works only if it has been better by a margin for a while.  One that
does not answer, or is going down, is replaced at once.  Moving channels is `rendezvous.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from shadowmesh.core.relays import RelayClient

MARGIN, SHARE = 0.005, 0.2
"""Seconds, and share of the home's cost, that another one must be better by: more than jitter."""
HOLD = 15.0
"""Seconds for which it must be: fifteen measurements of a relay in use."""
SETTLE = 5.0
"""Seconds after the first choice in which the best is taken at once: they answer one after another."""


class Home:
    """Call `look` once a second."""

    def __init__(self) -> None:
        self.relay: RelayClient | None = None
        self.reason = ""
        """Why it is home, for people."""
        self._settles_at: float | None = None
        self._rival: RelayClient | None = None
        self._since = 0.0

    def look(self, relays: Sequence[RelayClient], now: float) -> None:
        """See what was measured since."""
        best = min(relays, key=_rank, default=None)
        if best is None or best.cost == math.inf:
            self.relay, self.reason, self._rival, self._settles_at = None, "", None, None
            return
        if self._settles_at is None:
            self._settles_at = now + SETTLE
        home = self.relay
        if home is None or home.cost == math.inf or home.doubtful > best.doubtful:
            self._choose(best, home, relays, now)
        elif best is not home and now < self._settles_at and best.cost < home.cost:
            self._choose(best, None, relays, now)
        elif best is home or best.cost > home.cost - max(MARGIN, SHARE * home.cost):
            self._rival = None
        elif best is not self._rival:
            self._rival, self._since = best, now
        elif now - self._since >= HOLD:
            self._choose(best, home, relays, now)

    def _choose(
        self, best: RelayClient, left: RelayClient | None, relays: Sequence[RelayClient], now: float
    ) -> None:
        self.relay, self._rival = best, None
        if left is not None and left is not best:
            why = "is going down" if left.leaving else "stopped answering"
            if left.cost < math.inf and not left.doubtful:
                why = f"was worse for {HOLD:g} s ({left.measured})"
            self.reason = f"{left.name} {why}; this one: {best.measured}"
        else:
            answering = sum(one.cost < math.inf for one in relays)
            first = "the best" if answering > 1 else "the only one"
            self.reason = f"{first} that answers: {best.measured}"


def _rank(relay: RelayClient) -> tuple[bool, float]:
    return relay.doubtful, relay.cost
