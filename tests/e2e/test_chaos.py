"""SIGKILL of relays and clients at random, under traffic of all pairs: two minutes of `make chaos`."""

from __future__ import annotations

import faulthandler

import pytest

from shadowmesh.testing import chaos

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SECONDS = 120.0
SEED = 8


def test_two_minutes_of_chaos() -> None:
    faulthandler.cancel_dump_traceback_later()  # that of pytest's, for tests which take 100 s
    outcome = chaos.run(SECONDS, SEED)
    print(outcome)
    assert not outcome.violations
    assert outcome.rounds >= 5, "what was killed is back long before the limit"
    assert outcome.echoes > 100 * outcome.rounds
    assert outcome.blocks > 10 * outcome.rounds
