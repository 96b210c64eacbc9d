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
from shadowmesh.path.selector import Decision, Ranked, choose
from shadowmesh.path.way import Way
from shadowmesh.units import Address
from shadowmesh.wire.payload import (
    Kind,
    encode_path_complete,
    encode_path_request,
    encode_path_response,
    encode_probe,
    parse_path_request,
    parse_probe,
)

NOW = 1000.0
HERE, THERE = Address("203.0.113.9", 4000), Way(Address("198.51.100.7", 4000))
OTHER = Way(Address("198.51.100.8", 4000))
RELAY, RELAY_2 = (Way(Address(f"192.0.2.{host}", 4433), b"channel1") for host in (1, 2))


class Peer:
    """A path set, its clock, and a peer that answers on `alive` at once."""

    def __init__(self, *candidates: Way, direct: bool = True, policy: object = choose) -> None:
        self.now = NOW
        self.paths = PathSet(random.Random(1).randbytes, NOW, policy, direct)  # type: ignore[arg-type]
        self.alive = {RELAY, RELAY_2, *candidates}
        self.sent: list[tuple[int, Way]] = []
        self.tx = self.rx = 0
        self.paths.set_relay(RELAY, "relay r", NOW)
        self.paths.start(NOW)
        if candidates:
            self.list(*candidates)
            self.run(0.1)

    @property
    def current(self) -> Path:
        assert self.paths.current is not None
        return self.paths.current

    def list(self, *ways: Way, kind: CandidateKind = CandidateKind.LOCAL) -> None:
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
    peer.run(0.9, tx=True)
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
    peer.list(THERE, OTHER)
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
