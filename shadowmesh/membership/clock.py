"""The time that certificates are held against: never earlier than what this node has known before.

What relays say of the time is kept as a `Reading`: a hint for people, which no certificate is held against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

RELEASED = 1795219200
"""2026-11-21T00:00:00Z: an earlier clock is wrong, where this release runs. Raised with each release."""
KEEP_EVERY = 3600.0
"""Seconds between two writes of the time: what a machine without a battery may go back by when it starts."""


@dataclass(frozen=True)
class Reading:
    """What somebody else said that the time is.

    :param time: seconds since 1970, as it was there at `at` of our monotonic clock.
    :param error: seconds that it may be off by: half the round trip.
    """

    time: float
    error: float
    at: float

    @classmethod
    def between(cls, told: float, asked_at: float, heard_at: float) -> Reading:
        """`told` was true at some moment from `asked_at` to `heard_at`."""
        half = (heard_at - asked_at) / 2
        return cls(told + half, half, heard_at)

    def skew(self, wall: float, now: float) -> float:
        """Seconds that a clock which shows `wall` at `now` is ahead; below 0: behind."""
        return wall - (self.time + now - self.at)


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
