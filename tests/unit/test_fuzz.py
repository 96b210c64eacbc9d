"""Every fuzz target runs, for a few hundred inputs; `make fuzz` is the real thing."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fuzz.mutation import fuzz

HELPERS = {"__init__", "mutation", "traffic"}
TARGETS = sorted(
    path.stem for path in (Path(__file__).parents[2] / "fuzz").glob("*.py") if path.stem not in HELPERS
)


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    module = importlib.import_module(f"fuzz.{name}")
    try:
        assert fuzz(module.target, module.SEEDS, runs=300, seconds=60, seed=1) == 300
    finally:
        getattr(module, "close", lambda: None)()


def test_a_finding_is_a_failure() -> None:
    def broken(data: bytes) -> None:
        assert len(data) % 7

    with pytest.raises(AssertionError):
        fuzz(broken, [b"seed" * 10], runs=1000, seconds=60, seed=1)
