"""A network in memory, on virtual time: no sockets, no sleeping, the same result in every run."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Protocol

from shadowmesh.units import Address


class Station(Protocol):
    """Something with an address on the network, and timers."""

    address: Address

    def receive(self, data: bytes, source: Address, now: float) -> None:
        """A datagram has arrived."""

    def deadline(self) -> float | None:
        """When `expire` wants to be called."""

    def expire(self, now: float) -> None:
        """Its time has come."""

    def transmit(self) -> list[tuple[bytes, Address]]:
        """Datagrams to send; called after each of the above."""


class Network:
    """Carries datagrams between stations.

    :param latency: seconds one way.
    :param loss: probability that a datagram is lost.
    :param jitter: seconds at most that a datagram is late; more than its spacing reorders.
    :param duplicate: probability that a datagram arrives twice.
    """

    def __init__(
        self,
        latency: float = 0.01,
        loss: float = 0.0,
        jitter: float = 0.0,
        duplicate: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.now = 1000.0
        self.latency, self.loss, self.jitter, self.duplicate = latency, loss, jitter, duplicate
        self.sent: list[tuple[float, Address, Address, bytes]] = []
        """Every datagram that was sent: time, source, destination, bytes."""
        self.filter: Callable[[Address, Address, bytes], bool] = _pass_all
        """Decides whether a datagram passes."""
        self.random = random.Random(seed)
        self._stations: dict[Address, Station] = {}
        self._queue: list[tuple[float, int, bytes, Address, Address]] = []
        self._sequence = itertools.count()

    def attach(self, station: Station) -> None:
        """Give a station its place; one that had the address before is gone."""
        self._stations[station.address] = station
        self._collect(station)

    def detach(self, station: Station) -> None:
        """Cut a station off, as if its machine had died."""
        if self._stations.get(station.address) is station:
            del self._stations[station.address]

    def send(self, data: bytes, source: Address, target: Address) -> None:
        """Put a datagram on its way."""
        self.sent.append((self.now, source, target, data))
        if self.random.random() < self.loss or not self.filter(source, target, data):
            return
        for _ in range(2 if self.random.random() < self.duplicate else 1):
            arrival = self.now + self.latency + self.random.random() * self.jitter
            heapq.heappush(self._queue, (arrival, next(self._sequence), data, source, target))

    def flush(self, station: Station) -> None:
        """Send what a station wants sent after it was touched from outside."""
        self._collect(station)

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
        times = [station.deadline() for station in self._stations.values()]
        times.append(self._queue[0][0] if self._queue else None)
        return min((time for time in times if time is not None), default=None)

    def _step(self, when: float) -> None:
        # One microsecond more: with an exact clock, a deadline rounded by one ulp would never come.
        self.now = max(self.now + 1e-6, when)
        while self._queue and self._queue[0][0] <= self.now:
            _, _, data, source, target = heapq.heappop(self._queue)
            station = self._stations.get(target)
            if station is not None:
                station.receive(data, source, self.now)
                self._collect(station)
        for station in list(self._stations.values()):
            deadline = station.deadline()
            if deadline is not None and deadline <= self.now:
                station.expire(self.now)
                self._collect(station)

    def _collect(self, station: Station) -> None:
        for data, target in station.transmit():
            self.send(data, station.address, target)


def _pass_all(_source: Address, _target: Address, _data: bytes) -> bool:
    return True
