"""What this node has put on a bridge, written down so that the next start takes back what a crash has left.

A bridge stays when its ports go, and with it our addresses and routes. At the ordinary end whoever put them
there takes them away (`tap.py`, `node/subnets.py`); the file is of use only where that end did not come.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import DeviceError
from shadowmesh.io.bridge import LinuxBridge, remove_addresses
from shadowmesh.io.netlink import in_thread
from shadowmesh.io.routes import apply
from shadowmesh.overlay.routes import Key

log = logging.getLogger("shadowmesh")

LENT_FILE = "lent"
"""In the state directory: of one node, whose lock its running client holds."""
MAX_FILE = 1 << 20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Kept(msgspec.Struct):
    boot: str
    """Nothing that we gave outlives the kernel: what has the same address now is somebody else's."""
    bridge: str
    index: int
    """A bridge that was made anew has another."""
    addresses: list[str] = []
    routes: list[tuple[str, int, str]] = []
    """Prefix, metric, gateway."""


class Lent:
    """The file of a running node; a failure to write is told in the log and stops nothing."""

    def __init__(self, state_dir: Path, bridge: LinuxBridge) -> None:
        self._path = state_dir / LENT_FILE
        self._kept = _Kept(_boot(), bridge.name, bridge.index)

    def note_addresses(self, addresses: Sequence[str]) -> None:
        """These "ADDRESS/PREFIX" were not there before."""
        self._kept.addresses = list(addresses)
        self._save()

    def note_routes(self, routes: Mapping[Key, str]) -> None:
        """Exactly these are ours now."""
        self._kept.routes = [(key.to, key.metric, via) for key, via in routes.items()]
        self._save()

    def forget(self) -> None:
        """All of it was taken away."""
        self._path.unlink(missing_ok=True)

    def _save(self) -> None:
        draft = self._path.with_name(f".{LENT_FILE}.{0:016x}")  # one that `remove_drafts` knows
        try:
            # Without fsync: what a power failure tears is of a boot that is over.
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.encode(self._kept))
            draft.replace(self._path)
        except OSError as error:
            line = "can't write down in %s what was put on the bridge: %s [state.not-kept]"
            log.warning(line, self._path, error.strerror)


def take_back(state_dir: Path) -> None:
    """Before anything is put on a bridge: remove what the client before this one left, if it could not."""
    path = state_dir / LENT_FILE
    try:
        with open(path, "rb", opener=_open_here) as file:
            kept = msgspec.json.decode(file.read(MAX_FILE), type=_Kept)
        routes = {Key(to, metric): via for to, metric, via in kept.routes}
        if kept.boot == _boot() and LinuxBridge.find(kept.bridge).index == kept.index:
            in_thread(lambda: apply(kept.bridge, routes, {}))
            remove_addresses(kept.index, kept.addresses)
            counts = f"addresses: {len(kept.addresses)}, routes: {len(routes)}"
            log.info("took from bridge %s what a client left that did not end well: %s", kept.bridge, counts)
    except FileNotFoundError:
        return
    except DeviceError:
        pass  # there is no such bridge any more, and nothing on it
    except (OSError, *UNDECODABLE) as error:
        log.warning("%s is ignored: %s [state.ignored]", path, error)
    with contextlib.suppress(OSError):
        path.unlink()


def _open_here(path: str, flags: int) -> int:
    """No link to elsewhere, and no pipe that waits for a writer."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
