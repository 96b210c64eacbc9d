"""A relay among others of a cluster, sans-I/O: presence in a common directory, signals from relay to relay.

A client of another relay is a `Remote`: here it is a party of the rendezvous like one of our own, and what
it would be told goes to its relay.  That relay does the same on its side, so the rules of who may know of
whom, and the limits, are judged at both.  Frames go from forwarder to forwarder; nothing of them comes here.

Call order: after any `handle_*`, and when `wake` was called, take `poll*()`.
Moves no bytes itself (`nats_link.py` does).
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import BadPacket, Failure
from shadowmesh.units import Address, NodeId
from shadowmesh.wire.messages import Call, Close, Opened

from .cluster_wire import (
    Asked,
    Beat,
    Gone,
    Presence,
    Reset,
    address_untrusted,
    entry_key,
    entry_untrusted,
    message_untrusted,
    presence_untrusted,
)
from .limits import Bucket
from .remotes import Relay, Remote, Remotes
from .rendezvous import MAX_INTERESTS, MAX_INTRODUCED, Rendezvous, know, present
from .signalling import Signalling

if TYPE_CHECKING:
    from .clients import Client
    from .tables import Tables

BEAT = 0.5
"""Seconds between two beats."""
STALE = 3.0
"""Seconds without a beat, and without a datagram of its clients, after which a relay is taken for dead: what
they carried is to go on through others within five seconds, and clients take 1.5 for themselves."""
GRACE = 15.0
"""Seconds after our connection stands again in which nobody is judged: all of them connect again, and
write anew what the server has lost; three of the longest pauses between two tries."""
ENTRY_LIFE = 3600.0
"""Seconds that the directory keeps an entry which nobody writes again."""
REFRESH = 1200.0
"""Seconds after which one is written again: three tries in its life; 8 writes a second for 10,000 clients."""
WRITE_BATCH = 256
"""Entries in one go."""
TOLD_BATCH = 512
"""Messages to clients of ours in one go, and what one client more of another relay takes: 32 µs each."""
INTEREST_RATE, INTEREST_BURST = 100, 4 * MAX_INTERESTS
"""Signals a second, and at once, for what one session of a client names or names no longer: all that it may
name, at two relays each, exchanged for as much."""
FIRST_HANDLE = 1 << 48
"""Numbers of remote clients in the forwarder, far from those of our own."""


@dataclass(frozen=True)
class Publish:
    """Bytes for whoever listens to `topic`: "beat", or "to." and the run of a relay in hexadecimal."""

    topic: str
    data: bytes


@dataclass(frozen=True)
class Write:
    """Write an entry of the directory, or delete it (None)."""

    key: str
    value: bytes | None


class ClusterRelay(msgspec.Struct, frozen=True, kw_only=True):
    """Another relay in the status. `heard`: seconds since its last beat."""

    name: str
    node_id: str
    address: str
    alive: bool
    heard: float
    clients: int


class ClusterReport(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster in the status. `since`: seconds that it is connected, or is not; `reason`: why it is not;
    `remotes`: clients of other relays, those included that are silent.
    """

    name: str
    connected: bool
    since: float
    reason: str
    remotes: int
    relays: list[ClusterRelay]


class Cluster:
    """`abroad.Abroad` over a directory and subjects that all relays of the cluster share.

    :param name: that of the cluster.
    :param beat: what this relay says of itself; `relay` names this run.
    :param reaches: whether our socket can send to an address.
    :param wall: the machine's clock, in seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        beat: Beat,
        now: float,
        wall: Callable[[], float],
        reaches: Callable[[Address], bool] = lambda _: True,
    ) -> None:
        self.name = name
        self.instance = beat.relay
        self.connected = False
        self.connections = 0
        """How often it was connected."""
        self.drops: Counter[str] = Counter()
        self.wake: Callable[[], None] = lambda: None
        """Called when there is something in `poll()` or `poll_writes()`."""
        self.remotes = Remotes()
        self._beat = beat
        self._wall = wall
        self._reaches = reaches
        self._reason = "not connected yet"
        self._since = now
        self._judge_from = self._look_from = now
        self._beat_at = now
        self._handles = itertools.count(FIRST_HANDLE)
        self._members: defaultdict[bytes, dict[Client, None]] = defaultdict(dict)
        self._named: defaultdict[NodeId, dict[Client, None]] = defaultdict(dict)
        """Who of ours names a node."""
        self._came: dict[NodeId, int] = {}
        """When each client came, in milliseconds since 1970: the newest presence of a node counts."""
        self._unwritten: dict[NodeId, None] = {}
        self._written: dict[NodeId, float] = {}
        """When the entry of each client was written, the oldest first."""
        self._changes = Bucket(INTEREST_RATE, INTEREST_BURST)
        """Of interest, by client: they cost all other relays something."""
        self._news: deque[tuple[Remote, bool]] = deque()
        """Who has come (True) or is gone, and our clients are to be told."""
        self._published: deque[Publish] = deque()
        self._events: deque[str] = deque()

    def serve(self, clients: dict[NodeId, Client], rendezvous: Rendezvous, tables: Tables) -> None:
        """Whose clients these are; once, before anything else."""
        self._clients, self._rendezvous, self._tables = clients, rendezvous, tables
        self._signalling = Signalling(
            clients,
            rendezvous,
            self._place_untrusted,
            self._presence,
            lambda: self.wake(),  # noqa: PLW0108 - it changes
        )
        rendezvous.abroad = self

    # Getters.

    @property
    def reachable(self) -> bool:
        return self.connected

    @property
    def deadline(self) -> float:
        """When `handle_timer` wants to be called."""
        return 0.0 if self._news else self._beat_at

    def find(self, node: NodeId) -> Sequence[Remote]:
        return self.remotes.find(node)

    def report(self, now: float) -> ClusterReport:
        """For the status."""
        return ClusterReport(
            name=self.name,
            connected=self.connected,
            since=now - self._since,
            reason=Failure("relay.cluster", self._reason).told if self._reason else "",
            remotes=len(self.remotes),
            relays=[
                ClusterRelay(
                    name=relay.beat.name,
                    node_id=node_id_text(relay.beat.node),
                    address=str(relay.address),
                    alive=relay.alive,
                    heard=max(0.0, now - relay.heard_at),
                    clients=len(relay.remotes),
                )
                for relay in self.remotes.relays.values()
                if relay.beat is not None and not relay.replaced
            ],
        )

    # The directory.

    def handle_connected(self, now: float) -> None:
        """Subjects are heard, and all entries come anew: say all of ours, and judge nobody for a while."""
        self.connected = self._signalling.connected = True
        self._since, self._reason = now, ""
        self.connections += 1
        self._judge_from = now + GRACE
        self._beat_at = now
        self._unwritten = dict.fromkeys(node for node, one in self._clients.items() if one.visit is None)
        self.wake()

    def handle_disconnected(self, reason: str, now: float) -> None:
        """What runs goes on; what is new waits or is refused."""
        if self.connected:
            self._since = now
        self.connected = self._signalling.connected = False
        self._reason = reason

    def handle_entry_untrusted(self, key: str, value: bytes | None, now: float) -> None:
        """An entry of the directory: new, changed, or deleted (None)."""
        try:
            node, instance = entry_untrusted(key)
            if instance == self.instance:
                return
            if value is not None:
                presence = presence_untrusted(value)
                self._place_untrusted(self.remotes.relay_untrusted(instance, now), node, presence, now)
                return
        except BadPacket as error:
            self.drops[error.reason] += 1
            return
        relay = self.remotes.relays.get(instance)
        remote = relay.remotes.get(node) if relay is not None else None
        if remote is not None:
            self._part(remote, now)

    def handle_message_untrusted(self, data: bytes, now: float) -> None:
        """What another relay says to all, or to this one."""
        try:
            message = message_untrusted(data)
            if message.relay == self.instance:
                return
            if isinstance(message, Beat):
                self._take_beat_untrusted(message, now)
                return
            relay = self.remotes.relays.get(message.relay)
            if relay is None or not relay.alive:
                raise BadPacket("cluster_unknown_relay")
        except BadPacket as error:
            self.drops[error.reason] += 1
            return
        for signal in message.signals:
            try:
                if isinstance(signal, Reset):
                    self._abandon(relay, now)
                else:
                    self._signalling.handle_untrusted(relay, signal, now)
            except BadPacket as error:
                self.drops[error.reason] += 1

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        room = TOLD_BATCH
        while self._news and room > 0:
            remote, came = self._news.popleft()
            room -= 1 + (self._introduce if came else self._tell_absence)(remote, now)
        if now < self._beat_at:
            return
        if now - self._beat_at > 2 * BEAT:  # it was us who did not look: their beats wait to be read
            self._look_from = now + STALE
        self._beat_at = now + BEAT
        if not self.connected:
            return
        self._publish("beat", self._beat)
        self._judge(now)
        while self._written:
            node, at = next(iter(self._written.items()))
            if now - at < REFRESH:
                break
            del self._written[node]
            self._unwritten[node] = None
        if self._unwritten:
            self.wake()

    def close(self) -> None:
        """This relay ends: take `poll()` once more.  Its entries mean nothing without it."""
        self._publish("beat", msgspec.structs.replace(self._beat, leaving=True))

    # Output.

    def poll(self) -> list[Publish]:
        """What to publish, in this order; empty while there is no connection."""
        if not self.connected:
            return []
        found = list(self._published)
        self._published.clear()
        for relay, data in self._signalling.take_messages(self.instance):
            found.append(Publish(f"to.{relay.instance.hex()}", data))
        return found

    def poll_writes(self, now: float) -> list[Write]:
        """What to write, at most `WRITE_BATCH` entries: call again when those are written."""
        nodes = list(itertools.islice(self._unwritten, WRITE_BATCH)) if self.connected else []
        for node in nodes:
            del self._unwritten[node]
        return [self._entry(node, now) for node in nodes]

    def poll_events(self) -> list[str]:
        """Lines for the operator's log."""
        events = list(self._events)
        self._events.clear()
        return events

    # What the rendezvous tells.

    def handle_arrival(self, client: Client, now: float) -> None:
        if client.visit is not None:
            return
        self._came[client.node] = int(1000 * self._wall())
        self._write(client.node)
        if not client.network:
            return
        self._members[client.network][client] = None
        others = (
            one for one in self.remotes.members(client.network) if self._signalling.concerns(client, one)
        )
        for remote in itertools.islice(others, MAX_INTRODUCED):
            self._rendezvous.tell(client, present(remote, client), now)

    def handle_departure(self, client: Client, now: float) -> None:
        for node in client.interests:
            self._unname(client, node)
            for remote in self.remotes.find(node):
                remote.interests.discard(client.node)
        if client.network:
            self._members[client.network].pop(client, None)
            if not self._members[client.network]:
                del self._members[client.network]
        if self._came.pop(client.node, None) is not None:  # a guest, or ended before it was introduced
            self._write(client.node)

    def handle_named(self, client: Client, node: NodeId, now: float) -> None:
        if client.visit is not None:
            return
        self._named[node][client] = None
        for remote in self.remotes.find(node):
            if self._may_change(client, now):
                self._signalling.seek(client, remote)

    def handle_unnamed(self, client: Client, node: NodeId, now: float) -> None:
        if client.visit is not None:
            return
        self._unname(client, node)
        for remote in self.remotes.find(node):
            remote.interests.discard(client.node)
            if self._may_change(client, now):
                self._signalling.signal(remote.relay, Gone(client.node, node))

    def ask_certificate(self, client: Client, remote: Remote) -> None:
        self._signalling.signal(remote.relay, Asked(remote.node, client.node))

    def send(self, remote: Remote, message: Call | Opened | Close) -> None:
        self._signalling.send(remote, message)

    def install(self, remote: Remote) -> int:
        if not remote.handle:
            assert remote.relay.address is not None
            remote.handle = next(self._handles)
            self._tables.add_client(remote.handle, remote.relay.address, remote.thread or 0)
        return remote.handle

    def uninstall(self, remote: Remote) -> None:
        if remote.handle:
            self._tables.remove_client(remote.handle)
            remote.handle = 0

    # What other relays tell.

    def _take_beat_untrusted(self, beat: Beat, now: float) -> None:
        known = self.remotes.relays.get(beat.relay)
        if beat.leaving:
            if known is not None and known.beat is not None:
                self._events.append(f"{known} has left the cluster")
                self._end(known, now)
            return
        if known is not None and known.replaced:
            return
        address = address_untrusted(beat)
        ours = address == (self._beat.host, self._beat.port)
        changed = known is not None and known.address not in (None, address)
        if ours or changed or not self._reaches(address):
            raise BadPacket("cluster_address")
        relay = self.remotes.relay_untrusted(beat.relay, now)
        if relay.beat is None:
            for other in list(self.remotes.relays.values()):
                if other.beat is not None and other.beat.node == beat.node and not other.replaced:
                    other.replaced = True
                    self._events.append(f"{other} has started again")
                    self._die(other, now)
        relay.beat, relay.address, relay.heard_at, relay.received = beat, address, now, None
        if not relay.alive:
            relay.alive = True
            self._events.append(f"{relay} at {address} is in the cluster")
            # Before any signal: it may not have heard of us yet.
            self._publish(f"to.{relay.instance.hex()}", self._beat)
            self._news.extend((remote, True) for remote in relay.remotes.values())
        if relay.forgotten:
            relay.forgotten = False
            self._abandon(relay, now)
            self._signalling.signal(relay, Reset())

    # Remotes.

    def _place_untrusted(self, relay: Relay, node: NodeId, presence: Presence, now: float) -> Remote:
        known = relay.remotes.get(node)
        if known is not None and not known.presence.continues(presence):
            self._forget_names(known, now)
        remote, news = self.remotes.put_untrusted(relay, node, presence)
        remote.generation = self.connections
        if news and relay.alive:
            self._news.append((remote, True))
        return remote

    def _introduce(self, remote: Remote, now: float) -> int:
        """Our clients that may know of it are told, or its relay is asked; returns how many."""
        if not remote.relay.alive or remote.relay.remotes.get(remote.node) is not remote:
            return 0
        members = list(itertools.islice(self._members.get(remote.network, ()), MAX_INTRODUCED))
        for client in members:
            if self._signalling.concerns(client, remote):
                self._rendezvous.tell(client, present(remote, client), now)
        named = self._named.get(remote.node, ())
        for client in named:
            self._signalling.seek(client, remote)
        return len(members) + len(named)

    def _tell_absence(self, remote: Remote, now: float) -> int:
        """Our clients that knew of it are told; returns how many."""
        if remote.relay.alive and remote.relay.remotes.get(remote.node) is remote:
            return 0
        knew = dict.fromkeys(self._members.get(remote.network, ()))
        knew.update((self._clients[node], None) for node in remote.interests if node in self._clients)
        for client in knew:
            if client.node != remote.node and know(client, remote):
                self._rendezvous.tell_absence(remote, client, now)
        remote.interests.clear()
        return len(knew)

    def _forget_names(self, remote: Remote, now: float) -> None:
        """Its session has ended, and the next one may name others."""
        knew = [self._clients[node] for node in remote.interests if node in self._clients]
        knew = [client for client in knew if self._signalling.concerns(client, remote)]
        remote.interests.clear()
        for client in knew:
            if not know(client, remote):
                self._rendezvous.tell_absence(remote, client, now)

    def _part(self, remote: Remote, now: float) -> None:
        """It has left its relay."""
        self.remotes.remove(remote)
        self._news.append((remote, False))
        self._rendezvous.abandon(remote, now)

    def _judge(self, now: float) -> None:
        """Take silent relays for dead, and for gone whom nobody has named since we are connected again."""
        if now < self._look_from:
            return
        settled = now >= self._judge_from
        for relay in list(self.remotes.relays.values()):
            silent = min(now - relay.heard_at, now - self._sends(relay, now))
            if relay.alive and silent > STALE and (settled or relay.heard_at > self._since):
                self._events.append(f"nothing is heard of {relay} any more")
                relay.forgotten = True
                self._die(relay, now)
            elif not relay.alive and silent > ENTRY_LIFE:
                self.remotes.remove_relay(relay)
            elif settled and relay.generation < self.connections:
                relay.generation = self.connections
                for remote in list(relay.remotes.values()):
                    if remote.generation < self.connections:
                        self._part(remote, now)

    def _sends(self, relay: Relay, now: float) -> float:
        """When datagrams of its clients came last: it may have lost the directory only."""
        if now - relay.heard_at > 2 * BEAT and relay.alive:
            handles = [one.handle for one in self._rendezvous.remotes_of(relay) if one.handle]
            count = sum(map(self._tables.received, handles))
            if relay.received is not None and count > relay.received:
                relay.received_at = now
            relay.received = count
        return relay.received_at

    def _die(self, relay: Relay, now: float) -> None:
        """Nothing goes through it; where its clients are is kept, in case that it is back."""
        if relay.alive:
            relay.alive = False
            self._news.extend((remote, False) for remote in relay.remotes.values())
            self._abandon(relay, now)

    def _end(self, relay: Relay, now: float) -> None:
        self._die(relay, now)
        self.remotes.remove_relay(relay)

    def _abandon(self, relay: Relay, now: float) -> None:
        for remote in self._rendezvous.remotes_of(relay):
            self._rendezvous.abandon(remote, now)

    # Inside.

    def _presence(self, client: Client) -> Presence:
        return Presence(client.instance, self._came[client.node], client.network, client.mark)

    def _may_change(self, client: Client, now: float) -> bool:
        """Whether one more change of its interests goes to another relay; its calls tell the rest."""
        key = str(client.handle)
        if self._changes.empty(key, now):
            self.drops["cluster_interest_rate"] += 1
            return False
        self._changes.take(key, now)
        return True

    def _unname(self, client: Client, node: NodeId) -> None:
        self._named[node].pop(client, None)
        if not self._named[node]:
            del self._named[node]

    def _publish(self, topic: str, beat: Beat) -> None:
        if self.connected:
            beat = msgspec.structs.replace(beat, clients=len(self._clients))
            self._published.append(Publish(topic, msgspec.msgpack.encode(beat)))
            self.wake()

    def _write(self, node: NodeId) -> None:
        self._unwritten[node] = None
        self.wake()

    def _entry(self, node: NodeId, now: float) -> Write:
        client = self._clients.get(node)
        self._written.pop(node, None)
        if client is None or client.visit is not None:
            return Write(entry_key(node, self.instance), None)
        self._written[node] = now
        return Write(entry_key(node, self.instance), msgspec.msgpack.encode(self._presence(client)))
