"""The tables of bench/compare.py: ratios, missing figures, and where they go in README.md."""

from __future__ import annotations

from typing import Any

import pytest

from bench import report


def document() -> dict[str, Any]:
    """A run with three systems; the bare link has no processes, so no CPU figure."""
    systems = {
        "raw": {"layer": 2, "version": "", "cipher": "none", "mtu": 1400, "median": {"tcp1_gbit": 20.0}},
        "shadowmesh": {
            "layer": 2,
            "version": "1",
            "cipher": "ChaCha20-Poly1305",
            "mtu": 1400,
            "median": {"tcp1_gbit": 5.0, "cpu_s_per_gb": 3.0},
        },
        "n2n": {
            "layer": 2,
            "version": "2",
            "cipher": "Twofish",
            "mtu": 1360,
            "median": {"tcp1_gbit": 0.25, "cpu_s_per_gb": 60.0},
        },
    }
    ours = report.own(systems)
    return {
        "rounds": 1,
        "seconds": 1,
        "cores": 2,
        "kernel": "6",
        "congestion_control": "cubic",
        "inner_mtu": 1400,
        "ours": ours,
        "systems": systems,
        "load_before": 0.0,
        "flood_ceiling_kpps": 600.0,
        "skipped": {"tinc": "not found"},
        "failures": {"n2n": "round 2 failed: no answer"},
        "ratios": report.ratios(systems, ours),
    }


def test_ratios_are_ours_over_theirs() -> None:
    ratios = document()["ratios"]
    assert ratios == {"raw": {"tcp1_gbit": 0.25}, "n2n": {"tcp1_gbit": 20.0, "cpu_s_per_gb": 0.05}}


def test_direct_goes_before_relayed() -> None:
    assert report.own({"shadowmesh-relayed": {}, "shadowmesh": {}}) == "shadowmesh"
    assert report.own({"shadowmesh-relayed": {}, "raw": {}}) == "shadowmesh-relayed"
    assert report.own({"raw": {}}) is None
    assert report.ratios({"raw": {}}, None) == {}


def test_tables_name_what_is_missing() -> None:
    for table in (report.text(document()), report.markdown(document())):
        assert "–" in table
        assert "20.0x" in table
        assert "Not measured: tinc: not found." in table
        assert "Inner MTU of n2n: 1360" in table
        assert "n2n: round 2 failed: no answer." in table
        assert "sends 600 kpps by itself" in table


def test_requirements_follow_the_tables() -> None:
    assert "TCP one stream, shadowmesh vs n2n: 20x (asked 6x, aim 10x): aim reached" in report.text(
        document()
    )
    assert "Requirements" not in report.markdown(document())


def test_a_busy_machine_is_named() -> None:
    found = document()
    assert "Load average" not in report.text(found)
    found["load_before"] = 1.5
    assert "Load average before the run: 1.5" in report.text(found)


def test_lost_echoes_are_named() -> None:
    found = document()
    assert "Echoes" not in report.text(found)
    found["systems"]["n2n"]["median"]["rtt_load_lost_percent"] = 2.0
    assert "Echoes of ping lost by n2n: 2.0 %." in report.text(found)


def test_text_columns_line_up() -> None:
    lines = report.text(document()).splitlines()[:5]
    assert len({len(line) for line in lines}) == 1


def test_insert_replaces_only_what_is_between_the_marks() -> None:
    begin, end = report.MARKS
    readme = f"before\n{begin}\nold\n{end}\nafter\n"
    assert report.insert(readme, r"new \1") == f"before\n{begin}\nnew \\1\n{end}\nafter\n"
    with pytest.raises(ValueError, match="must each stand once"):
        report.insert("no marks", "new")
    # The real file has a place for it.
    assert "new" in report.insert(report.README.read_text(), "new")
