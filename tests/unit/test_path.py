"""Binding and back-off, each by itself on a clock that the test turns."""

from __future__ import annotations

import random

import pytest

from shadowmesh.errors import BadPacket
from shadowmesh.path import backoff, binding
from shadowmesh.path.backoff import Backoff
from shadowmesh.path.binding import Binding

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


def test_binding_fails_after_three_unanswered() -> None:
    leg, now = Binding(randbytes, 100.0), 100.0
    for _ in range(binding.UNANSWERED_LIMIT):
        assert leg.poll(now) is not None
        assert not leg.failed
        now = leg.deadline
    leg.poll(now)
    assert leg.failed
    assert now == pytest.approx(103.0)


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
