"""What verbs print with --json that is not an answer of the local API as it came. Data only.

The rules of `shadowmesh.api.schema` hold here too.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shadowmesh.api.schema import PeerStatus

CHECK_SCHEMA = "shadowmesh.check/1"
PEERS_SCHEMA = "shadowmesh.peers/1"
GET_SCHEMA = "shadowmesh.get/1"
SET_SCHEMA = "shadowmesh.set/1"


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


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One key of client.yaml. `value`, `default`: text, number, boolean, list of texts, or null for none."""

    key: str
    value: object
    default: object
    given: bool


class GetReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `get` prints. `given` of each: the file has the key."""

    schema: str = GET_SCHEMA
    file: str
    settings: list[Setting]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One key that `set` gave another value; null: there was, or is, none."""

    key: str
    old: object
    new: object


class SetReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `set` prints. `applied` and `restart` as in `reload`; empty if no client runs by the file."""

    schema: str = SET_SCHEMA
    file: str
    changes: list[Change]
    diff: str
    written: bool
    running: bool
    applied: list[str] = []
    restart: list[str] = []
