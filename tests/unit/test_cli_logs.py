"""`logs`: what it prints, what it follows, and what it says where no client runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shadowmesh.api.client import ApiClient, NotRunning
from shadowmesh.api.live import Level, LogLine, LogReply
from shadowmesh.cli.logs import render
from shadowmesh.cli.main import main as client
from shadowmesh.command import ExitCode

LEVELS: tuple[Level, ...] = ("info", "warning", "info", "error")


def line(number: int, text: str = "") -> LogLine:
    return LogLine(number=number, at=0.25, level=LEVELS[number % 4], text=text or f"line {number}")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A client with two lines, which says two more and goes."""
    calls: list[object] = []

    def log_json(_self: ApiClient, lines: int, level: str) -> bytes:
        calls.append((lines, level))
        if calls.count((lines, level)) > 1:
            raise NotRunning("no client runs here: there is no socket")
        return msgspec.json.encode(
            LogReply(lines=[line(1), line(2, "a\x1b[1mb\nTraceback\n  deeper")], last=2)
        )

    def events(_self: ApiClient, kind: str, after: int) -> Iterator[LogLine]:
        calls.append((kind, after))
        if after == 4:
            raise NotRunning("no client runs here: there is no socket")
        yield line(after + 1)

    monkeypatch.setattr(ApiClient, "log_json", log_json)
    monkeypatch.setattr(ApiClient, "events", events)
    return calls


def test_lines_have_time_level_and_text(asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["logs", "-n", "7", "--level", "warning"]) == ExitCode.OK
    assert asked == [(7, "warning")]
    first, second, *traceback = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"19(69|70)-\d\d-\d\dT\d\d:\d\d:00\.250[+-]\d\d:\d\d WARNING line 1", first)
    assert "INFO a" in second
    assert "\x1b" not in "".join(render(line(2, "a\x1b[1mb\nc\x1b[2J"))), "a terminal would obey it"
    assert traceback == ["  Traceback", "    deeper"]


def test_json_is_the_answer_itself(asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["logs", "--json"]) == ExitCode.OK
    reply = json.loads(capsys.readouterr().out)
    assert (reply["schema"], reply["last"], len(reply["lines"])) == ("shadowmesh.log/1", 2, 2)
    assert asked == [(100, "debug")]


def test_following_goes_on_where_a_stream_ended_until_no_client_runs(
    asked: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert client(["logs", "-f", "--json"]) == ExitCode.NOT_RUNNING
    assert asked == [(100, "debug"), ("log", 2), ("log", 3), ("log", 4)]
    shown = capsys.readouterr()
    assert [json.loads(one)["number"] for one in shown.out.splitlines()] == [1, 2, 3, 4]
    assert "its log is in the journal (journalctl -u shadowmesh-client)" in shown.err


def test_following_leaves_out_what_is_not_grave_enough(
    asked: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert client(["logs", "-f", "--level", "error"]) == ExitCode.NOT_RUNNING
    numbers = re.findall(r"line (\d)", capsys.readouterr().out)
    assert numbers == ["1", "3"], "1 is of the first answer, which the client has chosen"


def test_without_a_client_it_says_where_the_log_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert client(["logs", "--socket", str(tmp_path / "absent")]) == ExitCode.NOT_RUNNING
    error = capsys.readouterr().err
    assert "there is no socket" in error
    assert "journalctl -u shadowmesh-client" in error
    assert "/var/lib/shadowmesh/client.log" in error
    file = tmp_path / "client.yaml"
    file.write_text(
        f"node: {{name: alice, state_dir: {tmp_path}, socket: {tmp_path}/absent}}\n"
        f'relays: [{{address: "192.0.2.1:4433", id: {"a" * 52}}}]\n'
    )
    assert client(["logs", "-c", str(file)]) == ExitCode.NOT_RUNNING
    assert f"{tmp_path}/client.log" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["-n", "1001"], ["-n", "-1"], ["--level", "loud"]])
def test_what_can_not_be_is_refused(arguments: list[str]) -> None:
    assert client(["logs", *arguments]) == ExitCode.USAGE
