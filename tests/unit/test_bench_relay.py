"""`bench/relay.py`: it runs, its trains are what they say, and a figure of the generators' is void."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import relay, trains
from bench.relay import BARE, PROTOTYPE, RELAY, Fairness, Run
from bench.trains import Shape

ROOT = Path(__file__).resolve().parents[2]
GOOD = Run(1e7, 5e6, 5e6, 0.0, 0.0, used=0.5, generators=0.4)


@pytest.mark.timeout(120)
def test_it_runs_and_every_figure_is_there() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "relay.py"), "--smoke", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    )
    document = json.loads(done.stdout)
    assert document["schema"] == "shadowmesh.bench.relay/1"
    assert [Shape(one["size"], one["joined"]) for one in document["forwarding"]] == list(PROTOTYPE)
    assert [one["threads"] for one in document["threads"]] == [2, 2]
    assert len(document["delay"]) == 2
    assert all(one["relayed_p50"] > 0 for one in document["delay"])
    assert len(document["fairness"]) == len(PROTOTYPE)
    assert "Lost by a client" in relay.text(document)


def test_rates_are_per_second_of_cpu_time() -> None:
    entry = relay.forwarding_of(Shape(1400, True), {BARE: [GOOD], RELAY: [replace(GOOD, used=1.0)]})
    assert entry["ratio"] == pytest.approx(0.5)
    assert entry["of_prototype"] == pytest.approx(5e6 / 2.1e6)
    assert entry["gbit_per_second"] == pytest.approx(56.0)
    assert relay.verdict(entry) == "met"


def test_threads_are_compared_by_cpu_time() -> None:
    entry = relay.threads_of(Shape(64, True), {1: [GOOD], 2: [replace(GOOD, forwarded=8e6, used=1.0)]})
    assert (entry["threads"], entry["per_core"], entry["ratio"]) == (2, 8e6, pytest.approx(0.8))


def test_what_is_asked_can_be_missed() -> None:
    slow = replace(GOOD, forwarded=0.5 * PROTOTYPE[Shape(64, True)], used=1.0)
    assert relay.verdict(relay.forwarding_of(Shape(64, True), {BARE: [GOOD], RELAY: [slow]})) == "missed"
    fair = Fairness(0.0, 0.1, 1e6, 1e6, 0.5)
    assert relay.verdict(relay.fairness_of(Shape(64, True), fair)) == "met"
    assert relay.verdict(relay.fairness_of(Shape(64, True), replace(fair, lost=0.11))) == "missed"


def test_a_figure_of_greedy_generators_is_void() -> None:
    greedy = replace(GOOD, generators=0.51)
    for runs in ({BARE: [GOOD], RELAY: [greedy]}, {BARE: [greedy], RELAY: [GOOD]}):
        entry = relay.forwarding_of(Shape(64, True), runs)
        assert relay.verdict(entry).startswith("void")
        assert not entry["met"]
    entry = relay.fairness_of(Shape(64, True), Fairness(0.0, 0.0, 1e6, 1e6, 0.51))
    assert relay.verdict(entry).startswith("void")


@pytest.mark.parametrize("joined", [True, False])
def test_a_train_is_of_one_channel(joined: bool) -> None:
    shape = Shape(64, joined)
    with trains.bound(joining=False) as link:
        link.settimeout(10)
        cores = os.sched_getaffinity(0)
        target = link.getsockname()[1]
        with trains.Child(cores, trains.source, target, shape, [3, 4], 1000):
            for number in (3, 4, 3):
                for _ in range(shape.length):
                    datagram = link.recv(2048)
                    assert (len(datagram), datagram[1:9]) == (64, trains.channel_id(number))


def test_ids_of_channels_differ() -> None:
    assert len({trains.channel_id(number) for number in range(-200, 20_000)}) == 20_200
    assert all(trains.channel_id(number, 3)[0] % 3 == number % 100 % 3 for number in range(20_000))
