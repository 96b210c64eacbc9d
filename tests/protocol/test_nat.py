"""Clients behind NATs of every kind learn from their relays what these do, on virtual time."""

from __future__ import annotations

import pytest

from shadowmesh.core.node import Core
from shadowmesh.path.nat import Filtering, Mapping
from shadowmesh.session.link import CloseCode
from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.internet import Host
from shadowmesh.testing.memory import MemoryClient
from shadowmesh.testing.nat import Behaviour, Depends, Firewall, Ports
from shadowmesh.testing.places import Places
from shadowmesh.units import Address
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import (
    IDENTITIES,
    RELAY_IDENTITY,
    SECOND_RELAY,
    SECOND_RELAY_IDENTITY,
    Mesh,
)

FIRST, SECOND, CLIENT = 4433, 4434, 5000
NOTHING, ADDRESS, PORT = Depends.ON_NOTHING, Depends.ON_ADDRESS, Depends.ON_ADDRESS_AND_PORT


class World(Mesh):
    """One or two relays in public; `second_port` is None for relays without one."""

    def __init__(self, relays: int = 1, second_port: int | None = SECOND, loss: float = 0.0) -> None:
        super().__init__()
        self.places = Places(3, Impairment(delay=0.02, loss=loss))
        self.internet = self.places.internet
        self.relays: list[MemoryRelay] = []
        names = ["relay.test", SECOND_RELAY][:relays]
        for name, identity in zip(names, (RELAY_IDENTITY, SECOND_RELAY_IDENTITY), strict=False):
            host = self.places.server(name)
            address = Address(host.addresses[0], FIRST)
            self.names[name] = [address]
            admitted = Admission(True, frozenset())
            relay = MemoryRelay(identity, admitted, address, self.internet.now, 5, second_port)
            self.internet.attach(relay, host, FIRST)
            if relay.second is not None:
                self.internet.attach(relay.second, host, SECOND)
            self.relays.append(relay)

    def client_on(self, host: Host) -> Core:
        client = MemoryClient(
            self.config(0, (), {}, RELAY_IDENTITY.node_id, "never"),
            IDENTITIES[0],
            Address(host.addresses[0], CLIENT),
            lambda name, _port: self.names.get(name, []),
            self.internet.now,
            7,
        )
        self.clients[0] = client
        self.internet.attach(client, host, CLIENT)
        return client.core

    def behind(self, mapping: Depends, filtering: Depends, ports: Ports = Ports.PRESERVING) -> Core:
        return self.client_on(self.places.site(Behaviour(mapping, filtering, ports)).host("home"))

    def verdict(self, core: Core, *local: str, within: float = 10.0) -> tuple[Mapping, Filtering]:
        core.handle_network([Address(host, CLIENT) for host in local], self.internet.now)
        self.internet.run_for(within)
        return core.nat.mapping, core.nat.filtering


@pytest.mark.parametrize("filtering", [NOTHING, ADDRESS, PORT])
@pytest.mark.parametrize("mapping", [NOTHING, ADDRESS, PORT])
@pytest.mark.parametrize("relays", [1, 2])
def test_every_nat_is_told_apart_as_far_as_relays_can(
    relays: int, mapping: Depends, filtering: Depends
) -> None:
    world = World(relays)
    exactly = {
        NOTHING: Mapping.ENDPOINT_INDEPENDENT,
        ADDRESS: Mapping.ADDRESS_DEPENDENT,
        PORT: Mapping.ADDRESS_AND_PORT_DEPENDENT,
    }
    by_ports = {
        NOTHING: Mapping.PORT_INDEPENDENT,
        ADDRESS: Mapping.PORT_INDEPENDENT,
        PORT: Mapping.ADDRESS_AND_PORT_DEPENDENT,
    }
    filters = Filtering.ADDRESS_AND_PORT_DEPENDENT if filtering is PORT else Filtering.PORT_INDEPENDENT
    expected = (exactly if relays == 2 else by_ports)[mapping], filters
    core = world.behind(mapping, filtering, Ports.RANDOM)
    assert world.verdict(core) == expected
    observed = core.nat.observed
    assert all(address.host.startswith("203.0.113.") for address in observed)
    assert (len(observed) == 1) is (mapping is NOTHING or (mapping is ADDRESS and relays == 1))


@pytest.mark.parametrize("mapping", [NOTHING, ADDRESS, PORT])
def test_two_relays_without_second_ports_tell_the_mapping_only(mapping: Depends) -> None:
    world = World(2, None)
    expected = Mapping.ENDPOINT_INDEPENDENT if mapping is NOTHING else Mapping.ADDRESS_OR_PORT_DEPENDENT
    assert world.verdict(world.behind(mapping, NOTHING)) == (expected, Filtering.UNKNOWN)


def test_one_relay_without_second_port_tells_nothing() -> None:
    world = World(1, None)
    core = world.behind(PORT, PORT)
    assert world.verdict(core) == (Mapping.UNKNOWN, Filtering.UNKNOWN)
    assert core.relays[0].second_port is None


def test_public_machine_has_no_nat_and_lets_everything_in() -> None:
    world = World()
    host = world.places.server("client", ipv6=False)
    core = world.client_on(host)
    assert world.verdict(core, *host.addresses) == (Mapping.NONE, Filtering.PORT_INDEPENDENT)


def test_ipv6_firewall_filters_without_a_nat() -> None:
    world = World()
    host = world.places.site(None, firewall=Firewall()).host("home")
    relay = Address(world.relays[0].address.host, FIRST)
    world.names["relay.test"] = [
        Address(one, FIRST) for one in world.internet.places[world.relays[0]][0].addresses if ":" in one
    ]
    assert world.names["relay.test"] != [relay]
    core = world.client_on(host)
    verdict = world.verdict(core, *host.addresses)
    assert verdict == (Mapping.NONE, Filtering.ADDRESS_AND_PORT_DEPENDENT)


def test_losses_do_not_change_the_verdict() -> None:
    world = World(loss=0.1)
    core = world.behind(NOTHING, ADDRESS)
    assert world.verdict(core, within=30) == (Mapping.PORT_INDEPENDENT, Filtering.PORT_INDEPENDENT)


def test_test_ends_and_nothing_more_is_sent_to_the_second_port() -> None:
    world = World()
    world.verdict(world.behind(NOTHING, PORT))

    def sent() -> int:
        return sum(target.port == SECOND for _, _, target, _ in world.internet.sent)

    before = sent()
    assert before == 1
    world.internet.run_for(600)
    assert sent() == before


def test_new_network_is_tested_anew_and_a_relay_that_returns_is_not() -> None:
    world = World()
    site = world.places.site(Behaviour(NOTHING, NOTHING))
    host = site.host("home")
    core = world.client_on(host)
    assert world.verdict(core)[1] is Filtering.PORT_INDEPENDENT
    tested = core.relays[0].second_port
    driver = core.relays[0]._driver
    assert driver is not None
    driver.link.close(CloseCode.TIMEOUT, "test")
    core._shared.links.pump(driver, world.internet.now)
    world.internet.run_for(10)
    assert core.relays[0].second_port is tested
    other = world.places.site(Behaviour(PORT, PORT, Ports.RANDOM))
    host.move(other.network, *other.new_addresses())
    assert world.verdict(core, within=60) == (
        Mapping.ADDRESS_AND_PORT_DEPENDENT,
        Filtering.ADDRESS_AND_PORT_DEPENDENT,
    )


def test_relay_forgets_the_keys_of_a_client_that_is_gone() -> None:
    world = World()
    core = world.behind(NOTHING, NOTHING)
    world.verdict(core)
    observer = world.relays[0].core.observer
    assert observer is not None
    assert len(observer._by_id) == 1
    core.close(world.internet.now)
    world.internet.flush(world.clients[0])
    world.internet.run_for(1)
    assert not observer._by_id


def test_observed_from_elsewhere_is_dropped() -> None:
    """Somebody on the way sends the second port's answer on from another address."""
    world = World()
    core = world.behind(NOTHING, NOTHING)
    relay = world.relays[0]
    elsewhere = world.places.server("elsewhere")
    assert relay.second is not None
    original = relay.second.transmit
    diverted: list[tuple[bytes, Address]] = []

    def divert() -> list[tuple[bytes, Address]]:
        diverted.extend(original())
        return []

    relay.second.transmit = divert  # type: ignore[method-assign]
    world.internet.run_for(5)
    for data, target in diverted:
        elsewhere.send(data, SECOND, target)
    world.internet.run_for(1)
    assert core.drops["foreign_observed"] == len(diverted) > 0
    assert world.verdict(core) == (Mapping.UNKNOWN, Filtering.UNKNOWN)
    assert core.relays[0].second_port is not None
    assert core.relays[0].second_port.silent
