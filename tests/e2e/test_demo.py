"""`make demo` and the benchmarks run, end well and leave nothing; without root they say so."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from pathlib import Path

import pytest

from bench.systems.shadowmesh import find_aead_library
from shadowmesh.testing import demo
from shadowmesh.testing.lab import FAMILY_VARIABLE, NETNS_DIRECTORY, Lab
from shadowmesh.testing.process import LabError, Process, wait_until

ROOT = Path(__file__).resolve().parents[2]
DEMO_LIMIT = 120.0
"""Seconds: the project's requirement for `make demo`."""


def namespaces(family: str) -> set[str]:
    """Names of the network namespaces of one family of labs."""
    return {path.name for path in NETNS_DIRECTORY.glob(f"{family}-*")}


def run(tmp_path: Path, *command: str, limit: float = DEMO_LIMIT) -> str:
    """Run a command of this interpreter; it must succeed and leave no namespace of its own."""
    family = f"t{secrets.token_hex(1)}"
    before = namespaces(family)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), FAMILY_VARIABLE: family}
    process = Process([sys.executable, *command], tmp_path / "output", environment)
    try:
        assert process.wait(limit) == 0, process.report()
    finally:
        process.terminate(timeout=20.0)
    assert namespaces(family) <= before
    return process.output()


def test_needs_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert demo.main() == 1
    assert "needs root" in capsys.readouterr().err
    with pytest.raises(LabError, match="needs root"), Lab():
        pass


@pytest.mark.root
@pytest.mark.timeout(DEMO_LIMIT + 30)
def test_demo_passes(tmp_path: Path) -> None:
    output = run(tmp_path, "-m", "shadowmesh.testing.demo")
    assert output.rstrip().endswith("DEMO PASSED")
    for word in ("NodeID", "status", "10.77.0.2", "fd77::2", "Gbit/s", "Only the control"):
        assert word in output


@pytest.mark.root
@pytest.mark.parametrize("name", ["throughput", "storm", "garbage"])
def test_benchmark_runs(tmp_path: Path, name: str) -> None:
    output = run(tmp_path, str(ROOT / "bench" / f"{name}.py"), "--smoke", "--json", limit=60.0)
    document = json.loads(output[output.index("{") :])
    assert document["schema"] == f"shadowmesh.bench.{name}/1"


@pytest.mark.root
@pytest.mark.timeout(150)
def test_comparison_runs(tmp_path: Path) -> None:
    systems = ["raw", "shadowmesh-relayed", "shadowmesh-boringssl"]
    if find_aead_library() is None:
        systems.pop()
    arguments = ("--smoke", "--json", "--systems", ",".join(systems))
    output = run(tmp_path, str(ROOT / "bench" / "compare.py"), *arguments)
    document = json.loads(output[output.index("{\n") :])
    assert document["schema"] == "shadowmesh.bench.compare/1"
    medians = [document["systems"][system]["median"] for system in systems]
    assert document["skipped"] == document["failures"] == {}
    assert document["flood_ceiling_kpps"] > 0
    for key in ("tcp1_gbit", "tcp4_gbit", "reverse_gbit", "udp64_peak_kpps", "rtt_idle_p50_us"):
        assert min(median[key] for median in medians) > 0
    assert document["ours"] in systems[1:]
    for median in medians[1:]:
        assert median["cpu_s_per_gb"] > 0
        assert median["rss_mb"] > 1


@pytest.mark.root
@pytest.mark.timeout(90)
def test_memory_is_within_its_limits(tmp_path: Path) -> None:
    output = run(tmp_path, str(ROOT / "bench" / "memory.py"), "--smoke", "--json", limit=80.0)
    document = json.loads(output[output.index("{\n") :])
    assert 20 < document["imports_mb"] < document["client_mb"] <= 70
    assert 1 < document["peer_kb"] <= 50


@pytest.mark.root
@pytest.mark.timeout(90)
def test_members_on_demand_are_within_their_limits(tmp_path: Path) -> None:
    output = run(tmp_path, str(ROOT / "bench" / "members.py"), "--smoke", "--json", limit=80.0)
    document = json.loads(output[output.index("{\n") :])
    assert (document["members"], document["sessions"]) == (12, 4)
    assert 20 < document["base_mb"] <= document["sessions_mb"] <= 100
    assert document["first_frame_ms"] < 900, "a second echo request would have come after a second"


@pytest.mark.root
@pytest.mark.timeout(90)
def test_transfer_is_intact(tmp_path: Path) -> None:
    output = run(tmp_path, str(ROOT / "bench" / "transfer.py"), "--smoke", "--json", limit=80.0)
    document = json.loads(output[output.index("{\n") :])
    assert sum(one["size"] for one in document["tcp"]) == 2 * 64_000_000
    for one in document["tcp"]:
        assert one["sent"] == one["received"]
    for one in document["udp"]:
        assert (one["sent"], one["changed"], one["repeated"], one["late"]) == (4000, 0, 0, 0)
        assert one["received"] > 3000


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_comparison_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """The exit code says that it did not finish."""
    family = f"t{secrets.token_hex(1)}"
    directory = tmp_path / "tmp"
    directory.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory), FAMILY_VARIABLE: family}
    command = [sys.executable, str(ROOT / "bench" / "compare.py"), "--systems", "raw"]
    process = Process(command, tmp_path / "output", environment)
    try:
        wait_until(lambda: namespaces(family), 10.0, "a namespace")
        assert process.terminate(timeout=20.0, number=number) == 130, process.report()
    finally:
        process.terminate(timeout=20.0)
    assert not namespaces(family)
    assert not list(directory.iterdir())
    assert "Traceback" not in process.output()


@pytest.mark.root
def test_first_frame_soon_after_the_start(tmp_path: Path) -> None:
    """From `up` to the first frame between two clients through the relay, on one machine."""
    output = run(tmp_path, str(ROOT / "bench" / "setup_time.py"), "--rounds", "3", "--json", limit=80.0)
    found = json.loads(output[output.index("{") :])
    assert found["schema"] == "shadowmesh.bench.setup_time/1"
    # The best of three, against what a start costs that does nothing: a busy machine delays both.
    best = min(entry["first_frame"] for entry in found["rounds"] if entry["case"] == "join")
    assert best < 8 * found["check_seconds"]
