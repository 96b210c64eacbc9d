"""Our side of a relay leg: BIND keeps the relay's record of our address, and shows that it lives.

The relay forwards to where the newest BIND came from.  We bind every second while frames cross the
relay, every 25 seconds otherwise, and at once when it asks us to echo a challenge.  By UDP, a BIND that is
not answered within a round trip is repeated; it and its repeats within a second are a round.  Three rounds
without an answer mean that the relay is gone: a link that loses a fifth of all packets each way lost
that relay twice a minute when it took but three BINDs.  Payloads only: sealing and sending is the caller's.
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
"""Rounds."""
PATIENT_LIMIT = 8
"""The same over TCP, where nothing is lost but much can be late."""
DOUBTFUL = 2
"""Rounds without an answer from which on something seems to be wrong."""
REPEAT_AT_LEAST, REPEAT_UNKNOWN, REPEAT_AT_MOST = 0.2, 0.5, 2.0
"""Seconds until a BIND is repeated: by RFC 6298, or while no round trip is known. A round lasts as long where
that is more than a second, so that a relay behind full queues is not given up."""
MAX_WAITING = 16
"""BINDs that may be answered still: all repeats of the rounds that are waited for."""


class Binding:
    """The state of one leg. Call `poll(now)` at or after `deadline`.

    :param random: returns n random bytes.
    :param numbers: those of the session's BINDs; all bindings of one session share them.
    :param patient: it runs over TCP: nothing is repeated, and the relay gets more time.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        now: float,
        numbers: Iterator[int] | None = None,
        patient: bool = False,
    ) -> None:
        self._random = random
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._patient = patient
        self._waiting: dict[bytes, float] = {}
        """When each BIND was sent that may be answered still, by its nonce."""
        self._unanswered = 0
        """Rounds."""
        self._round_at = now
        self._lost = False
        """Whether this round counts as lost: once, however often its BIND is repeated."""
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
        return self._unanswered > (PATIENT_LIMIT if self._patient else UNANSWERED_LIMIT)

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
        sent_at = self._waiting.get(bound.nonce)
        if sent_at is None:
            return None
        self.round_trip.measure(now - sent_at)
        self.loss -= LOSS_WEIGHT * self.loss
        self._waiting.clear()
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
        if self._waiting and not self._lost:
            self._lost = True
            self.loss += LOSS_WEIGHT * (1 - self.loss)
        repeat = min(self.round_trip.timeout(REPEAT_AT_LEAST, REPEAT_UNKNOWN), REPEAT_AT_MOST)
        lasts = max(BUSY_INTERVAL, repeat)
        if not self._unanswered or now >= self._round_at + lasts - 1e-6:
            self._unanswered += 1
            self._round_at = now
            self._lost = False
        nonce = self._random(NONCE_SIZE)
        self._waiting[nonce] = now
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self.deadline = self._round_at + lasts
        if not self._patient:
            self.deadline = min(self.deadline, now + repeat)
        return encode_bind(next(self._numbers), nonce, challenge)
