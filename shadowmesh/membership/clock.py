"""The time that certificates are held against: never earlier than what this node has known before."""

from __future__ import annotations

from collections.abc import Callable

RELEASED = 1795219200
"""2026-11-21T00:00:00Z: an earlier clock is wrong, where this release runs. Raised with each release."""
KEEP_EVERY = 3600.0
"""Seconds between two writes of the time: what a machine without a battery may go back by when it starts."""


class SteadyClock:
    """Seconds since 1970: the latest of the wall clock, what was kept, and the release.

    A machine that starts in 1970 so still refuses what had expired when it went down.

    :param wall: the machine's own clock.
    :param kept: what `keep` was called with last, 0 if never.
    :param keep: writes a time down, for the next start.
    """

    def __init__(self, wall: Callable[[], float], kept: float, keep: Callable[[float], None]) -> None:
        self._wall = wall
        self._kept = kept
        self._keep = keep

    def now(self) -> float:
        """The time that counts."""
        wall = self._wall()
        if wall > max(self._kept, RELEASED) + KEEP_EVERY:
            self._kept = wall
            self._keep(wall)
        return max(wall, self._kept, RELEASED)

    @property
    def behind(self) -> float:
        """Seconds that the machine's clock is behind what is known; 0 if it may be right."""
        return max(0.0, max(self._kept, RELEASED) - self._wall())
