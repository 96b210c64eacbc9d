"""sd_notify: what a service manager receives, on socket files and on abstract sockets."""

from __future__ import annotations

import os
import resource
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


@pytest.mark.parametrize(
    ("limit", "of_process", "seconds"),
    [
        ("60000000", None, 60.0),
        ("60000000", "own", 60.0),
        ("60000000", "1", None),
        ("60000000", "", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_is_named(
    limit: str | None,
    of_process: str | None,
    seconds: float | None,
    manager: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("WATCHDOG_USEC", limit), ("WATCHDOG_PID", of_process)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, str(os.getpid()) if value == "own" else value)
    assert notify.watchdog_limit() == seconds
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert notify.watchdog_limit() is None


def test_alive_needs_no_further_descriptor_and_finds_a_new_manager(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with notify.new_sender() as sender:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            assert notify.alive(sender)
            assert not notify.status("that one does")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert manager.recv(1000) == b"WATCHDOG=1"
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "another"))
        assert not notify.alive(sender)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as another:
            another.bind(str(tmp_path / "another"))
            assert notify.alive(sender)
            assert another.recv(1000) == b"WATCHDOG=1"


def test_a_manager_that_does_not_read_holds_nobody_up(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "PATIENCE", 0.01)
    while notify.status("more and more"):
        pass
    with notify.new_sender() as sender:
        assert not notify.alive(sender)
    assert not notify.ready("too late")
    assert "can't be told" in caplog.text
