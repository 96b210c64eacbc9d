"""Runs every check over the facts. The modules of checks are imported for what they enter into the table."""

from __future__ import annotations

from shadowmesh import __version__
from shadowmesh.diagnosis import machine, membership, paths, relays
from shadowmesh.diagnosis.facts import Facts
from shadowmesh.diagnosis.findings import CHECKS, Doctor, Finding, Result

__all__ = ["CHECKS", "examine", "machine", "membership", "paths", "relays"]


def examine(facts: Facts) -> Doctor:
    """Every check, in the order of the table."""
    checks = []
    for entry in CHECKS.values():
        verdict = entry.function(facts)
        assert verdict.result in entry.results, f"{entry.id} says {verdict.result}"
        checks.append(Finding(id=entry.id, result=verdict.result, found=verdict.found, remedy=verdict.remedy))
    worst = max((one.result for one in checks), key=lambda result: result.weight, default=Result.OK)
    return Doctor(version=__version__, result=worst, checks=checks)
