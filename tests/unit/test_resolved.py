"""What `resolvectl` is told, by a stand-in that writes it down; tests/e2e/test_names.py has the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shadowmesh.errors import DeviceError
from shadowmesh.io import resolved


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "resolvectl").write_text('#!/bin/sh\necho "$@" >> ${0%/*}/told\n. ${0%/*}/then\n')
    (tmp_path / "resolvectl").chmod(0o755)
    (tmp_path / "then").write_text("")
    (tmp_path / "told").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "told"


def lines(told: Path) -> list[str]:
    return told.read_text().splitlines()


async def test_only_the_domains_are_asked_there(told: Path) -> None:
    await resolved.split("smesh0", ["10.77.0.1", "fd77::1"], ["mesh", "77.10.in-addr.arpa"])
    await resolved.revert("smesh0")
    assert lines(told) == [
        "dns smesh0 10.77.0.1 fd77::1",
        "domain smesh0 ~mesh ~77.10.in-addr.arpa",
        "default-route smesh0 no",
        "dnssec smesh0 no",
        "dnsovertls smesh0 no",
        "revert smesh0",
    ]


async def test_a_refusal_is_told_in_its_words(told: Path) -> None:
    told.with_name("then").write_text("echo 'Failed to set:\n  link is busy' >&2\nexit 1\n")
    with pytest.raises(DeviceError, match="resolvectl dns: Failed to set: link is busy"):
        await resolved.split("smesh0", ["10.77.0.1"], ["mesh"])
    await resolved.revert("smesh0")


async def test_one_that_hangs_is_ended(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolved, "TIMEOUT", 0.2)
    told.with_name("then").write_text("echo $$ >> ${0%/*}/told\nexec sleep 60\n")
    with pytest.raises(DeviceError, match="no answer within"):
        await resolved.split("smesh0", ["10.77.0.1"], ["mesh"])
    pid = int(lines(told)[-1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_no_such_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="can't be started: No such file"):
        await resolved.split("smesh0", ["10.77.0.1"], ["mesh"])


def test_a_new_start_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "stub-resolv.conf"
    monkeypatch.setattr(resolved, "STUB", stub)
    assert resolved.stamp() is None
    stub.write_text("nameserver 127.0.0.53\n")
    first = resolved.stamp()
    assert first is not None
    assert resolved.stamp() == first
    os.utime(stub.parent, ns=(1, 1))
    assert resolved.stamp() not in (None, first)


@pytest.mark.parametrize(
    ("servers", "hosts", "asked"),
    [
        ("nameserver 127.0.0.53\n", "files dns", True),
        ("nameserver 127.0.0.54\n", "files dns", True),
        ("nameserver 192.0.2.1\n", "files resolve [!UNAVAIL=return] dns", True),
        ("nameserver 192.0.2.1\n", "files dns", False),
        ("nameserver 127.0.0.531\n", "files dns", False),
    ],
)
def test_whether_programs_ask_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: str, hosts: str, asked: bool
) -> None:
    for name, text in (("RESOLV_CONF", servers), ("NSSWITCH", f"passwd: files\nhosts: {hosts}\n")):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(resolved, name, tmp_path / name)
    assert (resolved.unasked() == "") == asked
    (tmp_path / "NSSWITCH").unlink()
    assert resolved.unasked() == ""
