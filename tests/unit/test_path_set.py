"""All paths to one peer, one decision at a time: what is asked, left, told and forgotten, and when.

Two ends on virtual time are in `tests/protocol/test_paths.py`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from shadowmesh.errors import BadPacket
from shadowmesh.path.candidates import Candidate, CandidateKind
from shadowmesh.path.handshake import MIN_GAP
from shadowmesh.path.health import TICK, Counters
from shadowmesh.path.keepalive import FIRST
from shadowmesh.path.path import LEFT_AFTER, Pace, Path
from shadowmesh.path.paths import EAGER_FOR, LOST_AFTER, STABLE_AFTER, STANDBY_FOR, PathSet
from shadowmesh.path.selector import Decision, Policy, Ranked, choose
from shadowmesh.path.way import Way
from shadowmesh.units import Address
from shadowmesh.wire.payload import (
    Kind,
    encode_path_complete,
    encode_path_request,
    encode_path_response,
    encode_probe,
    parse_path_request,
    parse_path_response,
    parse_probe,
)

NOW = 1000.0
HERE, THERE = Address("203.0.113.9", 4000), Way(Address("198.51.100.7", 4000))
OTHER = Way(Address("198.51.100.8", 4000))
RELAY, RELAY_2 = (Way(Address(f"192.0.2.{host}", 4433), b"channel1") for host in (1, 2))


class Peer:
    """A path set, its clock, and a peer that answers on `alive` at once."""

    def __init__(self, *candidates: Way, direct: bool = True, policy: Policy = choose) -> None:
        self.now = NOW
        self.paths = PathSet(random.Random(1).randbytes, NOW, policy, direct)
        self.alive = {RELAY, RELAY_2, *candidates}
        self.sent: list[tuple[int, Way]] = []
        self.tx = self.rx = 0
        self.paths.set_relay(RELAY, "relay r", NOW)
        self.paths.start(NOW)
        if candidates:
            self.tell(*candidates)
            self.run(0.1)

    @property
    def current(self) -> Path:
        assert self.paths.current is not None
        return self.paths.current

    def tell(self, *ways: Way, kind: CandidateKind = CandidateKind.LOCAL) -> None:
        self.paths.set_candidates([Candidate(way.address, kind) for way in ways], self.now)
        self.collect()

    def collect(self) -> list[tuple[int, Way]]:
        """What goes out just now, as kinds of payloads; the peer answers."""
        fresh = []
        while out := self.paths.poll_transmit():
            fresh += [(payload[0], way) for payload, way in out]
            for payload, way in out:
                if way in self.alive:
                    self.answer(payload, way)
        self.sent += fresh
        return fresh

    def answer(self, payload: bytes, way: Way) -> None:
        if payload[0] == Kind.PROBE_REQUEST:
            self.get(encode_probe(Kind.PROBE_REPLY, parse_probe(payload)), way)
        elif payload[0] == Kind.PATH_REQUEST:
            self.get(encode_path_response(parse_path_request(payload), b"of peer!", HERE), way)

    def get(self, payload: bytes, way: Way) -> None:
        self.paths.handle_payload_untrusted(payload, way, self.now)

    def run(self, seconds: float, tx: bool = False, rx: bool = False, heard_at: float = 0.0) -> None:
        """Time passes, with timers and looks; frames go out or come in all the time."""
        until = self.now + seconds
        while self.now < until - 1e-6:
            self.now = min(until, self.now + TICK)
            self.tx, self.rx = self.tx + tx, self.rx + rx
            self.paths.handle_counters(Counters(self.tx, self.rx, heard_at), self.now)
            while (deadline := self.paths.deadline) is not None and deadline <= self.now:
                self.paths.handle_timer(self.now)
                self.collect()
            self.collect()


def direct_peer() -> Peer:
    peer = Peer(THERE)
    peer.run(1)
    assert peer.current.way == THERE
    peer.paths.poll_announcement()
    return peer


def on_the_relay(paths: Sequence[Ranked], current: int | None, chosen_at: float, now: float) -> Decision:
    return Decision(0, "it is told so")


@pytest.mark.parametrize(
    "payload",
    [
        encode_path_request(b"of peer!"),
        encode_path_response(b"of peer!", b"of peer!", HERE),
        encode_path_complete(b"of peer!", HERE),
    ],
)
def test_a_relay_proves_no_address(payload: bytes) -> None:
    peer = Peer()
    peer.collect()
    with pytest.raises(BadPacket, match="unexpected_kind"):
        peer.get(payload, RELAY)
    assert peer.collect() == []


def test_a_path_that_works_is_not_lost_by_an_old_silence() -> None:
    """A probe of a path at rest may stay unanswered for long: nobody looked."""
    peer = Peer()
    peer.run(1)
    peer.current.silent_since = NOW - 2 * LOST_AFTER
    assert not peer.paths.lost(peer.now)
    peer.current.fail("it is gone")
    assert peer.paths.lost(peer.now)


@pytest.mark.parametrize(("source", "left"), [(RELAY, False), (OTHER, True)])
def test_only_direct_frames_from_elsewhere_leave_a_path(source: Way, left: bool) -> None:
    peer = direct_peer()
    path = peer.current
    peer.alive.clear()
    peer.paths.handle_source(source, peer.now)
    assert (Kind.PROBE_REQUEST, THERE) not in peer.collect()
    peer.run(LEFT_AFTER + TICK)
    assert (Kind.PROBE_REQUEST, THERE) in peer.sent[-6:], "it is asked in any case"
    assert path.left_by_peer == left


def test_frames_on_another_way_are_no_answer() -> None:
    peer = direct_peer()
    peer.paths.handle_source(RELAY, peer.now)
    begun = len(peer.sent)
    peer.run(0.5, tx=True, rx=True, heard_at=peer.now + 1)
    assert (Kind.EMPTY, RELAY) in peer.sent[begun:]
    peer = direct_peer()
    begun = len(peer.sent)
    peer.run(0.5, tx=True, rx=True, heard_at=peer.now + 1)
    assert Kind.EMPTY not in {kind for kind, _ in peer.sent[begun:]}


def test_nothing_goes_to_an_unproved_address_because_frames_came_from_there() -> None:
    peer = Peer()
    peer.run(1)
    peer.paths.handle_source(OTHER, peer.now)
    peer.run(1, rx=True)
    assert {kind for kind, way in peer.sent if way == OTHER} == {Kind.PATH_REQUEST}


def test_frames_after_a_long_silence_begin_a_round_on_the_relay_only() -> None:
    peer = Peer()
    peer.now += 2 * EAGER_FOR
    peer.run(1)
    peer.paths.poll_announcement()
    peer.now += STANDBY_FOR + 1
    peer.run(0.5, tx=True, heard_at=peer.now)
    assert peer.paths.poll_announcement()
    peer.paths.finder.rounds.stop()
    peer.run(STANDBY_FOR - 10)
    peer.run(0.5, tx=True, heard_at=peer.now)
    assert not peer.paths.poll_announcement(), "frames were not long ago"

    peer = direct_peer()
    peer.run(2 * STANDBY_FOR)
    assert peer.current.way == THERE
    peer.paths.poll_announcement()
    peer.run(0.5, tx=True, heard_at=peer.now)
    assert not peer.paths.poll_announcement(), "it is direct already"


def test_a_payload_on_the_path_in_use_ends_its_silence() -> None:
    peer = direct_peer()
    peer.alive.clear()
    peer.run(0.5, tx=True)
    assert peer.paths._health.silence(peer.now) > 0.4
    peer.get(encode_probe(Kind.PROBE_REQUEST, b"of peer!"), RELAY)
    assert peer.paths._health.silence(peer.now) > 0.4, "on another one it does not"
    peer.get(encode_probe(Kind.PROBE_REQUEST, b"of peer!"), THERE)
    assert peer.paths._health.silence(peer.now) == 0


def test_no_rounds_go_on_once_an_address_works() -> None:
    peer = Peer(THERE, policy=on_the_relay)
    peer.run(10)
    assert peer.current.relayed
    assert peer.paths.finder.works
    assert peer.paths.finder.rounds.deadline is None
    path = peer.paths.finder.found[THERE]
    assert path.pace is Pace.WEIGHED, "what keeps frames from it may pass"


def test_a_relay_is_not_given_up_for_frames_without_an_answer() -> None:
    peer = Peer()
    peer.run(1)
    peer.alive.clear()
    for _ in range(9):
        peer.run(TICK, tx=True)
        assert "frames" not in peer.current.detail


def test_what_the_data_plane_hears_is_life_of_the_path() -> None:
    peer = direct_peer()
    peer.run(0.5, tx=True, heard_at=peer.now + 0.4)
    assert peer.current.heard_at >= peer.now - 0.1 - 1e-6


@pytest.mark.parametrize(("held", "again"), [(STABLE_AFTER - 5, False), (STABLE_AFTER + 1, True)])
def test_only_a_stable_path_begins_the_back_off_anew(held: float, again: bool) -> None:
    peer = direct_peer()
    rounds = peer.paths.finder.rounds
    peer.paths.chosen_at = peer.now - held
    rounds._count = 10
    peer.alive.discard(THERE)
    peer.current.fail("it is gone")
    peer.paths.handle_timer(peer.now)
    assert peer.current.relayed
    assert rounds.guessing == again
    assert rounds.deadline is not None, "the next round is due"


def test_a_change_of_path_forgets_silence_and_probes_the_relay_at_once() -> None:
    peer = direct_peer()
    peer.alive.clear()
    peer.run(0.5, tx=True)
    peer.current.fail("it is gone")
    peer.collect()
    peer.paths.handle_counters(Counters(peer.tx, 0, 0.0), peer.now)
    assert peer.current.relayed
    assert peer.paths._health.silence(peer.now) == 0
    peer.paths.handle_timer(peer.now)
    assert (Kind.PROBE_REQUEST, RELAY) in peer.collect()


def test_another_channel_is_another_path() -> None:
    peer = Peer()
    relay = peer.paths.relay
    peer.paths.set_relay(RELAY, "relay r", peer.now)
    assert peer.paths.relay is relay
    peer.paths.set_relay(RELAY_2, "relay r", peer.now)
    assert peer.current.way == RELAY_2


def test_a_session_that_ends_leaves_nothing_to_send_and_no_source() -> None:
    peer = Peer()
    peer.run(1, tx=True, heard_at=peer.now + 1)
    peer.paths.handle_source(RELAY, peer.now)
    assert peer.paths.create_probe(peer.now) is not None
    peer.paths.stop()
    assert peer.paths.poll_transmit() == []
    assert peer.paths.create_probe(peer.now) is None
    peer.paths.set_relay(RELAY_2, "relay r", peer.now)
    assert peer.paths.create_probe(peer.now) is None, "there is a relay, and no session"
    assert [path.pace for path in peer.paths.paths] == [Pace.REST]
    peer.paths.start(peer.now)
    assert not peer.paths.active(peer.now), "the frames were of another session"
    begun = len(peer.sent)
    peer.run(0.5, rx=True)
    assert (Kind.EMPTY, RELAY_2) in peer.sent[begun:]


def test_without_a_session_no_address_is_found() -> None:
    peer = Peer()
    peer.paths.stop()
    peer.paths.handle_source(OTHER, peer.now)
    assert [path.way for path in peer.paths.paths] == [RELAY]


def test_a_session_that_follows_another_keeps_its_paths_and_asks_nobody() -> None:
    peer = direct_peer()
    peer.run(0.2, tx=True, heard_at=peer.now + 1)
    path = peer.current
    peer.paths.start(peer.now)
    assert peer.current is path
    assert peer.paths.active(peer.now)
    assert not peer.paths.poll_announcement()


def test_a_change_of_network_asks_the_path_in_use_and_forgets_what_nats_taught() -> None:
    peer = direct_peer()
    peer.current.keepalive.interval = 100.0
    peer.paths.finder.rounds._count = 10
    peer.now += MIN_GAP
    peer.paths.handle_network_change(peer.now)
    assert peer.current.keepalive.interval == FIRST
    assert (Kind.PATH_REQUEST, THERE) in peer.collect()
    assert peer.paths.finder.rounds.guessing
    assert peer.paths.poll_announcement()


def test_who_is_direct_needs_no_round_in_a_hurry() -> None:
    peer = direct_peer()
    peer.run(10)
    peer.paths.poll_announcement()
    peer.paths.hurry(peer.now)
    assert not peer.paths.poll_announcement()
    peer.paths.handle_timer(peer.now)
    assert (Kind.PROBE_REQUEST, THERE) in peer.collect()


def test_the_largest_size_is_that_of_all_paths() -> None:
    peer = direct_peer()
    peer.paths.set_largest(1300, peer.now)
    assert {path.mtu.largest for path in peer.paths.paths} == {1300}
    peer.tell(THERE, OTHER)
    assert {path.mtu.largest for path in peer.paths.paths} == {1300}


def test_where_no_direct_path_is_allowed_nobody_is_asked_and_nothing_is_announced() -> None:
    peer = Peer(direct=False)
    peer.paths.handle_source(OTHER, peer.now)
    peer.run(5, tx=True, rx=True)
    peer.paths.handle_network_change(peer.now)
    peer.paths.hurry(peer.now)
    assert not peer.paths.poll_announcement()
    assert [path.way for path in peer.paths.paths] == [RELAY]
    assert {way for _, way in peer.sent} == {RELAY}


def test_silence_is_asked_about_before_it_ends_a_path() -> None:
    peer = direct_peer()
    peer.run(0.1)
    peer.alive.clear()
    peer.current._base = peer.now + 10  # no regular probe meanwhile
    begun = len(peer.sent)
    peer.run(0.4, tx=True)
    assert (Kind.PROBE_REQUEST, THERE) in peer.sent[begun:]


# Whose addresses are asked.


def asked(peer: Peer, way: Way, begun: int = 0) -> int:
    return sum(one == (Kind.PATH_REQUEST, way) for one in peer.sent[begun:])


def test_a_failed_address_is_asked_once_a_second_while_something_comes_from_there() -> None:
    peer = Peer(OTHER)
    peer.alive.discard(OTHER)
    peer.paths.finder.found[OTHER].fail("it is gone")
    peer.paths.finder.rounds.stop()
    begun = len(peer.sent)
    for _ in range(40):
        peer.now += 0.1
        peer.get(encode_probe(Kind.PROBE_REQUEST, b"of peer!"), OTHER)
        peer.collect()
    assert 3 <= asked(peer, OTHER, begun) <= 5


def strangers(peer: Peer) -> set[Way]:
    return {way for way, path in peer.paths.finder.found.items() if path.kind is CandidateKind.PEER}


def test_of_the_strangers_that_in_use_stays_then_those_that_work_then_the_youngest() -> None:
    peer = direct_peer()
    ways = [Way(Address("198.51.100.9", port)) for port in range(4000, 4009)]
    for path in list(peer.paths.finder.found.values()):
        path.kind = CandidateKind.PEER
    peer.alive.add(ways[0])
    for way in ways:
        peer.now += 0.3
        peer.paths.handle_source(way, peer.now)
        peer.current.handle_heard(peer.now)
        peer.collect()
        if way == ways[0]:
            peer.run(1)
            peer.alive = {THERE, RELAY}
            peer.current.handle_heard(peer.now)
        assert len(strangers(peer)) <= 4
    assert peer.current.way == THERE
    assert strangers(peer) == {THERE, ways[0], *ways[-2:]}


@pytest.mark.parametrize("by_proof", [False, True])
def test_where_strangers_are_not_taken_nothing_makes_them_paths(by_proof: bool) -> None:
    peer = Peer()
    peer.paths = PathSet(random.Random(1).randbytes, NOW, strangers=False)
    peer.paths.start(NOW)
    if by_proof:
        peer.get(encode_path_request(b"of peer!"), OTHER)
        ((response, _),) = [one for one in peer.paths.poll_transmit() if one[0][0] == Kind.PATH_RESPONSE]
        peer.get(encode_path_complete(parse_path_response(response).challenge, HERE), OTHER)
    else:
        peer.paths.handle_source(OTHER, NOW)
    assert peer.paths.paths == []
    assert peer.paths.poll_transmit() == []


def test_a_stranger_that_proves_itself_becomes_a_path() -> None:
    peer = Peer()
    peer.alive.add(OTHER)
    peer.paths.handle_source(OTHER, peer.now)
    peer.run(1)
    assert peer.current.way == OTHER
    assert peer.current.observed == HERE


def test_a_session_that_ends_keeps_the_addresses_of_the_configuration_only() -> None:
    peer = Peer()
    listed = [Candidate(THERE.address, CandidateKind.STATIC), Candidate(OTHER.address, CandidateKind.LOCAL)]
    peer.paths.set_candidates(listed, peer.now)
    peer.paths.stop()
    assert peer.paths.poll_transmit() == []
    assert peer.paths.finder.rounds.deadline is None
    peer.paths.start(peer.now)
    assert [path.way for path in peer.paths.paths] == [RELAY, THERE]


def test_an_address_that_is_listed_no_more_goes_unless_it_works() -> None:
    peer = Peer(THERE, OTHER)
    peer.alive.discard(OTHER)
    peer.run(1)
    peer.paths.finder.found[OTHER].fail("it is gone")
    path = peer.paths.finder.found[THERE]
    peer.alive.discard(THERE)
    peer.paths.set_candidates([], peer.now)
    assert list(peer.paths.finder.found) == [THERE]
    assert path.kind is CandidateKind.PEER
    peer.paths.handle_timer(peer.now)
    assert (Kind.PROBE_REQUEST, THERE) in peer.collect(), "the peer may have left it"
    peer.tell(THERE, kind=CandidateKind.OBSERVED)
    assert peer.paths.finder.found[THERE].kind is CandidateKind.OBSERVED


def test_a_path_that_works_is_not_asked_in_rounds() -> None:
    peer = direct_peer()
    begun = len(peer.sent)
    peer.tell(THERE, OTHER)
    peer.paths.finder.rounds.begin(peer.now)
    peer.run(3)
    assert asked(peer, OTHER, begun) >= 9
    assert asked(peer, THERE, begun) == 0
    assert peer.paths.finder.found[OTHER].detail == "no answer"


@pytest.mark.parametrize(
    ("theirs", "ours", "kind", "guessed"),
    [
        ("mapping address-dependent", "", CandidateKind.OBSERVED, True),
        ("mapping address-dependent", "mapping address-dependent", CandidateKind.OBSERVED, False),
        ("mapping endpoint-independent", "", CandidateKind.OBSERVED, False),
        ("mapping address-dependent", "", CandidateKind.LOCAL, False),
    ],
)
def test_ports_are_guessed_near_observed_addresses_if_the_nat_of_the_peer_alone_moves(
    theirs: str, ours: str, kind: CandidateKind, guessed: bool
) -> None:
    peer = Peer()
    peer.paths.finder.peer_nat, peer.paths.finder.own_nat = theirs, ours
    peer.tell(OTHER, kind=kind)
    peer.run(3)
    beside = {way.address.port for asked, way in peer.sent if asked == Kind.PATH_REQUEST and way != OTHER}
    assert (beside == {*range(3992, 4000), *range(4001, 4025)}) if guessed else not beside
    begun = len(peer.sent)
    peer.run(200)
    begun_late = len(peer.sent)
    peer.run(100)
    assert asked(peer, OTHER, begun) > 20
    assert {way.address.port for kind, way in peer.sent[begun_late:] if kind == Kind.PATH_REQUEST} <= {4000}


@pytest.mark.parametrize(
    ("there", "seen", "untranslated"),
    [
        ("192.168.1.7", "192.168.1.5", True),
        ("192.168.1.7", "192.168.1.6", False),
        ("198.51.100.7", "192.168.1.5", False),
    ],
)
def test_nothing_translates_where_both_ends_are_private_and_seen_as_they_are(
    there: str, seen: str, untranslated: bool
) -> None:
    way = Way(Address(there, 4000))
    peer = Peer()
    peer.paths.finder.own_hosts = frozenset({"192.168.1.5"})
    peer.paths.set_candidates([Candidate(way.address, CandidateKind.LOCAL)], NOW)
    request = next(payload for payload, to in peer.paths.poll_transmit() if to == way)
    peer.get(encode_path_response(parse_path_request(request), b"of peer!", Address(seen, 4000)), way)
    assert peer.paths.finder.found[way].untranslated == untranslated
