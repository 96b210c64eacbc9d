"""The file of relay tickets in the state directory: what makes the first session after a restart short.

It is a convenience: whatever is wrong with it costs round trips, a line in the log, and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from shadowmesh.errors import LocalProtocolError
from shadowmesh.session import tickets as contents
from shadowmesh.session.tickets import MAX_FILE_SIZE, RelayTicket
from shadowmesh.units import NodeId

log = logging.getLogger("shadowmesh")

TICKETS_FILE = "tickets"


def load(state_dir: Path, node: NodeId, relays: Collection[NodeId]) -> list[RelayTicket]:
    """The tickets of `node` for `relays`; none, and a line in the log, where the file is of no use."""
    path = state_dir / TICKETS_FILE
    try:
        with open(path, "rb", opener=_open_here) as file:
            status = os.fstat(file.fileno())
            private = stat.S_ISREG(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
            if not private or status.st_uid not in (0, os.geteuid()):
                raise LocalProtocolError("others can read or change it")
            return contents.decode(file.read(MAX_FILE_SIZE), node, relays)
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("%s is ignored: %s [state.ignored]", path, error.strerror)
    except LocalProtocolError as error:
        log.warning("%s is ignored: %s [state.ignored]", path, error)
    return []


def _open_here(path: str, flags: int) -> int:
    """No link to elsewhere, and no pipe that waits for a writer."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def save(state_dir: Path, node: NodeId, tickets: Iterable[RelayTicket]) -> None:
    """Replace the file as a whole; a failure is told in the log, and leaves no old file behind."""
    path = state_dir / TICKETS_FILE
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(contents.encode(node, tickets))
        # Without fsync, which would hold up the event loop: what a power failure tears is ignored.
        draft.replace(path)
    except OSError as error:
        log.warning("can't keep tickets in %s: %s [state.not-kept]", path, error.strerror)
        for left in (draft, path):
            with contextlib.suppress(OSError):
                left.unlink()
