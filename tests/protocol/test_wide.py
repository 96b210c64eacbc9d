"""Whole nodes in the in-memory internet: NATs that forget, hosts that move, links that are narrow or bad."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.internet import Host
from shadowmesh.testing.nat import FULL_CONE, PORT_RESTRICTED, SYMMETRIC
from tests.protocol.wide import WideMesh

IMPATIENT = replace(SYMMETRIC, timeout=30.0)
"""A NAT that forgets after 30 s, as many do; its ports never come again."""


def start(mesh: WideMesh, *hosts: Host) -> None:
    for number, host in enumerate(hosts):
        mesh.client_on(host, number, (1 - number,))
    mesh.pair_up()


@pytest.fixture
def pair() -> WideMesh:
    """Two clients behind impatient symmetric NATs: nothing but the relay connects them."""
    mesh = WideMesh()
    start(mesh, *(mesh.places.site(IMPATIENT).host(f"node{number}") for number in (0, 1)))
    mesh.internet.run_for(5)
    return mesh


def test_idle_clients_keep_their_mappings_open(pair: WideMesh) -> None:
    pair.internet.run_for(900)
    mark = len(pair.internet.sent)
    pair.exchange(0, 1, within=0.1)
    assert len(pair.internet.sent) - mark < 12, "the frames went at once, without any repair"


def test_nat_that_loses_its_memory_under_traffic(pair: WideMesh) -> None:
    client = pair.clients[0]
    pair.exchange(0, 1)
    session = pair.peer(0, 1).session
    router = pair.internet.public.members["203.0.113.2"].member
    assert router.nat.host == client.core.relays[0].binding.observed.host  # type: ignore[attr-defined, union-attr]
    router.nat.forget()  # type: ignore[attr-defined]
    pair.stream_until_through(0, 1, within=5)
    pair.stream_until_through(1, 0, within=2)
    assert pair.peer(0, 1).session is session


def test_client_that_moves_to_another_network(pair: WideMesh) -> None:
    pair.exchange(0, 1)
    session = pair.peer(0, 1).session
    host = next(host for station, (host, _) in pair.internet.places.items() if station is pair.clients[0])
    other = pair.places.site(PORT_RESTRICTED)
    host.move(other.network, *other.new_addresses())
    pair.stream_until_through(0, 1, within=5)
    pair.stream_until_through(1, 0, within=2)
    assert pair.peer(0, 1).session is session


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_narrow_underlay(family: str) -> None:
    """1280 bytes, the least that IPv6 allows: the handshake passes without fragments."""
    mesh = WideMesh(link=Impairment(delay=0.005, mtu=1280))
    hosts = [mesh.places.server(f"n{number}", family == "IPv4", family == "IPv6") for number in (0, 1)]
    start(mesh, *hosts)
    mesh.exchange(0, 1)
    assert max(len(data) for _, _, _, data in mesh.internet.sent) > 1150


@pytest.mark.parametrize("fragments", [True, False])
def test_underlay_narrower_than_the_handshake(fragments: bool) -> None:
    """Handshakes need IP fragments on 1124 bytes; without them there is no connection, and no harm."""
    mesh = WideMesh(link=Impairment(delay=0.005, mtu=1124, fragments=fragments))
    hosts = [mesh.places.server(f"n{number}") for number in (0, 1)]
    for host in (*hosts, mesh.relay_host):
        host.dont_fragment = False
    for number, host in enumerate(hosts):
        mesh.client_on(host, number, (1 - number,))
    mesh.internet.run_for(30)
    assert mesh.connected(0, 1) == mesh.connected(1, 0) == fragments
    assert (mesh.internet.drops["fragment"] == 0) == fragments


@pytest.mark.parametrize("seed", range(4))
def test_bad_links_behind_nats(seed: int) -> None:
    """A tenth lost, reordering and doubling on every link of the way."""
    bad = Impairment(delay=0.005, jitter=0.01, loss=0.03, duplicate=0.03, reorder=0.1)
    mesh = WideMesh(seed, bad)
    for number, behaviour in enumerate((FULL_CONE, SYMMETRIC)):
        mesh.client_on(mesh.places.site(behaviour).host(f"node{number}"), number, (1 - number,))
    mesh.pair_up(within=40)
