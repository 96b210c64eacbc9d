"""`status --check`: what each check says of each status, and how the verb waits."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import msgspec
import pytest

from shadowmesh.api.checks import CheckName, check
from shadowmesh.api.client import ApiClient, ApiFailed, Forbidden, NotRunning
from shadowmesh.api.schema import RelayStatus, Status
from shadowmesh.cli import check as check_verb
from shadowmesh.cli.main import main as client
from shadowmesh.command import ExitCode
from shadowmesh.core.node import Core
from shadowmesh.node.report import is_connected
from tests.protocol.mesh import Mesh
from tests.unit.test_api import make_status

replace = msgspec.structs.replace


def status(
    relays: list[RelayStatus] | None = None, up: bool = True, after: float | None = 0.31, peers: bool = True
) -> Status:
    """As of a client with one relay that is connected, and one peer that is."""
    made = make_status()
    node = replace(made.node, interface_up=up, connected_after=after)
    relays = made.relays[:1] if relays is None else relays
    return replace(made, node=node, relays=relays, peers=made.peers[:1] if peers else [])


WAITING = [replace(make_status().relays[0], state="waiting")]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("live", status(WAITING, up=False, after=None, peers=False), (True, "the client answers")),
        (
            "startup",
            status(after=None),
            (False, "no relay and no peer has been connected since up [peer.no-relay]"),
        ),
        ("startup", status(WAITING, peers=False), (True, "the first connection was made 0.3 s after up")),
        ("ready", status(), (True, "interface smesh0 is up, connected: 1 relay, 1 peer")),
        ("ready", status(WAITING), (True, "interface smesh0 is up, connected: 0 relays, 1 peer")),
        ("ready", status(peers=False), (True, "interface smesh0 is up, connected: 1 relay, 0 peers")),
        ("ready", status(WAITING, peers=False), (False, "no relay and no peer is connected [peer.no-relay]")),
        ("ready", status([], peers=False), (True, "interface smesh0 is up, no relay is configured")),
        ("ready", status(up=False), (False, "interface smesh0 is down or gone [device.down]")),
    ],
)
def test_what_is_so(name: CheckName, given: Status, expected: tuple[bool, str]) -> None:
    assert check(name, given) == expected


def answers(monkeypatch: pytest.MonkeyPatch, *given: Status | Exception) -> list[float]:
    """The client answers so, one after the other, and with the last from then on; the sleeps."""
    left, slept = list(given), [0.0]

    def status_json(_client: ApiClient) -> bytes:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return msgspec.json.encode(answer)

    def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(ApiClient, "status_json", status_json)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
    return slept


@pytest.mark.parametrize(
    ("given", "code", "line"),
    [
        (status(), ExitCode.OK, "ready: interface smesh0 is up, connected: 1 relay, 1 peer"),
        (status(up=False), ExitCode.FAILED, "not ready: interface smesh0 is down or gone [device.down]"),
        (
            NotRunning("no client runs here"),
            ExitCode.NOT_RUNNING,
            "not ready: no client runs here [client.not-running]",
        ),
        (ApiFailed("does not\x1b answer"), ExitCode.FAILED, "not ready: does not? answer [client.no-answer]"),
    ],
)
def test_the_answer_is_a_line_or_json_and_an_exit_code(
    given: Status | Exception,
    code: ExitCode,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(answers(monkeypatch, given)) == 1
    assert client(["status", "--check", "ready"]) == code
    assert capsys.readouterr() == (f"{line}\n", "")
    assert client(["status", "--check", "ready", "--json"]) == code
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "schema": "shadowmesh.check/1",
        "check": "ready",
        "ok": code == 0,
        "reason": said["reason"],
    }
    assert line.endswith(said["reason"].replace("\x1b", "?"))


def test_waiting_ends_when_it_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = answers(
        monkeypatch, NotRunning("none"), ApiFailed("starts"), status(WAITING, peers=False), status()
    )
    assert client(["status", "--check", "ready", "--wait", "5"]) == ExitCode.OK
    assert slept[1:] == [check_verb.POLL] * 3


def test_waiting_ends_with_the_last_answer_when_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept = answers(monkeypatch, NotRunning("none"))
    assert client(["status", "--check", "live", "--wait", "0.35"]) == ExitCode.NOT_RUNNING
    assert capsys.readouterr().out == "not live: none [client.not-running]\n"
    assert sum(slept) == pytest.approx(0.35)


def test_who_may_not_ask_learns_it_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept = answers(monkeypatch, Forbidden("may not open it; use sudo"))
    assert client(["status", "--check", "ready", "--wait", "5"]) == ExitCode.FAILED
    assert capsys.readouterr() == ("", "shadowmesh-client: may not open it; use sudo [client.forbidden]\n")
    assert slept == [0.0]


def test_a_real_hang_of_a_socket_is_not_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ApiClient._request, "__defaults__", (b"", 0.05))
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert client(["status", "--check", "live", "--socket", str(path)]) == ExitCode.FAILED
    said = f"not live: the client on {path} does not answer: timed out [client.no-answer]\n"
    assert capsys.readouterr().out == said


def test_wait_is_for_check_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert client(["status", "--wait", "5"]) == ExitCode.USAGE
    assert "--wait is for --check" in capsys.readouterr().err


def test_a_core_is_connected_by_a_relay_or_by_a_peer() -> None:
    mesh = Mesh()
    mesh.start_client(0, (1,))
    core: Core = mesh.clients[0].core
    assert not is_connected(core)
    mesh.start_relay()
    mesh.network.run_until(lambda: is_connected(core), 60)
    assert core.relays[0].state.value == "connected"
    mesh.start_client(1, (0,))
    mesh.pair_up()
    core.relays.clear()
    assert is_connected(core)
