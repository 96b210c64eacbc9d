"""Relays of one cluster in memory, and the directory between them: what NATS does for real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shadowmesh.crypto.identity import Identity
from shadowmesh.units import Address
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.cluster import Cluster, Publish, Write
from shadowmesh_relay.cluster_wire import Beat
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import SECOND_RELAY, SECOND_RELAY_IDENTITY, Mesh

IDENTITIES = (Identity.generate("relay0"), Identity.generate("relay1"), SECOND_RELAY_IDENTITY)
LATENCY = 0.002


@dataclass(eq=False)
class Member:
    """A relay at the directory; to the network a station whose timers are those of its cluster part."""

    bus: MemoryNats
    relay: MemoryRelay
    cluster: Cluster
    cut: bool = False
    """Its connection to the directory is down."""
    flushing: bool = False
    log: list[str] = field(default_factory=list)

    @property
    def address(self) -> Address:
        return Address(self.relay.address.host, 1)

    def receive(self, data: bytes, source: Address, now: float) -> None:
        raise AssertionError("nobody sends here")

    def deadline(self) -> float | None:
        return self.cluster.deadline

    def expire(self, now: float) -> None:
        self.cluster.handle_timer(now)
        self.flush()

    def transmit(self) -> list[tuple[bytes, Address]]:
        return []

    def wake(self) -> None:
        if not self.flushing:
            self.flushing = True
            self.bus.mesh.network.after(0.0, self.flush)

    def flush(self) -> None:
        self.flushing = False
        network = self.bus.mesh.network
        network.flush(self.relay)
        for one in self.cluster.poll():
            self.bus.publish(self, one)
        while found := self.cluster.poll_writes(network.now):
            for entry in found:
                self.bus.write(self, entry)
        self.log += self.cluster.poll_events()

    def hear(self, data: bytes) -> None:
        if not self.cut and self in self.bus.members:
            self.cluster.handle_message_untrusted(data, self.bus.mesh.network.now)
            self.flush()

    def see(self, key: str, value: bytes | None) -> None:
        if not self.cut and self in self.bus.members:
            self.cluster.handle_entry_untrusted(key, value, self.bus.mesh.network.now)
            self.flush()

    def disconnect(self) -> None:
        self.cut = True
        self.cluster.handle_disconnected("connection refused", self.bus.mesh.network.now)

    def connect(self) -> None:
        self.cut = False
        self.cluster.handle_connected(self.bus.mesh.network.now)
        for key, value in list(self.bus.entries.items()):
            self.see(key, value)
        self.flush()


class MemoryNats:
    """Entries that outlive nothing, and topics; every message takes `LATENCY`."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.entries: dict[str, bytes] = {}
        self.members: list[Member] = []
        self.messages: list[Publish] = []

    def publish(self, source: Member, one: Publish) -> None:
        self.messages.append(one)
        for member in self.members:
            if not source.cut and one.topic in ("beat", f"to.{member.cluster.instance.hex()}"):
                self.mesh.network.after(LATENCY, lambda m=member: m.hear(one.data))  # type: ignore[misc]

    def write(self, source: Member, entry: Write) -> None:
        if source.cut:
            return
        if entry.value is None:
            self.entries.pop(entry.key, None)
        else:
            self.entries[entry.key] = entry.value
        for member in self.members:
            self.mesh.network.after(LATENCY, lambda m=member: m.see(entry.key, entry.value))  # type: ignore[misc]

    def kill(self) -> None:
        """It is gone, with all that it knew."""
        self.entries.clear()
        for member in self.members:
            member.disconnect()

    def restart(self) -> None:
        """The relays find it again, one after the other."""
        for number, member in enumerate(self.members):
            self.mesh.network.after(1.0 + 2.0 * number, member.connect)


class ClusterMesh(Mesh):
    """Clients that each know one relay of the cluster only: number n that of number n modulo their count."""

    def __init__(
        self, relays: int = 2, admission: Callable[[], Admission] | None = None, limits: Limits | None = None
    ) -> None:
        super().__init__()
        self.nats = MemoryNats(self)
        self.admission = admission or (lambda: Admission(True, frozenset()))
        self.limits = limits
        for number in range(relays):
            self.start_member(number)
        self.network.run_for(1.5)

    def start_member(self, number: int) -> Member:
        """A relay starts, or starts again."""
        self._seed += 1
        host = f"192.0.2.{10 + number}"
        address, now = Address(host, 4433), self.network.now
        relay = MemoryRelay(
            IDENTITIES[number], self.admission(), address, now, self._seed, limits=self.limits
        )
        beat = Beat(relay.random.randbytes(16), IDENTITIES[number].node_id, f"relay{number}", host, 4433)
        cluster = Cluster("test", beat, now, lambda: self.network.now)
        relay.core.join(cluster)
        member = Member(self.nats, relay, cluster)
        cluster.wake = member.wake
        self.nats.members.append(member)
        self.network.attach(relay)
        self.network.attach(member)
        member.connect()
        return member

    def kill_member(self, member: Member) -> None:
        """Its machine dies."""
        self.nats.members.remove(member)
        self.network.detach(member.relay)
        self.network.detach(member)

    def start_at(
        self, number: int, peers: tuple[int, ...], relay: int, *, last_too: bool = False, **more: object
    ) -> None:
        """A client that knows this relay, and the last one if it is to."""
        self.names = {"relay.test": [Address(f"192.0.2.{10 + relay}", 4433)]}
        if last_too:
            self.names[SECOND_RELAY] = [Address("192.0.2.12", 4433)]
        names = dict(self.names)
        self.start_client(number, peers, relay_id=IDENTITIES[relay].node_id, **more)  # type: ignore[arg-type]
        self.clients[number]._resolve = lambda host, port: names.get(host, [])
