"""Clients of other relays of the cluster, as this relay knows them: who is where, by whose word.

Keeps and finds; tells nobody anything (`cluster.py` does) and does no I/O.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import BadPacket
from shadowmesh.units import Address, NodeId

if TYPE_CHECKING:
    from .cluster_wire import Beat, Presence

MAX_RELAYS = 64
"""Other relays that are remembered, those included that are silent: 64 × 10,000 clients are 640,000."""
MAX_REMOTES = 262_144
"""Clients of all of them; each takes 1.4 KB (measured)."""


@dataclass(eq=False, slots=True)
class Relay:
    """One run of another relay: a relay that starts again is another one."""

    instance: bytes
    remotes: dict[NodeId, Remote] = field(default_factory=dict)
    beat: Beat | None = None
    """What it says of itself; None until it has said anything."""
    address: Address | None = None
    """Where our forwarder reaches it, which never changes."""
    heard_at: float = 0.0
    received: int | None = None
    """Datagrams of its clients when we looked last; None while it is heard."""
    received_at: float = -inf
    """When there were more than before, while it is not heard."""
    alive: bool = False
    replaced: bool = False
    """The same relay runs anew; this run has ended, whoever says otherwise."""
    forgotten: bool = False
    """We gave up the channels to it, and it may not know."""
    generation: int = 0
    """The connection to the directory over which its clients were looked through last."""

    def __str__(self) -> str:
        if self.beat is None:
            return self.instance.hex()[:8]
        return f"{self.beat.name} ({node_id_text(self.beat.node)[:10]}…)"


@dataclass(eq=False, slots=True)
class Remote:
    """A client of another relay, to `Rendezvous` nearly as one of our own: that relay speaks for it."""

    node: NodeId
    relay: Relay
    presence: Presence
    handle: int = 0
    """Its number in the forwarder; 0 while it has no channel here."""
    thread: int | None = None
    """Of the forwarder: the one that handles what it sends; None before its first call."""
    generation: int = 0
    """The connection to the directory over which it was named last."""
    interests: set[NodeId] = field(default_factory=set)
    """Our clients that it has named, and that have named it."""
    opened: list[float] = field(default_factory=list)

    @property
    def instance(self) -> bytes:
        """The process that it is."""
        return self.presence.instance

    @property
    def network(self) -> bytes:
        """The network that its relay has seen it to be a member of; empty if there is none."""
        return self.presence.network

    @property
    def mark(self) -> bytes:
        """How the fingerprint of its certificate begins."""
        return self.presence.certificate

    def __str__(self) -> str:
        return f"{node_id_text(self.node)[:10]}… at {self.relay}"


class Remotes:
    """All of them, by relay, by NodeID and by network."""

    def __init__(self) -> None:
        self.relays: dict[bytes, Relay] = {}
        self._by_node: defaultdict[NodeId, list[Remote]] = defaultdict(list)
        self._by_network: defaultdict[bytes, dict[Remote, None]] = defaultdict(dict)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def relay_untrusted(self, instance: bytes, now: float) -> Relay:
        """The relay of this run, which may be new. Raises BadPacket."""
        relay = self.relays.get(instance)
        if relay is None:
            if len(self.relays) >= MAX_RELAYS and not self._make_room():
                raise BadPacket("cluster_full")
            relay = self.relays[instance] = Relay(instance, heard_at=now)
        return relay

    def find(self, node: NodeId) -> list[Remote]:
        """Where a node is, at relays that live; the newest first."""
        found = [one for one in self._by_node.get(node, ()) if one.relay.alive]
        return sorted(found, key=lambda one: one.presence.since, reverse=True)

    def members(self, network: bytes) -> Iterable[Remote]:
        """Of a network, at relays that live."""
        return (one for one in self._by_network.get(network, ()) if one.relay.alive)

    def put_untrusted(self, relay: Relay, node: NodeId, presence: Presence) -> tuple[Remote, bool]:
        """Note where a node is; and whether its peers have to be told. Raises BadPacket."""
        remote = relay.remotes.get(node)
        if remote is not None:
            old, remote.presence = remote.presence, presence
            if old.network != presence.network:
                self._leave_network(remote, old.network)
                self._enter_network(remote)
            return remote, old.network != presence.network or not old.continues(presence)
        if self._count >= MAX_REMOTES:
            raise BadPacket("cluster_full")
        remote = relay.remotes[node] = Remote(node, relay, presence)
        self._by_node[node].append(remote)
        self._enter_network(remote)
        self._count += 1
        return remote, True

    def remove(self, remote: Remote) -> None:
        """It has left its relay."""
        if remote.relay.remotes.get(remote.node) is not remote:
            return
        del remote.relay.remotes[remote.node]
        self._by_node[remote.node].remove(remote)
        if not self._by_node[remote.node]:
            del self._by_node[remote.node]
        self._leave_network(remote, remote.network)
        self._count -= 1

    def remove_relay(self, relay: Relay) -> list[Remote]:
        """A run has ended for good; returns who was there."""
        gone = list(relay.remotes.values())
        for remote in gone:
            self.remove(remote)
        self.relays.pop(relay.instance, None)
        return gone

    def _make_room(self) -> bool:
        """Forget the relay that has been silent for longest; False if all live."""
        silent = [relay for relay in self.relays.values() if not relay.alive]
        if silent:
            self.remove_relay(min(silent, key=lambda relay: relay.heard_at))
        return bool(silent)

    def _enter_network(self, remote: Remote) -> None:
        if remote.network:
            self._by_network[remote.network][remote] = None

    def _leave_network(self, remote: Remote, network: bytes) -> None:
        if network:
            self._by_network[network].pop(remote, None)
            if not self._by_network[network]:
                del self._by_network[network]
