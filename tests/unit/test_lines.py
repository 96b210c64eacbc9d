"""A peer that comes and goes all the time does not fill the log."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import cast

import pytest

from shadowmesh.core.shared import Changed
from shadowmesh.io import notify
from shadowmesh.node import lines as module
from shadowmesh.node.daemon import Daemon
from shadowmesh.node.lines import BURST, MAX_SUBJECTS, PACE, Lines

DAY = 86_400


def test_the_first_lines_about_a_subject_are_written_and_then_few() -> None:
    lines = Lines()
    written = [lines.take("peer mallory", 5.0 + number / 10) for number in range(DAY)]
    kept = [number for number in written if number is not None]
    assert kept[:BURST] == [0] * BURST
    assert len(kept) <= BURST + DAY / 10 / PACE + 1
    assert sum(kept) + len(kept) <= DAY, "each line was written, or counted as left out"
    assert sum(kept) > 0.98 * DAY


def test_other_subjects_have_their_own_lines() -> None:
    lines = Lines()
    for _ in range(1000):
        lines.take("peer mallory", 5.0)
    assert lines.take("peer mallory", 5.0) is None
    assert lines.take("peer alice", 5.0) == 0


def test_who_was_quiet_has_all_of_them_again() -> None:
    lines = Lines()
    for _ in range(1000):
        lines.take("peer mallory", 5.0)
    later = 5.0 + BURST * PACE
    assert lines.take("peer mallory", later) == 1000 - BURST
    assert [lines.take("peer mallory", later) for _ in range(BURST - 1)] == [0] * (BURST - 1)
    assert lines.take("peer mallory", later) is None


def test_invented_subjects_are_not_remembered_for_ever() -> None:
    lines = Lines()
    for number in range(3 * MAX_SUBJECTS):
        lines.take(f"peer {number}", 5.0 + number / 1000)
    assert len(lines._due) <= MAX_SUBJECTS


def test_who_has_used_up_its_lines_is_remembered_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SUBJECTS", 10)
    lines = Lines()
    for number in range(9):
        lines.take(f"peer {number}", 5.0)
    for _ in range(2 * BURST):
        lines.take("peer mallory", 5.0)
    assert lines.take("peer mallory", 5.0) is None, "the table is full, and has a place for it"
    assert len(lines._due) == 10
    assert lines.take("peer alice", 5.0 + 2 * PACE) == 0
    assert set(lines._due) == {"peer mallory", "peer alice"}
    assert lines._left_out


def test_what_was_left_out_of_invented_subjects_is_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SUBJECTS", 10)
    lines = Lines()
    for number in range(100):
        for _ in range(BURST + 1):
            lines.take(f"peer {number}", 5.0)
    assert len(lines._due) <= 10
    assert lines._left_out.keys() <= lines._due.keys()


def test_the_client_counts_the_lines_of_each_peer_by_themselves(caplog: pytest.LogCaptureFixture) -> None:
    client = cast("Daemon", SimpleNamespace(_lines=Lines()))
    with caplog.at_level(logging.INFO):
        for _ in range(2 * BURST):
            Daemon._tell(client, Changed("peer mallory", "gone"))
        Daemon._tell(client, Changed("peer alice", "here"))
    assert caplog.messages == ["peer mallory: gone"] * BURST + ["peer alice: here"]


def test_who_used_an_invitation_is_always_written() -> None:
    lines = Lines()
    assert {lines.take("invitation for alice", 5.0) for _ in range(1000)} == {0}
    assert not lines._due, "nor remembered"
    for subject in ("peer alice", "relay r1"):
        assert None in [lines.take(subject, 5.0) for _ in range(1000)]


def test_the_service_manager_has_the_last_line_even_if_the_log_has_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    monkeypatch.setattr(notify, "status", told.append)
    client = cast("Daemon", SimpleNamespace(_lines=Lines()))
    with caplog.at_level(logging.INFO):
        for _ in range(2 * BURST):
            Daemon._tell(client, Changed("peer bob", "connected"))
        Daemon._tell(client, Changed("peer bob", "disconnected: gone"))
    assert told[-1] == "peer bob: disconnected: gone"
    assert "disconnected" not in caplog.text
