"""bench/clients.py runs, and judges what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.clients import BACK_LIMIT, Idle, Result, Setup, Storm

ROOT = Path(__file__).resolve().parents[2]
SETUP = Setup(9000, 90.0, 110.0, 200.0, 400.0, 0.9, 0.9, 0.3, 4.0)
STORM = Storm(1000, 1.2, 4.0, 8.0, 12.0, 150.0, 1000, 1000, 0, 0.9, 0.9, 0.0, {})
IDLE = Idle(10_000, 58.0, 800.0, 900.0, 74.2, 0.05, 0.1, 0.2, 0.4, 0)
GOOD = Result(10_000, 0, 2, SETUP, STORM, IDLE)


@pytest.mark.timeout(130)
def test_few_clients_connect_storm_and_rest() -> None:
    command = [sys.executable, str(ROOT / "bench" / "clients.py"), "--smoke", "--json", "--network-size", "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr  # a busy machine may miss a limit
    document = json.loads(done.stdout)
    assert document["schema"] == "shadowmesh.bench.clients/1"
    assert document["idle"]["clients"] == 12
    assert document["idle"]["lost"] == 0
    assert document["storm"]["completed"] >= 6
    assert document["idle"]["bind_p50_ms"] > 0
    assert document["setup"]["per_core_second"] > 1
    assert 0 < document["storm"]["up_s"] < document["storm"]["all_back_s"]


def test_each_limit_counts() -> None:
    assert GOOD.within_limits
    slow = replace(STORM, all_back_s=BACK_LIMIT + 1)
    for bad in (
        replace(GOOD, idle=replace(IDLE, rss_mb=1501.0)),
        replace(GOOD, idle=replace(IDLE, relay_cpu=0.26)),
        replace(GOOD, idle=replace(IDLE, lost=1)),
        replace(GOOD, storm=slow),
    ):
        assert not bad.within_limits
    for void in (replace(slow, waited=0.5), replace(slow, crowd_cpu=0.99)):
        found = replace(GOOD, storm=void)
        assert found.within_limits
        assert "void" in str(found)
    assert "void" not in str(GOOD)
    assert "10000 clients idle" in str(GOOD)
