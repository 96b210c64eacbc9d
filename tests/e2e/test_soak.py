"""The soak, some seconds long: every sum of the counters is right."""

from __future__ import annotations

import pytest

from bench import soak

pytestmark = [pytest.mark.root, pytest.mark.timeout(200)]


def test_counters_add_up_while_sessions_rekey_roam_and_churn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "ROAM", 3.0)
    monkeypatch.setattr(soak, "CALM", 3.0)
    outcome = soak.run(10.0, members=6)
    print(outcome)
    assert not outcome.violations
    assert outcome.epochs >= 2
    assert outcome.roams >= 1
    assert outcome.compared > 100
