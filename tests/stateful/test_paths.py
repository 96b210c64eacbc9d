"""The choice among paths: the policy against a model, and two ends whose network changes under them.

Frames go directly only after a full-size payload passed there, never stay on a dead path while a living one
is known, and come back from the relay when the direct path does.
"""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shadowmesh.path.selector import HOLD, choose
from shadowmesh.path.way import Way
from shadowmesh.units import Address
from tests.protocol.paths import End, PathPair
from tests.reference.choice import Known, choice
from tests.stateful import case_of

ROUND_TRIPS = st.one_of(
    st.none(), st.sampled_from([0.001, 0.003, 0.01, 0.0124, 0.0126, 0.02, 0.05, 0.1, 0.4])
)


class Choices(RuleBasedStateMachine):
    """A relay's path, perhaps, and up to four direct ones that come, change and go."""

    @initialize(relay=st.booleans())
    def begin(self, relay: bool) -> None:
        self.now = 1000.0
        self.paths = [Known("relay", relayed=True, usable=True)] if relay else []
        self.current: Known | None = None
        self.chosen_at = self.now
        self.changes: list[float] = []

    @precondition(lambda self: len(self.paths) < 5)
    @rule(lowest=ROUND_TRIPS)
    def find(self, lowest: float | None) -> None:
        self.paths.append(Known(f"direct {len(self.paths)}", False, True, lowest, heard_at=self.now))

    @precondition(lambda self: self.paths)
    @rule(
        which=st.integers(0, 4),
        lowest=ROUND_TRIPS,
        loss=st.sampled_from([0.0, 0.0, 0.004, 0.05, 0.5, 1.0]),
        counted=st.sampled_from([0, 3, 31, 64]),
    )
    def measure(self, which: int, lowest: float | None, loss: float, counted: int) -> None:
        path = self.paths[which % len(self.paths)]
        path.lowest, path.loss, path.counted, path.heard_at = lowest, loss, counted, self.now

    @precondition(lambda self: self.paths)
    @rule(which=st.integers(0, 4), usable=st.booleans(), left=st.booleans())
    def turn(self, which: int, usable: bool, left: bool) -> None:
        path = self.paths[which % len(self.paths)]
        path.usable, path.left_by_peer = usable, left and not path.relayed

    @precondition(lambda self: self.paths)
    @rule(which=st.integers(0, 4))
    def lose(self, which: int) -> None:
        gone = self.paths.pop(which % len(self.paths))
        if gone is self.current:
            self.current = None

    @rule(seconds=st.sampled_from([0.1, 1.0, HOLD - 0.1, HOLD, 20.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def decide(self) -> None:
        present = next((place for place, one in enumerate(self.paths) if one is self.current), None)
        before = self.current
        decision = choose(self.paths, present, self.chosen_at, self.now)
        chosen = None if decision.chosen is None else self.paths[decision.chosen]
        assert chosen is choice(self.paths, self.current, self.chosen_at, self.now)
        assert decision.reason
        living = [one for one in self.paths if one.usable and not one.left_by_peer and one.fresh(self.now)]
        assert not living or (chosen is not None and chosen.usable)
        if chosen is not before:
            held = self.now - self.chosen_at
            gone = before is None or not before.usable or before.left_by_peer
            assert gone or held >= HOLD or (before is not None and before.relayed)
            self.current, self.chosen_at = chosen, self.now
            again = choose(self.paths, decision.chosen, self.now, self.now)
            assert again.chosen == decision.chosen, "it does not stand by what it chose"

    @rule()
    def settle(self) -> None:
        """While nothing changes, no path is chosen twice."""
        current = next((place for place, one in enumerate(self.paths) if one is self.current), None)
        seen = {current}
        while (chosen := choose(self.paths, current, self.now - HOLD, self.now).chosen) != current:
            assert chosen not in seen
            seen.add(chosen)
            current = chosen


def test_every_choice_of_two_is_that_of_the_text() -> None:
    """Also what chance may leave out above: a loss that weighs, a gain too small, the hold's last moment."""
    qualities = itertools.product(
        (None, 0.003, 0.01, 0.013, 0.1), ((0.0, 0), (0.0, 31), (0.15, 31), (0.25, 31), (0.4, 31), (1.0, 3))
    )
    here: list[Known] = []
    for lowest, (loss, counted) in qualities:
        here.append(Known("relay", True, True, lowest, loss, counted, heard_at=1000.0))
        here += (
            Known("direct", False, True, lowest, loss, counted, left, heard_at=1000.0)
            for left in (False, True)
        )
    for one, other in itertools.product(here, repeat=2):
        for current, held in ((None, 0.0), (0, 4.9), (0, HOLD)):
            paths = [one, other] if one is not other else [one]
            chosen = choose(paths, current, 1000.0 - held, 1000.0).chosen
            wanted = choice(paths, None if current is None else one, 1000.0 - held, 1000.0)
            assert (None if chosen is None else paths[chosen]) is wanted, (paths, current, held)


def test_a_path_that_the_peer_left_is_left_for_any_direct_one() -> None:
    left = Known("left", False, True, 0.01, left_by_peer=True, heard_at=1000.0)
    relay, poor = Known("relay", True, True, 0.001), Known("poor", False, True, 0.4, heard_at=1000.0)
    assert choose([left, relay, poor], 0, 0.0, 1000.0).chosen == 2
    assert choose([left, relay], 0, 0.0, 1000.0).chosen == 0, "a relay has to be better by itself"


class Journey(RuleBasedStateMachine):
    """Two ends with traffic. `limit`: the largest UDP payload that passes directly."""

    @initialize(latency=st.sampled_from([0.001, 0.02, 0.1]))
    def begin(self, latency: float) -> None:
        self.pair = PathPair(latency)
        self.open = [True, True]
        """Directly, from each end."""
        self.relay, self.limit = True, 1500
        self.proven: set[tuple[str, Way, Address]] = set()
        self.pair.passes = self.passes
        self.pair.start()

    def passes(self, end: End, way: Way, size: int) -> bool:
        if way.relayed:
            return self.relay
        good = self.open[self.pair.ends.index(end)] and size <= self.limit
        current = end.paths.current
        leg = (end.name, way, end.address)
        if size >= 1000 and current is not None and current.way == way and not current.mtu.confirmed:
            assert leg in self.proven or current.mtu.black_holes, (
                "frames on a path that no full size has passed"
            )
        if good and size >= 1000:
            self.proven.add(leg)
        return good

    @rule(open_=st.tuples(st.booleans(), st.booleans()))
    def firewalls(self, open_: tuple[bool, bool]) -> None:
        self.open = list(open_)

    @rule(limit=st.sampled_from([1500, 1252, 1100, 900]))
    def narrow(self, limit: int) -> None:
        self.limit = limit

    @rule(relay=st.booleans())
    def relay_fails_or_comes_back(self, relay: bool) -> None:
        self.relay = relay

    @rule(which=st.integers(0, 1), port=st.integers(5001, 5003))
    def move(self, which: int, port: int) -> None:
        """To another network."""
        end = self.pair.ends[which]
        self.pair.move(end, Address(end.address.host, port))

    @rule(seconds=st.sampled_from([1.0, 10.0, 70.0]))
    def rest(self, seconds: float) -> None:
        self.pair.run(seconds)

    @rule()
    def talk(self) -> None:
        """A dead path is left in time for a living relay."""
        self.pair.stream(self.pair.ends[0], 4.0, gap=0.05)
        if self.relay:
            self.frames_arrive()

    @rule()
    def talk_for_long(self) -> None:
        """What works is found, and used."""
        self.pair.stream(self.pair.ends[0], 45.0, gap=0.2)
        direct = all(self.open) and self.limit >= 1100
        if self.relay:
            self.frames_arrive()
        if self.relay and direct:
            assert [end.kind for end in self.pair.ends] == ["direct", "direct"]
        elif self.relay and not (any(self.open) and self.limit >= 1100):
            assert [end.kind for end in self.pair.ends] == ["relay", "relay"]

    def frames_arrive(self) -> None:
        for end in self.pair.ends:
            lately = [at for at in end.arrivals if at > self.pair.now - 1.0]
            assert lately, f"{end.name} hears nothing, though the relay works"

    @invariant()
    def frames_go_where_they_may(self) -> None:
        for end in self.pair.ends if hasattr(self, "pair") else ():
            path = end.paths.current
            if path is not None and not path.relayed:
                assert path.usable
            route = end.paths.route
            assert route is None or 1000 <= route.budget <= 1500


TestChoices = case_of(Choices, 60, steps=40)
TestJourney = case_of(Journey, 8, steps=12)
