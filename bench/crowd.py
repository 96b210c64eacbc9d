"""Ten thousand clients of a relay in one process, on one socket: the load of `clients.py`.

Each is the client's own code for relays (core/relays.py and all below it): identity, handshake, tickets,
BIND, back-off.  Left out is what a client does for its peers.  The socket sends each client's datagrams
from an address of its own in 127.0.0.0/8 (IP_PKTINFO, ip(7)), every one in another /24, so that the relay
sees clients from everywhere; what comes is told apart by its receiver id.  Ten thousand sockets would do the
same, at the price of as many descriptors.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from shadowmesh._ext.aead import PacketKeys
from shadowmesh.config import RelayPeer
from shadowmesh.core.members import Members
from shadowmesh.core.relays import RelayClient, RelayState
from shadowmesh.core.shared import ResolveRelay, Shared
from shadowmesh.crypto.identity import Identity
from shadowmesh.errors import BadPacket
from shadowmesh.membership.guard import Membership
from shadowmesh.membership.roster import Roster
from shadowmesh.session.links import LinkSet
from shadowmesh.units import ID_SIZE, Address, NodeId
from shadowmesh.wire.headers import LONG_HEADER

BUFFER = 64 << 20
"""Bytes of socket buffer, or as many as we may: a flight of a handshake is 15 KB, and a thousand may come
at once."""
BATCH, TIMERS = 64, 4
"""Datagrams that are taken, and timers that are served then: what has come goes first, so that clients whose
process has no time are late, but none dials again although its answer is there."""
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_IP_PKTINFO = 8
PacketInfo = list[tuple[int, int, bytes]]
"""The control message by which a datagram leaves from an address: bytes 4 to 7 of its last field."""
MOST = 60_000
"""Clients that have a /24 of their own in 127.1.0.0 to 127.254.255.0."""


Lane = tuple[int, PacketKeys]


class Sender(Protocol):
    """What a station needs of the crowd that it belongs to."""

    relay: Address
    relay_id: NodeId
    by_id: dict[bytes, tuple[Station, Lane | None]]
    random: Callable[[int], bytes]

    def send(self, data: bytes, source: PacketInfo) -> None: ...
    def arm(self, station: Station, now: float) -> None: ...
    def connected(self, station: Station) -> None: ...
    def lost(self, station: Station) -> None: ...


class Station:
    """One client: the core of its relay session, and the tables that its data plane would have.

    :param crowd: what sends for it, and gives it what comes.
    """

    def __init__(self, crowd: Sender, number: int, identity: Identity, membership: Membership | None) -> None:
        self.began_at = 0.0
        """When it was started, or lost its session."""
        self.connected_at: float | None = None
        """When its present session stood."""
        self.tries = 0
        """Sessions that it has tried to set up."""
        self._crowd = crowd
        self._source = _packet_info(number)
        self._ids: list[bytes] = []
        drops: Counter[str] = Counter()
        self.links = LinkSet(self.install_control, self.remove)
        self._shared = Shared(
            identity=identity,
            tables=cast(Any, self),
            random=crowd.random,
            instance=crowd.random(ID_SIZE),
            links=self.links,
            rekey_after=120.0,
            tickets={},
            members=Members(membership, Roster(()), drops, lambda _: None, lambda _: None),
            # A relay session has no use for what is about peers.
            owners=cast(Any, None),
            connect=cast(Any, None),
            acquaintances=cast(Any, None),
            renewals=cast(Any, None),
        )
        self.relay: RelayClient | None = None

    # What the crowd calls.

    def start(self, now: float) -> None:
        """Connect, and stay connected for ever."""
        self.began_at = now
        config = RelayPeer(self._crowd.relay.host, self._crowd.relay.port, self._crowd.relay_id)
        self.relay = RelayClient(0, config, self._shared, _ignore, _ignore, self._lost, _ignore, _ignore, now)

    @property
    def deadline(self) -> float | None:
        assert self.relay is not None
        times = [time for time in (self.relay.deadline, self.links.deadline) if time is not None]
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        assert self.relay is not None
        self.links.handle_timers(now)
        if self.relay.deadline is not None and self.relay.deadline <= now:
            self.relay.handle_timer(now)
        self._serve(now)

    def receive(self, data: bytes, lane: Lane | None, now: float) -> None:
        """A datagram for one of our ids; `lane` is what opens it, if it is no control datagram."""
        assert self.relay is not None
        if lane is not None:
            _, payload = lane[1].open(lane[0], data)
            self.relay.handle_payload_untrusted(payload, self._crowd.relay, now)
        else:
            driver = self.links.find(destination(data))
            if driver is not None:
                self.links.handle_datagram(driver, data, now)
        self._serve(now)

    def carry_traffic(self, now: float) -> None:
        """As if frames crossed the relay: a minute of one BIND a second."""
        assert self.relay is not None
        self.relay.handle_traffic(now)
        self._crowd.arm(self, now)

    def hurry(self, now: float) -> Callable[[], bool]:
        """Send a BIND at once; tells when it is answered."""
        assert self.relay is not None
        binding = self.relay.binding
        self.relay.handle_network_change(now)
        self.relay.handle_timer(now)
        self._serve(now)
        self._crowd.arm(self, now)
        return lambda: binding is None or not binding.waits

    def _serve(self, now: float) -> None:
        shared, relay = self._shared, self.relay
        assert relay is not None
        while shared.events:
            if isinstance(shared.events.popleft(), ResolveRelay):
                self.tries += 1
                relay.handle_resolved([self._crowd.relay], "", now)
        for data, _ in shared.outbox:
            self._crowd.send(data, self._source)
        shared.outbox.clear()
        if relay.state is RelayState.CONNECTED and self.connected_at is None:
            self.connected_at = now
            self._crowd.connected(self)

    def _lost(self, relay: RelayClient, now: float) -> None:
        self._crowd.lost(self)
        self.began_at, self.connected_at = now, None

    # Its data plane (core/shared.py, `Tables`), as far as a relay session goes.

    def install_receive(self, session: int, peer: int, ids: Sequence[bytes], material: bytearray) -> None:
        keys = PacketKeys(material)
        self._ids = list(ids)
        for lane, receiver_id in enumerate(ids):
            self._crowd.by_id[receiver_id] = (self, (lane, keys))

    def retire_receive(self, session: int) -> None:
        for receiver_id in self._ids:
            del self._crowd.by_id[receiver_id]
        self._ids = []

    def install_control(self, connection_id: bytes) -> None:
        self._crowd.by_id[connection_id] = (self, None)

    def remove(self, table_id: bytes) -> None:
        del self._crowd.by_id[table_id]

    def allow_source(self, address: Address) -> None:
        """There is one source, the relay."""

    def forbid_source(self, address: Address) -> None:
        """The same."""


class Crowd:
    """All stations, their socket and their timers.

    :param relay: its address; IPv4.
    """

    def __init__(self, relay: Address, relay_id: NodeId) -> None:
        self.relay = relay
        self.relay_id = relay_id
        self.stations: list[Station] = []
        self.by_id: dict[bytes, tuple[Station, Lane | None]] = {}
        self.random = os.urandom
        self.up = 0
        """Stations that are connected now."""
        self.drops: Counter[str] = Counter()
        self._timers: list[tuple[float, int, Station]] = []
        self._armed: dict[Station, float] = {}
        self._order = itertools.count()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        for forced, polite in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, BUFFER)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, polite, BUFFER)
        self._socket.bind(("0.0.0.0", 0))
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def close(self) -> None:
        self._socket.close()

    def add(self, identity: Identity, membership: Membership | None = None) -> Station:
        """One more station, which `start` lets connect."""
        station = Station(self, len(self.stations), identity, membership)
        self.stations.append(station)
        return station

    def start(self, station: Station) -> None:
        now = time.monotonic()
        station.start(now)
        self.arm(station, now)

    def run(self, until: Callable[[], bool], timeout: float, every: float = 0.0) -> bool:
        """Serve everybody until `until()` holds, which is returned; False after `timeout` seconds.

        :param every: seconds between two looks; 0: whenever something came.
        """
        now = looked = time.monotonic()
        end = now + timeout
        while not (now - looked >= every and until()):
            looked = now if now - looked >= every else looked
            now = time.monotonic()
            if now >= end:
                return False
            wake = min(end, looked + every if every else end, self._timers[0][0] if self._timers else end)
            if self._poll.poll(max(0.0, (wake - now) * 1000)):
                self._receive()
            self._expire(time.monotonic())
        return True

    def send(self, data: bytes, source: PacketInfo) -> None:
        try:
            self._socket.sendmsg((data,), source, 0, self.relay)
        except OSError:  # a full buffer: lost, as on any network
            self.drops["unsent"] += 1

    def connected(self, station: Station) -> None:
        self.up += 1

    def lost(self, station: Station) -> None:
        self.up -= station.connected_at is not None

    def _receive(self) -> None:
        for _ in range(BATCH):
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:  # ICMP: the relay is down
                continue
            found = self.by_id.get(destination(data))
            if found is None:
                self.drops["unknown_id"] += 1
                continue
            station, lane = found
            now = time.monotonic()
            try:
                station.receive(data, lane, now)
            except BadPacket as error:
                self.drops[error.reason] += 1
            self.arm(station, now)

    def _expire(self, now: float) -> None:
        for _ in range(TIMERS):
            if not self._timers or self._timers[0][0] > now:
                return
            when, _, station = heapq.heappop(self._timers)
            if self._armed.get(station) == when:
                del self._armed[station]
                station.handle_timer(now)
                self.arm(station, now)

    def arm(self, station: Station, now: float) -> None:
        """Note when its time comes; after each touch from outside."""
        deadline = station.deadline
        if deadline is not None and self._armed.get(station, float("inf")) > deadline:
            self._armed[station] = deadline
            heapq.heappush(self._timers, (deadline, next(self._order), station))


def settle() -> None:
    """What is there stays: the collector need not look at a million objects again and again."""
    gc.collect()
    gc.freeze()


def destination(data: bytes) -> bytes:
    """The receiver id of a datagram of the relay's."""
    return data[6 : 6 + data[5]] if data[0] & LONG_HEADER else data[1 : 1 + ID_SIZE]


def _packet_info(number: int) -> PacketInfo:
    if number >= MOST:
        raise ValueError(f"at most {MOST} stations")
    address = bytes((127, 1 + number // 256, number % 256, 1))
    return [(socket.IPPROTO_IP, _IP_PKTINFO, bytes(4) + address + bytes(4))]


def _ignore(*_: object) -> None:
    """Nobody here has peers."""
