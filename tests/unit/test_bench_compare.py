"""The rounds of bench/compare.py without a lab: their order, failures and interrupts; what is available."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Self

import pytest

from bench import compare, report
from bench.systems import SYSTEMS
from bench.systems.wireguard_go import CURRENT_VARIABLE, WireguardGoCurrent
from shadowmesh.testing.process import LabError


class NoLab:
    """Stands in for a lab: makes nothing."""

    def __init__(self, mtu: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def check_leaks(self) -> None:
        pass


def measured(
    monkeypatch: pytest.MonkeyPatch, names: list[str], one_round: Callable[[str, int], dict[str, float]]
) -> tuple[dict[str, Any], list[str]]:
    """Run `measure` over three rounds; `one_round` gets a system's name and how often anything ran before."""
    order: list[str] = []

    def run(_lab: object, system: Any, _options: object) -> dict[str, float]:
        order.append(system.name)
        return one_round(system.name, len(order) - 1)

    monkeypatch.setattr(compare, "Lab", NoLab)
    monkeypatch.setattr(compare, "ceiling", lambda _: 600.0)
    monkeypatch.setattr(compare, "one_round", run)
    for name in names:
        monkeypatch.setattr(SYSTEMS[name], "available", lambda _: None)
    options = argparse.Namespace(systems=names, rounds=3, seconds=1, mtu=1500, congestion="cubic")
    return compare.measure(options), order


def test_every_second_round_runs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    document, order = measured(monkeypatch, ["raw", "fastd"], lambda name, number: {"tcp1_gbit": number})
    assert order == ["raw", "fastd", "fastd", "raw", "raw", "fastd"]
    assert document["systems"]["raw"]["median"] == {"tcp1_gbit": 3}
    assert document["systems"]["fastd"]["range"] == {"tcp1_gbit": [1, 5]}
    assert not document["interrupted"]


def test_a_failure_costs_one_round_of_one_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_round(name: str, number: int) -> dict[str, float]:
        if number == 2:
            raise LabError("no answer\nand a log")
        return {"tcp1_gbit": 1.0}

    document, order = measured(monkeypatch, ["raw", "fastd"], one_round)
    assert len(order) == 6
    assert document["failures"] == {"fastd": "round 2 failed: no answer"}
    assert [len(entry["runs"]) for entry in document["systems"].values()] == [3, 2]
    assert "fastd: round 2 failed: no answer." in report.text(document)


def test_an_interrupt_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_round(name: str, number: int) -> dict[str, float]:
        if number == 1:
            raise KeyboardInterrupt
        return {"tcp1_gbit": 1.0}

    document, order = measured(monkeypatch, ["raw", "fastd"], one_round)
    assert order == ["raw", "fastd"]
    assert document["interrupted"]
    assert list(document["systems"]) == ["raw"]


@pytest.mark.parametrize(
    ("binary", "reason"),
    [("", "names no program"), ("/nowhere/wireguard-go", "does not exist"), ("/bin/true", "does not run")],
)
def test_a_current_wireguard_go_must_be_there_and_run(
    monkeypatch: pytest.MonkeyPatch, binary: str, reason: str
) -> None:
    monkeypatch.setenv(CURRENT_VARIABLE, binary)
    assert reason in (WireguardGoCurrent().available() or "")
