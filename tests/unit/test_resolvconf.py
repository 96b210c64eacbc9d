"""/etc/resolv.conf: changed when asked, given back always, and never when it is somebody else's."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from shadowmesh.errors import DeviceError
from shadowmesh.io import resolvconf

BEFORE = "# by hand\nsearch example.net\nnameserver 192.0.2.53\noptions timeout:2\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text(BEFORE)
    monkeypatch.setattr(resolvconf, "RESOLV_CONF", path)
    return path


def test_ours_is_first_and_goes_again(state: Path, file: Path) -> None:
    file.chmod(0o640)
    before = file.stat()
    resolvconf.put_first(state)
    lines = file.read_text().splitlines()
    assert lines[1] == f"nameserver {resolvconf.SERVER}"
    assert "\n".join(lines[2:]) + "\n" == BEFORE
    assert resolvconf.is_ours()
    resolvconf.give_back(state)
    after = file.stat()
    assert file.read_text() == BEFORE
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode), "in place: it may be mounted"
    assert not resolvconf.is_ours()
    assert not list(state.iterdir())
    resolvconf.give_back(state)
    assert file.read_text() == BEFORE


def test_the_next_start_gives_back_what_a_crash_has_left(state: Path, file: Path) -> None:
    resolvconf.put_first(state)
    with resolvconf.given_back(state):
        assert file.read_text() == BEFORE
        resolvconf.put_first(state)
        assert file.read_text().count("nameserver") == 2
    assert file.read_text() == BEFORE


def test_a_crash_before_the_change_leaves_a_note_that_does_no_harm(
    state: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CrashError(BaseException):
        pass

    def crash(text: str) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(resolvconf, "_write", crash)
        with pytest.raises(CrashError):
            resolvconf.put_first(state)
    file.write_text("nameserver 198.51.100.1\n")
    resolvconf.give_back(state)
    assert file.read_text() == "nameserver 198.51.100.1\n"
    assert not list(state.iterdir())


@pytest.mark.parametrize(
    ("left", "warned"), [("nameserver 198.51.100.1\n", False), ("{ours}# mine\n", True), ("", True)]
)
def test_what_somebody_else_changed_meanwhile_is_theirs(
    state: Path, file: Path, left: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    resolvconf.put_first(state)
    theirs = left.format(ours=file.read_text())
    file.write_text(theirs)
    with caplog.at_level(logging.WARNING):
        resolvconf.give_back(state)
    assert file.read_text() == theirs
    assert bool(caplog.records) == warned


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("search example.net\n", "names no server"),
        ("nameserver 192.0.2.1\noptions timeout:1 rotate\n", "rotate"),
        (f"nameserver {resolvconf.SERVER}\nnameserver 192.0.2.1\n", "already"),
        ("", "no plain file"),
        ("nameserver 192.0.2.1\n" + "# \n" * resolvconf.MAX_FILE, "no plain file"),
    ],
)
def test_files_that_are_left_alone(state: Path, file: Path, text: str, why: str) -> None:
    file.write_text(text)
    with pytest.raises(DeviceError, match=why):
        resolvconf.put_first(state)
    assert file.read_text() == text
    assert not list(state.iterdir())


def test_links_belong_to_whoever_made_them(state: Path, file: Path) -> None:
    target = file.with_name("stub-resolv.conf")
    file.rename(target)
    file.symlink_to(target)
    with pytest.raises(DeviceError, match=r"is a link to .*stub-resolv\.conf: another program writes it"):
        resolvconf.put_first(state)
    assert target.read_text() == BEFORE


def test_a_link_that_came_meanwhile_is_not_followed(
    state: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resolvconf.put_first(state)
    target = file.with_name("theirs")
    file.rename(target)
    file.symlink_to(target)
    ours = target.read_text()
    with caplog.at_level(logging.WARNING):
        resolvconf.give_back(state)
    assert target.read_text() == ours
    assert "is a link to" in caplog.text
    assert not resolvconf.is_ours()


def test_no_file_and_a_pipe(state: Path, file: Path) -> None:
    file.unlink()
    with pytest.raises(DeviceError, match="can't be read"):
        resolvconf.put_first(state)
    os.mkfifo(file)
    with pytest.raises(DeviceError, match="no plain file"):
        resolvconf.put_first(state)


def test_a_file_that_may_not_be_written(state: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(resolvconf, "_write", refuse)
        with pytest.raises(DeviceError, match="can't be written: Read-only file system"):
            resolvconf.put_first(state)
        assert not list(state.iterdir())
    resolvconf.put_first(state)
    with monkeypatch.context() as patch:
        patch.setattr(resolvconf, "_write", refuse)
        resolvconf.give_back(state)
    assert list(state.iterdir()), "what was there is kept until it is back"
    resolvconf.give_back(state)
    assert file.read_text() == BEFORE


@pytest.mark.parametrize("note", [b"", b"{}", b"\xff", b'{"before": 1, "ours": ""}'])
def test_a_damaged_note_is_told_of(
    state: Path, file: Path, note: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (state / resolvconf.NOTE_FILE).write_bytes(note)
    with caplog.at_level(logging.WARNING):
        resolvconf.give_back(state)
    assert "can't be given back" in caplog.text
    assert file.read_text() == BEFORE
