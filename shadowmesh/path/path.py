"""One path to a peer: its state, what was measured of it, and when it is probed next.

    trying    only REQUESTs go there; nothing has come back
    checking  the address echoed a challenge; a full-size probe is under way
    usable    a full-size payload of ours came round: frames may go there
    failed    it fell silent, or never answered

Makes payloads; sealing, sending and choosing among paths is not its business.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from shadowmesh.path.candidates import CandidateKind
from shadowmesh.path.keepalive import Keepalive
from shadowmesh.path.mtu import LARGEST, MAX_PROBES, SMALLER, MtuSearch
from shadowmesh.path.probes import Probe, Probes
from shadowmesh.path.way import Way
from shadowmesh.units import Address

ACTIVE_INTERVAL = 1.0
"""Seconds between probes of the path that carries frames: one of confirmed size and one small."""
WEIGHED_INTERVAL = 1.0
"""Seconds between probes of a direct path that works while frames take the relay: what kept them from it may
have been one bad moment, such as the start of the machine.  And of all others where frames are lost: that it
is better there has to be known before they go."""
STANDBY_INTERVAL = 20.0
"""Seconds between probes of the others meanwhile: they must be known to work when they are needed."""
FRESH_FOR = 50.0
"""Seconds without a sign of life after which a path that is not in use no longer counts as usable."""
RETRY_ACTIVE, RETRY_IDLE = 0.2, 1.0
"""Seconds until an unanswered probe is repeated."""
MISSED_LIMIT = 5
"""Rounds of probes without any answer after which a path has failed."""
SILENCE_LIMIT = 0.6
"""Seconds, or three round trips if that is more, without an answer to frames: then a path is left."""
LEFT_AFTER = 0.1
"""Seconds, or two round trips, that a path gets to answer when the peer's frames come from elsewhere."""
BIG_LOST_LIMIT = 5
"""Probes of confirmed size lost in a row, while small ones pass, that make a black hole of the MTU."""
CHECK_LIMIT = MAX_PROBES * (1 + len(SMALLER))
"""Probes of the base size and the smaller ones that a path may lose before it has failed."""


class PathState(enum.Enum):
    """Where a path stands; the value is what `status` shows."""

    TRYING = "trying"
    CHECKING = "checking"
    USABLE = "usable"
    FAILED = "failed"


class Pace(enum.Enum):
    """How eagerly a path is probed."""

    ACTIVE = "active"
    """It carries frames."""
    WEIGHED = "weighed"
    """It works and is direct, yet a relay carries frames; or the path that does loses some."""
    STANDBY = "standby"
    """Another one carries frames."""
    IDLE = "idle"
    """It is chosen, and carries none: kept open, if that needs anything at all."""
    REST = "rest"
    """Nobody needs it now."""


class Path:
    """Call `poll` at or after `deadline`.

    :param kind: how the address became known; None for the path through a relay, which may be used at once.
    :param name: for people.
    :param random: returns n random bytes.
    :param keepalive: what was learned of the NATs on the way to this peer; shared by its paths.
    """

    def __init__(
        self,
        way: Way,
        kind: CandidateKind | None,
        name: str,
        random: Callable[[int], bytes],
        now: float,
        keepalive: Keepalive,
        largest: int = LARGEST,
    ) -> None:
        self.way = way
        self.kind = kind
        self.name = name
        self.state = PathState.USABLE if kind is None else PathState.TRYING
        self.detail = ""
        """Why it has failed, for people."""
        self.pace = Pace.REST
        self.probes = Probes(random)
        self.mtu = MtuSearch(largest)
        self.keepalive = keepalive
        self.untranslated = False
        """No address is translated on it, and both ends are private: no NAT or firewall that forgets."""
        self.observed: Address | None = None
        """Where the peer sees us on it."""
        self.heard_at = now
        self.silent_since: float | None = None
        """When the first probe was sent that, like all after it, was not answered."""
        self.asked_at = now
        """When the last REQUEST went there."""
        self._left = False
        self._left_at = now
        self._left_until: float | None = None
        """Until when it may still answer."""
        self._base = now
        self._due_at: float | None = now if kind is None else None
        self._answered_at = now
        self._missed = 0
        self._big_lost = 0
        self._check_lost = 0
        self._kept = False
        """The probe under way ends a silence of the keepalive's length."""

    # Getters.

    @property
    def relayed(self) -> bool:
        """Whether it leads through a relay."""
        return self.kind is None

    @property
    def usable(self) -> bool:
        """Whether frames may go there."""
        return self.state is PathState.USABLE

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time in seconds."""
        return self.probes.round_trip.smoothed

    @property
    def lowest(self) -> float | None:
        """Lowest recent round-trip time in seconds: what paths are compared by."""
        return self.probes.round_trip.lowest

    @property
    def jitter(self) -> float | None:
        """Mean deviation of the round-trip time in seconds."""
        return self.probes.round_trip.variation

    @property
    def loss(self) -> float:
        """Share of probes lost lately."""
        return self.probes.loss

    @property
    def counted(self) -> int:
        """Probes that `loss` rests upon."""
        return self.probes.counted

    @property
    def patience(self) -> float:
        """Seconds that frames may stay without any sign of life: max(3 RTT, 600 ms)."""
        return max(SILENCE_LIMIT, 3 * (self.rtt or 0.0))

    @property
    def left_by_peer(self) -> bool:
        """Whether the peer sends from elsewhere, and this path did not answer when asked about it."""
        return self._left and self._left_until is None

    @property
    def answers(self) -> bool:
        """Whether the last probe was answered, as far as we know."""
        return self.usable and not self._missed

    @property
    def unproved_stranger(self) -> bool:
        """Whether only a source address names it, which anybody who copies packets can choose.

        It is asked when something authentic comes from there, never by the clock: it gets no more than that.
        """
        return self.kind is CandidateKind.PEER and self.observed is None

    def works(self, now: float) -> bool:
        """Whether it is not known to be silent: a probe that is still on its way says nothing."""
        waited = 0.0 if self.silent_since is None else now - self.silent_since
        return self.usable and (not self._missed or waited < self.patience)

    def fresh(self, now: float) -> bool:
        """Whether it showed life lately."""
        return self.relayed or now - self.heard_at < FRESH_FOR

    @property
    def deadline(self) -> float | None:
        """When `poll` wants to be called."""
        times = [self.probes.expires_at, self._probe_at, self._left_until]
        if self._searches:
            times.append(0.0 if self.mtu.due_size(0.0) is not None else None)
            times.append(self.mtu.raise_at if self.pace is Pace.ACTIVE else None)
        return min((time for time in times if time is not None), default=None)

    # What happened.

    def set_pace(self, pace: Pace) -> None:
        """The peer's traffic changed, or the choice of path."""
        self.pace = pace

    def hurry(self, now: float) -> None:
        """Somebody doubts it: probe it at once."""
        if self.usable or self.relayed:
            self._due_at = now

    def handle_left(self, now: float) -> None:
        """The peer's frames come from another address now."""
        if not self._left:
            self._left_at = now
            self._left, self._left_until = True, now + max(LEFT_AFTER, 2 * (self.rtt or 0.0))
        self.hurry(now)

    def handle_heard(self, now: float) -> None:
        """Something authentic came from there; whatever holds a NAT open for one side does so for both."""
        self.heard_at = now
        self._left, self._left_until = False, None
        if self.pace is Pace.IDLE and not self._missed:
            self._base = now

    def handle_carried(self, heard_at: float) -> None:
        """The data plane heard something at that time."""
        self.heard_at = max(self.heard_at, heard_at)
        if heard_at > self._left_at:
            self._left, self._left_until = False, None

    def handle_proved(self, rtt: float, observed: Address, now: float) -> None:
        """The address echoed a challenge: full size may be tried."""
        self.handle_heard(now)
        self.probes.round_trip.measure(rtt)
        self.observed = observed
        if self.state in (PathState.TRYING, PathState.FAILED):
            self.state = PathState.CHECKING
            self.probes.clear()
            self.probes.loss, self.probes.counted = 0.0, 0
            self.mtu = MtuSearch(self.mtu.largest)
            self._missed = self._big_lost = self._check_lost = 0
            self.silent_since = None

    def handle_reply(self, nonce: bytes, now: float) -> float | None:
        """The round-trip time if one of our probes is answered."""
        probe = self.probes.handle_reply(nonce, now)
        if probe is None:
            return None
        self.handle_heard(now)
        if self._kept:
            self.keepalive.handle_outlived()
        self._kept = False
        self._missed = 0
        self._answered_at = now
        self._base = now
        self.silent_since = None
        if probe.size:
            self._handle_big_answer(probe, now)
        if self.relayed and not self.usable:
            self.state, self.detail = PathState.USABLE, ""
        return now - probe.sent_at

    def fail(self, detail: str) -> None:
        """It is no good; `detail` for people. A relay's path goes on being probed."""
        if self._kept:
            self.keepalive.handle_forgotten()
        self._kept = False
        self.state, self.detail = PathState.FAILED, detail
        if not self.relayed:
            self.probes.clear()
            self._due_at = None

    # Output.

    def create_probe(self, now: float) -> bytes:
        """A small probe beside the regular ones; `handle_reply` knows its nonce."""
        return self.probes.create(now)

    def poll(self, now: float) -> list[bytes]:
        """Probes to send now; `state` may change here."""
        if self._left_until is not None and now >= self._left_until:
            self._left_until = None
        for probe in self.probes.expire(now):
            self._handle_lost(probe, now)
        due = []
        if self._searches:
            size = self.mtu.due_size(now)
            if size is not None:
                self.mtu.handle_sent()
                due.append(self.probes.create(now, size, self.way.overhead))
        when = self._probe_at
        if when is not None and now >= when:
            due += self._ask(now)
        return due

    # Inside.

    @property
    def _searches(self) -> bool:
        """Whether sizes are tried now; a path that rests is left alone."""
        checking = self.state is PathState.CHECKING
        return checking or (self.usable and self.pace in (Pace.ACTIVE, Pace.IDLE) and not self._missed)

    @property
    def _probe_at(self) -> float | None:
        if not (self.usable or self.relayed):
            return None
        if self._due_at is not None:
            return self._due_at
        if self.pace is Pace.REST:
            return None
        if self._missed:
            return self._base + (RETRY_ACTIVE if self.pace is Pace.ACTIVE else RETRY_IDLE)
        interval = self._interval
        return None if interval is None else self._base + interval

    @property
    def _interval(self) -> float | None:
        if self.pace is Pace.ACTIVE:
            return ACTIVE_INTERVAL
        if self.pace is Pace.WEIGHED:
            return WEIGHED_INTERVAL
        if self.pace is Pace.STANDBY:
            return STANDBY_INTERVAL
        if self.pace is Pace.IDLE and not self.relayed and not self.untranslated:
            return self.keepalive.interval
        return None

    def _ask(self, now: float) -> list[bytes]:
        self._due_at = None
        if self._missed == 0:
            self.silent_since = now
            self._kept = self.pace is Pace.IDLE and now - self._base >= self.keepalive.interval - 1e-3
        elif self._missed >= MISSED_LIMIT and now - (self.silent_since or now) >= self.patience:
            self.fail("stopped answering")
            if not self.relayed:
                return []
        self._missed += 1
        self._base = now
        due = [self.probes.create(now)]
        if self.pace is Pace.ACTIVE and self.mtu.confirmed is not None:
            # Where one was lost, two at once: TCP waits twice as long after each time-out.
            count, size = 2 if self._big_lost else 1, self.mtu.confirmed
            due += (self.probes.create(now, size, self.way.overhead) for _ in range(count))
        return due

    def _handle_big_answer(self, probe: Probe, now: float) -> None:
        self._big_lost = 0
        self.mtu.handle_answer(probe.size, now)
        if self.state is PathState.CHECKING:
            self.state, self.detail = PathState.USABLE, ""

    def _handle_lost(self, probe: Probe, now: float) -> None:
        if not probe.size:
            return
        self.mtu.handle_loss(probe.size, now)
        if self.state is PathState.CHECKING:
            self._check_lost += 1
            if self._check_lost >= CHECK_LIMIT:
                self.fail("small packets pass, full-size ones do not")
        elif self.mtu.confirmed is not None and probe.size <= self.mtu.confirmed:
            self._big_lost += 1
            if self._big_lost >= BIG_LOST_LIMIT and self._answered_at >= probe.sent_at:
                self._big_lost = 0
                self.mtu.handle_black_hole(now)
            else:
                self.hurry(now)
