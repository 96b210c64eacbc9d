"""A whole mesh in memory for protocol tests: relays and clients on one virtual network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from shadowmesh.config import (
    ClientConfig,
    Interface,
    Listen,
    NetworkSection,
    NodeSection,
    Paths,
    Peer,
    RelayPeer,
    SessionSection,
)
from shadowmesh.core.peers import PeerClient
from shadowmesh.core.shared import Fatal
from shadowmesh.crypto.identity import Identity
from shadowmesh.membership.guard import Membership
from shadowmesh.session.tickets import RelayTicket
from shadowmesh.testing.memory import MemoryClient
from shadowmesh.testing.network import Network
from shadowmesh.units import REKEY_AFTER, Address
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.testing import MemoryRelay

IDENTITIES = sorted((Identity.generate(f"node{number}") for number in range(6)), key=lambda one: one.node_id)
"""Made once; sorted, so that the first of two is the caller."""
RELAY_IDENTITY = Identity.generate("relay")
SECOND_RELAY_IDENTITY = Identity.generate("relay2")
SECOND_RELAY = "second.test"
BROADCAST = b"\xff" * 6


class Mesh:
    """Clients are numbered; lower numbers have the smaller NodeID."""

    def __init__(self, **network: float) -> None:
        self.network = Network(**network)  # type: ignore[arg-type]
        self.relay_address = Address("192.0.2.1", 4433)
        self.clients: dict[int, MemoryClient] = {}
        self.relay: MemoryRelay | None = None
        self.names = {"relay.test": [self.relay_address]}
        self.second_relay: MemoryRelay | None = None
        self._seed = 0

    def start_second_relay(self) -> MemoryRelay:
        """Before the clients, which then know both."""
        self._seed += 1
        address = Address("192.0.2.2", 4433)
        self.names[SECOND_RELAY] = [address]
        admitted = Admission(True, frozenset())
        self.second_relay = MemoryRelay(
            SECOND_RELAY_IDENTITY, admitted, address, self.network.now, self._seed
        )
        self.network.attach(self.second_relay)
        return self.second_relay

    def start_relay(
        self,
        admission: Admission | None = None,
        wall: Callable[[], float] | None = None,
        threads: int = 1,
    ) -> MemoryRelay:
        self._seed += 1
        admitted = admission or Admission(True, frozenset())
        self.relay = MemoryRelay(
            RELAY_IDENTITY,
            admitted,
            self.relay_address,
            self.network.now,
            self._seed,
            wall=wall,
            threads=threads,
        )
        self.network.attach(self.relay)
        return self.relay

    def start_client(
        self,
        number: int,
        peers: tuple[int, ...],
        address: Address | None = None,
        pins: dict[int, bytes] | None = None,
        relay_id: bytes = RELAY_IDENTITY.node_id,
        direct: Literal["auto", "static", "never"] = "never",
        rekey_seconds: int = REKEY_AFTER,
        tickets: tuple[RelayTicket, ...] = (),
        membership: Membership | None = None,
        connect: Literal["auto", "eager", "demand"] = "auto",
        known: tuple[tuple[bytes, bytes], ...] = (),
        **more: Any,
    ) -> MemoryClient:
        self._seed += 1
        client = MemoryClient(
            msgspec.structs.replace(
                self.config(number, peers, pins or {}, relay_id, direct, rekey_seconds),
                network=NetworkSection(Path("/nowhere"), Path("/nowhere"), connect) if membership else None,
            ),
            IDENTITIES[number],
            address or Address(f"198.51.100.{number + 1}", 5000),
            lambda host, port: self.names.get(host, []),
            self.network.now,
            self._seed,
            tickets,
            membership,
            known,
            **more,
        )
        self.clients[number] = client
        self.network.attach(client)
        return client

    def config(
        self,
        number: int,
        peers: tuple[int, ...],
        pins: dict[int, bytes],
        relay_id: bytes,
        direct: Literal["auto", "static", "never"] = "auto",
        rekey_seconds: int = REKEY_AFTER,
    ) -> ClientConfig:
        return ClientConfig(
            node=NodeSection(f"node{number}", Path("/nowhere"), Path("/nowhere/socket")),
            listen=Listen("::", 0),
            interface=Interface("smesh0", (f"10.77.0.{number + 1}/24",), "auto"),
            relays=(
                RelayPeer("relay.test", 4433, relay_id),
                *(
                    (RelayPeer(SECOND_RELAY, 4433, SECOND_RELAY_IDENTITY.node_id),)
                    if SECOND_RELAY in self.names
                    else ()
                ),
            ),
            peers=tuple(
                Peer(
                    f"node{peer}",
                    pins.get(peer, IDENTITIES[peer].node_id),
                    (f"10.77.0.{peer + 1}",),
                    Address(f"198.51.100.{peer + 1}", 5000),
                )
                for peer in peers
            ),
            paths=Paths(direct),
            session=SessionSection(rekey_seconds),
        )

    def peer(self, number: int, other: int) -> PeerClient:
        """What client `number` holds of client `other`."""
        return self.clients[number].core.peers[IDENTITIES[other].node_id]

    def connected(self, number: int, other: int) -> bool:
        peer = self.peer(number, other)
        return peer.session is not None and peer.channel is not None

    def pair_up(self, number: int = 0, other: int = 1, within: float = 10.0) -> None:
        self.network.run_until(
            lambda: self.connected(number, other) and self.connected(other, number), within
        )

    def frame(self, number: int, other: int | None, body: bytes = b"x" * 50) -> bytes:
        target = BROADCAST if other is None else self.clients[other].mac
        return target + self.clients[number].mac + b"\x08\x00" + body

    def send(self, number: int, frame: bytes) -> None:
        self.clients[number].send_frame(frame, self.network.now)
        self.network.flush(self.clients[number])

    def exchange(self, number: int, other: int, within: float = 5.0) -> None:
        """A frame each way arrives, or AssertionError."""
        for source, target in ((number, other), (other, number)):
            frame = self.frame(source, target, self.network.random.randbytes(60))
            self.send(source, frame)
            self.network.run_until(lambda f=frame, t=target: f in self.clients[t].frames, within)  # type: ignore[misc]

    def stream_until_through(self, source: int, target: int, within: float) -> None:
        """Send a frame every 50 ms until one arrives; AssertionError if none does."""
        end = self.network.now + within
        frame = self.frame(source, target, self.network.random.randbytes(60))
        while frame not in self.clients[target].frames:
            assert self.network.now < end, f"no frame came through within {within} s of virtual time"
            self.send(source, frame)
            self.network.run_for(0.05)

    def fatal(self, number: int) -> list[str]:
        return [event.reason for event in self.clients[number].events if isinstance(event, Fatal)]
