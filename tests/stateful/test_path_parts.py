"""Parts of the path layer, each against a slow model: probes, challenges, sizes, and what counters tell."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shadowmesh.errors import BadPacket
from shadowmesh.path.handshake import CHALLENGE_LIFE, MAX_ADDRESSES, MAX_CHALLENGES, Handshake, Proved
from shadowmesh.path.health import Counters, Health
from shadowmesh.path.mtu import BASE, LARGEST, MAX_PROBES, RAISE_AFTER, SMALLER, STEP, MtuSearch, MtuState
from shadowmesh.path.probes import MAX_WAITING, Probes
from shadowmesh.path.way import Way
from shadowmesh.units import Address
from shadowmesh.wire.payload import (
    Kind,
    encode_path_complete,
    encode_path_request,
    encode_path_response,
    parse_path_complete,
    parse_path_request,
    parse_path_response,
    parse_probe,
)
from tests.reference.path_parts import Challenges, Look, ProbeLog, Traffic
from tests.stateful import case_of

WAYS = [Way(Address("198.51.100.7", port)) for port in (4000, 4001)] + [
    Way(Address("198.51.100.7", 4000), b"channel1")
]
ELSEWHERE = Address("203.0.113.9", 4000)


class Measuring(RuleBasedStateMachine):
    """Probes of one path."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.nonces = (number.to_bytes(8, "big") for number in itertools.count())
        self.probes, self.log = Probes(lambda size: next(self.nonces)), ProbeLog()

    @rule(milliseconds=st.sampled_from([1, 20, 90, 149, 151, 300, 499, 501, 2000]), look=st.booleans())
    def wait(self, milliseconds: int, look: bool) -> None:
        self.now += milliseconds / 1000
        if look:
            self.expire()

    @rule(count=st.sampled_from([1, 1, 2, MAX_WAITING + 3]), size=st.sampled_from([0, 0, 1200]))
    def ask(self, count: int, size: int) -> None:
        for _ in range(count):
            request = self.probes.create(self.now, size, 29)
            assert request[0] == Kind.PROBE_REQUEST
            assert len(request) == (size - 29 if size else 9)
            self.log.send(parse_probe(request), self.now, size)

    @rule(count=st.sampled_from([0, 1, 20]), size=st.sampled_from([0, 0, 1200]))
    def lose(self, count: int, size: int) -> None:
        """All that wait, and so many more."""
        for _ in range(count):
            self.ask(1, size)
        self.now += self.probes.timeout
        self.expire()

    @rule()
    def overtake(self) -> None:
        """The answer to a lost one comes after that to the next."""
        self.lose(1, 0)
        self.ask(1, 0)
        self.answer(0, False)
        self.answer(1, True)

    @precondition(lambda self: self.log.sent)
    @rule(back=st.one_of(st.integers(0, 3), st.integers(0, 80)), twice=st.booleans())
    def answer(self, back: int, twice: bool) -> None:
        """One of the last, perhaps twice."""
        nonce = sorted(one.nonce for one in self.log.sent)[-1 - back % len(self.log.sent)]
        for _ in range(1 + twice):
            probe, model = self.probes.handle_reply(nonce, self.now), self.log.answer(nonce, self.now)
            assert (probe is None) == (model is None)
            if probe is not None and model is not None:
                assert (probe.sent_at, probe.size) == (model.at, model.size)

    @rule()
    def clear(self) -> None:
        self.probes.clear()
        for one in self.log.sent:
            one.fate = "forgotten"

    def expire(self) -> None:
        lost = self.probes.expire(self.now)
        assert [(one.sent_at, one.size) for one in lost] == [
            (one.at, one.size) for one in self.log.expire(self.now)
        ]

    @invariant()
    def it_is_measured_what_the_log_says(self) -> None:
        waiting, probes = self.log.being("waits"), self.probes
        assert probes.timeout == pytest.approx(self.log.timeout)
        assert probes.loss == pytest.approx(self.log.loss)
        assert probes.counted == self.log.counted
        assert probes.round_trip.lowest == min(self.log.samples[-8:], default=None)
        assert probes.expires_at == (pytest.approx(waiting[0].at + self.log.timeout) if waiting else None)
        assert len(probes._waiting) == len(waiting) <= MAX_WAITING
        assert len(probes._late) == len(self.log.being("late")) <= MAX_WAITING


class Proving(RuleBasedStateMachine):
    """Re-handshakes with one peer, who answers what it likes, on the way that it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.nonces = (number.to_bytes(8, "big") for number in itertools.count(1))
        self.handshake, self.log = Handshake(lambda size: next(self.nonces)), Challenges()

    @rule(seconds=st.sampled_from([0.05, 0.19, 0.2, 1.0, 4.9, 5.1]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(way=st.sampled_from(WAYS))
    def request(self, way: Way) -> None:
        payload = self.handshake.create_request(way, self.now)
        assert (payload is not None) == self.log.may_send("request", way, self.now)
        if payload is not None:
            self.log.send("request", way, parse_path_request(payload), self.now)
            waiting = self.handshake._waiting.values()
            assert all(self.now - at < CHALLENGE_LIFE for _, at in waiting), (
                "what counts no more is forgotten"
            )

    @rule(way=st.sampled_from(WAYS))
    def respond(self, way: Way) -> None:
        payload = self.handshake.handle_request_untrusted(encode_path_request(b"of peer!"), way, self.now)
        assert (payload is not None) == self.log.may_send("response", way, self.now)
        if payload is not None:
            response = parse_path_response(payload)
            assert (response.echo, response.observed) == (b"of peer!", way.address)
            self.log.send("response", way, response.challenge, self.now)

    @rule(
        count=st.sampled_from([MAX_ADDRESSES] * 2 + [MAX_CHALLENGES + 10]),
        gap=st.sampled_from([0.0, 0.01]),
    )
    def flood(self, count: int, gap: float) -> None:
        """Many addresses, too many."""
        for number in (*range(count), count - 60, count):
            self.now += gap
            self.request(Way(Address("192.0.2.1", 10_000 + number)))

    @precondition(lambda self: self.log.challenges)
    @rule(
        back=st.integers(0, 5),
        far=st.booleans(),
        way=st.sampled_from([None, None, *WAYS]),
        kind=st.booleans(),
    )
    def echo(self, back: int, far: bool, way: Way | None, kind: bool) -> None:
        """One of the last challenges comes back, or one from long ago; `way`: not where it went."""
        number = (back + 250 * far) % len(self.log.challenges)
        echo, sent_on, _ = self.log.challenges[-1 - number]
        assert isinstance(sent_on, Way)
        rtt = self.log.redeem(echo, way or sent_on, self.now)
        if rtt is None:
            with pytest.raises(BadPacket, match="wrong_echo"):
                self.redeem(kind, echo, way or sent_on)
            return
        proved = self.redeem(kind, echo, way or sent_on)
        assert (proved.way, proved.observed) == (way or sent_on, ELSEWHERE)
        assert proved.rtt == pytest.approx(rtt)

    def redeem(self, complete: bool, echo: bytes, way: Way) -> Proved:
        if complete:
            return self.handshake.handle_complete_untrusted(
                encode_path_complete(echo, ELSEWHERE), way, self.now
            )
        payload = encode_path_response(echo, b"of peer!", ELSEWHERE)
        proved = self.handshake.handle_response_untrusted(payload, way, self.now)
        assert proved.answer is not None
        assert parse_path_complete(proved.answer) == (b"of peer!", way.address)
        return proved

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.handshake._waiting) <= MAX_CHALLENGES
        for rate in (self.handshake._requests, self.handshake._responses):
            assert len(rate._last) <= MAX_ADDRESSES


class Sizes(RuleBasedStateMachine):
    """The search for the largest size, on a path that carries `limit` bytes; answers may come late."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.limit, self.largest = 1000.0, LARGEST, LARGEST
        self.search = MtuSearch()
        self.passed: set[int] = set()
        """Sizes that came round since the last black hole."""
        self.lost: dict[int, int] = {}
        """Probes in a row that were lost of the size that is tried."""
        self.completed_at: float | None = None
        self.late: list[int] = []

    @rule(limit=st.sampled_from([1024, 1100, 1199, 1200, 1300, 1445, 1451, 1452, 1500, 8952]))
    def change(self, limit: int) -> None:
        self.limit = limit

    @rule(keeps=st.booleans(), besides=st.booleans())
    def probe(self, keeps: bool, besides: bool = False) -> None:
        """One round; its answer may come after it was given up.

        :param besides: whether probes of other sizes are lost and answered meanwhile.
        """
        size, search = self.due(), self.search
        if size is None:
            assert search.state is MtuState.COMPLETE
            return
        assert self.completed_at is None
        assert search.confirmed is None or search.confirmed < size <= self.largest
        search.handle_sent()
        if besides:
            for _ in range(MAX_PROBES):
                search.handle_loss(size - 1, self.now)
            if search.confirmed is not None:
                search.handle_answer(search.confirmed, self.now)
        assert self.due() is None, "one at a time"
        if size <= self.limit and keeps:
            self.lost.clear()
            self.answered(size)
            return
        if size <= self.limit:
            self.late.append(size)
        before = search.confirmed
        search.handle_loss(size, self.now)
        self.lost = {size: self.lost.get(size, 0) + 1}
        assert search.confirmed == before, "a loss says nothing about what has passed"
        again = self.due()
        assert (again == size) == (self.lost[size] < MAX_PROBES or (size, again) == (BASE, BASE))
        if again != size:
            assert self.lost[size] == MAX_PROBES
            self.lost.clear()
        self.note()

    def due(self) -> int | None:
        """What is to be probed; after ten minutes, the search begins again."""
        if self.completed_at is not None and self.now >= self.completed_at + RAISE_AFTER:
            self.completed_at = None
        size = self.search.due_size(self.now)
        self.note()
        return size

    def answered(self, size: int) -> None:
        self.passed.add(size)
        self.search.handle_answer(size, self.now)
        assert self.search.confirmed == max(self.passed)
        if size < (self.due() or 0):
            self.lost = {key: count for key, count in self.lost.items() if key > size}
        self.note()

    def note(self) -> None:
        if self.search.state is MtuState.COMPLETE and self.completed_at is None:
            self.completed_at = self.now
            assert self.search.raise_at == self.now + RAISE_AFTER

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 9))
    def answer_late(self, which: int) -> None:
        size = self.late.pop(which % len(self.late))
        if size <= self.largest:
            state, due = self.search.state, self.due()
            self.answered(size)
            if state is MtuState.COMPLETE:
                assert self.search.state is state
            elif due is not None and size < due:
                assert self.due() == due, "an answer to a smaller one ends no search"

    @rule(size=st.sampled_from([1024, 1200, 1210, 1452]))
    def lose_another(self, size: int) -> None:
        """One that was sent besides, such as of the confirmed size."""
        due = self.due()
        self.search.handle_loss(size, self.now)
        assert self.due() == due

    @precondition(lambda self: self.passed)
    @rule(smallest=st.booleans())
    def answer_another(self, smallest: bool) -> None:
        """One of a size that has passed before."""
        due, state = self.due(), self.search.state
        self.search.handle_answer(min(self.passed) if smallest else max(self.passed), self.now)
        assert (self.due(), self.search.state) == (due, state)

    @precondition(lambda self: self.search.confirmed is not None)
    @rule()
    def hole(self) -> None:
        """What had passed does no more."""
        was = self.search.budget
        self.limit = min(self.limit, was - 1)
        self.search.handle_black_hole(self.now)
        self.passed, self.late, self.completed_at = set(), [], None
        self.lost.clear()
        assert self.search.confirmed is None
        assert self.due() == (BASE if was > BASE else SMALLER[0])

    @rule(largest=st.sampled_from([1300, LARGEST, 8952]))
    def change_interface(self, largest: int) -> None:
        changed = largest != self.largest
        self.largest = largest
        self.search.set_largest(largest, self.now)
        self.passed = {min(size, largest) for size in self.passed}
        if changed and self.search.confirmed is not None:
            self.completed_at = None
            self.lost.clear()
            self.note()

    @rule(seconds=st.sampled_from([1.0, RAISE_AFTER - 1, RAISE_AFTER]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def settle(self) -> None:
        """Without losses but those of size, it ends, in few probes, and near the limit."""
        self.late.clear()
        if self.search.confirmed is not None and self.limit < self.search.confirmed:
            self.hole()
        for _ in range(2):  # one that is under way, perhaps below a former limit, and a whole one
            self.now += RAISE_AFTER
            for _ in range(40):
                self.probe(True)
        assert self.search.state is MtuState.COMPLETE or self.limit < SMALLER[0]
        if self.limit >= SMALLER[0]:
            assert min(self.limit, self.largest) - self.search.budget < STEP

    @invariant()
    def what_is_confirmed_has_passed(self) -> None:
        assert self.search.confirmed == max(self.passed, default=None)
        complete = self.search.state is MtuState.COMPLETE
        assert complete == (self.search.raise_at is not None)
        assert not complete or self.search.raise_at == (self.completed_at or 0.0) + RAISE_AFTER


class Watching(RuleBasedStateMachine):
    """What the counters of one peer tell of its traffic."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.counters = Counters(0, 0, 0.0)
        self.health, self.traffic = Health(), Traffic()

    @rule(
        seconds=st.sampled_from([0.1, 0.1, 0.25, 1.0, 3.1]),
        sent=st.sampled_from(["", "", "frames", "refused"]),
        received=st.booleans(),
        answers=st.booleans(),
        heard=st.sampled_from([None, None, 0.0, 0.05, 0.5]),
    )
    def look(self, seconds: float, sent: str, received: bool, answers: bool, heard: float | None) -> None:
        """`heard`: so many seconds ago."""
        self.now += seconds
        tx, rx, heard_at, sealed = self.counters
        self.counters = Counters(
            tx + (sent == "frames"),
            rx + received,
            heard_at if heard is None else max(heard_at, self.now - heard),
            sealed + bool(sent),
        )
        self.health.handle_counters(self.counters, answers, self.now)
        self.traffic.events.append(Look(self.now, bool(sent), received, answers, self.counters.heard_at))

    @rule(heard=st.sampled_from([0.0, 0.05, 0.5]))
    def hear(self, heard: float) -> None:
        self.health.handle_heard(self.now - heard)
        self.traffic.events.append(("heard", self.now - heard))

    @rule()
    def answer(self) -> None:
        self.health.handle_answered()
        self.traffic.events.append(("answered", self.now))

    @rule()
    def switch(self) -> None:
        self.health.handle_switch()
        self.traffic.events.append(("switch", self.now))

    @rule(seconds=st.sampled_from([0.1, 0.2, 2.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def it_tells_what_the_model_tells(self) -> None:
        since, owes = self.traffic.silent_since(), self.traffic.owes_since()
        assert self.health.silence(self.now) == pytest.approx(0.0 if since is None else self.now - since)
        assert self.health.owes(self.now) == (owes is not None and self.now - owes >= 0.25 - 1e-3)
        assert self.health.idle_for(self.now) == pytest.approx(self.traffic.idle_for(self.now))
        assert self.health.active(self.now) == (self.health.idle_for(self.now) < 3)


TestMeasuring = case_of(Measuring, 25, steps=40)
TestProving = case_of(Proving, 12, steps=30)
TestSizes = case_of(Sizes, 30, steps=40)
TestWatching = case_of(Watching, 25, steps=30)
