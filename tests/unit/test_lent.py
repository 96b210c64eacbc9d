"""What a crash leaves on a bridge: written down while it is there, taken back only if it is ours still."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from shadowmesh.errors import DeviceError
from shadowmesh.io import lent as module
from shadowmesh.io.bridge import LinuxBridge
from shadowmesh.io.documents import remove_drafts
from shadowmesh.io.lent import LENT_FILE, Lent, take_back
from shadowmesh.overlay.routes import Key

ADDRESSES = ["10.77.0.1/24", "fd77::1/64"]
ROUTES = {Key("192.168.5.0/24", 1024): "10.77.0.2"}


class Kernel:
    """A machine with one bridge."""

    def __init__(self) -> None:
        self.bridge: LinuxBridge | None = LinuxBridge("br0", 5, bytes(6), 1500, True)
        self.removed: list[object] = []
        self.error: OSError | None = None

    def find(self, name: str) -> LinuxBridge:
        if self.bridge is None or name != self.bridge.name:
            raise DeviceError(f"there is no bridge {name}")
        return self.bridge

    def apply(self, interface: str, before: Mapping[Key, str], wanted: Mapping[Key, str]) -> dict[Key, str]:
        assert (interface, wanted) == ("br0", {})
        if self.error is not None:
            raise self.error
        self.removed.append(dict(before))
        return {}

    def remove_addresses(self, index: int, addresses: Sequence[str]) -> None:
        self.removed.append((index, list(addresses)))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(LinuxBridge, "find", made.find)
    monkeypatch.setattr(module, "apply", made.apply)
    monkeypatch.setattr(module, "remove_addresses", made.remove_addresses)
    return made


def crashed(kernel: Kernel, folder: Path) -> Path:
    """The file of a client that put addresses and a route on the bridge, and was killed."""
    assert kernel.bridge is not None
    lent = Lent(folder, kernel.bridge)
    lent.note_addresses(ADDRESSES)
    lent.note_routes({Key("10.0.0.0/8", 7): "10.77.0.9"})
    lent.note_routes(ROUTES)
    return folder / LENT_FILE


def test_what_was_left_is_taken_back_once(kernel: Kernel, tmp_path: Path) -> None:
    file = crashed(kernel, tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    take_back(tmp_path)
    assert kernel.removed == [ROUTES, (5, ADDRESSES)]
    assert os.listdir(tmp_path) == []
    take_back(tmp_path)
    assert len(kernel.removed) == 2


def test_an_ordinary_end_leaves_no_file(kernel: Kernel, tmp_path: Path) -> None:
    crashed(kernel, tmp_path)
    assert kernel.bridge is not None
    Lent(tmp_path, kernel.bridge).forget()
    take_back(tmp_path)
    assert kernel.removed == []


@pytest.mark.parametrize("what", ["another boot", "another bridge", "no bridge"])
def test_what_may_be_somebody_elses_is_left_alone(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    file = crashed(kernel, tmp_path)
    if what == "another boot":
        monkeypatch.setattr(module, "_boot", lambda: "another")
    else:
        kernel.bridge = LinuxBridge("br0", 6, bytes(6), 1500, True) if what == "another bridge" else None
    take_back(tmp_path)
    assert kernel.removed == []
    assert not file.exists()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"boot": 1}'])
def test_a_file_of_no_use_is_ignored(
    kernel: Kernel, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / LENT_FILE).write_text(text)
    take_back(tmp_path)
    assert "is ignored" in caplog.text
    assert os.listdir(tmp_path) == []


def test_a_link_is_not_followed(kernel: Kernel, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = crashed(kernel, tmp_path).rename(tmp_path / "elsewhere")
    (tmp_path / LENT_FILE).symlink_to(elsewhere)
    take_back(tmp_path)
    assert kernel.removed == []
    assert "is ignored" in caplog.text
    assert json.loads(elsewhere.read_text())["index"] == 5


def test_what_can_not_be_written_is_told(
    kernel: Kernel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert kernel.bridge is not None
    Lent(tmp_path / "nowhere", kernel.bridge).note_addresses(ADDRESSES)
    assert "can't write down" in caplog.text


def test_a_draft_that_a_crash_left_is_removed(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise OSError(5, "Input/output error")

    assert kernel.bridge is not None
    monkeypatch.setattr(Path, "replace", lost)
    Lent(tmp_path, kernel.bridge).note_addresses(ADDRESSES)
    assert len(os.listdir(tmp_path)) == 1
    remove_drafts(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_kernel_that_refuses_stops_no_start(
    kernel: Kernel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = crashed(kernel, tmp_path)
    kernel.error = OSError(1, "Operation not permitted")
    take_back(tmp_path)
    assert "is ignored" in caplog.text
    assert not file.exists()
