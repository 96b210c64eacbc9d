"""The form of log lines: for the journal where they go there, else with a time that has its zone."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from shadowmesh.io.logs import JournalFormatter, PlainFormatter, is_journal


def record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord("shadowmesh", level, __file__, 1, text, (), None)


def test_lines_for_people_have_a_time_with_zone() -> None:
    line = PlainFormatter().format(record(logging.WARNING, "late"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d WARNING late", line)


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
        (5, 7),
    ],
)
def test_lines_for_the_journal_have_a_priority(level: int, priority: int) -> None:
    assert JournalFormatter().format(record(level, "one\ntwo")) == f"<{priority}>one\n<{priority}>two"


def test_the_journal_is_known_by_its_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as stream, (tmp_path / "other").open("w") as other:
        status = os.fstat(stream.fileno())
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not is_journal(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(stream.fileno())
        assert not is_journal(other.fileno()), "inherited, but our output goes elsewhere"
