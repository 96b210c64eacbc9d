"""How many certificates of others one member may ask for, of a relay or of a peer."""

from __future__ import annotations

PER_SECOND = 16
AT_ONCE = 1024
"""Certificates (5 kB each): all members for whoever comes for the first time, then few."""


class AskBudget:
    """Of one session, at the end that answers."""

    def __init__(self) -> None:
        self._due = 0.0

    def take(self, now: float) -> bool:
        """Whether one more may be sent."""
        due = max(self._due, now - AT_ONCE / PER_SECOND)
        if due > now:
            return False
        self._due = due + 1 / PER_SECOND
        return True
