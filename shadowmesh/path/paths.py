"""All paths to one peer: one of those that work is chosen for its frames, and all are probed accordingly.

    `finder`: an address is proved  ->  `path`: full size came round, measured  ->  `selector`: chosen

Sans-I/O: payloads and the `Way` they came on go in; payloads with the way to send them on, log lines and
one deadline come out.  The caller seals payloads in lane 0 of the session and owns the data plane: it
compares `route` with what it has installed.  Call order: after any `handle_*` or command take
`poll_transmit()`, `poll_changes()`, `poll_announcement()` and `route`, then look at `deadline`.

Error contract: what comes from the network raises BadPacket, and leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from shadowmesh.errors import BadPacket
from shadowmesh.path.candidates import Candidate, CandidateKind
from shadowmesh.path.finder import Finder
from shadowmesh.path.health import DOUBT_AFTER, Counters, Health
from shadowmesh.path.keepalive import Keepalive
from shadowmesh.path.mtu import LARGEST
from shadowmesh.path.path import Pace, Path
from shadowmesh.path.selector import Policy, choose
from shadowmesh.path.way import Way
from shadowmesh.wire.payload import Kind, encode_probe, parse_probe

STANDBY_FOR = 60.0
"""Seconds after the last frame for which other paths are kept ready and rounds go on."""
LOSSY = 0.1
"""Share of lost probes above which the other paths are measured as closely as the one in use."""
EAGER_FOR = 300.0
"""Seconds after a change for which rounds go on without any frames: to be direct before it is needed."""
STABLE_AFTER = 30.0
"""Seconds that a direct path must have carried frames before its end starts the back-off anew."""
LOST_AFTER = 10.0
"""Seconds without an answer on the only path there is, after which the peer counts as gone: longer than a
relay's restart takes to be noticed."""
EMPTY = bytes((Kind.EMPTY,))


class Route(NamedTuple):
    """Where frames go, and the largest UDP payload (bytes) that may go there."""

    way: Way
    budget: int


class PathSet:
    """The paths of one peer.

    :param random: returns n random bytes.
    :param policy: chooses among them.
    :param direct: whether direct paths are allowed at all; if not, nobody learns our address from us.
    :param strangers: whether addresses become candidates only because the peer's packets came from there.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        now: float,
        policy: Policy = choose,
        direct: bool = True,
        strangers: bool = True,
    ) -> None:
        self.current: Path | None = None
        self.reason = "there is no path yet"
        self.chosen_at = now
        self.running = False
        self.finder = Finder(random, self._new_path, strangers)
        self._largest = LARGEST
        self._random = random
        self._policy = policy
        self._allowed = direct
        self._relay: Path | None = None
        self._health = Health()
        self._keepalive = Keepalive()
        self._source: Way | None = None
        self._eager_until = now
        self._outbox: list[tuple[bytes, Way]] = []
        self._changes: list[str] = []
        self._announce = False

    # Getters.

    @property
    def paths(self) -> list[Path]:
        """All of them, that through the relay first."""
        return [*([self._relay] if self._relay is not None else []), *self.finder.found.values()]

    @property
    def relay(self) -> Path | None:
        """The path through the relay."""
        return self._relay

    @property
    def direct(self) -> Path | None:
        """The path in use, if it is a direct one."""
        return self.current if self.current is not None and not self.current.relayed else None

    @property
    def searching(self) -> bool:
        """Whether addresses are being asked, or one has answered, and no direct path is in use."""
        return self.running and self.direct is None and (self.finder.rounds.running or self.finder.works)

    @property
    def route(self) -> Route | None:
        """Where frames go now; None without a session or a path."""
        if not self.running or self.current is None:
            return None
        return Route(self.current.way, self.current.mtu.budget)

    def active(self, now: float) -> bool:
        """Whether `handle_counters` wants to be called every `health.TICK`, not only every second."""
        return self.running and self._health.active(now)

    def lost(self, now: float) -> bool:
        """Whether nothing answers any more: the peer itself seems to be gone."""
        path = self.current
        if path is None or path.usable or path.silent_since is None:
            return False
        return now - path.silent_since >= LOST_AFTER

    @property
    def deadline(self) -> float | None:
        """When `handle_timer` wants to be called."""
        if not self.running:
            return None
        times = [path.deadline for path in self.paths]
        if self.finder.found and self._allowed:
            times.append(self.finder.rounds.deadline)
        return min((time for time in times if time is not None), default=None)

    # Commands.

    def start(self, now: float) -> None:
        """There is a session: measure the relay's path, and look for others as soon as there are candidates.

        A session that follows another keeps the paths of that.
        """
        if self.running:
            for path in self.paths:
                path.hurry(now)
        else:
            self.running = True
            self._health = Health()
            self._eager_until = now + EAGER_FOR
            self.finder.follow(self.current, now)
            self._begin_round(now)
            if self._relay is not None:  # what was measured, or missed, was of another session
                self._relay = self._new_path(self._relay.way, None, self._relay.name, now)
        self._decide(now)

    def stop(self) -> None:
        """There is no session, or the peer is another instance: what was proved no longer counts."""
        self.running = False
        self.finder.clear()
        self._source = None
        self.current, self.reason = None, "there is no session"
        self._outbox.clear()

    def set_relay(self, way: Way | None, name: str, now: float) -> None:
        """The channel through a relay, or None when there is none any more."""
        if way is None:
            self._relay = None
        elif self._relay is None or self._relay.way != way:
            self._relay = self._new_path(way, None, name, now)
        else:
            self._relay.hurry(now)
        self._decide(now)

    def set_candidates(self, listed: Iterable[Candidate], now: float) -> None:
        """All usable addresses of the peer that we know of; those that work are kept in any case."""
        if not self._allowed:
            return
        self.finder.set_candidates(listed)
        self._eager_until = max(self._eager_until, now + EAGER_FOR)
        if self.running:
            self.finder.follow(self.current, now)
            if self.finder.rounds.invite(now):
                self._ask(now)
            self._decide(now)

    def set_largest(self, largest: int, now: float) -> None:
        """Bytes of UDP payload that our own interfaces can send."""
        self._largest = largest
        for path in self.paths:
            path.mtu.set_largest(largest, now)

    def handle_network_change(self, now: float) -> None:
        """Our addresses or routes changed, or this machine has slept: nothing that we knew is certain."""
        self.finder.rounds.refresh()
        self._keepalive.forget()
        self._eager_until = now + EAGER_FOR
        for path in self.paths:
            path.hurry(now)
        if self.running:
            self._begin_round(now)
            if self.direct is not None:
                self.finder.request(self.direct.way, now)

    def hurry(self, now: float) -> None:
        """Somebody wants to know what works: probe what is in use, and look for better."""
        for path in self.paths:
            path.hurry(now)
        if self.running and self.direct is None and not self.finder.rounds.running:
            self._begin_round(now)

    def create_probe(self, now: float) -> bytes | None:
        """Send a probe on the path in use; returns its nonce, None without a path."""
        if not self.running or self.current is None:
            return None
        request = self.current.create_probe(now)
        self._outbox.append((request, self.current.way))
        return parse_probe(request)

    # What comes.

    def handle_payload_untrusted(self, payload: bytes, way: Way, now: float) -> float | None:
        """An authentic payload of lane 0 that came on `way`; the RTT if it answers a probe of ours.

        Raises BadPacket.
        """
        kind = payload[0]
        rtt: float | None = None
        if not (way.relayed or self._allowed):
            raise BadPacket("direct_refused")
        if kind == Kind.PROBE_REQUEST:
            self._outbox.append((encode_probe(Kind.PROBE_REPLY, parse_probe(payload)), way))
        elif kind == Kind.PROBE_REPLY:
            nonce, path = parse_probe(payload), self._find(way)
            rtt = path.handle_reply(nonce, now) if path is not None else None
        elif kind in (Kind.PATH_REQUEST, Kind.PATH_RESPONSE, Kind.PATH_COMPLETE):
            if way.relayed:
                raise BadPacket("unexpected_kind")
            self.finder.handle_handshake_untrusted(kind, payload, way, self.current, now)
        else:
            raise BadPacket("unexpected_kind")
        self._handle_source(way, now)
        self._decide(now)
        return rtt

    def handle_source(self, way: Way, now: float) -> None:
        """The peer's frames come on this way from now on (EVENT_SOURCE)."""
        self._source = way
        current = self.direct
        if current is not None and current.way != way:
            if way.relayed:
                current.hurry(now)
            else:
                current.handle_left(now)
        self._handle_source(way, now)
        self._decide(now)

    def handle_counters(self, counters: Counters, now: float) -> None:
        """What the data plane has counted: every `health.TICK` while `active`, else once a second."""
        if not self.running:
            return
        path, health = self.current, self._health
        back = self._source or (path.way if path is not None else None)
        idle_for = health.idle_for(now)
        health.handle_counters(counters, path is not None and path.way == back, now)
        if self._allowed and health.active(now) and idle_for > STANDBY_FOR and self.direct is None:
            self._announce = self.finder.rounds.wake(now) or self._announce
        if path is not None:
            self._watch(path, counters, now)
        source = self._find(back) if back is not None else None
        if source is not None and (source.relayed or source.usable) and health.owes(now):
            self._outbox.append((EMPTY, source.way))
            health.handle_answered()
        self._decide(now)

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        if not self.running:
            return
        if self.finder.rounds.due(now):
            self._begin_round(now)
        self._ask(now)
        for path in self.paths:
            for payload in path.poll(now):
                self._outbox.append((payload, path.way))
        self._decide(now)

    # Output.

    def poll_transmit(self) -> list[tuple[bytes, Way]]:
        """Payloads to seal in lane 0 and send, each on its way."""
        outbox, self._outbox = [*self._outbox, *self.finder.poll_transmit()], []
        return outbox

    def poll_changes(self) -> list[str]:
        """What an operator wants in the log."""
        changes, self._changes = self._changes, []
        return changes

    def poll_announcement(self) -> bool:
        """Whether a round began of which the peer should hear, by CANDIDATES."""
        announce, self._announce = self._announce, False
        return announce

    # Inside.

    def _find(self, way: Way) -> Path | None:
        if self._relay is not None and self._relay.way == way:
            return self._relay
        return self.finder.found.get(way)

    def _new_path(self, way: Way, kind: CandidateKind | None, name: str, now: float) -> Path:
        return Path(way, kind, name, self._random, now, self._keepalive, self._largest)

    def _handle_source(self, way: Way, now: float) -> None:
        """Something authentic came on this way: life of a path that is known, else a new candidate."""
        path = self._find(way)
        if path is not None:
            path.handle_heard(now)
            if path is self.current:
                self._health.handle_heard(now)
        if way.relayed or not self._allowed or not self.running:
            return
        self.finder.handle_source(way, self.current, now)

    def _begin_round(self, now: float) -> None:
        if not self._allowed:
            return
        self.finder.rounds.begin(now)
        self._announce = True
        self._ask(now)

    def _ask(self, now: float) -> None:
        """The volley that is due, and after the last of a round the pause before the next."""
        if not self.finder.ask(now):
            return
        self.finder.give_up()
        wanted = self._health.idle_for(now) < STANDBY_FOR or now < self._eager_until
        if wanted and not self.finder.works:
            self.finder.rounds.pause(now)

    def _watch(self, path: Path, counters: Counters, now: float) -> None:
        """Leave a path whose frames are not answered; probe it before that."""
        silence = self._health.silence(now)
        if counters.heard_at > path.heard_at:
            path.handle_carried(counters.heard_at)
        if silence >= path.patience - 1e-3 and not path.relayed:
            path.fail(f"frames were not answered for {silence * 1000:.0f} ms")
        elif silence >= DOUBT_AFTER:
            path.hurry(now)

    def _decide(self, now: float) -> None:
        """Ask the policy, and set the pace of every path accordingly."""
        paths = self.paths
        present = next((index for index, one in enumerate(paths) if one is self.current), None)
        decision = self._policy(paths, present, self.chosen_at, now)
        chosen = None if decision.chosen is None else paths[decision.chosen]
        if chosen is not self.current:
            self._switch(chosen, decision.reason, now)
        self._set_paces(paths, now)

    def _switch(self, chosen: Path | None, reason: str, now: float) -> None:
        left, self.current = self.current, chosen
        since = self.chosen_at
        self.reason, self.chosen_at = reason, now
        self._health.handle_switch()
        if not self.running:
            return
        if chosen is not None:
            if chosen.relayed:
                chosen.hurry(now)
            self._changes.append(f"takes {chosen.name}: {reason}")
        elif left is not None:
            self._changes.append(f"has no path: {reason}")
        if left is not None and not left.relayed and self.direct is None:
            self._eager_until = now + EAGER_FOR
            if now - since >= STABLE_AFTER:
                self.finder.rounds.refresh()
            self.finder.rounds.pause(now)

    def _set_paces(self, paths: Iterable[Path], now: float) -> None:
        idle_for = self._health.idle_for(now)
        others = Pace.STANDBY if idle_for < STANDBY_FOR else Pace.REST
        mine = Pace.ACTIVE if self._health.active(now) else Pace.IDLE
        weighing = self.direct is None and (others is Pace.STANDBY or now < self._eager_until)
        if others is Pace.STANDBY and self.current is not None and self.current.loss > LOSSY:
            others = Pace.WEIGHED
        for path in paths:
            if not self.running:
                path.set_pace(Pace.REST)
            elif path is self.current:
                path.set_pace(mine)
            elif weighing and path.usable and not path.relayed:
                path.set_pace(Pace.WEIGHED)
            else:
                path.set_pace(others)
