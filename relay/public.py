"""What the relay tells the world over HTTP/3: that it lives, whether it serves, its version; no more.

Nothing here is about anybody: no name, no NodeID, no address, and the number of clients only if the operator
says so.  docs/operations.md is the reference.
"""

from __future__ import annotations

import msgspec

from shadowmesh import __version__
from shadowmesh.errors import Failure

SCHEMA = "shadowmesh.relay-public/1"


class PublicStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to GET /status. `uptime`: whole seconds; `clients` is left out unless the operator shows it."""

    schema: str = SCHEMA
    version: str = __version__
    uptime: int
    draining: bool
    clients: int | msgspec.UnsetType = msgspec.UNSET


def why_not_ready(draining: bool) -> str:
    """Why the relay takes no clients now; empty if it does."""
    return Failure("relay.draining", "the relay is draining").told if draining else ""


def page(path: str, status: PublicStatus) -> tuple[int, bytes]:
    """HTTP status and JSON at a path; 404 and nothing for those that there are not."""
    if path == "/status":
        return 200, msgspec.json.encode(status)
    if path == "/version":
        return 200, msgspec.json.encode({"version": status.version})
    if path == "/live":
        return 200, msgspec.json.encode({"live": True})
    if path == "/ready":
        reason = why_not_ready(status.draining)
        body = {"ready": not reason, "reason": reason}
        return 503 if reason else 200, msgspec.json.encode(body)
    return 404, b""
