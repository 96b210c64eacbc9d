"""The file of known members: a convenience whose damage costs nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest

from shadowmesh.node import acquainted

KNOWN = [(bytes(31) + b"a", b"shown"), (bytes(31) + b"b", bytes(5000))]


def test_what_was_kept_comes_back_and_only_the_owner_reads_it(tmp_path: Path) -> None:
    path = acquainted.path_of(tmp_path, bytes(32))
    assert path.name == "members-aaaaaaaaaa"
    assert acquainted.load(path) == []
    acquainted.save(path, KNOWN)
    acquainted.save(path, KNOWN)
    assert acquainted.load(path) == KNOWN
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode(KNOWN)[:-1],
        msgspec.msgpack.encode([(b"short", b"")]),
        msgspec.msgpack.encode([(bytes(32), bytes(100_000))]),
        msgspec.msgpack.encode({"a": 1}),
    ],
)
def test_a_damaged_file_is_ignored_with_a_line_in_the_log(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "members"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert acquainted.load(path) == []
    assert f"{path} is ignored" in caplog.text


def test_what_can_not_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    acquainted.save(tmp_path / "nowhere" / "members", KNOWN)
    assert "can't keep the known members" in caplog.text
