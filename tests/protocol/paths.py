"""Two `PathSet`s on virtual time: the path layer by itself, without sessions, seals and sockets.

Each end has one or more addresses and perhaps a relay's channel; a test decides what passes and how large
it may be. Frames are counted, not carried.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

from shadowmesh.errors import BadPacket
from shadowmesh.path.candidates import Candidate, CandidateKind
from shadowmesh.path.health import TICK, Counters
from shadowmesh.path.paths import PathSet
from shadowmesh.path.way import Way
from shadowmesh.units import Address

RELAY = Address("192.0.2.1", 4433)


class End:
    """One end: its path set, its address, and what a data plane would count."""

    def __init__(self, name: str, address: Address, channel: bytes, seed: int, now: float) -> None:
        self.name = name
        self.address = address
        self.channel = channel
        """Under which the relay forwards to the other end."""
        self.paths = PathSet(random.Random(seed).randbytes, now)
        self.sent = self.received = 0
        self.heard: dict[Way, float] = {}
        self.frame_ways: list[Way] = []
        """On which way each received frame came."""
        self.arrivals: list[float] = []
        self.announcements = 0
        self.log: list[tuple[float, str]] = []
        self.errors: list[str] = []

    @property
    def kind(self) -> str:
        """`direct`, `relay` or `none`: where frames go."""
        current = self.paths.current
        return "none" if current is None else "relay" if current.relayed else "direct"


class PathPair:
    """Both ends, and the time between them.

    :param latency: seconds one way, directly; through the relay it is three times as long.
    """

    def __init__(self, latency: float = 0.01, relay: bool = True) -> None:
        self.now = 1000.0
        self.latency = latency
        self.ends = (
            End("a", Address("198.51.100.1", 5000), b"channel1", 1, self.now),
            End("b", Address("198.51.100.2", 5000), b"channel2", 2, self.now),
        )
        self.passes: Callable[[End, Way, int], bool] = lambda end, way, size: True
        """Whether what `end` sends on `way`, so many bytes of UDP payload, arrives."""
        self.wire: list[tuple[float, Address, Way, int]] = []
        """Everything that was sent: time, source, way, UDP payload in bytes."""
        self.announces = True
        """Whether the ends tell each other their addresses through the relay."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        for end in self.ends:
            if relay:
                end.paths.set_relay(Way(RELAY, end.channel), "relay r", self.now)
            self._at(self.now + TICK, lambda e=end: self._tick(e))  # type: ignore[misc]

    def other(self, end: End) -> End:
        return self.ends[1] if end is self.ends[0] else self.ends[0]

    def start(self, candidates: bool = True) -> None:
        """Sessions are up at both ends; each learns the other's address, now and later, or never."""
        self.announces = candidates
        for end in self.ends:
            end.paths.start(self.now)
            if candidates:
                self.tell(self.other(end), end.address)
            self._collect(end)

    def tell(self, end: End, *addresses: Address, kind: CandidateKind = CandidateKind.LOCAL) -> None:
        """Give `end` a list of the other's candidates."""
        end.paths.set_candidates([Candidate(one, kind) for one in addresses], self.now)
        self._collect(end)

    def frames(self, end: End, count: int = 1, size: int = 1100) -> None:
        """Send frames; `size` is the UDP payload, cut to the budget as the engine would."""
        for _ in range(count):
            route = end.paths.route
            end.sent += 1
            if route is not None:
                self._send(end, b"", route.way, min(size, route.budget))

    def stream(self, end: End, duration: float, gap: float = 0.02, both: bool = True) -> None:
        """Frames from `end`, and as many back with `both`, for so many seconds; time passes."""
        until = self.now + duration
        while self.now < until:
            self.frames(end)
            if both:
                self.frames(self.other(end))
            self.run(gap)

    def run(self, duration: float) -> None:
        """Let time pass."""
        until = self.now + duration
        while (when := self._next()) is not None and when <= until:
            self.now = max(when, self.now + 1e-6)
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for end in self.ends:
                deadline = end.paths.deadline
                if deadline is not None and deadline <= self.now:
                    end.paths.handle_timer(self.now)
                    self._collect(end)
        self.now = until

    def run_until(self, condition: Callable[[], bool], within: float) -> float:
        """Let time pass until it is true; the seconds that took."""
        begun = self.now
        while not condition():
            assert self.now - begun <= within, f"did not come true within {within} s"
            self.run(0.005)
        return self.now - begun

    def move(self, end: End, address: Address) -> None:
        """The end has another address from now on; it is told so by its system."""
        end.address = address
        end.paths.handle_network_change(self.now)
        self._collect(end)

    def inject(self, end: End, payload: bytes, way: Way) -> None:
        """An authentic payload arrives at `end`, seemingly on `way`."""
        self._deliver(end, payload, way, 29 + len(payload))

    def _send(self, end: End, payload: bytes, way: Way, size: int) -> None:
        """An empty payload stands for a frame."""
        self.wire.append((self.now, end.address, way, size))
        target = self.other(end)
        known = way.relayed or way.address == target.address
        if not (known and self.passes(end, way, size)):
            return
        back = Way(RELAY, target.channel) if way.relayed else Way(end.address)
        delay = self.latency * (3 if way.relayed else 1)
        self._at(self.now + delay, lambda: self._deliver(target, payload, back, size))

    def _deliver(self, end: End, payload: bytes, way: Way, size: int) -> None:
        end.heard[way] = self.now
        if payload and payload[0] != 3:
            try:
                end.paths.handle_payload_untrusted(payload, way, self.now)
            except BadPacket as error:
                end.errors.append(error.reason)
        elif not payload:
            end.received += 1
            end.arrivals.append(self.now)
            if not end.frame_ways or end.frame_ways[-1] != way:
                end.paths.handle_source(way, self.now)
            end.frame_ways.append(way)
        self._collect(end)

    def _tick(self, end: End) -> None:
        route = end.paths.route
        heard = end.heard.get(route.way, 0.0) if route is not None else 0.0
        end.paths.handle_counters(Counters(end.sent, end.received, heard), self.now)
        self._collect(end)
        self._at(
            self.now + (TICK if end.paths.active(self.now) else 1.0),
            lambda: self._tick(end),
        )

    def _collect(self, end: End) -> None:
        for payload, way in end.paths.poll_transmit():
            self._send(end, payload, way, len(payload) + way.overhead)
        end.log += [(self.now, change) for change in end.paths.poll_changes()]
        if end.paths.poll_announcement():
            end.announcements += 1
            other = self.other(end)
            listed = [Candidate(end.address, CandidateKind.LOCAL)]
            if end.paths.relay is not None and self.announces:
                self._at(self.now + 3 * self.latency, lambda: self._announced(other, listed))

    def _announced(self, end: End, listed: list[Candidate]) -> None:
        end.paths.set_candidates(listed, self.now)
        self._collect(end)

    def _at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (when, next(self._sequence), action))

    def _next(self) -> float | None:
        times = [end.paths.deadline for end in self.ends]
        times.append(self._queue[0][0] if self._queue else None)
        return min((time for time in times if time is not None), default=None)
