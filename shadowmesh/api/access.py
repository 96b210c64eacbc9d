"""Who may open the socket of the local control API besides its owner: a group of this machine.

What its members may ask then is decided in `server`.
"""

from __future__ import annotations

import grp
from pathlib import Path

from shadowmesh.config import ClientConfig, refuse_group


def socket_group(config: ClientConfig) -> int | None:
    """The gid of `node.socket_group`; None without one. Raises ConfigError if there is no such group."""
    name = config.node.socket_group
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        refuse_group(config, f"this machine has no group {name}; make it with `groupadd --system {name}`")


def closed_folder(path: Path, group: int) -> str:
    """Why members of `group` can't reach the socket at `path` all the same; empty if they can."""
    status = path.parent.stat()
    if status.st_mode & 0o001 or (status.st_gid == group and status.st_mode & 0o010):
        return ""
    return (
        f"node.socket_group: its members can't enter {path.parent}; open it to them (chmod o+x), or, where "
        f"systemd makes it, see Access in docs/api.md"
    )
