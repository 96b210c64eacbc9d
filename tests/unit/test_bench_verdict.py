"""The requirements of bench/compare.py: ratios the right way round, the right bounds, what is missing."""

from __future__ import annotations

from typing import Any

from bench import verdict
from bench.verdict import Verdict

PEER = {"tcp1_gbit": 0.5, "udp64_peak_kpps": 60.0, "rtt_idle_p50_us": 200.0, "cpu_s_per_gb": 20.0}


def systems(**medians: dict[str, float]) -> dict[str, Any]:
    return {name.replace("_", "-"): {"median": median} for name, median in medians.items()}


def words(found: dict[str, Any]) -> dict[str, tuple[float | None, str]]:
    return {entry.question: (entry.value, entry.word()) for entry in verdict.judge(found)}


FULL = systems(
    shadowmesh={
        "tcp1_gbit": 4.0,
        "udp64_peak_kpps": 240.0,
        "udp64_flood_kpps": 180.0,
        "rtt_idle_p50_us": 100.0,
        "rtt_load_p99_us": 900.0,
        "cpu_s_per_gb": 3.0,
        "rss_mb": 65.0,
    },
    shadowmesh_boringssl={"tcp1_gbit": 5.0, "cpu_s_per_gb": 2.0},
    shadowmesh_relayed={"tcp1_gbit": 3.0},
    wireguard_go_current={"tcp1_gbit": 2.0, "rtt_load_p99_us": 2000.0, "cpu_s_per_gb": 5.0},
    fastd=PEER | {"rtt_idle_p50_us": 122.0},
    tinc=PEER | {"tcp1_gbit": 0.8},
)


def test_ratios_and_bounds() -> None:
    found = words(FULL)
    assert found["TCP one stream, shadowmesh vs wireguard-go-current"] == (2.0, "aim reached")
    assert found["TCP one stream, shadowmesh-boringssl vs wireguard-go-current"] == (2.5, "reached")
    assert found["TCP one stream, shadowmesh vs fastd"] == (8.0, "reached")
    assert found["TCP one stream, shadowmesh vs tinc"] == (5.0, "MISSED")
    assert found["TCP one stream, shadowmesh-relayed vs shadowmesh"] == (0.75, "aim reached")
    assert found["64-byte UDP, shadowmesh vs best peer, tinc"] == (4.0, "aim reached")
    assert found["64-byte UDP, shadowmesh in a flood vs its own peak"] == (0.75, "MISSED")
    assert found["idle RTT p50, shadowmesh vs best peer, fastd"][1] == "reached"
    assert found["idle RTT p50, shadowmesh vs fastd"][1] == "aim reached"
    assert found["RTT p99 under one TCP stream, shadowmesh vs wireguard-go-current"] == (0.45, "aim reached")
    assert found["CPU s/GB both ends, shadowmesh vs wireguard-go-current"] == (0.6, "reached")
    assert found["CPU s/GB both ends, shadowmesh-boringssl vs wireguard-go-current"] == (0.4, "reached")
    assert found["RSS, shadowmesh with 2 peers"] == (65.0, "reached")
    assert found["TCP one stream, shadowmesh vs nebula"] == (None, "not measured")


def test_debians_wireguard_go_stands_in_for_a_current_one() -> None:
    found = {name: entry for name, entry in FULL.items() if name != "wireguard-go-current"}
    found |= systems(wireguard_go_debian={"tcp1_gbit": 0.5})
    judged = words(found)
    assert judged["TCP one stream, shadowmesh vs 5 times wireguard-go-debian"] == (1.6, "reached")
    assert judged["TCP one stream, shadowmesh vs wireguard-go-debian"] == (8.0, "reached")
    # Only for throughput: a slow system's delay and cost say nothing about a current one's.
    assert judged["RTT p99 under one TCP stream, shadowmesh vs wireguard-go-current"][1] == "not measured"


def test_a_run_without_shadowmesh_has_no_requirements() -> None:
    assert verdict.judge(systems(raw={"tcp1_gbit": 20.0})) == []


def test_lines_name_the_bounds() -> None:
    more = Verdict("TCP", 2.1, 1.4, 2.0)
    less = Verdict("RSS", 71.0, 70.0, None, True, " MB")
    assert more.line() == "TCP: 2.1x (asked 1.4x, aim 2x): aim reached"
    assert less.line() == "RSS: 71 MB (asked at most 70 MB): MISSED"
    assert Verdict("CPU", None, 0.7, 0.5, True).line() == "CPU: not measured"
    assert less.row()["verdict"] == "MISSED"
