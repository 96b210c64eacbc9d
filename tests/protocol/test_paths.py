"""The path layer on virtual time, two ends: up, down and back again, moved, starved and lied to."""

from __future__ import annotations

import itertools
import random

import pytest

from shadowmesh.path.candidates import CandidateKind
from shadowmesh.path.finder import MAX_STRANGERS
from shadowmesh.path.probes import MIN_TIMEOUT
from shadowmesh.path.way import Way
from shadowmesh.units import Address
from shadowmesh.wire.payload import (
    Kind,
    encode_path_complete,
    encode_path_request,
    encode_path_response,
    encode_probe,
)
from tests.protocol.paths import End, PathPair

FRAME_OVERHEAD = 29


def both_direct(pair: PathPair) -> bool:
    return all(end.kind == "direct" for end in pair.ends)


@pytest.fixture
def pair() -> PathPair:
    """Two ends that are direct and have measured the path."""
    made = PathPair()
    made.start()
    made.run_until(lambda: both_direct(made), 1)
    made.run(2)
    return made


def test_direct_after_two_round_trips() -> None:
    pair = PathPair(latency=0.05)
    pair.start()
    assert pair.run_until(lambda: both_direct(pair), 5) <= 4 * pair.latency + 0.02


def test_nothing_large_goes_to_an_address_before_its_echo() -> None:
    pair = PathPair()
    pair.passes = lambda end, way, size: way.relayed
    pair.start()
    pair.run(60)
    direct = [size for _, _, way, size in pair.wire if not way.relayed]
    assert direct
    assert max(direct) <= 100
    assert all(end.kind == "relay" for end in pair.ends)


def test_not_direct_before_full_size_came_round() -> None:
    """Small packets pass, large ones do not: EasyTier's and others' false 'direct'."""
    pair = PathPair()
    pair.passes = lambda end, way, size: way.relayed or size < 500
    pair.start()
    pair.run(30)
    assert all(end.kind == "relay" for end in pair.ends)
    details = [path.detail for path in pair.ends[0].paths.paths if not path.relayed]
    assert details == ["small packets pass, full-size ones do not"]


def test_one_direction_alone_is_not_direct() -> None:
    pair = PathPair()
    a, b = pair.ends
    pair.passes = lambda end, way, size: way.relayed or end is a
    pair.start()
    pair.stream(a, 10)
    assert a.kind == b.kind == "relay"


@pytest.mark.parametrize("both", [True, False])
def test_cut_path_is_left_within_a_second_and_taken_again(pair: PathPair, both: bool) -> None:
    a, b = pair.ends
    pair.stream(a, 3, both=both)
    pair.passes = lambda end, way, size: way.relayed
    cut_at = pair.now
    pair.stream(a, 3, both=both)
    first = next(at for at in b.arrivals if at > cut_at + 0.1)
    assert first - cut_at < 1
    assert a.kind == "relay"
    pair.passes = lambda end, way, size: True
    pair.stream(a, 35, both=both)
    assert both_direct(pair)


def test_frames_of_a_cut_path_are_lost_for_less_than_a_second_whenever_it_is_cut() -> None:
    for number in range(20):
        pair = PathPair()
        pair.start()
        a, b = pair.ends
        pair.stream(a, 2 + number * 0.013, both=False)
        pair.passes = lambda end, way, size: way.relayed
        cut_at = pair.now
        pair.stream(a, 2, both=False)
        assert next(at for at in b.arrivals if at > cut_at + 0.1) - cut_at < 1


def test_one_way_stream_does_not_end_a_path(pair: PathPair) -> None:
    """A receiver that sends nothing of its own still lets the sender know."""
    a, b = pair.ends
    pair.run(30)
    pair.stream(a, 20, both=False)
    assert both_direct(pair)
    assert not any("not work" in change for _, change in a.log)
    assert b.sent == 0


def test_path_that_swallows_one_direction_is_left(pair: PathPair) -> None:
    a, b = pair.ends
    pair.stream(a, 3)
    pair.passes = lambda end, way, size: way.relayed or end is b
    cut_at = pair.now
    pair.stream(a, 4)
    assert a.kind == b.kind == "relay"
    assert next(at for at in b.arrivals if at > cut_at + 0.1) - cut_at < 2.5


def test_loss_does_not_end_a_path(pair: PathPair) -> None:
    dice = random.Random(4)
    a, _ = pair.ends
    pair.passes = lambda end, way, size: dice.random() > 0.1
    pair.stream(a, 60)
    assert both_direct(pair)
    assert not any("not work" in change for _, change in a.log)
    current = a.paths.current
    assert current is not None
    assert 0.02 < current.loss < 0.5


def test_flapping_path_is_retried_with_growing_pauses(pair: PathPair) -> None:
    a, _ = pair.ends
    pair.passes = lambda end, way, size: way.relayed
    pair.stream(a, 120)
    requests = [at for at, source, way, size in pair.wire if source == a.address and size == 64]
    assert len(requests) < 120, "5 a second would be 600"
    assert max(later - earlier for earlier, later in itertools.pairwise(requests)) > 5


def test_direct_path_outlives_the_relay(pair: PathPair) -> None:
    for end in pair.ends:
        end.paths.set_relay(None, "", pair.now)
    pair.stream(pair.ends[0], 30)
    assert both_direct(pair)
    received = pair.ends[1].received
    pair.frames(pair.ends[0])
    pair.run(1)
    assert pair.ends[1].received == received + 1


def test_idle_pair_is_nearly_silent(pair: PathPair) -> None:
    mark = len(pair.wire)
    pair.run(600)
    sent = len(pair.wire) - mark
    assert 10 <= sent <= 2 * 600 / 25 * 2
    assert both_direct(pair)


def test_idle_relay_path_and_idle_local_network_need_nothing() -> None:
    relayed = PathPair()
    relayed.start(candidates=False)
    relayed.run(20)
    mark = len(relayed.wire)
    relayed.run(600)
    assert len(relayed.wire) == mark
    local = PathPair()
    for number, end in enumerate(local.ends):
        end.address = Address(f"192.168.1.{number + 1}", 5000)
        end.paths.finder.own_hosts = frozenset([end.address.host])
    local.start()
    local.run(20)
    assert both_direct(local)
    mark = len(local.wire)
    local.run(600)
    assert len(local.wire) == mark


def test_dead_idle_path_is_noticed_and_teaches_the_keepalive(pair: PathPair) -> None:
    a, _ = pair.ends
    path = a.paths.current
    assert path is not None
    pair.passes = lambda end, way, size: way.relayed
    pair.run(60)
    assert a.kind == "relay"
    assert path.keepalive.interval < 25


def test_moved_peer_is_followed(pair: PathPair) -> None:
    """A receiver takes frames from anywhere, and sends there after a challenge and a full-size probe."""
    a, b = pair.ends
    pair.stream(a, 2)
    old = a.address
    moved_at = pair.now
    pair.move(a, Address("203.0.113.50", 7777))
    pair.stream(a, 2)
    assert both_direct(pair)
    assert b.paths.route is not None
    assert b.paths.route.way.address == a.address
    first = next(at for at in a.arrivals if at > moved_at + 2.5 * pair.latency)
    assert first - moved_at < 0.5
    large = [size for at, _, way, size in pair.wire if at > moved_at and way.address == a.address]
    assert large[0] <= 100
    assert old != a.address


def test_moved_peer_is_followed_without_frames_and_relay(pair: PathPair) -> None:
    a, b = pair.ends
    for end in pair.ends:
        end.paths.set_relay(None, "", pair.now)
    pair.move(a, Address("203.0.113.50", 7777))
    pair.run(40)
    assert b.paths.route is not None
    assert b.paths.route.way.address == a.address


@pytest.mark.parametrize("mtu", [1280, 1124])
def test_small_underlay(mtu: int) -> None:
    carries = mtu - 28
    pair = PathPair()
    pair.passes = lambda end, way, size: size <= carries
    pair.start()
    pair.run_until(lambda: both_direct(pair), 10)
    pair.run(20)
    for end in pair.ends:
        assert end.paths.route is not None
        assert carries - 8 < end.paths.route.budget <= carries


def test_jumbo_underlay() -> None:
    pair = PathPair()
    for end in pair.ends:
        end.paths.set_largest(8972, pair.now)
    pair.passes = lambda end, way, size: size <= 8972
    pair.start()
    pair.run(5)
    assert [end.paths.route.budget for end in pair.ends if end.paths.route] == [8972, 8972]


def test_mtu_that_shrinks_under_traffic(pair: PathPair) -> None:
    a, b = pair.ends
    pair.stream(a, 3)
    pair.passes = lambda end, way, size: size <= 1252
    shrunk_at, received = pair.now, b.received
    while b.received == received and pair.now < shrunk_at + 10:
        pair.frames(a, size=1452)
        pair.frames(b, size=100)
        pair.run(0.02)
    assert pair.now - shrunk_at < 3
    pair.stream(a, 15)
    assert both_direct(pair), "small packets pass: the path itself is well"
    assert a.paths.route is not None
    assert 1244 < a.paths.route.budget <= 1252


@pytest.mark.parametrize("later", [0.0, 0.3, 0.6, 0.9])
def test_mtu_that_has_shrunk_is_noticed_before_tcp_waits_long(pair: PathPair, later: float) -> None:
    """One probe a second, and three time-outs; TCP waits twice as long after each of its own."""
    a = pair.ends[0]
    pair.stream(a, 10.0 + later)
    pair.passes = lambda end, way, size: size <= 1252
    begun = pair.now
    while a.paths.route is not None and a.paths.route.budget > 1252:
        pair.stream(a, 0.02)
    assert pair.now - begun < 1.0 + 3 * MIN_TIMEOUT + 0.1


def test_spoofed_copy_of_a_request_gains_nothing() -> None:
    """Somebody on the path sends our REQUESTs on from a victim's address: five small answers and challenges a
    second, less than came from there, nothing when no more comes, and no path."""
    pair = PathPair()
    pair.start(candidates=False)
    victim = Way(Address("203.0.113.66", 53))
    a, b = pair.ends
    for number in range(50):
        pair.inject(b, encode_path_request(number.to_bytes(8, "big")), victim)
        pair.run(0.02)
    last = pair.now
    for _ in range(30):
        pair.stream(a, 1)
    to_victim = [(at, size) for at, _, way, size in pair.wire if way == victim]
    assert max(size for _, size in to_victim) <= 64
    assert 64 <= sum(size for _, size in to_victim) <= 50 * 64
    assert to_victim[-1][0] <= last
    assert b.kind == "relay"
    assert a.errors == []


def test_one_frame_from_a_spoofed_address_brings_it_one_challenge() -> None:
    """No direct path works, so rounds go on as long as frames flow: a mere source address is not in them."""
    pair = PathPair()
    pair.start(candidates=False)
    b = pair.ends[1]
    victim = Way(Address("203.0.113.66", 53))
    b.paths.handle_source(victim, pair.now)
    for _ in range(60):
        pair.stream(pair.ends[0], 1, gap=0.1)
    assert [size for _, _, way, size in pair.wire if way == victim] == [64]
    assert b.kind == "relay"


def test_wrong_echo_is_refused(pair: PathPair) -> None:
    b = pair.ends[1]
    stranger = Way(Address("203.0.113.66", 53))
    pair.inject(b, encode_path_response(b"guessed!", b"12345678", b.address), stranger)
    pair.inject(b, encode_path_complete(b"guessed!", b.address), stranger)
    assert b.errors == ["wrong_echo", "wrong_echo"]
    assert b.paths.route is not None
    assert b.paths.route.way.address == pair.ends[0].address


def test_answer_to_a_stranger_is_never_larger_than_the_question(pair: PathPair) -> None:
    b = pair.ends[1]
    stranger = Way(Address("203.0.113.66", 53))
    mark = len(pair.wire)
    pair.inject(b, encode_probe(Kind.PROBE_REQUEST, b"12345678"), stranger)
    answers = [size for _, _, way, size in pair.wire[mark:] if way == stranger]
    assert answers == [FRAME_OVERHEAD + 9, FRAME_OVERHEAD + 35], "the reply, and a challenge"


def test_flood_of_candidates_and_strangers_is_bounded(pair: PathPair) -> None:
    b = pair.ends[1]
    for number in range(100):
        pair.tell(b, *(Address(f"203.0.113.{n % 250 + 1}", 1000 + number) for n in range(50)))
        pair.inject(b, encode_path_request(bytes(8)), Way(Address("198.51.100.77", 2000 + number)))
        pair.run(0.05)
    assert len(b.paths.paths) <= 1 + 16 + MAX_STRANGERS
    assert b.kind == "direct", "the path that works is kept, whatever is named"
    begun = pair.now
    pair.run(2)
    packets = [way for at, source, way, _ in pair.wire if at >= begun and source == b.address]
    assert len(packets) <= 2 * 5 * (16 + MAX_STRANGERS) + 20


def test_direct_switched_off_answers_nobody() -> None:
    pair = PathPair()
    a, b = pair.ends
    b.paths._allowed = False
    pair.start()
    pair.run(30)
    assert not [way for _, source, way, _ in pair.wire if source == b.address and not way.relayed]
    assert a.kind == "relay"
    assert "direct_refused" in b.errors


def guess(end: End, peer_nat: str) -> None:
    end.paths.finder.peer_nat = peer_nat


def test_ports_near_the_observed_one_are_tried_within_the_budget() -> None:
    """The peer's NAT takes the next port for us: five above the one that the relay sees."""
    pair = PathPair()
    a, b = pair.ends
    guess(a, "mapping address-and-port-dependent, filtering unknown")
    seen_by_relay = b.address
    b.address = Address(seen_by_relay.host, seen_by_relay.port + 5)
    pair.start(candidates=False)
    opened: set[Address] = set()

    def passes(end: End, way: Way, size: int) -> bool:
        if way.relayed:
            return True
        if end is a:
            opened.add(way.address)
            return True
        return b.address in opened

    pair.passes = passes
    pair.tell(a, seen_by_relay, kind=CandidateKind.OBSERVED)
    pair.tell(b, a.address, kind=CandidateKind.OBSERVED)
    pair.run(10)
    assert both_direct(pair)
    guessed = [at for at, source, way, _ in pair.wire if source == a.address and not way.relayed]
    assert len(guessed) < 3 * 32 + 60


def test_session_that_ends_takes_its_paths_with_it(pair: PathPair) -> None:
    a = pair.ends[0]
    a.paths.stop()
    assert a.paths.route is None
    assert a.paths.deadline is None
    assert [path for path in a.paths.paths if not path.relayed] == []


def test_peer_that_vanished_is_lost() -> None:
    pair = PathPair()
    pair.start(candidates=False)
    a = pair.ends[0]
    pair.run(2)
    pair.passes = lambda end, way, size: False
    pair.stream(a, 5)
    assert not a.paths.lost(pair.now)
    pair.stream(a, 10)
    assert a.paths.lost(pair.now)
    a.paths.stop()
    a.paths.start(pair.now)
    assert not a.paths.lost(pair.now), "another session begins without the faults of the last"


def test_other_paths_are_measured_closely_where_the_one_in_use_loses(pair: PathPair) -> None:
    dice = random.Random(4)
    a, _ = pair.ends

    def measured() -> int:
        """How often a small probe takes the relay in a minute of frames that go directly."""
        begun = pair.now
        pair.stream(a, 60)
        assert both_direct(pair)
        wire = [entry for entry in pair.wire if entry[0] > begun and entry[1] == a.address]
        return sum(way.relayed and size < 100 for _, _, way, size in wire)

    pair.stream(a, 30)
    assert measured() < 20
    pair.passes = lambda end, way, size: dice.random() > 0.2
    pair.stream(a, 30)
    assert measured() > 60
