"""Networks in memory, on virtual time: no sockets, no sleeping, the same result in every run.

`VirtualTime` drives stations and their timers; `Network` joins them flatly, each by one address.
Hosts with several addresses, NATs and links of their own are in `internet.py`.
"""

from __future__ import annotations

import heapq
import itertools
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from shadowmesh.testing.impair import Impairment, Stage, flip
from shadowmesh.units import Address

LARGEST = 65_535
"""Bytes of any datagram: this network knows no headers, and no MTU where none is asked for."""


class Station(Protocol):
    """Something with an address on the network, and timers."""

    @property
    def address(self) -> Address:
        """Where it is reached, as far as it knows."""

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """A datagram has arrived."""

    def deadline(self) -> float | None:
        """When `expire` wants to be called."""

    def expire(self, now: float) -> None:
        """Its time has come."""

    def transmit(self) -> list[tuple[bytes, Address]]:
        """Datagrams to send; called after each of the above."""


class VirtualTime(ABC):
    """A clock that jumps from one thing that happens to the next."""

    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()

    @abstractmethod
    def stations(self) -> Iterable[Station]:
        """All that have timers."""

    @abstractmethod
    def flush(self, station: Station) -> None:
        """Send what a station wants sent after it was touched from outside."""

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Call `action` in `delay` seconds."""
        heapq.heappush(self._queue, (self.now + delay, next(self._sequence), action))

    def run_until(self, condition: Callable[[], bool], within: float) -> None:
        """Let time pass until `condition` holds; AssertionError if it does not `within` seconds."""
        end = self.now + within
        while not condition():
            when = self._next_time()
            if when is None or when > end:
                raise AssertionError(f"did not come true within {within} s of virtual time")
            self._step(when)

    def run_for(self, duration: float) -> None:
        """Let `duration` seconds pass."""
        end = self.now + duration
        while (when := self._next_time()) is not None and when <= end:
            self._step(when)
        self.now = end

    def _next_time(self) -> float | None:
        times = [station.deadline() for station in self.stations()]
        times.append(self._queue[0][0] if self._queue else None)
        return min((time for time in times if time is not None), default=None)

    def _step(self, when: float) -> None:
        # One microsecond more: with an exact clock, a deadline rounded by one ulp would never come.
        self.now = max(self.now + 1e-6, when)
        while self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        for station in list(self.stations()):
            deadline = station.deadline()
            if deadline is not None and deadline <= self.now:
                station.expire(self.now)
                self.flush(station)


class Network(VirtualTime):
    """Carries datagrams between stations, all over one link.

    :param latency: seconds one way, where no link is given.
    """

    def __init__(self, latency: float = 0.01, seed: int = 1, link: Impairment | None = None) -> None:
        super().__init__(seed)
        self.drops: Counter[str] = Counter()
        """Datagrams that the link lost, by reason."""
        self.link = Stage(link or Impairment(delay=latency, mtu=LARGEST), self.random, self.drops)
        self.sent: list[tuple[float, Address, Address, bytes]] = []
        """Every datagram that was sent: time, source, destination, bytes."""
        self.filter: Callable[[Address, Address, bytes], bool] = _pass_all
        """Decides whether a datagram passes."""
        self._stations: dict[Address, Station] = {}

    @property
    def latency(self) -> float:
        """Seconds one way."""
        return self.link.impairment.delay

    def stations(self) -> Iterable[Station]:
        return self._stations.values()

    def attach(self, station: Station) -> None:
        """Give a station its place; one that had the address before is gone."""
        self._stations[station.address] = station
        self.flush(station)

    def detach(self, station: Station) -> None:
        """Cut a station off, as if its machine had died."""
        if self._stations.get(station.address) is station:
            del self._stations[station.address]

    def send(self, data: bytes, source: Address, target: Address) -> None:
        """Put a datagram on its way."""
        self.sent.append((self.now, source, target, data))
        if not self.filter(source, target, data):
            return
        for late, damage in self.link.judge(len(data), self.now):
            arriving = data if damage is None else flip(data, damage)
            self.after(late, partial(self._deliver, arriving, source, target))

    def flush(self, station: Station) -> None:
        for data, target in station.transmit():
            self.send(data, station.address, target)

    def _deliver(self, data: bytes, source: Address, target: Address) -> None:
        station = self._stations.get(target)
        if station is not None:
            station.receive(data, source, self.now)
            self.flush(station)


def _pass_all(_source: Address, _target: Address, _data: bytes) -> bool:
    return True
