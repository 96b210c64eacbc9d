"""The forwarding database against its slow twin: ageing, limits, and stations that move between members."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from shadowmesh._ext.fdb import StationTable
from tests.reference.stations import FRESH, LIFE, STEP, Stations
from tests.stateful import case_of

VLANS, PLACES = st.integers(0, 1), st.integers(0, 3)
MACS = st.integers(1, 4).map(lambda number: b"\x02\x77" + number.to_bytes(4, "big"))
EDGES = (STEP, FRESH, LIFE)
PAUSES = st.one_of(
    st.just(0),
    st.sampled_from([edge + off for edge in EDGES for off in (-2, -1, 0, 1)]),
    st.integers(0, 2 * FRESH),
    st.integers(0, LIFE),
)


class Bucket(RuleBasedStateMachine):
    """One bucket, so that no secret decides who shares it: every answer and every number is the twin's."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10**9

    @initialize(share=st.sampled_from([0, 1, 2, 3, 7, 8, 9]))
    def begin(self, share: int) -> None:
        self.table, self.twin = StationTable(buckets=1, share=share), Stations(8, share)

    @rule(vlan=VLANS, mac=MACS, place=PLACES)
    def learn(self, vlan: int, mac: bytes, place: int) -> None:
        self.now += 1  # no two were heard longest ago
        assert self.table.learn(vlan, mac, place, self.now) == self.twin.learn(vlan, mac, place, self.now)

    @rule(vlan=VLANS, place=PLACES, first=st.integers(1, 100))
    def flood(self, vlan: int, place: int, first: int) -> None:
        """A member invents addresses."""
        for number in range(first, first + 9):
            self.learn(vlan, b"\x02\x78" + number.to_bytes(4, "big"), place)

    @rule(pause=PAUSES)
    def wait(self, pause: int) -> None:
        self.now += pause

    @rule(vlan=VLANS, mac=MACS, back=st.sampled_from([0, 0, 1, STEP]))
    def look(self, vlan: int, mac: bytes, back: int) -> None:
        """The clock of who looks may be a batch behind."""
        now = max(0, self.now - back)
        assert self.table.find(vlan, mac, now) == self.twin.find(vlan, mac, now)
        assert self.table.fresh(vlan, mac, now) == self.twin.fresh(vlan, mac, now)

    @invariant()
    def counts_are_right(self) -> None:
        if hasattr(self, "table"):
            assert len(self.table) == len(self.twin.entries)
            for place in range(4):
                assert self.table.held(place) == self.twin.held(place)


class Table(RuleBasedStateMachine):
    """The whole table, with stations so few that no bucket fills: only what is over is forgotten early."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10**9
        self.table, self.twin = StationTable(), Stations()

    @rule(vlan=st.integers(0, 4095), mac=MACS, place=PLACES)
    def learn(self, vlan: int, mac: bytes, place: int) -> None:
        vlan &= 0x801
        was_over = self.twin.find(vlan, mac, self.now) is None
        got = self.table.learn(vlan, mac, place, self.now)
        wanted = self.twin.learn(vlan, mac, place, self.now)
        assert got == wanted or (was_over and got == "new")
        if (got, wanted) == ("new", "known"):
            assert self.twin.find(vlan, mac, self.now) == place

    @rule(pause=PAUSES)
    def wait(self, pause: int) -> None:
        self.now += pause

    @rule(vlan=st.sampled_from([0, 1, 0x800, 0x801]), mac=MACS)
    def look(self, vlan: int, mac: bytes) -> None:
        assert self.table.find(vlan, mac, self.now) == self.twin.find(vlan, mac, self.now)
        assert self.table.fresh(vlan, mac, self.now) == self.twin.fresh(vlan, mac, self.now)


TestBucket = case_of(Bucket, 80)
TestTable = case_of(Table, 30)
