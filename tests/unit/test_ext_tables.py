"""ext/tables.pyx: the lock-free table against a dict, and that nothing is freed while a reader holds it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from shadowmesh._ext.tables import IdTable
from tests.reference import id_table


def wire_id(number: int) -> bytes:
    return number.to_bytes(8, "big")


class Comparison(RuleBasedStateMachine):
    """The same commands to both; ids recur, so that removed slots are met again."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.table = IdTable()
        self.twin = id_table.IdTable()

    @rule(target=ids, key=st.one_of(st.binary(min_size=8, max_size=8), st.integers(0, 200).map(wire_id)))
    def allot(self, key: bytes) -> bytes:
        return key

    @rule(key=ids, value=st.integers(0, 2**64 - 1))
    def install(self, key: bytes, value: int) -> None:
        try:
            self.twin.install(key, value)
        except ValueError:
            with pytest.raises(ValueError, match="installed already"):
                self.table.install(key, value)
        else:
            self.table.install(key, value)

    @rule(key=ids)
    def remove(self, key: bytes) -> None:
        try:
            self.twin.remove(key)
        except KeyError:
            with pytest.raises(KeyError):
                self.table.remove(key)
        else:
            self.table.remove(key)

    @rule(first=st.integers(0, 2**32), count=st.integers(1, 150))
    def many_come_and_go(self, first: int, count: int) -> None:
        """Forces rebuilds."""
        fresh = [wire_id(2**40 + first + i) for i in range(count)]
        fresh = [key for key in fresh if self.twin.find(key) is None]
        for key in fresh:
            self.table.install(key, 1)
        for key in fresh:
            self.table.remove(key)

    @rule(key=ids)
    def find(self, key: bytes) -> None:
        assert self.table.find(key) == self.twin.find(key)

    @invariant()
    def same_size(self) -> None:
        assert len(self.table) == len(self.twin.values)


TestComparison = Comparison.TestCase
TestComparison.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_grows_and_shrinks_and_finds_everything() -> None:
    table = IdTable()
    for number in range(20_000):
        table.install(wire_id(number << 20), number)
    assert all(table.find(wire_id(number << 20)) == number for number in range(20_000))
    for number in range(0, 20_000, 2):
        table.remove(wire_id(number << 20))
    expected = [number if number % 2 else None for number in range(20_000)]
    assert [table.find(wire_id(number << 20)) for number in range(20_000)] == expected
    assert len(table) == 10_000


def test_nothing_is_freed_while_a_reader_is_busy() -> None:
    table = IdTable()
    for number in range(10):
        table.install(wire_id(number), number)
    table.hold(True)
    for number in range(10):
        table.remove(wire_id(number))
    assert table.waiting() == 10
    table.hold(False)
    assert table.waiting() == 0


def test_what_is_retired_later_waits_for_its_own_reader_pass() -> None:
    table = IdTable()
    table.install(wire_id(1), 1)
    table.hold(True)
    table.remove(wire_id(1))
    table.hold(False)
    table.hold(True)
    assert table.waiting() == 0
    table.install(wire_id(1), 2)
    table.remove(wire_id(1))
    assert table.waiting() == 1


def test_freed_with_records_retired_and_live() -> None:
    table = IdTable()
    table.hold(True)
    for number in range(500):
        table.install(wire_id(number), number)
    for number in range(250):
        table.remove(wire_id(number))
    assert table.waiting() >= 250


@pytest.mark.parametrize("key", [b"", bytes(7), bytes(9)])
def test_ids_have_eight_bytes(key: bytes) -> None:
    table = IdTable()
    with pytest.raises(ValueError, match="8 bytes"):
        table.install(key, 1)
    with pytest.raises(ValueError, match="8 bytes"):
        table.find(key)
    with pytest.raises(ValueError, match="8 bytes"):
        table.remove(key)


def test_wrong_types_and_values() -> None:
    table = IdTable()
    with pytest.raises(TypeError):
        table.install(None, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        table.install(bytes(8), None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="value"):
        table.install(bytes(8), -1)
    assert len(table) == 0
