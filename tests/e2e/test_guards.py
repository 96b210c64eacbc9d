"""The guards over real devices: bob is hostile, alice refuses what he claims, carol is not disturbed."""

from __future__ import annotations

import json
import re
import socket
import time
from typing import TYPE_CHECKING

import pytest

from shadowmesh.overlay.ownership import link_local
from shadowmesh.testing.mesh import OVERLAY_INTERFACE, Mesh
from shadowmesh.testing.process import wait_until
from tests.e2e.frames import BROADCAST, Port, barrier, mac_bytes
from tests.unit import test_ext_origin as made
from tests.unit.test_ext_firewall import udp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

STORM = 5000
RATE, BURST = 500, 1000
"""The defaults of `interface.broadcast`."""


@pytest.fixture(scope="module")
def mesh(module_lab: Lab) -> Mesh:
    """bob's own budget is none."""
    mesh = Mesh(module_lab)
    mesh.relay()
    for name in ("alice", "bob", "carol"):
        mesh.client(name)
    mesh.configure().clients["bob"].config["interface"]["broadcast"] = {"rate": 1_000_000, "burst": 1_000_000}
    return mesh.start()


@pytest.fixture
def alice(mesh: Mesh) -> ClientNode:
    return mesh.clients["alice"]


@pytest.fixture
def carol(mesh: Mesh) -> ClientNode:
    return mesh.clients["carol"]


@pytest.fixture
def bob(mesh: Mesh) -> ClientNode:
    return mesh.clients["bob"]


@pytest.fixture
def port(bob: ClientNode) -> Iterator[Port]:
    with Port(bob.host, OVERLAY_INTERFACE) as made:
        yield made


def refused(at: ClientNode, reason: str, of: str = "bob") -> int:
    return int(at.peer(of)["refused"].get(reason, 0))


def ping(client: ClientNode, address: str, *options: str) -> bool:
    command = ["ping", "-c", "1", "-W", "1", *options, address]
    return client.host.run(command, False, 10.0).returncode == 0


def heard(client: ClientNode, protocol: int, act: Callable[[], object]) -> list[bytes]:
    """Frames of an ethertype that come in at a client while `act` runs."""
    with client.host.socket(socket.AF_PACKET, socket.SOCK_RAW) as listener:
        listener.bind((OVERLAY_INTERFACE, protocol))
        listener.setblocking(False)
        act()
        frames = []
        while True:
            try:
                frames.append(listener.recv(2000))
            except BlockingIOError:
                return frames


def is_solicitation(frame: bytes) -> bool:
    return frame[54:55] == b"\x87"


def rogue(kind: str, mac: str) -> bytes:
    """A frame of bob's, to everybody."""
    hardware = mac_bytes(mac)
    own, carols = "10.77.0.2", "10.77.0.3"
    frames = {
        "arp": made.arp(carols, hardware, operation=2),
        "arp of another MAC": made.arp(own, b"\x02\0\0\0\0\x09"),
        "advertisement": made.discovery(136, "fd77::2", "fd77::3", made.option(2, hardware)),
        "dhcp": made.ip(own, "255.255.255.255", 17, udp(67, 68)),
        "dhcpv6": made.ip("fd77::2", "ff02::1", 17, udp(547, 546)),
        "ra": made.discovery(134, link_local(hardware)),
        "redirect": made.discovery(137, link_local(hardware), "fd77::3"),
        "fragmented ra": made.discovery(134, link_local(hardware), bits=0x2000),
        "ipv4": made.ip(carols, "10.77.0.1", 17, udp(5000, 5000)),
        "ipv6": made.ip("fd77::3", "fd77::1", 17, udp(5000, 5000)),
    }
    frame = frames[kind]
    return frame[:6] + hardware + frame[12:]


def tagged(frame: bytes) -> bytes:
    return frame[:12] + b"\x81\x00\x00\x0a" + frame[12:]


@pytest.mark.parametrize("change", [bytes, tagged])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("arp", "spoofed_address"),
        ("arp of another MAC", "spoofed_address"),
        ("advertisement", "spoofed_address"),
        ("ipv4", "spoofed_address"),
        ("ipv6", "spoofed_address"),
        ("dhcp", "dhcp_guard"),
        ("dhcpv6", "dhcp_guard"),
        ("ra", "ra_guard"),
        ("redirect", "ra_guard"),
        ("fragmented ra", "ra_guard"),
    ],
)
def test_what_bob_may_not_send(
    alice: ClientNode, port: Port, kind: str, reason: str, change: Callable[[bytes], bytes]
) -> None:
    before = refused(alice, reason)
    frame = change(rogue(kind, port.mac))
    with Port(alice.host, OVERLAY_INTERFACE) as listener:

        def send() -> None:
            port._socket.send(frame)
            barrier(port, listener, kind.encode())

        came = heard(alice, 3, send)
    assert frame not in came
    assert refused(alice, reason) == before + 1
    assert alice.status()["drops"][reason] >= before + 1


def test_a_claimed_address_is_told_to_everybody_who_looks(
    alice: ClientNode, bob: ClientNode, carol: ClientNode
) -> None:
    """bob's kernel takes carol's addresses: his ARP, his solicitations and his pings are of no use to him."""
    before = refused(alice, "spoofed_address")
    changes = [f"address {{}} {address} dev {OVERLAY_INTERFACE} {more}" for address, more in (
        ("10.77.0.3/24", ""), ("fd77::3/64", "nodad"),
    )]  # fmt: skip
    bob.host.ip_batch([line.format("add") for line in changes])
    try:
        assert not ping(bob, "10.77.0.1", "-I", "10.77.0.3")
        assert not ping(bob, "fd77::1", "-I", "fd77::3")
        assert ping(bob, "10.77.0.1", "-I", "10.77.0.2")
        assert ping(carol, "10.77.0.1")
        assert ping(alice, "fd77::3")
    finally:
        bob.host.ip_batch([line.format("del").replace(" nodad", "") for line in changes])
    assert refused(alice, "spoofed_address") >= before + 2
    status = alice.verb("status").stdout
    assert re.search(r"bob: frames of it were refused: .*spoofed_address \d+.*; for example ", status)
    why = alice.verb("why", "bob", check=False).stdout
    assert "they claim an address that is not its own" in why
    wait_until(
        lambda: re.search(r"peer bob: frames refused: .*MAC [0-9a-f:]{17}", alice.output()), 5.0, "the log"
    )
    assert (
        len(re.findall("peer bob: frames refused", alice.output()))
        <= 1 + alice.status()["node"]["uptime"] // 60
    )
    assert refused(alice, "spoofed_address", "carol") == 0


def test_a_claimed_mac_does_not_even_leave(
    bob: ClientNode, alice: ClientNode, carol: ClientNode, port: Port
) -> None:
    """What a client that does not see to that would send is `spoofed_source` (test_ext_inbound.py)."""
    carols = carol.status()["node"]["mac"]
    before = bob.status()["drops"]["foreign_source"]
    with Port(alice.host, OVERLAY_INTERFACE) as listener:
        frame = port.send(BROADCAST, b"as carol" + bytes(50), carols)
        barrier(port, listener, b"mac")
        assert listener.count(frame) == 0
    assert bob.status()["drops"]["foreign_source"] == before + 1


def test_questions_are_answered_without_asking_anybody(
    alice: ClientNode, bob: ClientNode, carol: ClientNode
) -> None:
    def resolve() -> None:
        for family in ("-4", "-6"):
            alice.host.run(["ip", family, "neigh", "flush", "dev", OVERLAY_INTERFACE], True, 5.0)
        assert ping(alice, "10.77.0.3")
        assert ping(alice, "fd77::3")

    before = alice.status()["counters"]["answered_requests"]
    seen = heard(bob, 3, resolve)
    assert not [frame for frame in seen if frame[12:14] == b"\x08\x06" or is_solicitation(frame)]
    assert alice.status()["counters"]["answered_requests"] >= before + 2
    known = json.loads(
        alice.host.run(["ip", "-j", "neigh", "show", "dev", OVERLAY_INTERFACE], True, 5.0).stdout
    )
    macs = {entry["dst"]: entry.get("lladdr") for entry in known}
    assert macs["10.77.0.3"] == macs["fd77::3"] == carol.status()["node"]["mac"]
    assert ping(alice, f"{link_local(mac_bytes(str(macs['fd77::3'])))}%{OVERLAY_INTERFACE}")


def test_an_address_that_is_taken_is_found_so(alice: ClientNode) -> None:
    taken = alice.host.run(["arping", "-D", "-c", "2", "-I", OVERLAY_INTERFACE, "10.77.0.3"], False, 10.0)
    assert taken.returncode == 1, taken.stdout


def test_who_is_not_known_is_asked_for(alice: ClientNode, bob: ClientNode) -> None:
    seen = heard(bob, 0x0806, lambda: ping(alice, "10.77.0.99"))
    assert [frame for frame in seen if frame[38:42] == bytes([10, 77, 0, 99])]


def test_a_storm_is_cut_where_it_begins_and_where_it_arrives(
    alice: ClientNode, bob: ClientNode, carol: ClientNode
) -> None:
    """carol's client cuts it itself; bob's does not, and alice does."""
    for source in (carol, bob):
        with Port(source.host, OVERLAY_INTERFACE) as port, Port(alice.host, OVERLAY_INTERFACE) as listener:
            begun = time.monotonic()
            frames = {port.send(BROADCAST, b"storm %d" % number + bytes(40)) for number in range(STORM)}
            barrier(port, listener, b"storm of " + source.name.encode())
            taken = time.monotonic() - begun
            assert 0 < len(frames & set(listener.poll())) <= BURST + RATE * taken + 1
    # Of a storm, the queues of interface and socket lose some before anybody counts.
    assert carol.status()["drops"]["broadcast_budget"] > BURST / 2
    assert refused(alice, "broadcast_budget", "carol") <= 50
    assert bob.status()["drops"]["broadcast_budget"] == 0
    assert refused(alice, "broadcast_budget") >= BURST / 2
    wait_until(lambda: refused(carol, "broadcast_budget") >= BURST / 2, 5.0, "carol to refuse it too")
    assert "a storm, or a loop" in alice.verb("why", "bob", check=False).stdout
