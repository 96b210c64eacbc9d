"""What verbs print with --json that is not an answer of the local API as it came. Data only.

The rules of `shadowmesh.api.schema` hold here too.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shadowmesh.api.schema import PeerStatus

CHECK_SCHEMA = "shadowmesh.check/1"
PEERS_SCHEMA = "shadowmesh.peers/1"


class CheckReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `status --check` prints. `reason` is for people."""

    schema: str = CHECK_SCHEMA
    check: Literal["live", "ready", "startup"]
    ok: bool
    reason: str


class PeersReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `peers` prints: those of the status that were asked for."""

    schema: str = PEERS_SCHEMA
    peers: list[PeerStatus]
