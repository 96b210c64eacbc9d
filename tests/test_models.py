"""The models in docs/models: the recorded result is of these files, and their limits are those of the code.

What the models say is not checked here: `make verify` does that, with tools that few machines have.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from shadowmesh.core.session import OLD_LANES
from shadowmesh.path import selector
from shadowmesh.units import EPOCH_LIFETIME, REKEY_AFTER

MODELS = Path(__file__).resolve().parents[1] / "docs" / "models"
RESULT = (MODELS / "RESULT.md").read_text()
TICK = 60
"""Seconds of a tick in rekey.pml."""


@pytest.mark.parametrize("model", sorted(path.name for path in [*MODELS.glob("*.pv"), *MODELS.glob("*.pml")]))
def test_the_recorded_result_is_of_this_model(model: str) -> None:
    digest = hashlib.sha256((MODELS / model).read_bytes()).hexdigest()
    assert f"| {model} | `{digest}` |" in RESULT, f"{model} was changed: run docs/models/verify.py --record"


def test_everything_that_was_recorded_is_as_expected() -> None:
    rows = [line.strip("| ").split(" | ") for line in RESULT.splitlines() if line.startswith("| ")]
    verdicts = [(row[2], row[3]) for row in rows if len(row) == 5 and row[2] != "expected"]
    assert len(verdicts) > 100
    assert all(expected == result for expected, result in verdicts)
    assert {"proved", "refuted", "reached"} == {expected for expected, _ in verdicts}


def test_every_mutant_and_every_variant_of_a_model_was_recorded() -> None:
    for model in MODELS.glob("*.pml"):
        for mutant in set(re.findall(r"MUTANT_\w+", model.read_text())):
            assert f"| mutant {mutant} |" in RESULT


def test_limits_of_the_rekey_model_are_those_of_the_code() -> None:
    constants = dict(
        re.findall(r"^#define (\w+) ([0-9]+)\b", (MODELS / "rekey.pml").read_text(), re.MULTILINE)
    )
    assert int(constants["REKEY_AFTER"]) * TICK == REKEY_AFTER
    assert int(constants["LIFETIME"]) * TICK == EPOCH_LIFETIME
    assert 0 < OLD_LANES <= int(constants["OLD_LANES"]) * TICK


def test_limits_of_the_path_model_are_those_of_the_code() -> None:
    text = (MODELS / "path.pml").read_text()
    found = re.search(r"\(([0-9]+) \* COST\(there\) <= ([0-9]+) \* COST\(here\)\)", text)
    assert found is not None
    assert int(found[2]) / int(found[1]) == selector.GAIN
