"""All links of a process: who gets which datagram, and whose timer is next.

Each link comes with two functions of its owner: one that sends its datagrams wherever the peer is
just now, one that takes its events.  Timers stand in one heap, so that ten thousand quiet clients
cost a relay nothing.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable

from shadowmesh.session.link import Ended, Link, LinkEvent
from shadowmesh.session.phases import Phases
from shadowmesh.stages import QUIET, Stage


class Driver:
    """A link in a `LinkSet`, with what its owner wants done."""

    phases: Phases | None = None
    """Of a handshake under way, if somebody wants traces."""

    def __init__(
        self,
        link: Link,
        send: Callable[[bytes], None],
        handle: Callable[[Driver, LinkEvent, float], None],
        first_id: bytes | None,
    ) -> None:
        self.link = link
        self.send = send
        self.handle = handle
        self.first_id = first_id
        """The destination id that the initiator made up; long headers use it until it knows ours."""
        self.ids: set[bytes] = set()
        self.armed_at: float | None = None
        self.pumping = False


class LinkSet:
    """The links of a client or of a relay.

    :param install: called with each 8-byte connection id under which datagrams may arrive now.
    :param remove: called with each id that is retired.
    """

    def __init__(self, install: Callable[[bytes], None], remove: Callable[[bytes], None]) -> None:
        self._install = install
        self._remove = remove
        self._by_id: dict[bytes, Driver] = {}
        self._timers: list[tuple[float, int, Driver]] = []
        self._sequence = itertools.count()
        self._stale = 0
        """Entries of the heap whose driver has another time by now, or none."""

    @property
    def deadline(self) -> float | None:
        """When `handle_timers` wants to be called."""
        return self._timers[0][0] if self._timers else None

    def find(self, connection_id: bytes) -> Driver | None:
        """The link that datagrams with this destination id are for."""
        return self._by_id.get(connection_id)

    def add(
        self,
        link: Link,
        send: Callable[[bytes], None],
        handle: Callable[[Driver, LinkEvent, float], None],
        now: float,
        first_id: bytes | None = None,
        stage: Stage = QUIET,
    ) -> Driver:
        """Take over a new link and send its first datagrams.

        :param first_id: what the initiator made up; None if that is this side.
        :param stage: the handshake, for traces; ends by itself.
        """
        driver = Driver(link, send, handle, first_id)
        if stage.under_way:
            driver.phases = Phases(stage, first_id is not None, now)
        if first_id is not None:
            self._by_id[first_id] = driver
        self.pump(driver, now)
        return driver

    def handle_datagram(self, driver: Driver, data: bytes, now: float) -> None:
        """Give a datagram to its link."""
        self.handle_datagrams(driver, (data,), now)

    def handle_datagrams(self, driver: Driver, datagrams: Iterable[bytes], now: float) -> None:
        """The same for several that came together; they are acknowledged together."""
        for data in datagrams:
            driver.link.handle_datagram(data, now)
        self.pump(driver, now)

    def handle_timers(self, now: float) -> None:
        """Serve every link whose time has come."""
        while self._timers and self._timers[0][0] <= now:
            when, _, driver = heapq.heappop(self._timers)
            if driver.armed_at != when:
                self._stale -= 1
                continue
            driver.armed_at = None
            deadline = driver.link.deadline
            if deadline is not None and deadline <= now:
                driver.link.handle_timer(now)
            self.pump(driver, now)

    def wake(self, driver: Driver) -> None:
        """Have `handle_timers` pump this link as soon as it is called; for owners without `now`."""
        self._disarm(driver)
        self._push(driver, 0.0)

    def pump(self, driver: Driver, now: float) -> None:
        """Send what the link wants sent and hand over its events; after every touch of a link.

        An owner may touch the link again while it handles an event: the outer call goes on from there,
        so that a peer that sends a thousand messages at once can't nest a thousand calls.
        """
        self._transmit(driver, now)
        if driver.pumping:
            return
        driver.pumping = True
        try:
            while (event := driver.link.next_event()) is not None:
                if isinstance(event, Ended):
                    self._forget(driver)
                if driver.phases is not None:
                    driver.phases = driver.phases.handle(event, now)
                driver.handle(driver, event, now)
                self._transmit(driver, now)
        finally:
            driver.pumping = False
        self._synchronise(driver)
        self._arm(driver, now)

    def _transmit(self, driver: Driver, now: float) -> None:
        for datagram in driver.link.transmit(now):
            driver.send(datagram)

    def _synchronise(self, driver: Driver) -> None:
        current = set() if driver.link.ended else driver.link.connection_ids
        for connection_id in driver.ids - current:
            del self._by_id[connection_id]
            self._remove(connection_id)
        for connection_id in current - driver.ids:
            self._by_id[connection_id] = driver
            self._install(connection_id)
        driver.ids = set(current)
        if driver.first_id is not None and driver.link.established:
            self._by_id.pop(driver.first_id, None)
            driver.first_id = None

    def _forget(self, driver: Driver) -> None:
        self._synchronise(driver)
        self._disarm(driver)
        if driver.first_id is not None:
            self._by_id.pop(driver.first_id, None)
            driver.first_id = None

    def _arm(self, driver: Driver, now: float) -> None:
        deadline = driver.link.deadline
        if deadline is None or (driver.armed_at is not None and driver.armed_at <= deadline):
            return
        self._disarm(driver)
        # A deadline in the past (rounding inside aioquic) must not spin on a virtual clock.
        self._push(driver, max(deadline, now + 1e-6))

    def _push(self, driver: Driver, when: float) -> None:
        driver.armed_at = when
        heapq.heappush(self._timers, (when, next(self._sequence), driver))

    def _disarm(self, driver: Driver) -> None:
        """Leave the entry in the heap; once half of the heap is such, make it anew."""
        if driver.armed_at is None:
            return
        driver.armed_at = None
        self._stale += 1
        if self._stale > 16 + len(self._timers) // 2:
            self._timers = [entry for entry in self._timers if entry[2].armed_at == entry[0]]
            heapq.heapify(self._timers)
            self._stale = 0
