"""docs/security.md: every test that it names is there, and its arithmetic has the limits of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shadowmesh.core.session import FAILED_OPENS_LIMIT
from shadowmesh.units import EPOCH_LIFETIME, LANES, NUMBER_LIMIT, REKEY_AFTER

TESTS = Path(__file__).resolve().parent
DOCUMENT = (TESTS.parent / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", DOCUMENT)))


def test_promises_and_attacks_name_tests() -> None:
    assert len(NAMED) > 50
    for line in DOCUMENT.splitlines():
        assert line.count("::") == len(re.findall(r"`[\w/]+\.py::\w+`", line)), f"misspelt: {line}"


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_is_named_exists(file: str) -> None:
    text = (TESTS / file).read_text()
    there = set(re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE))
    assert {name for other, name in NAMED if other == file} <= there


def test_models_that_are_named_exist() -> None:
    named = set(re.findall(r"\b\w+\.(?:pv|pml)\b", DOCUMENT))
    assert named == {
        path.name for path in (TESTS.parent / "docs" / "models").iterdir() if path.suffix in (".pv", ".pml")
    }


def test_the_arithmetic_begins_with_the_limits_of_the_code() -> None:
    assert (NUMBER_LIMIT, LANES, NUMBER_LIMIT * LANES) == (1 << 31, 8, 1 << 34)
    assert (REKEY_AFTER, EPOCH_LIFETIME, FAILED_OPENS_LIMIT) == (120, 300, 1 << 36)
    for text in ("2^31 packets", "8 lanes", "every 120 s", "300 s", "2^36 packets"):
        assert text in DOCUMENT
