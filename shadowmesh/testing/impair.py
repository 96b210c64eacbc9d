"""What a bad link does to packets, sans-I/O: `Impairment` says it, `Stage` decides it packet by packet.

For each packet that is put on one direction of a link, `Stage.judge` tells when, how often and how damaged
it arrives; `Delayed` keeps what is under way.  The internet in memory (`internet.py`) uses the former on
virtual time, the middlebox between namespaces (`middlebox.py`) both on the real clock.  Knows no packet
format, moves no bytes, reads no clock; everything random comes from the caller's generator.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    import random

T = TypeVar("T")


@dataclass(frozen=True)
class Impairment:
    """One direction of a link.  Probabilities are of a packet; of each fragment, if an IP packet has several.

    :param delay: seconds.
    :param jitter: seconds at most that a packet is late besides; more than its spacing reorders.
    :param loss: share of the packets that is lost.
    :param burst: seconds that a period of loss lasts on average; 0: each packet is lost by itself.
    :param duplicate: probability that a packet arrives twice.
    :param reorder: probability that a packet is held back for `hold` seconds, so that others overtake it.
    :param corrupt: probability that a packet arrives with one bit changed.
    :param mtu: bytes of the largest IP packet; what is larger is dropped, and nobody is told.
    :param fragments: whether IP fragments pass.
    :param rate: bytes a second; 0 is without limit.
    :param queue: seconds that a packet waits at most where there is a `rate`; else it is dropped.
    :param cut: whether nothing passes.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    burst: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    hold: float = 0.02
    corrupt: float = 0.0
    mtu: int = 1500
    fragments: bool = True
    rate: float = 0.0
    queue: float = 0.1
    cut: bool = False


class Fate(NamedTuple):
    """One arrival of a packet: seconds late, and where to change a bit (any number, see `flip`), or None."""

    late: float
    damage: int | None


class Stage:
    """One direction of a link; give it another `impairment` at any time.

    :param drops: counts what does not arrive, by reason: cut, mtu, fragment, queue, loss.
    """

    def __init__(self, impairment: Impairment, random: random.Random, drops: Counter[str]) -> None:
        self.impairment = impairment
        self.drops = drops
        self._random = random
        self._bad = False
        self._looked_at = 0.0
        self._busy_until = 0.0

    def change(self, **changes: Any) -> None:
        """Replace these fields of the impairment."""
        self.impairment = replace(self.impairment, **changes)

    def judge(self, size: int, now: float, fragments: int = 0) -> list[Fate]:
        """Every arrival of a packet that is put on the link now; empty if it is lost.

        :param size: bytes of the IP packet, of the largest one if there are several.
        :param fragments: how many IP fragments it consists of; 0 if it is whole.
        """
        wanted = self.impairment
        reason = self._refusal(size, fragments)
        waits = 0.0
        if not reason and wanted.rate:
            waits = max(self._busy_until - now, 0.0) + size * max(fragments, 1) / wanted.rate
            if waits > wanted.queue:
                reason = "queue"
            else:
                self._busy_until = now + waits
        if not reason and sum(self._loses(now) for _ in range(max(fragments, 1))):
            reason = "loss"
        if reason:
            self.drops[reason] += 1
            return []
        return [self._fate(waits) for _ in range(2 if self._happens(wanted.duplicate) else 1)]

    def _refusal(self, size: int, fragments: int) -> str:
        wanted = self.impairment
        if wanted.cut:
            return "cut"
        if size > wanted.mtu:
            return "mtu"
        return "fragment" if fragments and not wanted.fragments else ""

    def _happens(self, probability: float) -> bool:
        return probability > 0.0 and self._random.random() < probability

    def _loses(self, now: float) -> bool:
        """By itself, or in periods: the two-state Markov chain in continuous time, all lost in the bad state.

        It is in the bad state for `burst` on average, and for a share of `loss` of the time.
        Source: E. N. Gilbert, Capacity of a burst-noise channel, Bell System Technical Journal 39 (1960).
        """
        wanted = self.impairment
        if wanted.burst and 0.0 < wanted.loss < 1.0:
            # How much the state at the packet before still tells.
            memory = math.exp((self._looked_at - now) / (wanted.burst * (1.0 - wanted.loss)))
            self._bad = self._happens(wanted.loss + memory * (self._bad - wanted.loss))
            self._looked_at = now
            return self._bad
        return self._happens(wanted.loss)

    def _fate(self, waits: float) -> Fate:
        wanted = self.impairment
        late = waits + wanted.delay
        if wanted.jitter:
            late += self._random.random() * wanted.jitter
        if self._happens(wanted.reorder):
            late += wanted.hold
        return Fate(late, self._random.getrandbits(32) if self._happens(wanted.corrupt) else None)


class Delayed(Generic[T]):
    """What is under way: in by `put`, out by `poll` in the order of their times."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._sequence = itertools.count()

    @property
    def deadline(self) -> float | None:
        """When `poll` has something next; None if nothing is under way."""
        return self._heap[0][0] if self._heap else None

    def put(self, item: T, when: float) -> None:
        """Have `poll` return it from then on."""
        heapq.heappush(self._heap, (when, next(self._sequence), item))

    def poll(self, now: float) -> list[T]:
        """What has arrived."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            found.append(heapq.heappop(self._heap)[2])
        return found


def flip(data: bytes, damage: int) -> bytes:
    """`data`, not empty, with the bit changed that a `Fate` names."""
    index = damage % (8 * len(data))
    changed = bytearray(data)
    changed[index // 8] ^= 1 << index % 8
    return bytes(changed)
