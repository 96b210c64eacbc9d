"""Real clients behind a cable that does everything a bad network does: TCP arrives whole, sessions live on.

One lab: the middlebox (shadowmesh.testing.cable) is in alice's cable, so that her direct path to bob, her
path to carol through the relay, and her leg to the relay meet the same.  Each test sets its
impairment while everything runs, and leaves a plain cable behind.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.testing.cable import Cable
from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.natlab import change_addresses
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.traffic import transfer_tcp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

LAB = {"ipv6": False}
"""One address each, so that there is one direct path."""
SIZE = 300_000
"""Bytes each way."""
TRANSFER_TIMEOUT = 60.0
"""Seconds: TCP under loss takes long now and then; what matters is that it gets there."""
STATE_TIMEOUT = 30.0

DELAY = 0.005
CONDITIONS = {
    "clean": Impairment(),
    "loss": Impairment(DELAY, loss=0.05),
    "burst": Impairment(DELAY, loss=0.05, burst=0.05),
    "delay": Impairment(0.1),
    "jitter": Impairment(DELAY, jitter=0.03, reorder=0.02),
    "duplicate": Impairment(DELAY, duplicate=0.1),
    "corrupt": Impairment(DELAY, corrupt=0.05),
    "narrow": Impairment(DELAY, rate=500_000, queue=0.1),
    "everything": Impairment(
        0.01, 0.01, loss=0.01, burst=0.02, duplicate=0.02, reorder=0.02, corrupt=0.01, rate=2_000_000
    ),
}
SET_UP = {
    "loss": Impairment(DELAY, loss=0.2),
    "disorder": Impairment(DELAY, 0.05, loss=0.1, burst=0.1, duplicate=0.2, reorder=0.2, corrupt=0.05),
}
SET_UP_TIMEOUT = 75.0
"""Seconds: two or three seconds are usual, but a try that has lost too much takes ten."""
COUNTED = {"duplicate": "duplicate", "corrupt": "authentication"}
"""Drop reason that must tell of a condition."""


class Bad:
    """alice behind the middlebox; bob, to whom there is a direct path, and carol, to whom there is none."""

    def __init__(self, lab: Lab) -> None:
        mesh = Mesh(lab)
        self.relay = mesh.relay()
        self.alice = mesh.client("alice", ["bob", "carol"])
        self.bob, self.carol = (mesh.client(name, ["alice"]) for name in ("bob", "carol"))
        mesh.configure()
        for client in (self.alice, self.bob):
            client.config["paths"] = {"direct": "auto"}
        mesh.start()
        self.cable = Cable(self.alice.host)

    def settle(self) -> None:
        """A plain cable, and every path as it should be; found at once, since a network changes."""
        self.cable.clear()
        wanted = ["direct"] * 2 + ["relay"] * 2
        if self.paths() != wanted:
            for client in (self.alice, self.bob):
                change_addresses(client.host)
        wait_until(lambda: self.paths() == wanted, STATE_TIMEOUT, lambda: str(self.paths()))

    def paths(self) -> list[str]:
        """Sort of path from alice to bob, back, to carol, back."""
        ends = [(self.alice, "bob"), (self.bob, "alice"), (self.alice, "carol"), (self.carol, "alice")]
        return [(client.peer(peer)["path"] or "none").split()[0] for client, peer in ends]

    def sessions(self) -> dict[str, float]:
        """When the session with each was made; a time that is known to a second."""
        return {peer["name"]: time.time() - peer["last_handshake"] for peer in self.alice.status()["peers"]}

    def transfer(self, other: ClientNode, size: int = SIZE) -> float:
        """Both ways at once between alice and `other`, compared by SHA-256; seconds."""
        return transfer_tcp(self.alice.host, other.host, other.ipv4, size, TRANSFER_TIMEOUT)

    def drops(self) -> dict[str, dict[str, int]]:
        return {client.name: client.status()["drops"] for client in (self.alice, self.bob, self.carol)}


@pytest.fixture(scope="module")
def world(module_lab: Lab) -> Bad:
    return Bad(module_lab)


@pytest.fixture
def bad(world: Bad) -> Iterator[Bad]:
    """Fails if a test costs a session: none of what happens here is a reason for that."""
    world.settle()
    before = world.sessions()
    yield world
    world.settle()
    assert world.sessions() == pytest.approx(before, abs=1.0)


def used(client: ClientNode, peer: str) -> dict[str, Any]:
    return next(path for path in client.peer(peer)["paths"] if path["in_use"])


@pytest.mark.parametrize("name", CONDITIONS)
def test_tcp_arrives_whole(bad: Bad, name: str) -> None:
    passed, drops = bad.cable.counters()[0], bad.drops()
    bad.cable.impair(CONDITIONS[name])
    for other in (bad.bob, bad.carol):
        bad.transfer(other)
    bad.cable.clear()
    if reason := COUNTED.get(name):
        key = {"duplicate": "doubled", "corrupt": "damaged"}[name]
        found = bad.cable.counters()[0]
        done = {way: found[way][key] - passed[way].get(key, 0) for way in ("up", "down")}
        for names, way in (({"alice"}, "down"), ({"bob", "carol"}, "up")):
            counted = sum(bad.drops()[one][reason] - drops[one][reason] for one in names)
            # The rest hit the relay, a control datagram, or what leads to the key.
            assert 0.5 * done[way] <= counted <= done[way], (way, counted, done)


def test_mtu_shrinks_under_traffic_and_comes_back(bad: Bad) -> None:
    wait_until(
        lambda: used(bad.alice, "bob")["budget"] > 1400, STATE_TIMEOUT, lambda: str(used(bad.alice, "bob"))
    )
    bad.cable.impair(Impairment(DELAY, mtu=1280))
    for other in (bad.bob, bad.carol):
        bad.transfer(other)
    assert used(bad.alice, "bob")["budget"] <= 1280 - 28
    bad.cable.clear()
    bad.transfer(bad.bob)


def test_nat_rebinding_under_traffic(bad: Bad) -> None:
    ports = set()
    for _ in range(2):
        bad.cable.rebind()
        for other in (bad.bob, bad.carol):
            bad.transfer(other)
        ports.add(bad.bob.peer("alice")["path"])
    assert len(ports) == 2


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_black_hole_on_the_direct_path(bad: Bad, direction: str) -> None:
    """In one direction or both; the relay is reached still, and takes over; then direct is found again."""
    plain, hole = Impairment(), Impairment(cut=True)
    up, down = (hole if direction in (way, "both") else plain for way in ("up", "down"))
    bad.cable.impair(up, down, [bad.bob.host.address])
    bad.transfer(bad.bob)
    blind = bad.alice if direction == "up" else bad.bob
    assert used(blind, "alice" if blind is bad.bob else "bob")["kind"] == "relay"


def test_everything_is_cut_for_two_seconds(bad: Bad) -> None:
    """Also the leg to the relay: shorter than anybody gives up."""
    bad.cable.impair(Impairment(cut=True))
    time.sleep(2.0)
    bad.cable.clear()
    for other in (bad.bob, bad.carol):
        bad.transfer(other)


@pytest.mark.parametrize("name", SET_UP)
def test_sessions_are_set_up(world: Bad, name: str) -> None:
    """alice begins anew; a handshake is some thirty packets each way, between clients through the relay."""
    world.cable.impair(SET_UP[name])
    world.alice.restart()
    world.alice.wait_peers("bob", "carol", timeout=SET_UP_TIMEOUT)
    for other in (world.bob, world.carol):
        world.transfer(other, SIZE // 10)
    world.cable.clear()
