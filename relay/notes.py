"""Keeps strangers from filling the operator's log: a line about the same matter once a minute."""

from __future__ import annotations

from collections.abc import Hashable

INTERVAL = 60.0
"""Seconds between two lines about the same matter."""
MAX_KEPT = 1024
"""Matters that are remembered; lines about more within `INTERVAL` are left out."""


class Notes:
    """Which matters were in the log lately."""

    def __init__(self) -> None:
        self._noted: dict[Hashable, float] = {}

    def due(self, matter: Hashable, now: float) -> bool:
        """Whether a line about this matter may be written now; then it counts as written."""
        if now - self._noted.get(matter, -INTERVAL) < INTERVAL:
            return False
        if len(self._noted) >= MAX_KEPT:
            self._noted = {kept: at for kept, at in self._noted.items() if now - at < INTERVAL}
        if len(self._noted) >= MAX_KEPT:
            return False
        self._noted[matter] = now
        return True
