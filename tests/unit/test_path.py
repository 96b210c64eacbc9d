"""Binding and back-off, each by itself on a clock that the test turns."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from shadowmesh.errors import BadPacket
from shadowmesh.path import backoff, binding
from shadowmesh.path.backoff import Backoff
from shadowmesh.path.binding import Binding
from shadowmesh.path.cost import LOSS_FREE

if TYPE_CHECKING:
    from collections.abc import Callable

GENERATOR = random.Random(1)
MAPPED = bytes(10) + b"\xff\xff\xc0\x00\x02\x01"


def randbytes(size: int) -> bytes:
    """Random bytes that are the same in every run."""
    return GENERATOR.randbytes(size)


def bound(bind: bytes, challenge: bytes = bytes(8)) -> bytes:
    return b"\x11" + bind[9:17] + challenge + MAPPED + b"\x00\x07"


def test_binding_echoes_a_challenge_and_then_rests() -> None:
    leg = Binding(randbytes, 100.0)
    first = leg.poll(100.0)
    assert first is not None
    assert first[1:9] == (1).to_bytes(8, "big")
    echo = leg.handle_bound_untrusted(bound(first, b"challeng"), 100.02)
    assert echo is not None
    assert echo[17:25] == b"challeng"
    assert echo[1:9] == (2).to_bytes(8, "big"), "the newest BIND must be told from older ones"
    assert leg.handle_bound_untrusted(bound(echo), 100.04) is None
    assert leg.deadline == pytest.approx(100.04 + binding.IDLE_INTERVAL)
    assert leg.observed is not None
    assert str(leg.observed) == "192.0.2.1:7"
    assert leg.round_trip.smoothed == pytest.approx(0.02)


def test_binding_hurries_while_frames_cross() -> None:
    leg = Binding(randbytes, 100.0)
    bind = leg.poll(100.0)
    assert bind is not None
    leg.handle_bound_untrusted(bound(bind), 100.01)
    leg.handle_traffic(105.0)
    bind = leg.poll(105.0)
    assert bind is not None
    leg.handle_bound_untrusted(bound(bind), 105.01)
    assert leg.deadline == pytest.approx(105.01 + binding.BUSY_INTERVAL)


def unanswered(leg: Binding, now: float, until: Callable[[], bool]) -> list[bytes]:
    """The BINDs from `now` on, as long as nothing answers, until that."""
    found = []
    while not until():
        bind = leg.poll(now)
        assert bind is not None
        found.append(bind)
        now = leg.deadline
    return found


@pytest.mark.parametrize(("patient", "within", "binds"), [(False, 3.0, 7), (True, 8.0, 9)])
def test_binding_fails_after_rounds_without_an_answer(patient: bool, within: float, binds: int) -> None:
    """Over TCP nothing is repeated: what is under way is not lost."""
    leg = Binding(randbytes, 100.0, patient=patient)
    assert len(unanswered(leg, 100.0, lambda: leg.failed)) == binds
    assert leg.deadline - binding.REPEAT_UNKNOWN == pytest.approx(100.0 + within, abs=0.51)
    doubts = Binding(randbytes, 100.0, patient=patient)
    unanswered(doubts, 100.0, lambda: doubts.doubtful)
    assert not doubts.silent


def test_binding_takes_the_answer_to_an_earlier_repeat() -> None:
    """The round trip is a second and more: the answer comes when the next BIND has long been sent."""
    leg = Binding(randbytes, 100.0)
    first, *_ = unanswered(leg, 100.0, lambda: leg.doubtful)
    leg.handle_bound_untrusted(bound(first), 101.4)
    assert leg.round_trip.smoothed == pytest.approx(1.4)
    assert (leg.waits, leg.doubtful) == (False, False)
    lost = leg.loss
    assert leg.poll(leg.deadline) is not None
    assert leg.deadline > 101.4 + binding.IDLE_INTERVAL + 1.4, "it knows by now how long an answer takes"
    assert leg.loss == lost, "what was answered is not lost"


@pytest.mark.parametrize("busy", [False, True])
def test_binding_takes_one_short_silence_for_one_loss(busy: bool) -> None:
    """However often its BIND was repeated: a leg does not cost more for a blink."""
    leg, now = Binding(randbytes, 0.0), 0.0

    def answered() -> None:
        if busy:
            leg.handle_traffic(now)
        bind = leg.poll(now)
        assert bind is not None
        leg.handle_bound_untrusted(bound(bind), now + 0.02)

    for _ in range(20):
        now = leg.deadline
        answered()
    now = began = leg.deadline
    asked = 0
    while now < began + 0.9:
        asked += leg.poll(now) is not None
        now = leg.deadline
    answered()
    assert asked > 1
    assert 0 < leg.loss < LOSS_FREE


def test_binding_outlives_heavy_loss() -> None:
    """A fifth of all packets lost each way, for an hour."""
    leg, now, chance = Binding(randbytes, 0.0), 0.0, random.Random(4)
    while now < 3600.0 and not leg.failed:
        leg.handle_traffic(now)
        bind = leg.poll(now)
        if bind is not None and chance.random() < 0.64:
            leg.handle_bound_untrusted(bound(bind), now)
        now = leg.deadline
    assert not leg.failed
    assert 0.2 < leg.loss < 0.6


def test_binding_ignores_strangers_answers() -> None:
    leg = Binding(randbytes, 100.0)
    bind = leg.poll(100.0)
    assert bind is not None
    assert leg.handle_bound_untrusted(b"\x11" + b"another!" + bytes(8) + MAPPED + b"\0\0", 100.0) is None
    assert leg.observed is None
    with pytest.raises(BadPacket):
        leg.handle_bound_untrusted(bound(bind)[:-1], 100.0)


def test_backoff_grows_with_jitter_to_its_cap_and_starts_again() -> None:
    waits = Backoff(randbytes)
    delays = [waits.next_delay(0.0) for _ in range(12)]
    assert backoff.FIRST / 2 <= delays[0] <= backoff.FIRST
    assert backoff.CAP / 2 <= delays[-1] <= backoff.CAP
    assert len(set(delays[6:])) > 1, "without jitter all clients come back at once"
    assert waits.next_delay(backoff.YOUNG + 1) > backoff.CAP
    waits.reset()
    assert waits.next_delay(backoff.YOUNG + 2) <= backoff.FIRST
