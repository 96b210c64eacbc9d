"""Whatever stations are heard and asked for in any order, the forwarding database answers as its slow
twin.
"""

from __future__ import annotations

import random

from fuzz.program import Program
from shadowmesh._ext.fdb import StationTable
from tests.reference.stations import FRESH, LIFE, STEP, Stations

COVERS: tuple[str, ...] = ()
PAUSES = (0, 1, STEP - 1, STEP, FRESH - 1, FRESH, LIFE - 1, LIFE, LIFE + 1, 2 * LIFE)
BUCKETS, SHARE, STEPS = 8, 16, 400
"""A table of 64 stations: when a bucket may be full, an answer may also be that there is no place."""

SEEDS = [random.Random(number).randbytes(6 * 60) for number in range(4)]


def target(data: bytes) -> None:
    """Both from the beginning, step by step; a small table beside them must keep its bounds."""
    table, small, twin, now = StationTable(), StationTable(buckets=BUCKETS, share=SHARE), Stations(), 10**9
    program = Program(data)
    for _ in range(STEPS):
        if not program:
            break
        what, vlan, place = program.number() % 4, program.number() % 3, program.number() % 4
        mac = b"\x02\x77\0\0" + bytes([program.number() % 2, program.number()])
        now += program.choose(PAUSES)
        if what < 2:
            got, wanted = table.learn(vlan, mac, place, now), twin.learn(vlan, mac, place, now)
            # The fast one sweeps what is over at its leisure, so it may have forgotten that there was one.
            assert got == wanted or (got, wanted) in {("new", "moved"), ("new", "known")}
            small.learn(vlan, mac, place, now)
            assert len(small) <= 8 * BUCKETS
            assert max(small.held(one) for one in range(4)) <= SHARE
        elif what == 2:
            assert table.find(vlan, mac, now) == twin.find(vlan, mac, now)
            assert small.find(vlan, mac, now) in (twin.find(vlan, mac, now), None, *range(4))
        else:
            assert table.fresh(vlan, mac, now) == twin.fresh(vlan, mac, now)
