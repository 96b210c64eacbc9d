"""The form of log lines: for the journal where they go there, else with a time that has its zone."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shadowmesh.command import ExitCode, is_journal
from shadowmesh.io.logs import (
    OWN,
    JournalFormatter,
    JsonFormatter,
    PlainFormatter,
    hide,
    without_addresses,
)


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


def test_json_lines_for_the_journal_have_a_priority_before_the_object() -> None:
    priority, _, rest = (
        JsonFormatter(in_journal=True).format(record(logging.WARNING, "<0>x\ny")).partition(">")
    )
    assert (priority, json.loads(rest)["message"]) == ("<4", "<0>x\ny")


def test_the_journal_is_known_by_its_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as stream, (tmp_path / "other").open("w") as other:
        status = os.fstat(stream.fileno())
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not is_journal(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(stream.fileno())
        assert not is_journal(other.fileno()), "inherited, but our output goes elsewhere"


NODE = "7g2ouyxa3tc3kmxappexwyfiyw2npqm2gt3s52kabmzu5jsrivxa"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("joined from 192.0.2.1:4433", "joined from [address]"),
        ("joined from [2001:db8::1]:4433, now", "joined from [address], now"),
        ("port mapping: 198.51.100.7:40000", "port mapping: [address]"),
        ("route to 2001:db8::1 is gone", "route to [address] is gone"),
        ("link fe80::1%eth0: gone", "link [address]: gone"),
        ("at ::1 and ::", "at [address] and [address]"),
        ("it left 192.0.2.1. Then 192.0.2.1:4433.", "it left [address]. Then [address]."),
        ("2001:db8::1: gone, to 2001:db8::2.", "[address]: gone, to [address]."),
        ("2001:db8::: gone", "[address]: gone"),
        (f"this relay does not admit your NodeID {NODE}", "this relay does not admit your NodeID [node]"),
        ("7g2ouyxa3t… and aaaabbbb22… have a channel", "[node] and [node] have a channel"),
        ("at fd77::1: refused", "at [address]: refused"),
        ("at fd77::: refused", "at [address]: refused"),
    ],
)
def test_addresses_and_ids_are_taken_out(text: str, hidden: str) -> None:
    assert hide(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "relay relay.example.net:4433: connected",
        "revocation list 12 of home counts from now on",
        "peer bob: session established, 12:30:05 ago, X25519+ML-KEM-1024",
        "dropped connection lost 1.5 s",
        "release 1.2.3.4.5 and 1.2.3.4a",
        "ShadowMesh 0.1.0 is up::ready",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert hide(text) == text


def test_what_has_to_be_acted_on_keeps_its_address() -> None:
    told = "10.0.0.1 is odd"
    for level, own, expected in (
        (logging.INFO, False, "[address] is odd"),
        (logging.INFO, True, told),
        (logging.WARNING, False, told),
    ):
        line = record(level, "%s is odd")
        line.args = ("10.0.0.1",)
        line.__dict__.update(OWN if own else {})
        assert without_addresses(line)
        assert line.getMessage() == expected


def test_json_lines_are_one_object_each() -> None:
    line = record(logging.WARNING, 'a "quoted"\nline')
    parsed = json.loads(JsonFormatter().format(line))
    assert (parsed["level"], parsed["logger"]) == ("warning", "shadowmesh")
    assert parsed["message"] == 'a "quoted"\nline'
    assert "\n" not in JsonFormatter().format(line)
    try:
        raise ValueError("x")
    except ValueError as error:
        line.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: x" in json.loads(JsonFormatter().format(line))["exception"]


def test_errors_have_their_priority_in_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        command = [sys.executable, "-m", "shadowmesh.cli.main", "up", "-c", str(tmp_path / "absent")]
        subprocess.run(command, check=False, stderr=journal, env=environment)
        journal.seek(0)
        assert journal.read().startswith("<3>shadowmesh-client: ")
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.stderr.startswith("shadowmesh-client: "), "inherited, but our output goes elsewhere"
    closed = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], check=False, env=environment)
    assert closed.returncode == done.returncode == ExitCode.REFUSED, "where nothing can be said"
