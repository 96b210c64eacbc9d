"""Probes of one path that wait for their answer: round-trip time, loss, and what was lost.

A probe is a sealed nonce, padded to the size that is to be tried; the peer's asyncio thread sends the
nonce back at once, the way it came.  The caller seals, sends, and says when a probe is due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from shadowmesh.path.rtt import RoundTrip
from shadowmesh.wire.payload import NONCE_SIZE, Kind, encode_probe

MAX_WAITING = 32
"""Probes that may wait for their answer at once; the oldest is forgotten. As many lost ones are kept."""
UNKNOWN_TIMEOUT = 0.5
"""Seconds until a probe counts as lost while no round trip was measured."""
MIN_TIMEOUT = 0.15
"""Seconds at least: the other side's event loop may be busy."""
LOSS_WEIGHT = 1 / 16
"""Of the newest probe in the mean loss: about the last 16 probes count."""
COUNTED = 31
"""Probes that a mean with this weight is worth: it varies like a plain one over 2 / weight - 1."""


class Probe(NamedTuple):
    """One that waits, was answered or was lost."""

    sent_at: float
    size: int
    """UDP payload in bytes that it made; 0 for one that tries no size."""


class Probes:
    """The probes of one path.

    :param random: returns n random bytes.
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._waiting: dict[bytes, Probe] = {}
        self._late: dict[bytes, Probe] = {}
        """Given up. Their answers still tell that the path lives and how slow it has become."""
        self.round_trip = RoundTrip()
        self.loss = 0.0
        """Share of small probes that were lost lately, 0 to 1."""
        self.counted = 0
        """Small probes that `loss` rests upon."""

    @property
    def timeout(self) -> float:
        """Seconds after which a probe counts as lost."""
        return self.round_trip.timeout(MIN_TIMEOUT, UNKNOWN_TIMEOUT)

    @property
    def expires_at(self) -> float | None:
        """When `expire` wants to be called."""
        if not self._waiting:
            return None
        return next(iter(self._waiting.values())).sent_at + self.timeout

    def create(self, now: float, size: int = 0, overhead: int = 0) -> bytes:
        """A request to send now. With a `size`, it makes a UDP payload of so many bytes."""
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        nonce = self._random(NONCE_SIZE)
        self._waiting[nonce] = Probe(now, size)
        return encode_probe(Kind.PROBE_REQUEST, nonce, max(0, size - overhead))

    def handle_reply(self, nonce: bytes, now: float) -> Probe | None:
        """The probe with this nonce; None if none waits for it."""
        probe = self._waiting.pop(nonce, None)
        if probe is not None:
            self._count(probe, lost=False)
        else:
            probe = self._late.pop(nonce, None)
            if probe is not None and not probe.size:
                self.loss = max(0.0, self.loss - LOSS_WEIGHT)  # it was late, not lost
        if probe is not None:
            self.round_trip.measure(now - probe.sent_at)
        return probe

    def expire(self, now: float) -> list[Probe]:
        """Those whose time is over."""
        timeout = self.timeout - 1e-6
        lost = {nonce: one for nonce, one in self._waiting.items() if now - one.sent_at >= timeout}
        for nonce, probe in lost.items():
            del self._waiting[nonce]
            self._late[nonce] = probe
            self._count(probe, lost=True)
        while len(self._late) > MAX_WAITING:
            del self._late[next(iter(self._late))]
        return list(lost.values())

    def clear(self) -> None:
        """Wait for none any more."""
        self._waiting.clear()
        self._late.clear()

    def _count(self, probe: Probe, lost: bool) -> None:
        if not probe.size:
            self.loss += LOSS_WEIGHT * (lost - self.loss)
            self.counted = min(self.counted + 1, COUNTED)
