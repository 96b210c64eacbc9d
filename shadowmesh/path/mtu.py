"""The largest datagram that a path carries: DPLPMTUD, RFC 8899, over padded probes.

    base       1200 bytes are tried first; a path that does not carry them is tried with less
    search     the largest size at once (it is right on most paths), then halving
    complete   done; after `RAISE_AFTER` the search begins again, for paths may grow

One probe is under way at a time.  Sends nothing and measures no time-out: the caller asks `due_size`,
sends a probe of that size, and tells what became of it.  A lost probe is not a sign that the path is dead.
"""

from __future__ import annotations

import enum

BASE = 1200
"""Bytes of UDP payload that nearly every path carries. Source: RFC 8899 section 5.1.2 (BASE_PLPMTU), for IPv6
and UDP as in RFC 9000 section 14."""
LARGEST = 1452
"""Bytes of UDP payload in 1500 bytes with an IPv6 header; more is tried on larger interfaces only."""
SMALLER = (1024,)
"""Tried in turn where BASE does not pass. Below 1000 the data plane takes no budget: an Ethernet frame would
fall into too many fragments."""
MAX_PROBES = 3
"""Lost probes of one size before it counts as too large. Source: RFC 8899 section 5.1.2."""
STEP = 8
"""Bytes; the search ends when no more than this can be won."""
RAISE_AFTER = 600.0
"""Seconds until a completed search is begun anew. Source: RFC 8899 section 5.1.1 (PMTU_RAISE_TIMER)."""


class MtuState(enum.Enum):
    """Where the search stands, in the words of RFC 8899 section 5.2."""

    BASE = "base"
    SEARCHING = "searching"
    COMPLETE = "complete"


class MtuSearch:
    """The search on one path.

    :param largest: bytes of UDP payload that the local interface can send.
    """

    def __init__(self, largest: int = LARGEST) -> None:
        self.state = MtuState.BASE
        self.confirmed: int | None = None
        """The largest size that came round; None before the first."""
        self.black_holes = 0
        self.largest = largest
        self._too_large = largest + 1
        self._size = BASE
        self._losses = 0
        self._under_way = False
        self._raise_at: float | None = None

    @property
    def budget(self) -> int:
        """Bytes that may go out in one datagram."""
        return self.confirmed or BASE

    @property
    def raise_at(self) -> float | None:
        """When `due_size` wants to be asked though nothing happened."""
        return self._raise_at

    def due_size(self, now: float) -> int | None:
        """The size to probe now, if any; then call `handle_sent`."""
        if self._raise_at is not None and now >= self._raise_at:
            self._raise_at = None
            self._search(self.largest + 1, now)
        return None if self._under_way or self.state is MtuState.COMPLETE else self._size

    def handle_sent(self) -> None:
        """The probe of the size that was due is under way."""
        self._under_way = True

    def handle_answer(self, size: int, now: float) -> None:
        """A probe of `size` bytes came round."""
        if self.confirmed is None or size > self.confirmed:
            self.confirmed = size
        if self.state is not MtuState.COMPLETE and size >= self._size:
            self._under_way = False
            self._losses = 0
            self._search(self._too_large, now)

    def handle_loss(self, size: int, now: float) -> None:
        """A probe of `size` bytes did not come round in time."""
        if self.state is MtuState.COMPLETE or size != self._size or not self._under_way:
            return
        self._under_way = False
        self._losses += 1
        if self._losses < MAX_PROBES:
            return
        self._losses = 0
        if self.state is MtuState.BASE:
            self._size = next((less for less in SMALLER if less < self._size), BASE)
            self._too_large = min(self._too_large, size)
        else:
            self._search(size, now)

    def handle_black_hole(self, now: float) -> None:
        """Datagrams of the confirmed size vanish, smaller ones pass: to the base again. RFC 8899, 4.3."""
        self.black_holes += 1
        self._too_large = self.budget
        self.confirmed = None
        self.state, self._size = MtuState.BASE, BASE if self._too_large > BASE else SMALLER[0]
        self._losses, self._under_way, self._raise_at = 0, False, None

    def set_largest(self, largest: int, now: float) -> None:
        """The local interface changed."""
        if largest == self.largest:
            return
        self.largest = largest
        self._too_large = largest + 1
        if self.confirmed is not None:
            self.confirmed = min(self.confirmed, largest)
            self._search(largest + 1, now)

    def _search(self, too_large: int, now: float) -> None:
        """Choose the next size between what passed and what did not, or end."""
        assert self.confirmed is not None
        self._too_large = max(too_large, self.confirmed + 1)
        self._under_way = False
        self._losses = 0
        room = self._too_large - 1 - self.confirmed
        if room < STEP:
            self.state, self._raise_at = MtuState.COMPLETE, now + RAISE_AFTER
            return
        self.state, self._raise_at = MtuState.SEARCHING, None
        if self._too_large == self.largest + 1:
            self._size = self.largest
        elif self.confirmed < LARGEST < self._too_large - 1:
            self._size = LARGEST
        else:
            self._size = self.confirmed + (room + 1) // 2
