"""The leg of a relay session by itself: BINDs in, BINDs out, in orders that a network rarely makes."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shadowmesh.config import RelayPeer
from shadowmesh.core.leg import DOUBT, PROBE, Leg
from shadowmesh.core.shared import DialCarrier, HangUpCarrier, Shared
from shadowmesh.units import Address
from shadowmesh.wire.payload import NO_CHALLENGE, Kind

UDP = Address("192.0.2.1", 4433)
TUNNEL = Address("127.0.0.1", 7001)
CHALLENGE = b"chalenge"


class Sources(Counter[Address]):
    """Stands for the tables."""

    def allow_source(self, address: Address) -> None:
        self[address] += 1

    def forbid_source(self, address: Address) -> None:
        self[address] -= 1
        assert self[address] >= 0


def bound(bind: bytes, challenge: bytes = NO_CHALLENGE) -> bytes:
    """The relay's answer to a BIND."""
    return bytes((Kind.BOUND,)) + bind[9:17] + challenge + bytes(10) + b"\xff\xff\x0a\x00\x00\x01\x10\x00"


@pytest.fixture
def sources() -> Sources:
    return Sources()


@pytest.fixture
def events() -> list[object]:
    return []


@pytest.fixture
def leg(sources: Sources, events: list[object]) -> Leg:
    shared = SimpleNamespace(tables=sources, random=random.Random(1).randbytes, events=events)
    peer = RelayPeer("relay.test", 4433, b"r" * 32, tcp=Address("relay.test", 443))
    return Leg(0, peer, cast("Shared", cast(Any, shared)))


def silent_by_udp(leg: Leg) -> None:
    """Connected by UDP at 0, and silent from 1 on; TCP stands at 3."""
    leg.prepare(0.0)
    leg.connect(UDP, 0.0)
    leg.handle_connected(0.0)
    leg.handle_bound_untrusted(bound(leg.poll(0.0)[0][0]), 0.1)
    assert leg.binding is not None
    leg.binding.hurry(1.0)
    for now in (1.0, 2.0):
        leg.poll(now)
    leg.handle_carrier(TUNNEL, "", 3.0)


def over_tcp(leg: Leg) -> None:
    """Connected over TCP at 0."""
    leg.prepare(0.0)
    leg.connect(UDP, 0.0)
    leg.poll(DOUBT)
    leg.handle_carrier(TUNNEL, "", 1.0)
    leg.connect_over_tcp()
    leg.handle_connected(1.0)
    leg.handle_bound_untrusted(bound(leg.poll(1.0)[0][0]), 1.1)


def test_it_moves_after_challenge_and_answer(leg: Leg, sources: Sources) -> None:
    silent_by_udp(leg)
    binds = {target: payload for payload, target in leg.poll(3.0)}
    assert set(binds) == {UDP, TUNNEL}
    ((echo, target),) = leg.handle_bound_untrusted(bound(binds[TUNNEL], CHALLENGE), 3.1)
    assert (echo[17:25], target) == (CHALLENGE, TUNNEL)
    assert leg.address == UDP
    assert leg.handle_bound_untrusted(bound(echo), 3.2) == []
    assert (leg.address, leg.over_tcp) == (TUNNEL, True)
    assert sources == {UDP: 1, TUNNEL: 1}


def test_routes_may_not_take_what_the_connection_needs(leg: Leg) -> None:
    """Neither the relay's own address nor that of the proxy; a tunnel's end on this machine is none."""
    proxy = Address("198.51.100.3", 3128)
    assert leg.underlay == []
    leg.prepare(0.0)
    leg.connect(UDP, 0.0)
    leg.poll(DOUBT)
    leg.handle_carrier(TUNNEL, "", 1.0, proxy)
    leg.connect_over_tcp()
    assert leg.underlay == [UDP, proxy]
    leg.end(2.0)
    assert leg.underlay == []


def test_numbers_rise_over_both_ways(leg: Leg) -> None:
    """The relay heeds only what is newer than everything before, wherever that came from."""
    silent_by_udp(leg)
    numbers = [int.from_bytes(payload[1:9], "big") for now in (3.0, 4.0) for payload, _ in leg.poll(now)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 3


def test_a_late_answer_by_udp_ends_the_move(leg: Leg) -> None:
    silent_by_udp(leg)
    binds = {target: payload for payload, target in leg.poll(3.0)}
    leg.handle_bound_untrusted(bound(binds[UDP]), 3.1)
    later = leg.poll(4.0)
    assert [target for _, target in later if target == TUNNEL] == []
    leg.handle_bound_untrusted(bound(binds[TUNNEL]), 4.1)
    assert not leg.over_tcp


def test_a_connection_that_is_not_to_be_had_is_tried_with_pauses(leg: Leg, events: list[object]) -> None:
    silent_by_udp(leg)
    leg.handle_carrier(None, "refused", 3.0)
    dials = 0
    for step in range(100):
        events.clear()
        leg.poll(3.0 + step / 100)
        if events == [DialCarrier(0)]:
            dials += 1
            leg.handle_carrier(None, "refused", 3.0 + step / 100)
    assert 2 <= dials <= 4


def test_udp_that_answers_again_ends_the_tries(leg: Leg, events: list[object]) -> None:
    silent_by_udp(leg)
    leg.handle_carrier(None, "refused", 3.0)
    events.clear()
    ((bind, _),) = leg.poll(3.0)
    leg.handle_bound_untrusted(bound(bind), 3.05)
    for step in range(1, 100):
        for payload, _ in leg.poll(3.0 + step / 10):
            leg.handle_bound_untrusted(bound(payload), 3.0 + step / 10)
    assert events == []


def test_the_old_way_does_not_pull_the_leg_back(leg: Leg) -> None:
    """The relay has moved already; its challenge for the place that is being left is not echoed."""
    over_tcp(leg)
    assert leg.binding is not None
    now = 1.0 + PROBE
    leg.binding.hurry(now)
    binds = {target: payload for payload, target in [*leg.poll(now), *leg.poll(now)]}
    assert set(binds) == {UDP, TUNNEL}
    ((echo, _),) = leg.handle_bound_untrusted(bound(binds[UDP], CHALLENGE), now + 0.1)
    assert leg.handle_bound_untrusted(bound(binds[TUNNEL], CHALLENGE), now + 0.1) == []
    leg.handle_bound_untrusted(bound(echo), now + 0.2)
    assert not leg.over_tcp


def test_a_probe_that_fails_leaves_nothing_behind(leg: Leg, sources: Sources) -> None:
    over_tcp(leg)
    now = 1.0 + PROBE
    asked = 0
    for _ in range(60):
        now += 0.1
        for payload, target in leg.poll(now):
            if target == UDP:
                asked += 1
            else:
                leg.handle_bound_untrusted(bound(payload), now)
    assert asked == 6, "three seconds long, each BIND once repeated"
    assert leg.over_tcp
    assert sources[UDP] == 0


def test_the_end_of_a_session_gives_everything_back(leg: Leg, sources: Sources, events: list[object]) -> None:
    over_tcp(leg)
    leg.end(5.0)
    assert +sources == {}
    assert events == [DialCarrier(0), HangUpCarrier(0)]
    assert leg.deadline is None
    assert leg.address is None


def test_udp_that_was_silent_is_not_waited_for_again(leg: Leg, events: list[object]) -> None:
    over_tcp(leg)
    leg.end(5.0)
    events.clear()
    leg.prepare(6.0)
    leg.poll(6.0)
    assert events == [DialCarrier(0)]
