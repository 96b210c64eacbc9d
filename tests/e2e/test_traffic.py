"""Three clients and a relay: every kind of frame reaches whom it should, once, and nobody else."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import socket
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.process import wait_until
from shadowmesh.testing.traffic import iperf, iperf_server, send_tcp, send_udp
from tests.e2e.frames import BROADCAST, Port, barrier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.mesh import ClientNode, Mesh

pytestmark = pytest.mark.root

PAIRS = list(itertools.permutations(("alice", "bob", "carol"), 2))
NAMES = [f"{one}-{two}" for one, two in PAIRS]


@pytest.fixture
def ports(trio: Mesh) -> Iterator[dict[str, Port]]:
    """A packet socket on the overlay interface of each client."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Port(client.host, client.interface))
            for name, client in trio.clients.items()
        }


def pair(trio: Mesh, names: tuple[str, str]) -> tuple[ClientNode, ClientNode]:
    return trio.clients[names[0]], trio.clients[names[1]]


@pytest.mark.parametrize("names", PAIRS, ids=NAMES)
def test_ping(trio: Mesh, names: tuple[str, str]) -> None:
    one, two = pair(trio, names)
    one.host.ping(two.ipv4)
    one.host.ping(two.ipv6)


@pytest.mark.parametrize("names", PAIRS, ids=NAMES)
def test_tcp_and_udp_unchanged(trio: Mesh, names: tuple[str, str]) -> None:
    one, two = pair(trio, names)
    for address in (two.ipv4, two.ipv6):
        one.host.ping(address)
        send_tcp(one.host, two.host, address, secrets.token_bytes(300_000))
        send_udp(one.host, two.host, address, secrets.token_bytes(1200))


def test_no_loss_at_rest(trio: Mesh) -> None:
    one, two = pair(trio, ("alice", "bob"))
    one.host.ping(two.ipv4)
    text = one.host.run(["ping", "-n", "-c", "100", "-i", "0.01", "-W", "2", two.ipv4]).stdout
    assert " 0% packet loss" in text
    assert "DUP" not in text


@pytest.mark.parametrize("reverse", [False, True], ids=["forth", "back"])
def test_iperf3(trio: Mesh, reverse: bool) -> None:
    one, two = pair(trio, ("alice", "bob"))
    one.host.ping(two.ipv4)
    with iperf_server(two.host, two.ipv4):
        result = iperf(one.host, two.ipv4, seconds=2, reverse=reverse)
    assert result.received_bytes > 1_000_000


def test_arp_names_the_peer(trio: Mesh) -> None:
    one, two = pair(trio, ("alice", "bob"))
    one.host.run(["ip", "neigh", "flush", "dev", one.interface])
    done = one.host.run(["arping", "-c", "2", "-w", "5", "-I", one.interface, two.ipv4])
    assert two.status()["node"]["mac"].lower() in done.stdout.lower()


def test_neighbour_discovery_names_the_peer(trio: Mesh) -> None:
    one, two = pair(trio, ("carol", "alice"))
    one.host.run(["ip", "-6", "neigh", "flush", "dev", one.interface])
    one.host.ping(two.ipv6)
    neighbours = one.host.run(["ip", "-6", "neigh", "show", two.ipv6, "dev", one.interface]).stdout
    assert two.status()["node"]["mac"].lower() in neighbours.lower()


def test_link_local_ping_with_scope(trio: Mesh) -> None:
    """The kernel's own link-local address answers over the overlay as over any Ethernet."""
    one, two = pair(trio, ("bob", "carol"))
    info = two.host.link(two.interface) or {}
    local = [entry["local"] for entry in info["addr_info"] if entry.get("scope") == "link"]
    if not local:
        pytest.skip("the interface has no link-local address")
    one.host.ping(f"{local[0]}%{one.interface}")


@pytest.mark.parametrize("target", [BROADCAST, "01:00:5e:00:00:fb", "33:33:00:00:00:fb"])
@pytest.mark.parametrize("sender", ["alice", "bob", "carol"])
def test_flood_reaches_every_member_once(ports: dict[str, Port], sender: str, target: str) -> None:
    """Split horizon: nobody sends a flooded frame on, so nobody has it twice and it never comes back."""
    origin = ports[sender]
    others = [port for name, port in ports.items() if name != sender]
    frame = origin.send(target, secrets.token_bytes(64))
    for port in others:
        port.wait(frame)
    # Whatever a member flooded again would be ahead of these on the same paths.
    for one, two in itertools.permutations(ports.values(), 2):
        barrier(one, two, secrets.token_bytes(8))
    assert [port.count(frame) for port in others] == [1, 1]
    assert origin.count(frame) == 0


def test_multicast_udp_reaches_every_member(trio: Mesh) -> None:
    group, port = "239.7.7.7", 7107
    alice = trio.clients["alice"]
    payload = secrets.token_bytes(32)
    with contextlib.ExitStack() as stack:
        receivers = []
        for client in (trio.clients["bob"], trio.clients["carol"]):
            receiver = stack.enter_context(client.host.socket(socket.AF_INET, socket.SOCK_DGRAM))
            receiver.bind((group, port))
            member = socket.inet_aton(group) + socket.inet_aton(client.ipv4)
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            receiver.settimeout(10.0)
            receivers.append(receiver)
        sender = stack.enter_context(alice.host.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(alice.ipv4))
        sender.sendto(payload, (group, port))
        assert [receiver.recv(100) for receiver in receivers] == [payload, payload]


def test_unicast_reaches_only_its_target(ports: dict[str, Port]) -> None:
    alice, bob, carol = (ports[name] for name in ("alice", "bob", "carol"))
    frame = alice.send(bob.mac, secrets.token_bytes(64))
    bob.wait(frame)
    barrier(alice, carol, b"unicast")
    barrier(bob, carol, b"unicast, by bob")
    assert [port.count(frame) for port in (alice, bob, carol)] == [0, 1, 0]


@pytest.mark.parametrize("size", [14, 15, 16, 20, 28, 42, 59, 60])
def test_minimum_frames(ports: dict[str, Port], size: int) -> None:
    """A TAP has no minimum frame size: what goes in comes out, without padding."""
    alice, bob = ports["alice"], ports["bob"]
    before = bob.count(alice.frame(bob.mac, b"\x33" * (size - 14)))
    frame = alice.send(bob.mac, b"\x33" * (size - 14))
    assert len(frame) == size
    wait_until(lambda: bob.count(frame) > before, 10.0, f"a frame of {size} bytes")
    assert bob.count(frame) == before + 1


def test_largest_frame_of_the_interface(trio: Mesh, ports: dict[str, Port]) -> None:
    mtu = trio.clients["alice"].status()["node"]["mtu"]
    assert mtu >= 1280, "IPv6 needs it (RFC 8200 section 5)"
    alice, bob = ports["alice"], ports["bob"]
    frame = alice.send(bob.mac, secrets.token_bytes(mtu))
    bob.wait(frame)


def test_frame_with_a_foreign_source_is_dropped_and_counted(trio: Mesh, ports: dict[str, Port]) -> None:
    """A MAC belongs to a NodeID: alice can't send as carol, and somebody counts that she tried."""
    alice, bob, carol = (ports[name] for name in ("alice", "bob", "carol"))
    ends = [trio.clients[name] for name in ("alice", "bob")]
    before = sum(end.drops() for end in ends)
    frame = alice.send(bob.mac, secrets.token_bytes(64), source=carol.mac)
    barrier(alice, bob, b"foreign source")
    assert bob.count(frame) == 0
    wait_until(lambda: sum(end.drops() for end in ends) > before, 5.0, "a drop to be counted")


def test_status_counts_frames(trio: Mesh, ports: dict[str, Port]) -> None:
    alice, bob = pair(trio, ("alice", "bob"))
    sent, got = alice.peer("bob")["tx_frames"], bob.peer("alice")["rx_frames"]
    for number in range(20):
        frame = ports["alice"].send(ports["bob"].mac, b"count" + bytes([number]))
    ports["bob"].wait(frame)
    wait_until(lambda: alice.peer("bob")["tx_frames"] >= sent + 20, 5.0, "alice to count 20 frames")
    wait_until(lambda: bob.peer("alice")["rx_frames"] >= got + 20, 5.0, "bob to count 20 frames")
    assert alice.peer("bob")["tx_bytes"] > 0
    assert bob.peer("alice")["rx_bytes"] > 0
