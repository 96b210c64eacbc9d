"""The forwarding database: where stations live, and its bounds. Against its slow twin: tests/stateful."""

from __future__ import annotations

import random

import pytest

from shadowmesh._ext.fdb import StationTable
from tests.reference.stations import FRESH, LIFE, STEP

ROOM = 8 * 1024


def mac(number: int) -> bytes:
    return b"\x02\x77" + number.to_bytes(4, "big")


def test_a_station_lives_in_one_place_and_moves_when_it_is_silent() -> None:
    table, now = StationTable(), 10**9
    assert table.learn(0, mac(1), 5, now) == "new"
    assert table.learn(0, mac(1), 6, now + FRESH - 1) == "claimed"
    assert table.find(0, mac(1), now + FRESH - 1) == 5
    assert table.learn(10, mac(1), 6, now) == "new", "another VLAN is another station"
    assert table.learn(0, mac(1), 6, now + FRESH) == "moved"
    assert (table.find(0, mac(1), now + FRESH), table.held(5), table.held(6)) == (6, 0, 2)
    assert table.find(0, mac(1), now + FRESH + LIFE) is None


def test_a_station_that_is_heard_all_the_time_stays() -> None:
    table, now = StationTable(), 10**9
    for _ in range(100):
        table.learn(0, mac(1), 5, now)
        assert table.learn(0, mac(1), 6, now + FRESH - STEP) == "claimed"
        now += FRESH - STEP
    assert table.find(0, mac(1), now) == 5


@pytest.mark.parametrize("share", [1, 100, 2048])
def test_one_place_never_has_more_than_its_share(share: int) -> None:
    table = StationTable(share=share)
    for number in range(10_000):
        table.learn(0, mac(number), 1, 10**9 + number)
    assert table.held(1) <= share
    assert len(table) == table.held(1)
    assert table.find(0, mac(9_999), 2 * 10**9) in (1, None)


def test_who_invents_addresses_puts_out_nobody_elses_stations() -> None:
    """What 30 others have learned before the flood is all there after it; what is new finds a place in it."""
    table, now = StationTable(), 10**9
    others = [(place, mac(1_000_000 + 50 * place + number)) for place in range(2, 32) for number in range(50)]
    for place, address in others:
        table.learn(0, address, place, now)
    known = [one for one in others if table.find(0, one[1], now) == one[0]]  # a full bucket: one gave way
    assert len(known) > 0.99 * len(others)
    for number in range(50_000):
        table.learn(0, random.Random(number).randbytes(6), 1, now + number)
    assert [one for one in known if table.find(0, one[1], now + 50_000) != one[0]] == []
    late = sum(table.learn(0, mac(2_000_000 + number), 2, now + 60_000) == "new" for number in range(500))
    assert late > 450


def test_a_full_table_takes_what_is_over() -> None:
    table = StationTable(buckets=1, share=8)
    for number in range(8):
        assert table.learn(0, mac(number), 1, 10**9 + number) == "new"
    assert table.learn(0, mac(100), 2, 10**9 + 10) == "full"
    assert table.learn(0, mac(100), 2, 10**9 + LIFE + 10) == "new"
    assert table.held(1) < 8


def test_at_its_share_a_place_gives_up_what_it_heard_longest_ago() -> None:
    table = StationTable(buckets=1, share=4)
    for number in range(4):
        table.learn(0, mac(number), 1, 10**9 + number)
    assert table.learn(0, mac(9), 1, 10**9 + 9) == "new"
    assert [table.find(0, mac(number), 10**9 + 9) for number in (0, 1, 9)] == [None, 1, 1]


@pytest.mark.parametrize("stride", [1, 256, 0x10000, 0x1000193])
def test_addresses_that_count_upwards_spread(stride: int) -> None:
    """As those of virtual machines and of one maker's devices do, for every secret."""
    for _ in range(20):
        table = StationTable(share=ROOM)
        learned = sum(
            table.learn(0, (n * stride).to_bytes(6, "big"), 1, 10**9) == "new" for n in range(1, 4097)
        )
        assert learned > 0.96 * 4096
        assert len(table) == table.held(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda table: table.learn(4096, mac(1), 1, 0),
        lambda table: table.learn(0, b"\2" * 5, 1, 0),
        lambda table: table.learn(0, bytes(6), 1, 0),
        lambda table: table.learn(0, mac(1), 4096, 0),
        lambda table: table.find(0, mac(1), -1),
        lambda _: StationTable(buckets=3),
    ],
)
def test_wrong_arguments_are_refused(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError):
        call(StationTable())
