"""A relay in memory: the real protocol over a slow, obvious forwarder, on a `shadowmesh.testing` Network."""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shadowmesh._ext.aead import PacketKeys
from shadowmesh.crypto.identity import Identity
from shadowmesh.errors import BadPacket
from shadowmesh.stages import Stages
from shadowmesh.units import Address
from shadowmesh.wire.headers import LONG_HEADER, split_channel, through_channel
from shadowmesh.wire.payload import NO_CHALLENGE, Kind

from .admission import Admission
from .h3 import Http3
from .limits import Limits
from .observer import Observer
from .protocol import RelayCore


@dataclass
class _Leg:
    endpoint: Address
    send: tuple[PacketKeys, int, bytes] | None = None
    sent: int = 0
    newest: int = -1
    bound_at: float = 0.0
    received: int = 0
    challenge: bytes = b""
    candidate: Address | None = None


class MemoryForwarder:
    """`shadowmesh_relay.tables.Tables` as dictionaries."""

    def __init__(self) -> None:
        self.legs: dict[int, _Leg] = {}
        self.lanes: dict[bytes, tuple[int, int, PacketKeys]] = {}
        self.channels: dict[bytes, tuple[int, int, bytes]] = {}
        self.control: set[bytes] = set()
        self.material: list[bytes] = []
        self.threads: dict[int, int] = {}

    def add_client(self, client: int, address: Address, thread: int) -> None:
        self.legs[client] = _Leg(address)
        self.threads[client] = thread

    def remove_client(self, client: int) -> None:
        del self.legs[client]
        self.lanes = {key: lane for key, lane in self.lanes.items() if lane[0] != client}

    def new_send_keys(self, material: bytearray) -> Any:
        self.material.append(bytes(material))
        return PacketKeys(material)

    def set_lane(self, client: int, keys: Any, lane: int, receiver_id: bytes) -> None:
        self.legs[client].send = (keys, lane, receiver_id)

    def install_receive(self, client: int, ids: Sequence[bytes], material: bytearray) -> None:
        self.material.append(bytes(material))
        keys = PacketKeys(material)
        for lane, receiver_id in enumerate(ids):
            self.lanes[receiver_id] = (client, lane, keys)

    def install_channel(self, channel: bytes, source: int, target: int, target_id: bytes) -> None:
        self.channels[channel] = (source, target, target_id)

    def install_control(self, connection_id: bytes) -> None:
        self.control.add(connection_id)

    def remove(self, table_id: bytes) -> None:
        self.channels.pop(table_id, None)
        self.control.discard(table_id)

    def last_bind(self, client: int) -> float:
        return self.legs[client].bound_at

    def received(self, client: int) -> int:
        return self.legs[client].received


class _SecondPort:
    """The station at the second port; its time has come whenever something waits to be sent."""

    def __init__(self, core: RelayCore, address: Address) -> None:
        self.address = address
        self._core = core

    def receive(self, data: bytes, source: Address, now: float) -> None:
        self._core.handle_second_datagram(data, source, now)

    def deadline(self) -> float | None:
        return 0.0 if self._core.observer is not None and self._core.observer.waits else None

    def expire(self, now: float) -> None:
        """What waits is collected by the network afterwards."""

    def transmit(self) -> list[tuple[bytes, Address]]:
        assert self._core.observer is not None
        return self._core.observer.poll_transmit()


class MemoryRelay:
    """A station on a `Network` that runs a relay."""

    def __init__(
        self,
        identity: Identity,
        admission: Admission,
        address: Address,
        now: float,
        seed: int,
        second_port: int | None = None,
        limits: Limits | None = None,
        wall: Callable[[], float] | None = None,
        origin: Callable[[Address], Address] = lambda source: source,
        http3: Http3 | None = None,
        busy: Callable[[], int] = lambda: 0,
        stages: Stages | None = None,
        threads: int = 1,
    ) -> None:
        self.address = address
        self.identity = identity
        self.tables = MemoryForwarder()
        self.random = random.Random(seed)  # noqa: S311 - a test must repeat itself
        observer = Observer(second_port) if second_port is not None else None
        self.core = RelayCore(
            identity,
            admission,
            self.tables,
            self.random.randbytes,
            now,
            observer,
            limits,
            wall,
            origin,
            http3,
            busy,
            stages,
            threads,
        )
        self.second = _SecondPort(self.core, Address(address.host, second_port)) if second_port else None
        """A station of its own; whoever attaches the relay attaches it too."""
        self.drops: Counter[str] = Counter()
        self.log: list[str] = []
        self._outbox: list[tuple[bytes, Address]] = []

    def receive(self, data: bytes, source: Address, now: float) -> None:
        table_id = data[1:9]
        try:
            if data[0] & LONG_HEADER or table_id in self.tables.control:
                self.core.handle_datagram(data, source, now)
            elif table_id in self.tables.channels:
                origin, target, target_id = self.tables.channels[table_id]
                self.tables.legs[origin].received += 1
                inner = through_channel(target_id, split_channel(data)[1])
                self._outbox.append((inner, self.tables.legs[target].endpoint))
            elif table_id in self.tables.lanes:
                self._serve_bind(data, source, now)
            else:
                raise BadPacket("unknown_id")
        except BadPacket as error:
            self.drops[error.reason] += 1
        self.log += self.core.poll_events()

    def _serve_bind(self, data: bytes, source: Address, now: float) -> None:
        client, lane, keys = self.tables.lanes[data[1:9]]
        _, payload = keys.open(lane, data)
        if payload[0] != Kind.BIND:
            raise BadPacket("unexpected_kind")
        leg, number = self.tables.legs[client], int.from_bytes(payload[1:9], "big")
        nonce, challenge = payload[9:17], payload[17:25]
        ask = NO_CHALLENGE
        if source != leg.endpoint:
            if challenge == leg.challenge and source == leg.candidate and number > leg.newest:
                leg.endpoint = source
                self.core.handle_endpoint(client, source)
            else:
                leg.candidate, leg.challenge = source, self.random.randbytes(8)
                ask = leg.challenge
        leg.newest = max(leg.newest, number)
        leg.bound_at = now
        self._answer(leg, nonce, ask, source)

    def _answer(self, leg: _Leg, nonce: bytes, challenge: bytes, source: Address) -> None:
        assert leg.send is not None
        keys, lane, receiver_id = leg.send
        host = ipaddress.ip_address(source.host)
        packed = bytes(10) + b"\xff\xff" + host.packed if host.version == 4 else host.packed
        payload = bytes((Kind.BOUND,)) + nonce + challenge + packed + source.port.to_bytes(2, "big")
        self._outbox.append((keys.seal(lane, receiver_id, leg.sent, payload), source))
        leg.sent += 1

    def deadline(self) -> float:
        return self.core.deadline

    def expire(self, now: float) -> None:
        self.core.handle_timer(now)
        self.log += self.core.poll_events()

    def transmit(self) -> list[tuple[bytes, Address]]:
        outbox, self._outbox = self._outbox + self.core.poll_transmit(), []
        return outbox
