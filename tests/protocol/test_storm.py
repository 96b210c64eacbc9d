"""A relay that everybody comes back to at once: it gets slower, but what it does is never for nothing.

The relay's thread is modelled with what each step of it costs, sixteen times slower than a real one, so
that fifty clients are as many as eight hundred.  The rest is real: the protocol, and clients that repeat
themselves, give up and dial again.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

import pytest

from bench.crowd import PacketInfo, Station, destination
from shadowmesh.crypto.identity import Identity
from shadowmesh.units import Address
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import RELAY_IDENTITY

CLIENTS, SLOWNESS = 50, 16
BEGIN, STEP, DATAGRAM = 0.004 * SLOWNESS, 0.00005 * SLOWNESS, 0.0002 * SLOWNESS
"""Seconds to begin a handshake, to look at anything at all, and for each datagram in or out."""
RING = 400 // SLOWNESS
"""Long headers that wait at the relay's thread (ext/receive.pyx), and how many it takes at once."""
PER_POLL = 8
LATENCY = 0.02


class BusyRelay(MemoryRelay):
    """A relay whose thread has one thing to do at a time, as server.py and the forwarder give them to it."""

    control: deque[tuple[bytes, Address]]
    strangers: deque[tuple[bytes, Address]]
    free_at = 0.0
    most_begun = 0
    taken = 0

    def hear(self, data: bytes, source: Address, now: float) -> None:
        """What the forwarder's thread does: BIND at once, handshakes under way apart from strangers."""
        name = destination(data)
        if name in self.tables.control:
            self.control.append((data, source))
        elif data[0] & 0x80 == 0:
            self.receive(data, source, now)
        elif len(self.strangers) < RING:
            self.strangers.append((data, source))

    @property
    def work_at(self) -> float:
        waits = self.control or self.strangers
        return max(self.free_at, 0.0 if waits else self.core.deadline)

    def work(self, now: float) -> list[tuple[bytes, Address]]:
        """One step, and what it sends."""
        before = self.core._reception.greetings + len(self.core._half_open)
        if self.control:
            self.core.handle_datagram(*self.control.popleft(), now)
            cost = DATAGRAM
        elif self.strangers and self.taken < PER_POLL:
            self.taken += 1
            self.core.handle_datagram(*self.strangers.popleft(), now)
            cost = STEP
        else:
            self.taken = 0
            self.core.handle_timer(now)
            cost = STEP
        sent = self.transmit()
        begun = len(self.core._half_open) + self.core._reception.greetings > before and cost == STEP
        self.free_at = now + cost + BEGIN * begun + DATAGRAM * len(sent)
        self.most_begun = max(self.most_begun, len(self.core._half_open))
        return sent


class Storm:
    """A relay and its clients on virtual time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.relay = Address("192.0.2.1", 4433)
        self.relay_id = RELAY_IDENTITY.node_id
        self.by_id: dict[bytes, tuple[Station, tuple[int, object] | None]] = {}
        self.random = random.Random(7).randbytes
        self.up: set[Station] = set()
        admission = Admission(True, frozenset())
        self.server = BusyRelay(RELAY_IDENTITY, admission, self.relay, self.now, 7)
        self.server.control, self.server.strangers = deque(), deque()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.stations = [
            Station(self, number, Identity.generate(f"client{number}"), None)  # type: ignore[arg-type]
            for number in range(CLIENTS)
        ]

    def send(self, data: bytes, source: PacketInfo) -> None:
        address = Address(".".join(str(byte) for byte in source[0][2][4:8]), 5000)
        self._after(LATENCY, lambda: self.server.hear(data, address, self.now))

    def connected(self, station: Station) -> None:
        self.up.add(station)

    def lost(self, station: Station) -> None:
        self.up.discard(station)

    def run(self, until: Callable[[], bool], within: float) -> None:
        for station in self.stations:
            station.start(self.now)
            self._arm(station)
        end = self.now + within
        while not until():
            when = min(self._queue[0][0], self.server.work_at)
            assert when <= end, f"{len(self.up)} of {CLIENTS} are connected after {within} s"
            self.now = max(self.now + 1e-6, when)
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            if self.server.work_at <= self.now:
                for data, _ in self.server.work(self.now):
                    self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        def arrive() -> None:
            found = self.by_id.get(destination(data))
            if found is not None:
                found[0].receive(data, found[1], self.now)  # type: ignore[arg-type]
                self._arm(found[0])

        self._after(self.server.free_at - self.now + LATENCY, arrive)

    def _after(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), action))

    def _arm(self, station: Station) -> None:
        """An alarm that comes too early does no harm."""

        def ring() -> None:
            if station.deadline is not None and station.deadline <= self.now:
                station.handle_timer(self.now)
            self._arm(station)

        deadline = station.deadline
        if deadline is not None and getattr(station, "alarm", None) != deadline:
            station.alarm = deadline  # type: ignore[attr-defined]
            self._after(max(0.0, deadline - self.now), ring)


@pytest.mark.timeout(60)
def test_a_storm_of_clients_is_served_at_the_speed_of_the_relay() -> None:
    storm = Storm()
    storm.run(lambda: len(storm.up) == CLIENTS, 20.0)
    core = storm.server.core
    assert core.handshakes["completed"] == CLIENTS
    assert core.handshakes["failed"] == 0, "whoever is begun gets through"
    assert core.drops["late_initial"] > 0, "they had to wait, and what they repeated cost nothing"
    assert storm.server.most_begun < 8, "one is begun when those before have what they need"
