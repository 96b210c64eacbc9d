"""The file of known members in the state directory: what each of them has shown the relay.

It is a convenience, as the tickets are: without it they are asked for anew.  Nothing in it is believed:
whoever reads it checks the signatures again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from shadowmesh.crypto.authority_key import NetworkId
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.decoding import UNDECODABLE
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import MAX_HANDSHAKE_MESSAGE, Bytes32

log = logging.getLogger("shadowmesh")

MAX_FILE = 16 * 1024 * 1024
"""Bytes: the largest membership field of 512 members, twice."""
_Known = tuple[Bytes32, Annotated[bytes, msgspec.Meta(max_length=MAX_HANDSHAKE_MESSAGE)]]


def path_of(state_dir: Path, network: NetworkId) -> Path:
    """Where the members of this network are kept."""
    return state_dir / f"members-{node_id_text(network)[:10]}"


def load(path: Path) -> list[tuple[NodeId, bytes]]:
    """What was kept; nothing, and a line in the log, where the file is of no use."""
    try:
        with open(path, "rb") as file:
            return msgspec.msgpack.decode(file.read(MAX_FILE), type=list[_Known])
    except FileNotFoundError:
        return []
    except (OSError, *UNDECODABLE) as error:
        log.warning("%s is ignored: %s [state.ignored]", path, error)
    return []


def save(path: Path, known: Sequence[tuple[NodeId, bytes]]) -> None:
    """Replace the file as a whole; a failure is told in the log."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.msgpack.encode(known))
        # Without fsync, as the tickets: what a power failure tears is ignored.
        draft.replace(path)
    except OSError as error:
        log.warning("can't keep the known members in %s: %s [state.not-kept]", path, error.strerror)
        with contextlib.suppress(OSError):
            draft.unlink()
