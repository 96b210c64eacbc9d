"""Handshakes that wait for their turn at a relay, by themselves and in front of a relay that is busy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from shadowmesh.crypto.retry import TOKEN_LIFETIME, Admit
from shadowmesh.session.links import Driver
from shadowmesh.units import Address
from shadowmesh_relay import waiting
from shadowmesh_relay.clients import Knock
from shadowmesh_relay.waiting import FIRST_FLIGHT, PATIENCE, Turn, Waiting


def turn(number: int, ticket: bool = False, host: str = "192.0.2.1", since: float = 0.0) -> Turn:
    source = Address(host, 1000 + number)
    name = b"%08d" % number
    return Turn(Admit(name, None if ticket else name, since), Knock(source, source), name, [b"first"])


def order(queue: Waiting) -> list[bytes]:
    taken = []
    while (one := queue.next(0.0)[0]) is not None:
        taken.append(one.destination)
    return taken


def test_the_oldest_goes_first_and_before_all_who_has_a_ticket() -> None:
    queue = Waiting()
    for number in range(4):
        queue.put(turn(number, ticket=number == 2))
    assert len(queue) == 4
    assert order(queue) == [b"%08d" % number for number in (2, 0, 1, 3)]
    assert not queue


def test_what_a_client_repeats_is_kept_once_and_only_from_where_it_is() -> None:
    queue = Waiting()
    one = turn(1)
    queue.put(one)
    assert not queue.keep(one.destination, Address("192.0.2.1", 1), b"second"), (
        "not where it has proved to be"
    )
    for _ in range(9):
        assert queue.keep(one.destination, one.knock.source, b"second")
    assert len(one.datagrams) == FIRST_FLIGHT
    assert queue.sources() == {one.knock.source}
    assert queue.next(0.0) == (one, 0)
    assert not queue.keep(one.destination, one.knock.source, b"second")


def test_there_is_room_for_so_many_and_none_for_tickets_is_lost_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING", 2)
    queue = Waiting()
    for number in range(2):
        assert not queue.full(ticket=False)
        queue.put(turn(number))
    assert queue.full(ticket=False)
    assert not queue.full(ticket=True)


def test_no_long_datagram_is_kept() -> None:
    queue = Waiting()
    one = turn(1)
    queue.put(one)
    for size in (waiting.MAX_FIRST, waiting.MAX_FIRST + 1):
        assert queue.keep(one.destination, one.knock.source, bytes(size))
    assert [len(data) for data in one.datagrams] == [5, waiting.MAX_FIRST]


def test_hosts_are_counted_while_they_wait() -> None:
    queue = Waiting()
    for number in range(3):
        queue.put(turn(number, host=f"192.0.2.{1 + number // 2}"))
    assert (queue.of("192.0.2.1"), queue.of("192.0.2.2"), queue.of("192.0.2.3")) == (2, 1, 0)
    order(queue)
    assert queue.of("192.0.2.1") == 0


def test_who_waited_too_long_is_forgotten() -> None:
    queue = Waiting()
    for number in range(3):
        queue.put(turn(number, since=float(number)))
    found, late = queue.next(PATIENCE + 1.5)
    assert found is not None
    assert (found.destination, late) == (b"%08d" % 2, 2)
    assert queue.next(PATIENCE) == (None, 0)


def test_a_token_begins_one_handshake_and_is_not_remembered_for_ever() -> None:
    queue = Waiting()
    for number in range(100):
        queue.begun(b"%08d" % number, float(number))
    newest = b"%08d" % 99
    assert queue.answered(newest, None, 99.0 + TOKEN_LIFETIME)
    assert not queue.answered(newest, None, 99.1 + TOKEN_LIFETIME)
    assert not queue.answered(b"%08d" % 80, None, 99.0)
    assert len(queue._begun) <= TOKEN_LIFETIME + 2
    queue.put(turn(99))
    assert queue.next(99.0) == (None, 1), "two clients made up the same id"


@pytest.mark.parametrize(
    ("answer", "age", "answered"), [("x", 0.4, True), ("x", 0.6, False), (None, 0.1, False)]
)
def test_a_first_flight_that_comes_again_counts_once_the_answer_may_be_lost(
    answer: str | None, age: float, answered: bool
) -> None:
    queue = Waiting()
    queue.begun(b"invented", 5.0)
    driver = cast(Driver, SimpleNamespace(first_id=b"invented", link=SimpleNamespace(key_exchange=answer)))
    assert queue.answered(b"invented", driver, 5.0 + age) is answered
    assert not queue.answered(b"our id", driver, 5.0 + age)
