"""When addresses that do not answer are asked: in rounds, and with growing pauses between them.

In a round every address gets a REQUEST five times a second, for two seconds, from both sides at once: whoever
begins tells the other by CANDIDATES.  So each NAT sees a packet go out before it has to let one in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from shadowmesh.path.backoff import Backoff
from shadowmesh.path.handshake import MIN_GAP
from shadowmesh.units import Address

ROUND = 2.0
"""Seconds that a round lasts: ten packets to each address."""
PAUSE, PAUSE_CAP, PAUSE_LATE = 1.0, 30.0, 300.0
"""Seconds between rounds: the first, at most, and at most when it has been in vain for five minutes."""
INVITED_GAP = 1.0
"""Seconds at least between the beginnings of rounds that the peer asks for."""
PORTS_ABOVE, PORTS_BELOW = 24, 8
"""Ports near the observed one that are tried where the peer's NAT maps each destination anew: most such NATs
count upwards. 32 small packets per address and round."""
PORTS_PER_VOLLEY = 4
GUESS_ROUNDS = 3
"""Rounds after a change of either network in which ports are guessed: 96 packets of 64 bytes per address."""


class Rounds:
    """The rounds of one peer. Call `volley(now)` at or after `deadline`.

    :param random: returns n random bytes.
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._backoff = Backoff(random, PAUSE, PAUSE_CAP, PAUSE_LATE)
        self._began_at: float | None = None
        self._next_volley: float | None = None
        self._next_round: float | None = None
        self._count = 0
        self.volleys = 0
        """Volleys of the present round that have gone out."""

    @property
    def running(self) -> bool:
        """Whether a round is under way."""
        return self._next_volley is not None

    @property
    def deadline(self) -> float | None:
        """When the next volley is due, or the next round."""
        return self._next_volley if self._next_volley is not None else self._next_round

    @property
    def guessing(self) -> bool:
        """Whether ports may be guessed in this round."""
        return self._count <= GUESS_ROUNDS

    def begin(self, now: float) -> None:
        """A round begins now, or the present one begins anew."""
        self._began_at = self._next_volley = now
        self._next_round = None
        self._count += 1
        self.volleys = 0

    def invite(self, now: float) -> bool:
        """The peer says that it begins a round: join in, unless it says so too often."""
        if self._began_at is not None and now - self._began_at < INVITED_GAP:
            return False
        self.begin(now)
        return True

    def wake(self, now: float) -> bool:
        """Frames flow after a long silence: begin a round, unless the last is not long ago."""
        if self._began_at is not None and now - self._began_at < PAUSE_CAP:
            return False
        self.begin(now)
        return True

    def refresh(self) -> None:
        """Circumstances changed: short pauses again, and ports may be guessed again."""
        self._backoff.reset()
        self._count = 0

    def stop(self) -> None:
        """No more rounds for now."""
        self._next_volley = self._next_round = None

    def volley(self, now: float) -> bool:
        """Whether a packet to each address is due."""
        if self._next_volley is None or now < self._next_volley or self._began_at is None:
            return False
        self.volleys += 1
        self._next_volley = now + MIN_GAP
        if self._next_volley > self._began_at + ROUND - MIN_GAP / 2:
            self._next_volley = None
        return True

    def pause(self, now: float) -> None:
        """The round is over and was not enough: when the next one is due."""
        if self._next_volley is None and self._next_round is None:
            self._next_round = now + self._backoff.next_delay(now)

    def due(self, now: float) -> bool:
        """Whether the pause is over."""
        return self._next_round is not None and now >= self._next_round


def guesses(addresses: Iterable[Address], volley: int) -> Iterator[Address]:
    """The ports to be guessed in this volley (counted from 1), near each of `addresses`."""
    offsets = [*range(1, PORTS_ABOVE + 1), *range(-1, -PORTS_BELOW - 1, -1)]
    chosen = offsets[(volley - 1) * PORTS_PER_VOLLEY : volley * PORTS_PER_VOLLEY]
    for address in addresses:
        for offset in chosen:
            if 1024 <= address.port + offset < 65536:
                yield Address(address.host, address.port + offset)
