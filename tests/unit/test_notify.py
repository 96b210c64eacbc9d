"""sd_notify: what a service manager receives, on socket files and on abstract sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowmesh.io import notify


@pytest.fixture(params=["file", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify") if request.param == "file" else f"@shadowmesh-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0", 1))
        receiver.settimeout(1)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield receiver


def test_ready_tells_the_state_and_one_line(manager: socket.socket) -> None:
    assert notify.ready("2 peers,\n1 relay")
    assert manager.recv(1000) == b"READY=1\nSTATUS=2 peers, 1 relay"


def test_status_and_stopping(manager: socket.socket) -> None:
    assert notify.status("waiting for the relay")
    assert notify.stopping()
    assert [manager.recv(1000), manager.recv(1000)] == [b"STATUS=waiting for the relay", b"STOPPING=1"]


@pytest.mark.parametrize("target", [None, "", "relative/path"])
def test_without_a_manager_nothing_happens(target: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if target is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", target)
    assert not notify.ready("x")


def test_a_manager_that_is_gone_is_logged_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify.stopping()
    assert "can't be told" in caplog.text
