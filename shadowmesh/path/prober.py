"""Probes of a path: how far the peer is, and whether it still answers.

A probe is a sealed nonce that the peer's asyncio thread sends back at once.  The caller seals and
sends; nothing here knows an address.
"""

from __future__ import annotations

from collections.abc import Callable

from shadowmesh.path.rtt import RoundTrip
from shadowmesh.wire.payload import NONCE_SIZE, Kind, encode_probe

INTERVAL = 10.0
"""Seconds between probes of a path that answers."""
RETRY = 1.0
"""Seconds after which a probe counts as lost."""
UNANSWERED_LIMIT = 10
"""Lost probes in a row before the peer counts as gone: longer than a relay's restart takes to be noticed."""
MAX_WAITING = 16
"""Probes that may wait for their answer at once; the oldest is forgotten."""


class Prober:
    """Probing of one session's path. Call `poll(now)` at or after `deadline`.

    :param random: returns n random bytes.
    """

    def __init__(self, random: Callable[[int], bytes], now: float) -> None:
        self._random = random
        self._waiting: dict[bytes, float] = {}
        self.unanswered = 0
        """Probes in a row that were not answered, the one under way included."""
        self.deadline: float | None = now
        self.round_trip = RoundTrip()

    @property
    def failed(self) -> bool:
        """Whether the peer has stopped answering."""
        return self.unanswered > UNANSWERED_LIMIT

    @property
    def answers(self) -> bool:
        """Whether the last probe was answered: the path works, as far as we know."""
        return self.unanswered == 0

    def hurry(self, now: float) -> None:
        """Somebody doubts the path: probe it at once."""
        if self.deadline is not None:
            self.deadline = min(self.deadline, now)

    def suspend(self) -> None:
        """There is no path just now: silence is nobody's fault."""
        self.deadline = None
        self._waiting.clear()
        self.unanswered = 0

    def resume(self, now: float) -> None:
        """There is a path (again): probe it at once."""
        self.suspend()
        self.deadline = now

    def create_probe(self, now: float) -> bytes:
        """A probe request to send now; `handle_reply` recognises its answer."""
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        nonce = self._random(NONCE_SIZE)
        self._waiting[nonce] = now
        return encode_probe(Kind.PROBE_REQUEST, nonce)

    def poll(self, now: float) -> bytes | None:
        """The probe that is due, if any."""
        if self.deadline is None or now < self.deadline:
            return None
        self.unanswered += 1
        self.deadline = now + RETRY
        return self.create_probe(now)

    def handle_reply(self, nonce: bytes, now: float) -> float | None:
        """The round-trip time (seconds) of the probe with this nonce; None if none waits for it."""
        sent_at = self._waiting.pop(nonce, None)
        if sent_at is None:
            return None
        self.unanswered = 0
        if self.deadline is not None:
            self.deadline = now + INTERVAL
        self.round_trip.measure(now - sent_at)
        return now - sent_at
