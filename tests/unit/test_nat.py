"""NAT classification: what observations tell, the test at a second port, and the second port itself."""

from __future__ import annotations

import random

import pytest

from shadowmesh._ext.aead import PacketKeys
from shadowmesh.errors import BadPacket
from shadowmesh.path.nat import (
    TRIES,
    WAIT,
    Filtering,
    Mapping,
    NatReport,
    Observation,
    SecondPortTest,
    classify_mapping,
)
from shadowmesh.session.epoch import EpochKeys
from shadowmesh.units import Address
from shadowmesh.wire.messages import NatTest
from shadowmesh.wire.observe import (
    OBSERVE_LANE,
    OBSERVED_LANE,
    encode_observe,
    encode_observed,
    parse_observe,
    parse_observed,
)
from shadowmesh_relay import observer
from shadowmesh_relay.observer import Observer

A1, A2 = Address("192.0.2.1", 4433), Address("192.0.2.1", 4434)
B1, B2 = Address("192.0.2.2", 4433), Address("192.0.2.2", 4434)
X, Y, Z = (Address("203.0.113.9", port) for port in (1000, 2000, 3000))
NONCE = b"12345678"


# What observations tell.


@pytest.mark.parametrize(
    ("observations", "mapping"),
    [
        ([], Mapping.UNKNOWN),
        ([(A1, X)], Mapping.UNKNOWN),
        ([(A1, X), (A1, X)], Mapping.UNKNOWN),
        ([(A1, X), (A2, X)], Mapping.PORT_INDEPENDENT),
        ([(A1, X), (A2, Y)], Mapping.ADDRESS_AND_PORT_DEPENDENT),
        ([(A1, X), (B1, X)], Mapping.ENDPOINT_INDEPENDENT),
        ([(A1, X), (B1, Y)], Mapping.ADDRESS_OR_PORT_DEPENDENT),
        ([(A1, X), (A2, X), (B1, X)], Mapping.ENDPOINT_INDEPENDENT),
        ([(A1, X), (A2, X), (B1, Y)], Mapping.ADDRESS_DEPENDENT),
        ([(A1, X), (A2, Y), (B1, Z)], Mapping.ADDRESS_AND_PORT_DEPENDENT),
        ([(A1, X), (A2, Y), (B1, X)], Mapping.ADDRESS_AND_PORT_DEPENDENT),
        ([(A1, X), (A2, X), (B1, Y), (B2, Y)], Mapping.ADDRESS_DEPENDENT),
        ([(A1, X), (A2, X), (B1, X), (B2, Y)], Mapping.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_mappings_by_observation(observations: list[tuple[Address, Address]], mapping: Mapping) -> None:
    for order in (observations, observations[::-1]):
        assert classify_mapping(Observation(*one) for one in order) is mapping


def test_another_outside_host_is_another_mapping() -> None:
    """A NAT with several addresses that does not pair them (RFC 4787 section 4.1)."""
    other = Address("203.0.113.10", X.port)
    assert (
        classify_mapping([Observation(A1, X), Observation(A2, other)]) is Mapping.ADDRESS_AND_PORT_DEPENDENT
    )


def test_no_nat_where_the_observed_address_is_ours() -> None:
    seen = [Observation(A1, X), Observation(B1, X)]
    assert classify_mapping(seen, {X.host}) is Mapping.NONE
    assert classify_mapping(seen[:1], {X.host}) is Mapping.NONE
    assert classify_mapping([], {X.host}) is Mapping.UNKNOWN


def test_ipv6_counts_only_where_there_is_nothing_else() -> None:
    relay6, seen6 = Address("2001:db8::1", 4433), Address("2001:db8:1::9", 5000)
    assert classify_mapping([Observation(relay6, seen6), Observation(A1, X)], {seen6.host}) is Mapping.UNKNOWN
    assert classify_mapping([Observation(relay6, seen6)], {seen6.host}) is Mapping.NONE


def test_report_is_one_line() -> None:
    report = NatReport(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
    assert str(report) == "mapping endpoint-independent, filtering address-and-port-dependent"
    assert len(str(NatReport(Mapping.ADDRESS_OR_PORT_DEPENDENT, Filtering.PORT_INDEPENDENT))) <= 200


# The test at a second port.


class Trial:
    """Runs a SecondPortTest; `passes` lets unasked packets in, `answers` the second port answer."""

    def __init__(self, *, passes: bool, answers: bool = True, observed: Address = X) -> None:
        self.now = 10.0
        self.passes, self.answers, self.observed = passes, answers, observed
        self.asked: list[str] = []
        self.test = SecondPortTest(random.Random(1).randbytes, A2.port)

    def run_for(self, duration: float) -> None:
        end = self.now + duration
        while self.test.deadline is not None and self.test.deadline <= end:
            self.now = max(self.now, self.test.deadline)
            step = self.test.poll(self.now)
            if isinstance(step, NatTest):
                self.asked.append("test")
                if self.passes:
                    self.test.handle_observed_untrusted(encode_observed(step.nonce, X), self.now)
            elif step is not None:
                self.asked.append("observe")
                if self.answers:
                    answer = encode_observed(parse_observe(step), self.observed)
                    self.test.handle_observed_untrusted(answer, self.now)
        self.now = end

    def bound(self, observed: Address) -> None:
        self.test.handle_bound(observed, self.now)
        self.run_for(10)


def test_open_filter_is_found_before_anything_was_sent_there() -> None:
    tester = Trial(passes=True)
    tester.bound(X)
    assert tester.asked == ["test", "observe"]
    assert (tester.test.filtering, tester.test.observed) == (Filtering.PORT_INDEPENDENT, X)
    assert not tester.test.silent
    tester.bound(X)
    assert len(tester.asked) == 2, "nothing has changed"


def test_closed_filter_takes_its_tries() -> None:
    tester = Trial(passes=False, observed=Y)
    tester.test.handle_bound(X, tester.now)
    tester.run_for(TRIES * WAIT - 0.1)
    assert tester.asked == ["test"] * TRIES
    tester.run_for(1)
    assert (tester.test.filtering, tester.test.observed) == (Filtering.ADDRESS_AND_PORT_DEPENDENT, Y)


def test_second_port_that_never_answers_tells_nothing() -> None:
    tester = Trial(passes=False, answers=False)
    tester.bound(X)
    assert tester.asked == ["test"] * TRIES + ["observe"] * TRIES
    assert (tester.test.filtering, tester.test.observed) == (Filtering.UNKNOWN, None)
    assert tester.test.silent
    assert tester.test.deadline is None


def test_new_mapping_is_tested_anew() -> None:
    tester = Trial(passes=True)
    tester.bound(X)
    tester.passes = False
    tester.bound(Y)
    assert tester.asked[2:] == ["test"] * TRIES + ["observe"]
    assert tester.test.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT


def test_interrupted_test_does_not_take_its_own_hole_for_an_open_filter() -> None:
    tester = Trial(passes=False, answers=False)
    tester.test.handle_bound(X, tester.now)
    tester.run_for(TRIES * WAIT + 0.1)
    assert tester.asked[-1] == "observe"
    tester.test.suspend()
    assert tester.test.deadline is None
    tester.passes = tester.answers = True  # as if the NAT let in what it was shown
    tester.bound(X)
    assert tester.asked.count("test") == TRIES
    assert tester.test.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT


def test_late_and_foreign_answers_count_for_nothing() -> None:
    tester = Trial(passes=False)
    tester.test.handle_bound(X, tester.now)
    first = tester.test.poll(tester.now)
    assert isinstance(first, NatTest)
    tester.test.handle_observed_untrusted(encode_observed(NONCE, X), tester.now)
    assert tester.test.filtering.value == "unknown"
    tester.run_for(TRIES * WAIT - 0.1)
    tester.now += 0.2
    assert isinstance(tester.test.poll(tester.now), bytes)
    tester.test.handle_observed_untrusted(encode_observed(first.nonce, X), tester.now)
    assert tester.test.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT
    assert tester.test.observed is None


# Bytes, and the relay's side.


def test_question_and_answer_have_one_size_and_are_read() -> None:
    assert len(encode_observe(NONCE)) == len(encode_observed(NONCE, X)) == 27
    assert parse_observe(encode_observe(NONCE)) == NONCE
    for address in (X, Address("2001:db8::1", 65535), Address("fe80::1", 1)):
        assert parse_observed(encode_observed(NONCE, address)) == (NONCE, address)
    assert parse_observed(encode_observed(NONCE, Address("fe80::1%3", 1))).address.host == "fe80::1"


@pytest.mark.parametrize("parse", [parse_observe, parse_observed])
@pytest.mark.parametrize("payload", [b"\x12", bytes(27), encode_observe(NONCE) + b"\0", b"\x13" * 26])
def test_malformed_payloads(parse: type, payload: bytes) -> None:
    with pytest.raises(BadPacket, match="malformed"):
        parse(payload)


class Leg:
    """A client's side of a leg, and the second port of its relay."""

    def __init__(self) -> None:
        ids = [bytes((number,)) * 8 for number in range(16)]
        up, down = bytes(range(76)), bytes(range(76, 152))
        agreement = EpochKeys(
            epoch=0,
            send_keys=bytearray(down),
            receive_keys=bytearray(up),
            send_lanes=ids[8:],
            receive_lanes=ids[:8],
        )
        self.id = ids[OBSERVE_LANE]
        self.up, self.down = PacketKeys(bytearray(up)), PacketKeys(bytearray(down))
        self.number = 0
        self.observer = Observer(4434)
        self.observer.add(7, agreement, 0.0)

    def question(self, payload: bytes = encode_observe(NONCE), lane: int = OBSERVE_LANE) -> bytes:
        packet = self.up.seal(lane, self.id, self.number, payload)
        self.number += 1
        return packet


def test_answer_goes_to_where_the_question_came_from_and_is_no_larger() -> None:
    leg = Leg()
    question = leg.question()
    leg.observer.handle_datagram_untrusted(question, Y, 0.0)
    ((answer, target),) = leg.observer.poll_transmit()
    assert target == Y
    assert len(answer) == len(question)
    _, payload = leg.down.open(OBSERVED_LANE, answer)
    assert parse_observed(payload) == (NONCE, Y)


def test_unasked_answer_goes_to_where_the_client_is() -> None:
    leg = Leg()
    leg.observer.handle_test_untrusted(7, X, NONCE, 0.0)
    ((answer, target),) = leg.observer.poll_transmit()
    assert target == X
    assert parse_observed(leg.down.open(OBSERVED_LANE, answer)[1]) == (NONCE, X)


def test_what_the_second_port_does_not_answer() -> None:
    leg = Leg()
    question = leg.question()
    leg.observer.handle_datagram_untrusted(question, Y, 0.0)
    leg.observer.poll_transmit()
    for data, reason in (
        (question, "duplicate"),
        (b"", "unknown_id"),
        (b"\x43" + bytes(60), "unknown_id"),
        (question[:9], "short"),
        (leg.question()[:-1] + b"\0", "authentication"),
        (leg.question(lane=0), "authentication"),
        (leg.question(b"\x10" + bytes(26)), "malformed"),
        (leg.question(encode_observe(NONCE) + bytes(100)), "malformed"),
    ):
        with pytest.raises(BadPacket, match=reason):
            leg.observer.handle_datagram_untrusted(data, Y, 0.0)
    assert leg.observer.poll_transmit() == []


def test_each_client_has_a_budget() -> None:
    leg = Leg()
    for _ in range(observer.BURST):
        leg.observer.handle_datagram_untrusted(leg.question(), Y, 0.0)
    with pytest.raises(BadPacket, match="observe_rate"):
        leg.observer.handle_datagram_untrusted(leg.question(), Y, 0.0)
    with pytest.raises(BadPacket, match="observe_rate"):
        leg.observer.handle_test_untrusted(7, X, NONCE, 0.0)
    leg.observer.handle_test_untrusted(7, X, NONCE, 1 / observer.RATE)
    assert len(leg.observer.poll_transmit()) == observer.BURST + 1


def test_client_that_is_gone_leaves_nothing() -> None:
    leg = Leg()
    question = leg.question()
    leg.observer.remove(7)
    with pytest.raises(BadPacket, match="unknown_id"):
        leg.observer.handle_datagram_untrusted(question, Y, 0.0)
    assert not leg.observer._by_id
    assert not leg.observer._by_client
