"""Jumbo frames: an underlay of MTU 9000 and overlay interfaces of 8900."""

from __future__ import annotations

import secrets

import pytest

from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.traffic import iperf, iperf_server, send_tcp
from tests.e2e.frames import Port

pytestmark = pytest.mark.root

LAB = {"mtu": 9000}
MTU = 8900


@pytest.fixture(scope="module")
def jumbo(module_lab: object) -> Mesh:
    """alice and bob over a jumbo underlay."""
    mesh = Mesh(module_lab)  # type: ignore[arg-type]
    mesh.relay()
    for name in ("alice", "bob"):
        mesh.client(name)
    mesh.configure()
    for client in mesh.clients.values():
        client.config["interface"]["mtu"] = MTU
    return mesh.start()


def test_interface_has_the_configured_mtu(jumbo: Mesh) -> None:
    for client in jumbo.clients.values():
        assert client.status()["node"]["mtu"] == MTU
        assert (client.host.link(client.interface) or {})["mtu"] == MTU


@pytest.mark.parametrize("size", [1380, 4000, 8191, MTU])
def test_jumbo_frames_arrive_whole(jumbo: Mesh, size: int) -> None:
    alice, bob = jumbo.clients["alice"], jumbo.clients["bob"]
    with Port(alice.host, alice.interface) as one, Port(bob.host, bob.interface) as two:
        two.wait(one.send(two.mac, secrets.token_bytes(size)))
        one.wait(two.send(one.mac, secrets.token_bytes(size)))


def test_ping_of_the_whole_mtu(jumbo: Mesh) -> None:
    alice, bob = jumbo.clients["alice"], jumbo.clients["bob"]
    alice.host.ping(bob.ipv4)
    alice.host.run(["ping", "-n", "-c", "3", "-i", "0.2", "-M", "do", "-s", str(MTU - 28), bob.ipv4])


def test_tcp(jumbo: Mesh) -> None:
    alice, bob = jumbo.clients["alice"], jumbo.clients["bob"]
    alice.host.ping(bob.ipv4)
    send_tcp(alice.host, bob.host, bob.ipv4, secrets.token_bytes(500_000))
    with iperf_server(bob.host, bob.ipv4):
        assert iperf(alice.host, bob.ipv4, seconds=1).received_bytes > 1_000_000
