"""A client in memory: the real core over a slow, obvious data plane in Python, on a `Network`.

The data plane here does what the compiled one does, packet by packet, so that protocol tests carry
real sealed frames on virtual time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shadowmesh._ext.aead import PacketKeys
from shadowmesh.config import ClientConfig
from shadowmesh.core.node import Core
from shadowmesh.core.shared import (
    CoreEvent,
    DialCarrier,
    HangUpCarrier,
    MembersChanged,
    ResolveRelay,
    TicketsChanged,
)
from shadowmesh.crypto.identity import Identity
from shadowmesh.errors import BadPacket
from shadowmesh.membership.guard import Membership
from shadowmesh.overlay.mac import mac_of
from shadowmesh.session.tickets import RelayTicket
from shadowmesh.units import BUDGET, Address, NodeId
from shadowmesh.wire.headers import LONG_HEADER, split_channel, through_channel
from shadowmesh.wire.payload import Kind


@dataclass
class _ReceiveLane:
    session: int
    peer: int
    lane: int
    keys: PacketKeys
    seen: set[int]


@dataclass
class _SendKeys:
    packet_keys: PacketKeys
    expires_at: float

    def wipe(self) -> None:
        self.packet_keys.wipe()


@dataclass
class _Route:
    keys: _SendKeys
    lane: int
    receiver_id: bytes
    number: int = 0


class MemoryTables:
    """`shadowmesh.core.shared.Tables` as dictionaries."""

    def __init__(self) -> None:
        self.macs: dict[int, bytes] = {}
        self.lanes: dict[bytes, _ReceiveLane] = {}
        self.channels: set[bytes] = set()
        self.control: set[bytes] = set()
        self.sources: Counter[Address] = Counter()
        self.routes: dict[int, _Route] = {}
        self.endpoints: dict[int, tuple[Address, bytes]] = {}
        self.budgets: dict[int, int] = {}
        """Noted only: the network in memory carries whole frames."""
        self.counters: dict[int, Counter[str]] = {}
        self.last_received: dict[int, float] = {}
        self.last_unicast: dict[int, float] = {}
        self.path_received: dict[int, float] = {}
        self.material: list[bytes] = []
        """Copies of all key material that was ever installed, for tests that look for leaks."""
        self.bridging: set[int] = set()
        """Peers that may have stations behind them; noted only."""
        self.failed_opens = 0
        self.own: list[bytes] = []
        self.prefixes: dict[int, list[bytes]] = {}
        """Packed, by peer; noted only: what the guards make of them is the compiled data plane's."""
        self.flags: dict[int, dict[str, bool]] = {}
        self.refusals: dict[int, dict[str, Any]] = {}
        """By peer, what a test wants to have been refused."""
        self._used: list[tuple[_SendKeys, int]] = []

    def add_peer(self, peer: int, mac: bytes) -> None:
        self.macs[peer] = mac
        self.counters[peer] = Counter()

    def set_own_addresses(self, addresses: Sequence[bytes]) -> None:
        self.own = list(addresses)

    def set_sources(
        self, peer: int, prefixes: Sequence[bytes], *, others: bool, dhcp: bool, router: bool
    ) -> None:
        taken = {
            one for other, known in self.prefixes.items() if other != peer for one in known if _is_host(one)
        }
        assert not (taken | set(self.own)) & {one for one in prefixes if _is_host(one)}, "one owner each"
        self.prefixes[peer] = list(prefixes)
        self.flags[peer] = {"others": others, "dhcp": dhcp, "router": router}

    def set_bridging(self, peer: int, allowed: bool) -> None:
        (self.bridging.add if allowed else self.bridging.discard)(peer)

    def new_send_keys(self, material: bytearray, expires_at: float) -> Any:
        self.material.append(bytes(material))
        return _SendKeys(PacketKeys(material), expires_at)

    def set_lane(self, peer: int, keys: Any, lane: int, receiver_id: bytes) -> None:
        reused = any(used is keys and number == lane for used, number in self._used)
        assert not reused, "a lane must never be used twice"
        self._used.append((keys, lane))
        self.routes[peer] = _Route(keys, lane, receiver_id)

    def set_endpoint(self, peer: int, address: Address, channel: bytes, *, budget: int = BUDGET) -> None:
        if self.endpoints.get(peer) != (address, channel):
            self.path_received[peer] = 0.0
        self.endpoints[peer] = (address, channel)
        self.budgets[peer] = budget

    def clear_route(self, peer: int) -> None:
        for table in (self.routes, self.endpoints, self.path_received):
            table.pop(peer, None)

    def install_receive(self, session: int, peer: int, ids: Sequence[bytes], material: bytearray) -> None:
        self.material.append(bytes(material))
        keys = PacketKeys(material)
        for lane, receiver_id in enumerate(ids):
            self._claim(receiver_id)
            self.lanes[receiver_id] = _ReceiveLane(session, peer, lane, keys, set())

    def retire_receive(self, session: int) -> None:
        mine = [receiver_id for receiver_id, lane in self.lanes.items() if lane.session == session]
        assert mine, "this session is not installed"
        for receiver_id in mine:
            del self.lanes[receiver_id]

    def install_channel(self, channel: bytes) -> None:
        self._claim(channel)
        self.channels.add(channel)

    def install_control(self, connection_id: bytes) -> None:
        self._claim(connection_id)
        self.control.add(connection_id)

    def remove(self, table_id: bytes) -> None:
        assert table_id in self.channels or table_id in self.control
        self.channels.discard(table_id)
        self.control.discard(table_id)

    def allow_source(self, address: Address) -> None:
        self.sources[address] += 1

    def forbid_source(self, address: Address) -> None:
        assert self.sources[address] > 0
        self.sources[address] -= 1

    def peer_counters(self, peer: int) -> dict[str, Any]:
        route = self.routes.get(peer)
        names = ("tx_frames", "rx_frames", "tx_bytes", "rx_bytes")
        return {name: self.counters[peer][name] for name in names} | {
            "next_number": route.number if route else 0,
            "failed_opens": self.failed_opens,
            "last_received": self.last_received.get(peer, 0.0),
            "last_unicast": self.last_unicast.get(peer, 0.0),
            "path_received": self.path_received.get(peer, 0.0),
            "refused": sum(count for count in self.peer_refusals(peer).values() if isinstance(count, int)),
        }

    def peer_refusals(self, peer: int) -> dict[str, Any]:
        return self.refusals.get(peer, {"example": None})

    def note_received(self, peer: int, via: bytes, source: Address, now: float) -> None:
        """An authentic packet of this peer came through `via` (empty: directly) from `source`."""
        self.last_received[peer] = now
        address, channel = self.endpoints.get(peer, (None, b""))
        if address == source and bool(channel) == bool(via):
            self.path_received[peer] = now

    def _claim(self, table_id: bytes) -> None:
        assert len(table_id) == 8
        assert all(table_id not in table for table in (self.lanes, self.channels, self.control))


def _is_host(prefix: bytes) -> bool:
    return prefix[-1] == 8 * len(prefix) - 8


class MemoryClient:
    """A station on a `Network` that runs a client.

    :param more: further arguments of `Core`.
    :param resolve: gives the addresses of a relay's host; empty when the name is not known.
    """

    def __init__(
        self,
        config: ClientConfig,
        identity: Identity,
        address: Address,
        resolve: Callable[[str, int], list[Address]],
        now: float,
        seed: int,
        tickets: tuple[RelayTicket, ...] = (),
        membership: Membership | None = None,
        known: tuple[tuple[NodeId, bytes], ...] = (),
        **more: Any,
    ) -> None:
        self.address = address
        self.identity = identity
        self.tables = MemoryTables()
        self.frames: list[bytes] = []
        """Frames that would have been written to the TAP."""
        self.events: list[CoreEvent] = []
        self.drops: Counter[str] = Counter()
        self.carry: Callable[[DialCarrier | HangUpCarrier], None] = lambda _: None
        """Does what is asked for relay legs over TCP; by default nothing ever answers."""
        self.tickets = tickets
        """What the next process is to begin with."""
        self.known = known
        """The same, of members."""
        self.core = Core(
            config,
            identity,
            self.tables,
            random.Random(seed).randbytes,
            now,
            tickets,
            membership,
            known=known,
            **more,
        )
        self.core.handle_network([address], now)
        self._sources: dict[int, tuple[bytes, Address]] = {}
        self._resolve = resolve
        self._outbox: list[tuple[bytes, Address]] = []

    @property
    def mac(self) -> bytes:
        return mac_of(self.identity.node_id)

    def send_frame(self, frame: bytes, now: float) -> None:
        """What the outbound thread does with a frame from the TAP; flush the network afterwards."""
        group = frame[0] & 1
        for peer, mac in self.tables.macs.items():
            routed = peer in self.tables.routes and peer in self.tables.endpoints
            if frame[:6] == mac:
                self.tables.last_unicast[peer] = now
            if (group or frame[:6] == mac) and routed:
                self._seal(peer, frame, now)
            elif frame[:6] == mac:
                self.core.handle_wanted(peer, bytes((Kind.FRAME,)) + frame, now)

    def _seal(self, peer: int, frame: bytes, now: float) -> None:
        route, (address, channel) = self.tables.routes[peer], self.tables.endpoints[peer]
        if now >= route.keys.expires_at:
            self.drops["expired_keys"] += 1
            return
        seal, payload = route.keys.packet_keys.seal, bytes((Kind.FRAME,)) + frame
        packet = seal(route.lane, route.receiver_id, route.number, payload)
        route.number += 1
        self.tables.counters[peer]["tx_frames"] += 1
        self._outbox.append((through_channel(channel, packet) if channel else packet, address))

    def receive(self, data: bytes, source: Address, now: float) -> None:
        try:
            self._demultiplex(data, b"", source, now)
        except BadPacket as error:
            self.drops[error.reason] += 1
        self._serve(now)

    def _demultiplex(self, data: bytes, via: bytes, source: Address, now: float) -> None:
        if data[0] & LONG_HEADER:
            if not via and not self.tables.sources[source]:
                raise BadPacket("unexpected_long_header")
            self.core.handle_datagram(data, via, source, now)
            return
        table_id = data[1:9]
        if table_id in self.tables.lanes:
            self._open(self.tables.lanes[table_id], data, via, source, now)
        elif table_id in self.tables.control:
            self.core.handle_datagram(data, via, source, now)
        elif table_id in self.tables.channels and not via:
            channel, inner = split_channel(data)
            self._demultiplex(inner, channel, source, now)
        else:
            raise BadPacket("unknown_id")

    def _open(self, lane: _ReceiveLane, data: bytes, via: bytes, source: Address, now: float) -> None:
        number, payload = lane.keys.open(lane.lane, data)
        if number in lane.seen:
            raise BadPacket("duplicate")
        lane.seen.add(number)
        self.tables.note_received(lane.peer, via, source, now)
        if lane.lane and self._sources.get(lane.session) != (via, source):
            self._sources[lane.session] = (via, source)
            self.core.handle_source(lane.session, via, source, now)
        if payload[0] == Kind.FRAME and lane.peer:
            if payload[7:13] != self.tables.macs[lane.peer]:
                raise BadPacket("spoofed_source")
            self.tables.counters[lane.peer]["rx_frames"] += 1
            if payload[1:7] == self.mac:
                self.tables.last_unicast[lane.peer] = now
            self.frames.append(payload[1:])
        else:
            self.core.handle_payload(lane.session, payload, via, source, now)

    def deadline(self) -> float:
        return self.core.deadline

    def expire(self, now: float) -> None:
        self.core.handle_timer(now)
        self._serve(now)

    def transmit(self) -> list[tuple[bytes, Address]]:
        outbox, self._outbox = self._outbox + self.core.poll_transmit(), []
        return outbox

    def _serve(self, now: float) -> None:
        for event in self.core.poll_events():
            self.events.append(event)
            if isinstance(event, ResolveRelay):
                addresses = self._resolve(event.host, event.port)
                self.core.handle_resolved(event.index, addresses, "" if addresses else "unknown name", now)
                self._serve(now)
            elif isinstance(event, DialCarrier | HangUpCarrier):
                self.carry(event)
            elif isinstance(event, TicketsChanged):
                self.tickets = event.tickets
            elif isinstance(event, MembersChanged):
                self.known = event.known
