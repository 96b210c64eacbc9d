"""One path against a slow model: probes that are lost, late or answered twice, at every pace."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shadowmesh.path.candidates import CandidateKind
from shadowmesh.path.keepalive import Keepalive
from shadowmesh.path.path import Pace, Path
from shadowmesh.path.way import Way
from shadowmesh.units import Address
from shadowmesh.wire.payload import parse_probe
from tests.reference.path import OnePath
from tests.stateful import case_of

THERE, HERE = Address("198.51.100.7", 4000), Address("203.0.113.9", 4000)
CARRIES = (1452, 1300, 1100, 900)


class Probing(RuleBasedStateMachine):
    """`carries`: the largest probe that comes back by itself."""

    relayed = False

    @initialize(stranger=st.booleans(), latency=st.sampled_from([0.01, 0.3]), proved=st.booleans())
    def begin(self, stranger: bool, latency: float, proved: bool) -> None:
        named = CandidateKind.PEER if stranger else CandidateKind.LOCAL
        kind = None if self.relayed else named
        self.now, self.latency, self.carries = 1000.0, latency, CARRIES[0]
        nonces = (number.to_bytes(8, "big") for number in itertools.count(1))
        way = Way(THERE, b"channel1" if self.relayed else b"")
        self.path = Path(way, kind, "it", lambda size: next(nonces), self.now, Keepalive())
        self.model = OnePath(self.relayed, self.now)
        self.nonces: list[bytes] = []
        self.stranger = kind is CandidateKind.PEER
        self.under_way: list[tuple[float, bytes]] = []
        if proved and not self.relayed:
            self.prove(0.01)

    @rule(
        seconds=st.sampled_from([0.05, 0.15, 0.5, 1.0, 3.0, 12.0, 26.0, 60.0]),
        carries=st.sampled_from([CARRIES[0], *CARRIES, 100, 0]),
        frames=st.booleans(),
    )
    def run(self, seconds: float, carries: int, frames: bool) -> None:
        """Time passes with every timer served; `frames`: whether the peer's come at the end of it."""
        self.carries, end = carries, self.now + seconds
        for _ in range(2000):
            times = [self.path.deadline, self.under_way[0][0] if self.under_way else None, end]
            self.now = max(self.now, min(time for time in times if time is not None))
            while self.under_way and self.under_way[0][0] <= self.now:
                self.answer(self.under_way.pop(0)[1])
            if self.now >= end:
                break
            self.poll()
        self.poll()
        if frames:
            self.hear()

    def poll(self) -> None:
        payloads, sizes = self.path.poll(self.now), self.model.poll(self.now)
        overhead = self.path.way.overhead
        assert [len(one) for one in payloads] == [size - overhead if size else 9 for size in sizes]
        for payload, size in zip(payloads, sizes, strict=True):
            nonce = parse_probe(payload)
            self.model.log.send(nonce, self.now, size)
            self.nonces.append(nonce)
            if (size or 60) <= self.carries:
                self.under_way.append((self.now + self.latency, nonce))

    def answer(self, nonce: bytes) -> None:
        rtt, probe = self.path.handle_reply(nonce, self.now), self.model.answer(nonce, self.now)
        assert rtt == (None if probe is None else self.now - probe.at)

    @precondition(lambda self: self.nonces)
    @rule(back=st.integers(0, 40))
    def answer_late(self, back: int) -> None:
        """One that was lost, or was answered before."""
        self.answer(self.nonces[-1 - back % len(self.nonces)])

    @rule()
    def ask_besides(self) -> None:
        """A small probe that no timer asked for, even of a path that does not work."""
        nonce = parse_probe(self.path.create_probe(self.now))
        self.model.log.send(nonce, self.now, 0)
        self.nonces.append(nonce)

    @rule(pace=st.sampled_from(list(Pace)))
    def set_pace(self, pace: Pace) -> None:
        self.path.set_pace(pace)
        self.model.pace = pace.value

    @rule(what=st.sampled_from(["hurry", "left", "fail"]))
    def doubt(self, what: str) -> None:
        does: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "hurry": (lambda: self.path.hurry(self.now), self.model.hurry),
            "left": (lambda: self.path.handle_left(self.now), lambda: self.model.leave(self.now)),
            "fail": (lambda: self.path.fail("it may not"), self.model.fail),
        }
        for one in does[what]:
            one()

    @rule()
    def hear(self) -> None:
        self.path.handle_heard(self.now)
        self.model.hear(self.now)

    @rule(pace=st.sampled_from(list(Pace)), seconds=st.sampled_from([0.5, 3.0, 60.0]), frames=st.booleans())
    def starve(self, pace: Pace, seconds: float, frames: bool) -> None:
        """No probe comes back for a while; perhaps frames do."""
        self.set_pace(pace)
        self.doubt("hurry")
        self.run(seconds, 0, frames)
        self.run(0.5, 0, False)

    @rule(seconds=st.sampled_from([26.0, 60.0]), times=st.integers(1, 4))
    def idle(self, seconds: float, times: int) -> None:
        """It is kept open, if that needs anything at all."""
        self.set_pace(Pace.IDLE)
        for _ in range(times):
            self.run(seconds, CARRIES[0], False)

    @rule(limit=st.sampled_from([1300, 100]), seconds=st.sampled_from([1.5, 3.0]), times=st.integers(1, 3))
    def flap(self, limit: int, seconds: float, times: int) -> None:
        """It carries frames, and large ones only now and then."""
        self.set_pace(Pace.ACTIVE)
        for _ in range(times):
            self.run(seconds, limit, False)
            self.run(1.0, CARRIES[0], False)
        self.run(seconds, limit, False)

    @rule(ago=st.sampled_from([0.0, 0.3, 2.0]), seconds=st.sampled_from([0.05, 0.5]))
    def be_left(self, ago: float, seconds: float) -> None:
        """The peer's frames come from elsewhere, twice; `ago`: the last that came from here."""
        for _ in range(2):
            self.doubt("left")
            self.run(seconds, 0, False)
        self.carry(ago)

    @precondition(lambda self: not self.path.relayed)
    @rule(rtt=st.sampled_from([0.01, 0.3]), pace=st.sampled_from([Pace.ACTIVE, Pace.IDLE]))
    def die_and_come_back(self, rtt: float, pace: Pace) -> None:
        self.set_pace(pace)
        self.run(12.0, 0, False)
        self.ask_besides()
        self.answer_late(0)
        self.it_is_where_the_model_is()
        self.ask_besides()
        self.prove(rtt)
        self.it_is_where_the_model_is()
        self.run(3.0, CARRIES[0], False)

    @rule(ago=st.sampled_from([0.0, 0.02, 1.0]))
    def carry(self, ago: float) -> None:
        self.path.handle_carried(self.now - ago)
        self.model.carry(self.now - ago)

    @rule(rtt=st.sampled_from([0.01, 0.3]))
    def prove(self, rtt: float) -> None:
        if not self.path.relayed:
            self.path.handle_proved(rtt, HERE, self.now)
            self.stranger = False
            self.model.prove(rtt, self.now)

    @rule(untranslated=st.booleans())
    def find_a_nat(self, untranslated: bool) -> None:
        self.path.untranslated = self.model.untranslated = untranslated

    @invariant()
    def it_is_where_the_model_is(self) -> None:
        if not hasattr(self, "model"):
            return
        path, model = self.path, self.model
        assert (path.state.value, path.usable) == (model.state, model.usable)
        assert path.unproved_stranger == self.stranger
        assert path.left_by_peer == (model.left == 0.0)
        assert (path.heard_at, path.silent_since) == (model.heard_at, model.silent_since)
        assert (path.works(self.now), path.answers) == (
            model.works(self.now),
            model.usable and not model.unanswered,
        )
        assert path.fresh(self.now) == (model.relayed or self.now - model.heard_at < 50)
        assert path.patience == pytest.approx(model.patience)
        assert path.loss == pytest.approx(model.log.loss)
        assert (path.counted, path.mtu.confirmed) == (model.log.counted, model.mtu.confirmed)
        assert path.mtu.black_holes == model.mtu.black_holes
        assert vars(path.keepalive) == vars(model.keepalive)
        deadline, expected = path.deadline, model.deadline()
        assert (None if deadline is None else max(deadline, self.now)) == (
            None if expected is None else pytest.approx(max(expected, self.now))
        )


class RelayProbing(Probing):
    """Through a relay: usable from the beginning, and probed for ever."""

    relayed = True


TestProbing = case_of(Probing, 30, steps=25)
TestRelayProbing = case_of(RelayProbing, 15, steps=25)
