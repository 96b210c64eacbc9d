"""What a relay costs, in seconds: its round trip, and what loss and load add to that.

The relay can lie in its load only, and gains or loses `LOAD_COST` by that at most: a round trip is measured
by a nonce that it can't know before, and an answer that it withholds counts as lost.
"""

from __future__ import annotations

LOSS_FREE = 0.07
"""Share of lost exchanges that costs nothing: one of the last sixteen."""
LOSS_COST = 1.0
"""Seconds for each lost packet of one: what TCP waits for a repetition at first (RFC 6298 section 2.1)."""
LOAD_FREE = 70
"""Percent of load up to which a relay serves as fast as an idle one."""
LOAD_COST = 0.05
"""Seconds at 100 % load: about a continent's width, so that a full relay near by is left for a free one."""


def cost(rtt: float, loss: float, load: int) -> float:
    """Seconds; `loss` from 0 to 1, `load` from 0 to 100."""
    busy = max(0, min(load, 100) - LOAD_FREE) / (100 - LOAD_FREE)
    return rtt + LOSS_COST * max(0.0, loss - LOSS_FREE) + LOAD_COST * busy
