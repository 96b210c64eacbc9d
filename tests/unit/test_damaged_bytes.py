"""Files and requests that are no UTF-8 or nested without end: refused in words, as all that is damaged."""

from __future__ import annotations

import asyncio
import http.client
import socket
from pathlib import Path

import msgspec
import pytest

from shadowmesh.api.server import serve_api
from shadowmesh.command import CommandFailed
from shadowmesh.errors import IdentityError
from shadowmesh.io.authority import LEDGER_FILE, AuthorityFolder
from shadowmesh.io.lent import LENT_FILE, take_back
from shadowmesh.web.problem import Problem
from shadowmesh_relay import control
from tests.unit.test_api import FakeControl

DAMAGED = [b'{"\xff": 1}', b"[" * 5000, b'{"x": ' + b"[" * 5000]


@pytest.mark.parametrize("data", DAMAGED)
async def test_a_request_to_the_control_api(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "socket"

    def ask() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with connection.sock:
            connection.sock.connect(str(path))
            connection.request("POST", "/v1/ping", data)
            with connection.getresponse() as answer:
                return answer.status, answer.read()

    async with serve_api(path, FakeControl()):
        status, body = await asyncio.to_thread(ask)
    assert (status, msgspec.json.decode(body, type=Problem).error) == (400, "bad-request")
    assert not [record for record in caplog.records if record.exc_info], "it is no failure of ours"


@pytest.mark.parametrize("data", DAMAGED)
def test_what_is_lent_to_a_bridge(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / LENT_FILE).write_bytes(data)
    take_back(tmp_path)
    assert "is ignored" in caplog.text


@pytest.mark.parametrize("data", DAMAGED)
def test_the_ledger_of_an_authority(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AuthorityFolder, "_require", lambda _: None)
    (tmp_path / LEDGER_FILE).write_bytes(data)
    with pytest.raises(IdentityError, match="damaged"):
        AuthorityFolder(tmp_path).ledger()


@pytest.mark.parametrize("data", DAMAGED)
def test_what_a_relay_answers(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "request", lambda *_: (500, data))
    with pytest.raises(CommandFailed, match="HTTP status 500"):
        control.ask_reload(tmp_path)
