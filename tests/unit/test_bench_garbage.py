"""`bench/garbage.py`: the rate is found, what is disturbed is void, garbage is sent in turns."""

from __future__ import annotations

import ctypes
import os
import socket
from typing import Any

import pytest

from bench import garbage
from bench.garbage import KEPT, RECORDED, Garbage, Run
from bench.trains import Child, Shape
from shadowmesh.crypto.retry import Reply, TokenGate
from shadowmesh.units import Address

ENTRY: dict[str, Any] = {
    "victim": "client",
    "kind": "live",
    "joined": True,
    "bytes": 276,
    "good_rate": 10_000,
    "survived": 300_000.0,
    "fastest": False,
    "kept": 0.82,
    "kept_aside": 0.99,
    "bare": 600_000.0,
    "victim_cores": 0.9,
    "generator_cores": 0.4,
}


class Fragile:
    """A victim that keeps less than is asked beyond a rate; the generator makes `most`."""

    def __init__(self, breaks_at: float, most: float = 100_000.0) -> None:
        self.breaks_at, self.most = breaks_at, most

    def run(self, _garbage: Garbage, rate: int) -> Run:
        offered = min(rate or self.most, self.most)
        return Run(offered, 1.0 if offered <= self.breaks_at else KEPT - 0.01, 1.0, 0.5)


def seek(place: Fragile) -> tuple[Run, bool]:
    return garbage.seek(place, Garbage("random", [b"x"]), garbage.STEPS)  # type: ignore[arg-type]


@pytest.mark.parametrize("breaks_at", [5000.0, 30_000.0, 99_000.0])
def test_the_rate_is_found_from_below(breaks_at: float) -> None:
    run, fastest = seek(Fragile(breaks_at))
    assert not fastest
    assert breaks_at - 100_000 / 2**garbage.STEPS <= run.offered <= breaks_at


def test_a_generator_that_is_too_slow_is_named() -> None:
    assert seek(Fragile(1e9)) == (Run(100_000.0, 1.0, 1.0, 0.5), True)


def test_a_victim_that_survives_nothing_says_so() -> None:
    assert seek(Fragile(0.5))[0].offered == 0.0


def test_what_disturbs_aside_as_well_is_void() -> None:
    assert not garbage.judged(ENTRY)["void"]
    assert garbage.judged(ENTRY)["ratio"] == 0.5
    disturbed = garbage.judged({**ENTRY, "kept_aside": 0.94})
    assert disturbed["void"]
    assert garbage.line(disturbed).endswith("void: the generator itself disturbs")
    assert not garbage.judged({**ENTRY, "kept_aside": 0.94, "fastest": True})["void"], "it kept what is asked"
    assert ">=  300.0 k/s" in garbage.line(garbage.judged({**ENTRY, "fastest": True}))


def test_an_initial_is_answered_by_a_retry() -> None:
    gate = TokenGate(bytes(32), lambda *_: False)
    source = Address("192.0.2.1", 7)
    answers = [gate.check(garbage._initial(), source, 0.0) for _ in range(8)]
    assert all(isinstance(answer, Reply) and len(answer.data) < 600 for answer in answers)
    assert len(garbage._initial()) == 1200


@pytest.mark.parametrize("joined", [False, True])
def test_each_datagram_is_sent_in_its_turn(joined: bool) -> None:
    made = Garbage("random", [number.to_bytes(2, "big") * 50 for number in range(RECORDED)], joined)
    assert made.shape == Shape(100, joined)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
    ):
        link.bind(("127.0.0.1", 0))
        link.settimeout(10)
        out.connect(link.getsockname())
        with Child(os.sched_getaffinity(0), garbage.attack, out, made, 2000) as child:
            came = [link.recv(2048) for _ in range(100)]
            assert isinstance(child.counts, ctypes.Array)
    assert came == list(made.datagrams[:100])
