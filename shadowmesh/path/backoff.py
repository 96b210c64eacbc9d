"""When to try again: exponential back-off with jitter, for ever."""

from __future__ import annotations

from collections.abc import Callable

FIRST = 0.25
"""Seconds before the second try."""
CAP = 2.0
"""Seconds at most while the outage is young: a restarted relay is found within 5 s of its return."""
CAP_LATE = 30.0
"""Seconds at most once the outage is older than `YOUNG`: easy on batteries and on the relay."""
YOUNG = 300.0


class Backoff:
    """Delays between tries.

    :param random: returns n random bytes.
    :param first: seconds before the second try.
    :param cap: seconds at most while the outage is younger than `YOUNG`; later it is `cap_late`.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        first: float = FIRST,
        cap: float = CAP,
        cap_late: float = CAP_LATE,
    ) -> None:
        self._random = random
        self._first, self._cap, self._cap_late = first, cap, cap_late
        self._tries = 0
        self._since: float | None = None

    def next_delay(self, now: float) -> float:
        """Seconds to wait before the next try: between half of the step and all of it."""
        if self._since is None:
            self._since = now
        cap = self._cap if now - self._since < YOUNG else self._cap_late
        step = min(cap, self._first * float(1 << min(self._tries, 16)))
        self._tries += 1
        return step * (0.5 + self._random(1)[0] / 512)

    def reset(self) -> None:
        """A try succeeded."""
        self._tries = 0
        self._since = None
