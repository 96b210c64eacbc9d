"""The file of open invitations in the state directory, as secret as the identity beside it."""

from __future__ import annotations

from pathlib import Path

from shadowmesh.crypto.identity import Identity, check_private
from shadowmesh.errors import ConfigError
from shadowmesh.io.documents import replace_file
from shadowmesh.membership.guard import Guard
from shadowmesh.membership.invitations import Invitations

INVITATIONS_FILE = "invitations"
MAX_FILE = 33_554_432
"""Bytes: 64 invitations with 32 certificates each take 20 MB."""


def open_invitations(guard: Guard, identity: Identity, state_dir: Path) -> Invitations:
    """What was kept of them. Raises ConfigError, and IdentityError if others can read the file."""
    path = state_dir / INVITATIONS_FILE

    def keep(data: bytes) -> None:
        replace_file(path, data, mode=0o600)

    try:
        kept = b""
        if path.exists():
            check_private(path, 0o077, "read by others, so its invitations may be known", "600")
            with path.open("rb") as file:
                kept = file.read(MAX_FILE)
            if not kept:
                raise ValueError("it is empty")
        return Invitations(guard, identity, kept, keep)
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}", "config.unreadable") from error
    except ValueError as error:
        text = f"{path}: {error}; remove it, and make the open invitations anew"
        raise ConfigError(text, "invite.file") from None
