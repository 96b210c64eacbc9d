"""What verbs print with --json that is not an answer of the local API as it came. Data only.

The rules of `shadowmesh.api.schema` hold here too.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from shadowmesh.api.schema import PING_SCHEMA, FirewallStatus, PeerStatus

CHECK_SCHEMA = "shadowmesh.check/1"
PEERS_SCHEMA = "shadowmesh.peers/1"
GET_SCHEMA = "shadowmesh.get/1"
SET_SCHEMA = "shadowmesh.set/1"
UP_SCHEMA = "shadowmesh.up/1"
DOWN_SCHEMA = "shadowmesh.down/1"
FIREWALL_TEST_SCHEMA = "shadowmesh.firewall-test/1"
FIREWALL_RULES_SCHEMA = "shadowmesh.firewall-rules/1"
FIREWALL_COUNTERS_SCHEMA = "shadowmesh.firewall-counters/1"
JOIN_SCHEMA = "shadowmesh.join/1"
INVITATION_SCHEMA = "shadowmesh.invitation/1"
PENDING_SCHEMA = "shadowmesh.pending/1"
JUDGED_SCHEMA = "shadowmesh.judged/1"
NETWORK_SCHEMA = "shadowmesh.network/1"
ROTATED_SCHEMA = "shadowmesh.rotated/1"
DELEGATED_SCHEMA = "shadowmesh.delegated/1"
SIGNED_SCHEMA = "shadowmesh.signed/1"
REVOKED_SCHEMA = "shadowmesh.revoked/1"
MEMBERS_SCHEMA = "shadowmesh.members/1"
DASHBOARD_SCHEMA = "shadowmesh.dashboard/1"

Value = bool | int | str | list[str] | None
"""Of a key of the configuration."""


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
    value: Value
    default: Value
    given: bool


class GetReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `get` prints. `given` of each: the file has the key."""

    schema: str = GET_SCHEMA
    file: str
    settings: list[Setting]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One key that `set` gave another value; null: there was, or is, none."""

    key: str
    old: Value
    new: Value


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


class PingProblem(msgspec.Struct, frozen=True, kw_only=True):
    """What `ping` prints instead of a reply."""

    schema: str = PING_SCHEMA
    peer: str
    error: Literal["unknown-peer", "no-reply"]
    message: str


class UpReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `up --detach` prints when the client is ready."""

    schema: str = UP_SCHEMA
    name: str
    interface: str
    pid: int
    log: str


class DownReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `down` prints when process and interface are gone."""

    schema: str = DOWN_SCHEMA
    stopped: bool = True


class VerdictReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `firewall test` prints. `rule`: its number from 1, null where none matches."""

    schema: str = FIREWALL_TEST_SCHEMA
    action: Literal["allow", "deny"]
    rule: int | None
    why: str


class RulesReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `firewall explain` prints. `rules` and `unknown` are for people; `tests`: how many have passed."""

    schema: str = FIREWALL_RULES_SCHEMA
    rules: list[str]
    unknown: list[str] = []
    tests: int = 0


class CountersReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `firewall counters` prints; null without a firewall."""

    schema: str = FIREWALL_COUNTERS_SCHEMA
    firewall: FirewallStatus | None


class JoinReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `join` prints. `not_after` in seconds since 1970."""

    schema: str = JOIN_SCHEMA
    name: str
    node_id: str
    network: str
    network_id: str
    addresses: list[str]
    groups: list[str]
    not_after: int
    config: str


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What one use of an invitation gives."""

    name: str
    addresses: list[str]
    serial: int


class InvitationMade(msgspec.Struct, frozen=True, kw_only=True):
    """What `invite create` prints. `token` is as secret as what it opens; times in seconds since 1970."""

    schema: str = INVITATION_SCHEMA
    token: str
    relay: str
    expires: int
    by_hand: bool
    not_after: int
    grants: list[Granted]


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that waits to be let in. `at` in seconds since 1970."""

    node_id: str
    name: str
    at: int
    source: str


class PendingReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `invite pending` prints."""

    schema: str = PENDING_SCHEMA
    waiting: list[Waiting]


class JudgedReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `invite approve`, `refuse` and `revoke` print; `node_id` is null for `revoke`."""

    schema: str = JUDGED_SCHEMA
    name: str
    node_id: str | None
    verdict: Literal["approved", "refused", "revoked"]


class FirstMember(msgspec.Struct, frozen=True, kw_only=True):
    """This machine, if `network create` has made it a member; `network_file` is for relays."""

    name: str
    node_id: str
    addresses: list[str]
    not_after: int
    config: str
    network_file: str


class NetworkReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `network create` and `network export` print; `state_dir` and `member` are of the first, `text` of
    the second.
    """

    schema: str = NETWORK_SCHEMA
    name: str
    network_id: str
    subnets: list[str]
    state_dir: str | msgspec.UnsetType = msgspec.UNSET
    member: FirstMember | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET


class RotatedReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `network rotate` prints. `keys`: number of the new one; `number` and `file`: its first list."""

    schema: str = ROTATED_SCHEMA
    name: str
    network_id: str
    keys: int
    old_key_until: int
    number: int
    file: str


class DelegatedReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `network delegate` prints. `not_after` in seconds since 1970."""

    schema: str = DELEGATED_SCHEMA
    node_id: str
    serial: int
    not_after: int
    file: str


class SignedReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `network sign` and `renew` print; `revocations` and `number` are of `sign --replaces`."""

    schema: str = SIGNED_SCHEMA
    name: str
    node_id: str
    addresses: list[str]
    groups: list[str]
    rights: list[str]
    routes: list[str]
    serial: int
    not_after: int
    fingerprint: str
    file: str
    revocations: str | msgspec.UnsetType = msgspec.UNSET
    number: int | msgspec.UnsetType = msgspec.UNSET


class RevokedReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `network revoke` prints. `number` of the list, `valid_until` in seconds since 1970."""

    schema: str = REVOKED_SCHEMA
    number: int
    valid_until: int
    file: str


class MemberEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who was signed for, or is invited. Times in seconds since 1970."""

    node: str | None = None
    name: str
    addresses: list[str]
    routes: list[str] = []
    groups: list[str]
    rights: list[str]
    serial: int
    not_after: int
    revoked: int | None = None
    state: Literal["valid", "expired", "revoked", "invited"]


class MembersReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `network list` prints."""

    schema: str = MEMBERS_SCHEMA
    network: str
    network_id: str
    list_number: int
    members: list[MemberEntry]


class DashboardReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `dashboard` prints once it answers. `url` has the token that opens it; `listen` as given."""

    schema: str = DASHBOARD_SCHEMA
    url: str
    listen: str
