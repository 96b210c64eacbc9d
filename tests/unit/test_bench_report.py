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
        "skipped": {"tinc": "not found"},
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
