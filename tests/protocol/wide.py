"""A mesh in the in-memory internet: the relay in public, clients on hosts behind whatever is in their way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shadowmesh.testing.memory import MemoryClient
from shadowmesh.testing.places import Places
from shadowmesh.units import Address
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import IDENTITIES, RELAY_IDENTITY, Mesh

if TYPE_CHECKING:
    from shadowmesh.testing.impair import Impairment
    from shadowmesh.testing.internet import Host
    from shadowmesh.testing.places import Site

RELAY_PORT = 4433
CLIENT_PORT = 5000


class WideMesh(Mesh):
    """`Mesh` on an `Internet`: the relay has addresses of both families."""

    def __init__(self, seed: int = 1, link: Impairment | None = None) -> None:
        super().__init__()
        self.places = Places(seed, link)
        self.internet = self.places.internet
        self.network = self.internet  # type: ignore[assignment]  # the same clock, other ways to attach
        self.relay_host = self.places.server("relay")
        self.relay_address = Address(self.relay_host.addresses[0], RELAY_PORT)
        self.hosts: dict[int, Host] = {}
        admitted = Admission(True, frozenset())
        self.relay = MemoryRelay(RELAY_IDENTITY, admitted, self.relay_address, self.internet.now, seed)
        self.internet.attach(self.relay, self.relay_host, RELAY_PORT)

    def client_on(self, host: Host, number: int, peers: tuple[int, ...]) -> MemoryClient:
        """Start a client on a host."""
        self._seed += 1
        client = MemoryClient(
            self.config(number, peers, {}, RELAY_IDENTITY.node_id, "auto"),
            IDENTITIES[number],
            Address(host.addresses[0], CLIENT_PORT),
            lambda _name, port: self._relay_addresses(host, port),
            self.internet.now,
            self._seed,
        )
        self.clients[number] = client
        self.hosts[number] = host
        self.internet.attach(client, host, CLIENT_PORT)
        self.tell_network(number)
        return client

    def tell_network(self, number: int) -> None:
        """Tell a client the addresses of its host, as netlink does."""
        addresses = [Address(host, CLIENT_PORT) for host in self.hosts[number].addresses]
        self.clients[number].core.handle_network(addresses, self.internet.now)
        self.internet.flush(self.clients[number])

    def move(self, number: int, site: Site) -> None:
        """Take a client's host to another network; it is told at once."""
        self.hosts[number].move(site.network, *site.new_addresses())
        self.tell_network(number)

    def _relay_addresses(self, host: Host, port: int) -> list[Address]:
        """What the name resolves to on this host: addresses of the families that it has."""
        return [Address(address, port) for address in self.relay_host.addresses if host.route(address)]
