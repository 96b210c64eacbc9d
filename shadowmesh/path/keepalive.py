"""How often an idle path must be used to stay open: measured, not assumed.

The NATs belong to the two ends and not to one path, so all paths to a peer share what was learned, until
our own network changes.

A NAT or firewall forgets a flow that was silent for too long: 30 s at impatient ones, 120 s at those that
follow RFC 4787 section 4.3.  We begin below the former.  Each interval that the path has outlived three
times lets the next be half as long again; a path that did not outlive one teaches the limit.
"""

from __future__ import annotations

FIRST = 25.0
"""Seconds; below the 30 s after which impatient NATs forget."""
LONGEST = 110.0
"""Seconds; below the 120 s that RFC 4787 asks for, since nothing promises more."""
SHORTEST = 10.0
"""Seconds; there are NATs that forget within 20."""
PROOFS = 3
"""Silences of the present length that the path outlived before a longer one is tried."""
GROWTH = 1.5


class Keepalive:
    """The interval of the paths to one peer; `interval` seconds of silence are allowed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Another network, other NATs."""
        self.interval = FIRST
        self._limit = LONGEST
        self._outlived = 0

    def handle_outlived(self) -> None:
        """A path answered after a silence of `interval`."""
        self._outlived += 1
        if self._outlived >= PROOFS:
            self._outlived = 0
            self.interval = min(self._limit, self.interval * GROWTH)

    def handle_forgotten(self) -> None:
        """A path was dead after a silence of `interval`."""
        self._outlived = 0
        self.interval = max(SHORTEST, self.interval / GROWTH)
        self._limit = self.interval
