"""Our side of a relay leg: BIND keeps the relay's record of our address, and shows that it lives.

The relay forwards to where the newest BIND came from.  We bind every second while frames cross the
relay, every 25 seconds otherwise, and at once when it asks us to echo a challenge.  Three unanswered
mean that the relay is gone.  Payloads only: sealing and sending is the caller's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from shadowmesh.path.rtt import RoundTrip
from shadowmesh.units import Address
from shadowmesh.wire.payload import NO_CHALLENGE, NONCE_SIZE, encode_bind, parse_bound

BUSY_INTERVAL = 1.0
IDLE_INTERVAL = 25.0
"""Below the 30 s after which impatient NATs drop a UDP mapping (RFC 4787 section 4.3 asks for 120 s)."""
LOSS_WEIGHT = 1 / 16
"""Of the newest exchange in the mean loss: about the last 16 count."""
BUSY_FOR = 60.0
"""Seconds after the last frame during which a leg counts as busy."""
UNANSWERED_LIMIT = 3
PATIENT_LIMIT = 8
"""The same over TCP, where nothing is lost but much can be late."""
DOUBTFUL = 2
"""Unanswered BINDs, one second apart, from which on something seems to be wrong."""


class Binding:
    """The state of one leg. Call `poll(now)` at or after `deadline`.

    :param random: returns n random bytes.
    :param numbers: those of the session's BINDs; all bindings of one session share them.
    :param limit: unanswered BINDs after which the relay is gone.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        now: float,
        numbers: Iterator[int] | None = None,
        limit: int = UNANSWERED_LIMIT,
    ) -> None:
        self._random = random
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._limit = limit
        self._nonce = b""
        self._sent_at = now
        self._unanswered = 0
        self._busy_until = now
        self._hurried = True
        self.deadline = now
        self.observed: Address | None = None
        self.bound = False
        """Whether the relay's last answer said that it forwards to where these BINDs come from."""
        self.round_trip = RoundTrip()
        self.loss = 0.0
        """Share of BINDs that stayed unanswered lately, 0 to 1."""

    @property
    def failed(self) -> bool:
        """Whether the relay has stopped answering."""
        return self._unanswered > self._limit

    @property
    def doubtful(self) -> bool:
        """Whether answers stay away, though not yet for long."""
        return self._unanswered >= DOUBTFUL

    @property
    def silent(self) -> bool:
        """Whether they have stayed away for as long as would end a leg by UDP."""
        return self._unanswered > UNANSWERED_LIMIT

    @property
    def waits(self) -> bool:
        """Whether a BIND is due or unanswered."""
        return self._unanswered > 0 or self._hurried

    def handle_traffic(self, now: float) -> None:
        """Frames cross this relay, or are waiting to."""
        if now >= self._busy_until:
            self.deadline = min(self.deadline, now)
        self._busy_until = now + BUSY_FOR

    def hurry(self, now: float) -> None:
        """Our address may have changed: ask at once."""
        self.deadline = min(self.deadline, now)
        self._hurried = True

    def handle_bound_untrusted(self, payload: bytes, now: float) -> bytes | None:
        """Take a BOUND; returns the BIND to send back when the relay wants its challenge echoed.

        Raises BadPacket("malformed").
        """
        bound = parse_bound(payload)
        if bound.nonce != self._nonce:
            return None
        if self._unanswered:
            self.round_trip.measure(now - self._sent_at)
            self.loss -= LOSS_WEIGHT * self.loss
        self._unanswered = 0
        self.observed = bound.observed
        self.bound = bound.challenge == NO_CHALLENGE
        if bound.challenge != NO_CHALLENGE:
            return self._bind(now, bound.challenge)
        self.deadline = now + (BUSY_INTERVAL if now < self._busy_until else IDLE_INTERVAL)
        return None

    def poll(self, now: float) -> bytes | None:
        """The BIND that is due, if any."""
        if now < self.deadline:
            return None
        return self._bind(now, NO_CHALLENGE)

    def _bind(self, now: float, challenge: bytes) -> bytes:
        self._hurried = False
        if self._unanswered:
            self.loss += LOSS_WEIGHT * (1 - self.loss)
        self._unanswered += 1
        self._nonce = self._random(NONCE_SIZE)
        self._sent_at = now
        self.deadline = now + BUSY_INTERVAL
        return encode_bind(next(self._numbers), self._nonce, challenge)
