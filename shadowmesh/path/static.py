"""A direct path to an address that the configuration names: taken while probes come back over it.

It is a candidate until the first answer, and again after `UNANSWERED_LIMIT` lost probes; frames go
through the relay meanwhile.  Finding addresses by itself is no part of it.
"""

from __future__ import annotations

from collections.abc import Callable

from shadowmesh.path.prober import Prober
from shadowmesh.units import Address

UNANSWERED_LIMIT = 3
"""Lost probes in a row, a second apart, after which frames go back to the relay."""


class StaticPath:
    """The direct path of one peer. Call `poll(now)` at or after `deadline`.

    :param random: returns n random bytes.
    """

    def __init__(self, address: Address, random: Callable[[int], bytes]) -> None:
        self.address = address
        self.alive = False
        self.prober: Prober | None = None
        self._random = random

    @property
    def deadline(self) -> float | None:
        """When `poll` wants to be called."""
        return self.prober.deadline if self.prober is not None else None

    def start(self, now: float) -> None:
        """There is a (new) session: try the path with it."""
        self.alive = False
        self.prober = Prober(self._random, now)

    def stop(self) -> None:
        """There is no session."""
        self.alive = False
        self.prober = None

    def poll(self, now: float) -> bytes | None:
        """The probe that is due, if any; `alive` may end here."""
        if self.prober is None:
            return None
        probe = self.prober.poll(now)
        if self.prober.unanswered > UNANSWERED_LIMIT:
            self.alive = False
        return probe

    def handle_reply(self, nonce: bytes, now: float) -> float | None:
        """The round-trip time (seconds) if the nonce is one of ours; `alive` begins here."""
        rtt = self.prober.handle_reply(nonce, now) if self.prober is not None else None
        if rtt is not None:
            self.alive = True
        return rtt
