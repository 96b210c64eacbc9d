"""What the local control API says: one struct per JSON object. Data only, no behaviour.

Versioned by the field `schema`: the number rises when a field goes or changes its meaning; new fields
may come at any time. docs/cli.md is the reference for people, and tests compare it with this file.
Times are seconds, sizes bytes; null means "not known now".
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

STATUS_SCHEMA = "shadowmesh.status/1"
PING_SCHEMA = "shadowmesh.ping/1"
REVOCATIONS_SCHEMA = "shadowmesh.revocations/1"
WHY_SCHEMA = "shadowmesh.why/1"
NETCHECK_SCHEMA = "shadowmesh.netcheck/1"
RELOAD_SCHEMA = "shadowmesh.reload/1"
INVITATIONS_SCHEMA = "shadowmesh.invitations/1"

MAX_PING_TIMEOUT = 60.0
"""Seconds that one ping may wait: far above any path, and short enough for a person."""


class NatStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the NAT before this machine, in the words of RFC 4787; addresses as ADDRESS:PORT."""

    mapping: str = "unknown"
    filtering: str = "unknown"
    local: list[str] = []
    observed: list[str] = []
    mapped: str | None = None
    port_mapping: dict[str, str] = {}


class NetworkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """This node's membership of its network. Times in seconds; `warnings` are for people."""

    name: str
    network_id: str
    member: str
    groups: list[str]
    serial: int
    authority_key: int = 1
    expires_in: float
    revocation_list: int
    revocation_list_age: float | None = None
    clock_behind: float
    warning: str | None = None
    warnings: list[str] = []
    renews_for: float | None = None
    renewal_error: str | None = None


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The client itself. `mac` as aa:bb:cc:dd:ee:ff, `listen` as ADDRESS:PORT, `uptime` seconds.

    `config`: absolute path of the file that it was started with.
    `interface_up`: it is there and up by the kernel's word. `connected_after`: seconds from `up` until the
    first relay or peer was connected.
    """

    name: str
    node_id: str
    version: str
    interface: str
    mac: str
    mtu: int
    addresses: list[str]
    listen: str
    uptime: float
    config: str = ""
    interface_up: bool = True
    connected_after: float | None = None
    aead: str = "OpenSSL"
    features: dict[str, bool] = {}
    nat: NatStatus = NatStatus()
    network: NetworkStatus | None = None
    bridge: BridgeStatus | None = None


class BridgeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The Linux bridge that the interface is a port of. Seconds: `since` its state began, `retry_in`.

    `reason` and `blocks` are of the loops that were found; `stations` are known behind the bridge,
    `far_stations` behind members; `not_learned` counts those that found no place.
    """

    name: str
    state: Literal["listening", "blocked", "forwarding"]
    since: float
    retry_in: float | None = None
    reason: str | None = None
    blocks: int = 0
    vlans: list[int] = []
    stations: int = 0
    far_stations: int = 0
    not_learned: int = 0


class CarrierStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A WebSocket to a relay. TLS in the words of the TLS library; each message carries several datagrams."""

    address: str
    tls: str | None = None
    cipher: str | None = None
    key_exchange: str | None = None
    messages_sent: int = 0
    messages_received: int = 0
    dropped: int = 0


class RelayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One configured relay. `observed_address` is ours as it sees it, `clock_skew` our lead.

    `loss` is a share from 0 to 1, `load` percent by the relay's own word; `home_reason` is why it is the
    home relay, `transport` what its leg runs over.
    """

    address: str
    node_id: str
    state: Literal["connected", "connecting", "resolving", "waiting"]
    rtt_ms: float | None = None
    loss: float | None = None
    load: int | None = None
    observed_address: str | None = None
    last_error: str | None = None
    home: bool = False
    home_reason: str | None = None
    clock_skew: float | None = None
    clock_error: float | None = None
    transport: Literal["udp", "tcp"] | None = None
    carrier: CarrierStatus | None = None


class PathStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One path to a peer. `loss` is a share from 0 to 1, `budget` the largest UDP payload in bytes."""

    path: str
    kind: Literal["relay", "local", "observed", "mapped", "static", "peer"]
    state: Literal["trying", "checking", "usable", "failed"]
    in_use: bool
    rtt_ms: float | None = None
    jitter_ms: float | None = None
    loss: float = 0.0
    budget: int | None = None
    last_heard: float | None = None
    detail: str | None = None


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One peer; `groups` are those of the configuration and of its certificate.

    `last_handshake` and `epoch_age` are seconds ago, the rest counts since `up`. `bridge`: it may have
    stations behind it, of which so many are known.
    """

    name: str
    node_id: str
    addresses: list[str]
    state: Literal["connected", "connecting", "idle", "absent"]
    groups: list[str] = []
    path: str | None = None
    path_reason: str | None = None
    paths: list[PathStatus] = []
    rtt_ms: float | None = None
    tx_bytes: int = 0
    rx_bytes: int = 0
    tx_frames: int = 0
    rx_frames: int = 0
    last_handshake: float | None = None
    epoch: int | None = None
    epoch_age: float | None = None
    cipher: str | None = None
    key_exchange: str | None = None
    bridge: bool = False
    stations: int = 0
    last_error: str | None = None
    refused: dict[str, int] = {}
    refused_example: str | None = None
    expires_in: float | None = None
    renews: bool = False


class FirewallRule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule. `decided` counts its frames, `replies` those of connections that it let be opened."""

    number: int
    name: str
    line: int
    direction: Literal["in", "out"]
    action: Literal["allow", "deny"]
    text: str
    decided: int = 0
    replies: int = 0


class FirewallStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The firewall, counted since its rules were read. `flows` are connections known now."""

    inbound: Literal["allow", "deny"]
    outbound: Literal["allow", "deny"]
    inbound_default: int = 0
    outbound_default: int = 0
    default_replies: int = 0
    resolution: int = 0
    flows: int = 0
    untracked: int = 0
    rules: list[FirewallRule] = []


class RouteStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One of `routes:`. `reason` says why it is not in use, if there is something to say."""

    to: str
    via: str
    metric: int
    state: Literal["installed", "standby", "waiting", "refused"]
    reason: str | None = None


class NamesStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The resolver of members' names: where it listens (with the port, if that is not 53), who on this
    machine asks it, and how often it was asked.
    """

    domain: str
    listen: list[str]
    problem: str | None = None
    host: Literal["resolved", "resolv.conf", "none"]
    advice: str | None = None
    queries: int
    answered: int
    refused: int
    malformed: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to GET /v1/status. `drops` has every reason of the data plane, also those at zero."""

    schema: str = STATUS_SCHEMA
    node: NodeStatus
    relays: list[RelayStatus]
    peers: list[PeerStatus]
    counters: dict[str, int]
    drops: dict[str, int]
    firewall: FirewallStatus | None = None
    routes: list[RouteStatus] = []
    names: NamesStatus | None = None


class PingRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/ping. `peer` is a name, an overlay address, or 10 or more characters of a NodeID."""

    peer: Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
    timeout: Annotated[float, msgspec.Meta(gt=0, le=MAX_PING_TIMEOUT)] = 2.0


class PingReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to POST /v1/ping: one round trip through the session, and the path that it took."""

    schema: str = PING_SCHEMA
    peer: str
    node_id: str
    path: str
    rtt_ms: float
    direct: bool = False


class WhyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/why. `peer` as in PingRequest."""

    peer: Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class TriedAddress(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one address of the other side."""

    address: str
    state: str
    detail: str = ""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """How one side sees it: the path of its frames, why, and what it tried."""

    path: str
    reason: str
    nat: str = ""
    tried: list[TriedAddress] = []


class WhyReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to POST /v1/why. `findings` is what it comes to, `advice` what can be done, for people."""

    schema: str = WHY_SCHEMA
    peer: str
    node_id: str
    direct: bool
    here: Side
    there: Side | None = None
    findings: list[str] = []
    advice: list[str] = []


class RelayCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One relay as netcheck found it. `second_port`: "none", "answers", "silent" or "unknown".

    `loss`, `load`, `home` and `home_reason` as in `RelayStatus`.
    """

    address: str
    state: str
    rtt_ms: float | None = None
    loss: float | None = None
    load: int | None = None
    observed_address: str | None = None
    second_port: Literal["none", "answers", "silent", "unknown"] = "unknown"
    home: bool = False
    home_reason: str | None = None
    last_error: str | None = None
    clock_skew: float | None = None
    clock_error: float | None = None
    transport: Literal["udp", "tcp"] | None = None


class Netcheck(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to POST /v1/netcheck. `ipv4` and `ipv6` as told in docs/cli.md; `datagram` in bytes of UDP."""

    schema: str = NETCHECK_SCHEMA
    nat: NatStatus
    udp: Literal["works", "blocked", "no network"]
    ipv4: Literal["works", "not confirmed", "no route"]
    ipv6: Literal["works", "not confirmed", "no route"]
    datagram: int | None = None
    clock: str | None = None
    tcp: Literal["works", "fails", "not tried"] = "not tried"
    relays: list[RelayCheck]


class RevocationsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/revocations. `file`: absolute path of a revocation list, for the client to read."""

    file: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class RevocationsReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to POST /v1/revocations. `number` of the list that counts now, `newer`: it is the one given."""

    schema: str = REVOCATIONS_SCHEMA
    number: int
    newer: bool


class ReloadReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to POST /v1/reload. Keys of the file: changed at once, and changed only by a restart."""

    schema: str = RELOAD_SCHEMA
    applied: list[str] = []
    restart: list[str] = []


class DelegateReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to GET /v1/invitations/delegate: who signs for joining nodes; keys in base64."""

    network_id: str
    ed25519: bytes
    mldsa: bytes


class InvitationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/invitations. `delegation` in base64, `ttl` in seconds."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    delegation: bytes
    ttl: int
    by_hand: bool = False


class InvitationReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to it. `token` is as secret as what it opens; `expires` in seconds since 1970."""

    token: str
    relay: str
    expires: int


class InvitationUse(msgspec.Struct, frozen=True, kw_only=True):
    """A node that joined. `at` in seconds since 1970, `source` where its relay saw it."""

    node_id: str
    name: str
    serial: int
    at: int
    source: str


class WaitingNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that waits for a person's word, or has had it."""

    node_id: str
    at: int
    source: str
    verdict: Literal["", "approved", "refused"] = ""


class InvitationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One invitation; never its token."""

    name: str
    state: Literal["open", "used", "expired", "revoked"]
    created: int
    expires: int
    by_hand: bool
    grants: int
    turned_away: int
    uses: list[InvitationUse] = []
    waiting: list[WaitingNode] = []


class InvitationsReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to GET /v1/invitations. `refused`: relays that do not take them, and why."""

    schema: str = INVITATIONS_SCHEMA
    network: str
    network_id: str
    invitations: list[InvitationStatus] = []
    refused: dict[str, str] = {}


class InvitationVerdict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/invitations/verdict. `label`: name of an invitation, or how a NodeID begins.

    "revoked" closes the open invitations of that name; the others are about a node that waits.
    """

    label: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    verdict: Literal["approved", "refused", "revoked"]


class VerdictReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to it. `node_id` is null for "revoked"."""

    name: str
    node_id: str | None = None
