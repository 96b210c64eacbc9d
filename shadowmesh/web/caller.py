"""Who is at the other end of a Unix socket: process and user, by the kernel's word at the time of connect(2).

Says who it is; what somebody may do is decided by whoever serves.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Any, NamedTuple

_CREDENTIALS = struct.Struct("=iII")
"""struct ucred of unix(7): pid, uid, gid."""


class Caller(NamedTuple):
    """`pid` is 0 for a process of a PID namespace that we can't see."""

    pid: int
    uid: int
    gid: int

    @property
    def owns_us(self) -> bool:
        """Whether it is root or runs as our own user, and so could do by other means all that we can."""
        return self.uid in (0, os.geteuid())


def caller_of(sock: Any) -> Caller | None:
    """Who connected (SO_PEERCRED); None if `sock` is no connected Unix socket.

    :param sock: a socket, or what an event loop gives out for one.
    """
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    return Caller(*_CREDENTIALS.unpack(raw))
