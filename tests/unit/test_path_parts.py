"""The small parts of the path layer by themselves: candidates, challenges, sizes, rounds, choice."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass

import pytest

from shadowmesh.errors import BadPacket
from shadowmesh.path import handshake, keepalive, mtu, probes, rounds
from shadowmesh.path.candidates import Candidate, CandidateKind, from_wire, merge, to_wire, usable
from shadowmesh.path.handshake import Handshake
from shadowmesh.path.health import ANSWER_AFTER, TICK, Counters, Health
from shadowmesh.path.keepalive import Keepalive
from shadowmesh.path.mtu import MtuSearch, MtuState
from shadowmesh.path.path import Path, PathState
from shadowmesh.path.paths import LOSSY
from shadowmesh.path.probes import Probes
from shadowmesh.path.rounds import Rounds, guesses
from shadowmesh.path.rtt import RECENT, RoundTrip
from shadowmesh.path.selector import choose
from shadowmesh.path.way import Way
from shadowmesh.units import Address
from shadowmesh.wire.payload import parse_probe

OVERLAY = [ipaddress.ip_network("10.77.0.0/16")]
THERE, ELSEWHERE = Way(Address("198.51.100.7", 4000)), Way(Address("203.0.113.9", 4000))


def randbytes() -> random.Random:
    return random.Random(7)


@pytest.mark.parametrize(
    ("host", "port", "good"),
    [
        ("192.168.1.7", 5000, True),
        ("2001:db8::7", 5000, True),
        ("fe80::1%3", 5000, True),
        ("::ffff:192.168.1.7", 5000, True),
        ("fe80::1", 5000, False),
        ("169.254.1.1", 5000, False),
        ("127.0.0.1", 5000, False),
        ("::1", 5000, False),
        ("::ffff:127.0.0.1", 5000, False),
        ("224.0.0.1", 5000, False),
        ("ff02::1", 5000, False),
        ("255.255.255.255", 5000, False),
        ("0.0.0.0", 5000, False),
        ("0.1.2.3", 5000, False),
        ("::", 5000, False),
        ("192.168.1.7", 0, False),
        ("10.77.3.1", 5000, False),
        ("::ffff:10.77.3.1", 5000, False),
        ("not an address", 5000, False),
    ],
)
def test_which_addresses_are_candidates(host: str, port: int, good: bool) -> None:
    assert usable(Address(host, port), OVERLAY) is good


def test_merge_keeps_the_first_of_each_and_sixteen_at_most() -> None:
    flood = [Candidate(Address(f"198.51.100.{n}", 1), CandidateKind.PEER) for n in range(1, 100)]
    first = Candidate(Address("198.51.100.3", 1), CandidateKind.STATIC)
    merged = merge([[first], flood])
    assert merged[0] == first
    assert len(merged) == len({one.address for one in merged}) == 16


def test_candidates_survive_the_wire_but_for_zones() -> None:
    there = [Candidate(Address("198.51.100.3", 1), CandidateKind.MAPPED)]
    there.append(Candidate(Address("2001:db8::1", 65535), CandidateKind.LOCAL))
    scoped = Candidate(Address("fe80::1%2", 5), CandidateKind.LOCAL)
    assert from_wire(to_wire([*there, scoped])) == there


def test_handshake_proves_both_ends() -> None:
    here, peer = Handshake(randbytes().randbytes), Handshake(random.Random(8).randbytes)
    request = here.create_request(THERE, 10.0)
    assert request is not None
    response = peer.handle_request_untrusted(request, ELSEWHERE, 10.02)
    assert response is not None
    assert len(response) <= len(request)
    proved = here.handle_response_untrusted(response, THERE, 10.04)
    assert proved.way == THERE
    assert proved.rtt == pytest.approx(0.04)
    assert proved.observed == ELSEWHERE.address
    assert proved.answer is not None
    confirmed = peer.handle_complete_untrusted(proved.answer, ELSEWHERE, 10.06)
    assert confirmed.observed == THERE.address
    assert confirmed.rtt == pytest.approx(0.04)


@pytest.mark.parametrize("late", [0.0, handshake.CHALLENGE_LIFE + 1])
@pytest.mark.parametrize("way", [THERE, ELSEWHERE])
def test_echo_counts_once_in_time_and_from_where_the_challenge_went(late: float, way: Way) -> None:
    here, peer = Handshake(randbytes().randbytes), Handshake(random.Random(8).randbytes)
    request = here.create_request(THERE, 10.0)
    assert request is not None
    response = peer.handle_request_untrusted(request, ELSEWHERE, 10.0)
    assert response is not None
    if late or way != THERE:
        with pytest.raises(BadPacket, match="wrong_echo"):
            here.handle_response_untrusted(response, way, 10.0 + late)
        return
    here.handle_response_untrusted(response, way, 10.0)
    with pytest.raises(BadPacket, match="wrong_echo"):
        here.handle_response_untrusted(response, way, 10.0)


def test_five_packets_a_second_to_an_address_and_bounded_memory() -> None:
    here = Handshake(randbytes().randbytes)
    times = [n / 100 for n in range(200)]
    assert sum(here.create_request(THERE, 10 + at) is not None for at in times) == 10
    request = Handshake(randbytes().randbytes).create_request(THERE, 10.0)
    assert request is not None
    assert sum(here.handle_request_untrusted(request, THERE, 20 + at) is not None for at in times) == 10
    flood = [Way(Address("203.0.113.1", port)) for port in range(1, 1000)]
    answers = [here.handle_request_untrusted(request, way, 30.0) for way in flood]
    assert sum(one is not None for one in answers) <= handshake.MAX_ADDRESSES
    assert len(here._waiting) <= handshake.MAX_CHALLENGES


@pytest.mark.parametrize("size", [0, 1, 34, 36])
def test_handshake_refuses_other_sizes(size: int) -> None:
    here = Handshake(randbytes().randbytes)
    for handle in (
        here.handle_request_untrusted,
        here.handle_response_untrusted,
        here.handle_complete_untrusted,
    ):
        with pytest.raises(BadPacket):
            handle(bytes(size), THERE, 1.0)


def find_mtu(search: MtuSearch, carries: int, now: float = 0.0) -> int:
    """Run the search over a path that carries so many bytes; the number of probes."""
    sent = 0
    while (size := search.due_size(now)) is not None:
        sent += 1
        assert sent < 100
        search.handle_sent()
        assert search.due_size(now) is None, "one probe at a time"
        if size <= carries:
            search.handle_answer(size, now)
        else:
            search.handle_loss(size, now)
    return sent


@pytest.mark.parametrize("carries", [1024, 1096, 1199, 1200, 1232, 1252, 1300, 1451, 1452])
def test_mtu_search_finds_what_a_path_carries(carries: int) -> None:
    search = MtuSearch()
    probes_sent = find_mtu(search, carries)
    assert search.state is MtuState.COMPLETE
    assert carries - mtu.STEP < search.budget <= carries
    assert probes_sent <= 2 if carries == 1452 else probes_sent < 40


@pytest.mark.parametrize(("largest", "carries"), [(8972, 8972), (8972, 1452), (8972, 1472), (8972, 4000)])
def test_mtu_search_goes_up_to_the_interface(largest: int, carries: int) -> None:
    search = MtuSearch(largest)
    find_mtu(search, carries)
    assert carries - mtu.STEP < search.budget <= carries


@pytest.mark.parametrize("largest", [1300, 8952])
def test_an_interface_that_changes_before_the_base_has_passed_bounds_the_search(largest: int) -> None:
    search = MtuSearch()
    search.set_largest(largest, NOW)
    search.handle_sent()
    search.handle_answer(mtu.BASE, NOW)
    assert search.due_size(NOW) == largest


def test_black_hole_leads_to_the_base_and_the_raise_timer_back() -> None:
    search = MtuSearch()
    find_mtu(search, 1452)
    search.handle_black_hole(5.0)
    assert search.budget == mtu.BASE
    find_mtu(search, 1252, 5.0)
    assert 1244 < search.budget <= 1252
    assert search.due_size(5.0 + mtu.RAISE_AFTER - 1) is None
    find_mtu(search, 1452, 5.0 + mtu.RAISE_AFTER)
    assert search.budget == 1452


def test_keepalive_grows_by_proof_and_learns_its_limit() -> None:
    rare = Keepalive()
    assert rare.interval == keepalive.FIRST
    for _ in range(keepalive.PROOFS):
        rare.handle_outlived()
    grown = rare.interval
    assert grown == keepalive.FIRST * keepalive.GROWTH
    rare.handle_forgotten()
    assert rare.interval == pytest.approx(keepalive.FIRST)
    for _ in range(50):
        rare.handle_outlived()
    assert rare.interval == pytest.approx(keepalive.FIRST), "what it did not outlive is not tried again"
    patient = Keepalive()
    for _ in range(50):
        patient.handle_outlived()
    assert patient.interval == keepalive.LONGEST


def test_a_round_is_ten_volleys_and_pauses_grow() -> None:
    waits, now = Rounds(randbytes().randbytes), 100.0
    pauses = []
    for _ in range(8):
        waits.begin(now)
        volleys = 0
        while waits.running:
            now = waits.deadline or 0.0
            volleys += waits.volley(now)
        assert volleys == 10
        waits.pause(now)
        assert waits.deadline is not None
        pauses.append(waits.deadline - now)
        now = waits.deadline
        assert waits.due(now)
    assert pauses[0] <= rounds.PAUSE
    assert 10 < max(pauses) <= rounds.PAUSE_CAP
    assert not waits.guessing
    waits.refresh()
    waits.begin(now)
    assert waits.guessing


def test_a_peer_can_not_ask_for_endless_rounds() -> None:
    waits = Rounds(randbytes().randbytes)
    begun = sum(waits.invite(100 + n / 100) for n in range(1000))
    assert begun == 10


def test_guessed_ports_are_bounded_and_near() -> None:
    ports = [one.port for volley in range(1, 20) for one in guesses([Address("203.0.113.1", 5000)], volley)]
    assert len(ports) == len(set(ports)) == rounds.PORTS_ABOVE + rounds.PORTS_BELOW
    assert max(abs(port - 5000) for port in ports) == rounds.PORTS_ABOVE
    assert [one.port for one in guesses([Address("203.0.113.1", 65535)], 1)] == []


def test_late_answers_still_measure() -> None:
    table = Probes(randbytes().randbytes)
    nonce = parse_probe(table.create(1.0))
    assert table.expires_at == 1.0 + probes.UNKNOWN_TIMEOUT
    assert len(table.expire(2.0)) == 1
    assert table.loss > 0
    assert not table._waiting
    assert table.handle_reply(nonce, 3.0) is not None
    assert table.round_trip.smoothed == 2.0
    assert table.loss == 0.0, "it was late, not lost"
    assert table.handle_reply(nonce, 3.0) is None, "an answer counts once"


def test_bad_moments_do_not_make_a_path_longer() -> None:
    table = RoundTrip()
    table.measure(0.4)
    assert table.lowest == 0.4
    for sample in (0.02, *[0.3] * (RECENT - 1)):
        table.measure(sample)
        assert table.lowest == 0.02
    table.measure(0.3)
    assert table.lowest == 0.3, "what lasts does"


def test_health_sees_silence_and_what_is_owed() -> None:
    watch, now = Health(), 50.0
    watch.handle_counters(Counters(0, 0, 0.0), True, now)
    for tick in range(1, 8):
        watch.handle_counters(Counters(tick, 0, 0.0), True, now + tick * TICK)
    assert watch.active(now + 0.7)
    assert watch.silence(now + 0.7) == pytest.approx(0.7)
    watch.handle_counters(Counters(7, 0, now + 0.75), True, now + 0.8)
    assert watch.silence(now + 0.8) == 0
    assert not watch.owes(now + 0.8)
    watch.handle_counters(Counters(7, 5, now + 0.85), True, now + 0.9)
    assert not watch.owes(now + 0.9)
    assert watch.owes(now + 0.9 + ANSWER_AFTER)
    watch.handle_counters(Counters(8, 6, now + 0.95), True, now + 1.0)
    assert not watch.owes(now + 2.0), "frames are an answer"
    watch.handle_counters(Counters(8, 7, now + 1.05), True, now + 1.1)
    watch.handle_counters(Counters(9, 7, now + 1.05), False, now + 1.2)
    assert watch.owes(now + 1.5), "frames on another way are none"


def test_health_sees_frames_that_the_system_refuses_to_send() -> None:
    watch, now = Health(), 50.0
    for tick in range(8):
        watch.handle_counters(Counters(7, 0, 0.0, sealed=7 + tick), True, now + tick * TICK)
    assert watch.silence(now + 0.7) > 0.5
    idle = Health()
    for tick, sealed in enumerate((9, 9, 0, 0, 0)):
        idle.handle_counters(Counters(7, 0, 0.0, sealed), True, now + tick * TICK)
    assert idle.silence(now + 0.5) == 0, "a fresh lane begins with 0, and that is no frame"


@dataclass
class Fake:
    """A path as the policy sees it."""

    name: str
    lowest: float | None = 0.02
    relayed: bool = False
    usable: bool = True
    loss: float = 0.0
    counted: int = 31
    detail: str = ""
    left_by_peer: bool = False
    old: bool = False

    def fresh(self, now: float) -> bool:
        return not self.old


RELAYED = Fake("relay", lowest=0.03, relayed=True)
LONG_AGO, NOW = 0.0, 100.0


@pytest.mark.parametrize(
    ("paths", "current", "chosen_at", "expected"),
    [
        ([], None, LONG_AGO, None),
        ([RELAYED], None, LONG_AGO, 0),
        ([Fake("direct", usable=False)], 0, LONG_AGO, None),
        ([Fake("silent", relayed=True, usable=False)], 0, LONG_AGO, 0),
        ([RELAYED, Fake("direct")], 0, NOW - 0.1, 1),
        ([RELAYED, Fake("direct", usable=False)], 1, NOW - 0.1, 0),
        ([RELAYED, Fake("direct", old=True)], 0, LONG_AGO, 0),
        ([RELAYED, Fake("direct", lowest=0.06)], 0, LONG_AGO, 1),
        ([RELAYED, Fake("slow", lowest=0.2)], 0, LONG_AGO, 0),
        ([RELAYED, Fake("slow", lowest=0.2)], 1, LONG_AGO, 0),
        ([RELAYED, Fake("lossy", loss=0.3)], 1, LONG_AGO, 0),
        ([Fake("here", lowest=0.02), Fake("nearer", lowest=0.018)], 0, LONG_AGO, 0),
        ([Fake("here", lowest=0.02), Fake("nearer", lowest=0.01)], 0, NOW - 1, 0),
        ([Fake("here", lowest=0.02), Fake("nearer", lowest=0.01)], 0, LONG_AGO, 1),
        ([Fake("here", lowest=0.0004), Fake("nearer", lowest=0.0001)], 0, LONG_AGO, 0),
        ([Fake("here", left_by_peer=True), Fake("new", lowest=0.03)], 0, NOW - 0.1, 1),
        ([RELAYED, Fake("here", left_by_peer=True)], 1, NOW - 0.1, 1),
    ],
)
def test_choice(paths: list[Fake], current: int | None, chosen_at: float, expected: int | None) -> None:
    decision = choose(paths, current, chosen_at, NOW)
    assert decision.chosen == expected
    assert decision.reason


def test_choice_does_not_swing_between_two_like_paths() -> None:
    noise = random.Random(3)
    paths = [Fake("one"), Fake("two")]
    current, changes = 0, 0
    for second in range(1000):
        for path in paths:
            path.lowest = 0.02 * noise.uniform(0.92, 1.08)
        chosen = choose(paths, current, LONG_AGO, float(second)).chosen
        changes += chosen != current
        current = 0 if chosen is None else chosen
    assert changes == 0


@pytest.mark.parametrize(("loss", "limit"), [(0.05, 2), (0.2, 10)])
def test_choice_does_not_swing_where_all_paths_lose_as_much(loss: float, limit: int) -> None:
    """An hour on one bad access link; probed as `Paths` does it."""
    noise = random.Random(3)
    paths = [Fake("relay", lowest=0.03, relayed=True), Fake("one"), Fake("two")]
    current, chosen_at, changes = 1, 0.0, 0
    for second in range(3600):
        for index, path in enumerate(paths):
            if index == current or second % 20 == 0 or paths[current].loss > LOSSY:
                path.loss += ((noise.random() < loss) - path.loss) / 16
        chosen = choose(paths, current, chosen_at, float(second)).chosen
        assert chosen is not None
        if chosen != current:
            changes += 1
            current, chosen_at = chosen, float(second)
    assert changes <= limit


def test_choice_among_three_that_each_lose_less_than_the_next_settles() -> None:
    """Losses are compared with doubt, so that better is not transitive."""
    paths = [
        Fake("quick", lowest=0.01, loss=0.3),
        Fake("fair", lowest=0.03, loss=0.15),
        Fake("slow", lowest=0.05),
    ]
    for start in range(3):
        current, changes = start, 0
        for _ in range(20):
            chosen = choose(paths, current, LONG_AGO, NOW).chosen
            assert chosen is not None
            changes += chosen != current
            current = chosen
        assert changes <= 2


# A path.


def test_a_path_that_is_proved_anew_has_lost_nothing_yet() -> None:
    path = Path(THERE, CandidateKind.LOCAL, "there", random.Random(1).randbytes, NOW, Keepalive())
    path.handle_proved(0.01, THERE.address, NOW)
    path.probes.loss, path.probes.counted, path.state = 0.5, 31, PathState.FAILED
    path.handle_proved(0.01, THERE.address, NOW)
    assert (path.loss, path.counted) == (0.0, 0)


def test_a_path_works_until_a_probe_is_late() -> None:
    path = Path(THERE, None, "relay", random.Random(1).randbytes, NOW, Keepalive())
    path._missed, path.silent_since = 1, NOW
    assert path.works(NOW + path.patience - 0.01)
    assert not path.works(NOW + path.patience + 0.01)
