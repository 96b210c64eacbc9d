"""Who is refused: wrong pins, members that are not admitted, and two machines with one identity.

One lab and one relay; every test adds clients of its own and stops them.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.mesh import Mesh, wait_gone
from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

REASON_TIMEOUT = 20.0
STOPPED_DUPLICATE = 7
DUPLICATE_TIMEOUT = 60.0
"""Seconds within which a second flip stops both holders of an identity."""


@pytest.fixture(scope="module")
def town(module_lab: Lab) -> Mesh:
    """A relay that admits all but mallory; nobody else runs."""
    mesh = Mesh(module_lab)
    mesh.relay()
    for name in ("alice", "bob", "carol", "mallory"):
        mesh.client(name)
    mesh.relays["relay"].admitted = ["alice", "bob", "carol"]
    mesh.configure().relays["relay"].start()
    return mesh


@pytest.fixture
def people(town: Mesh) -> Iterator[dict[str, ClientNode]]:
    """The clients with fresh configurations; whoever was started is stopped afterwards."""
    for client in town.clients.values():
        client.config = {}
    town.configure()
    yield town.clients
    for client in town.clients.values():
        if client.process is not None:
            client.process.terminate()
        wait_gone(client)


def entry(client: ClientNode, name: str) -> dict[str, object]:
    """The configuration entry of one peer."""
    found: dict[str, object] = next(peer for peer in client.config["peers"] if peer["name"] == name)
    return found


def wait_error(client: ClientNode, pattern: str) -> str:
    """Wait until the relay's entry in the status has an error that matches, and return it."""

    def matching() -> str | None:
        error = client.relay_status()["last_error"]
        return error if error and re.search(pattern, error, re.IGNORECASE) else None

    return wait_until(matching, REASON_TIMEOUT, lambda: f"an error like {pattern!r}: {client.relay_status()}")


def test_peer_with_another_identity_is_not_taken(people: dict[str, ClientNode]) -> None:
    """alice pins somebody else's id under bob's name: no session with bob, and the status shows it."""
    alice, bob, carol = (people[name] for name in ("alice", "bob", "carol"))
    entry(alice, "bob")["id"] = people["mallory"].node_id
    alice.config["peers"] = [peer for peer in alice.config["peers"] if peer["name"] != "mallory"]
    for client in (alice, bob, carol):
        client.start()
    # The sessions with carol show that there was time and opportunity.
    alice.wait_peers("carol")
    bob.wait_peers("carol")
    seen = alice.peer("bob")
    assert seen["state"] != "connected"
    assert seen["node_id"] == people["mallory"].node_id, "the table shows whom she waits for"
    assert seen["last_error"] or seen["state"] == "absent"
    assert bob.peer("alice")["state"] != "connected"
    done = alice.host.run(["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", bob.ipv4], check=False)
    assert done.returncode != 0
    refused = alice.verb("ping", "bob", "-c", "1", check=False)
    assert refused.returncode == 6


def test_interest_must_be_mutual(people: dict[str, ClientNode]) -> None:
    """bob does not list alice: she learns nothing about him, not even that he is there."""
    alice, bob, carol = (people[name] for name in ("alice", "bob", "carol"))
    bob.config["peers"] = [peer for peer in bob.config["peers"] if peer["name"] != "alice"]
    for client in (alice, bob, carol):
        client.start()
    alice.wait_peers("carol")
    bob.wait_peers("carol")
    assert alice.peer("bob")["state"] == "absent"


def test_member_that_is_not_admitted_is_told(town: Mesh, people: dict[str, ClientNode]) -> None:
    mallory, alice = people["mallory"], people["alice"]
    alice.start()
    alice.wait_relay()
    mallory.start()
    wait_error(mallory, "admi|allow|refus")
    assert mallory.relay_status()["state"] != "connected"
    assert alice.peer("mallory")["state"] == "absent"
    assert mallory.running_process.running, "it tries again: the list may change"
    assert alice.relay_status()["state"] == "connected"


def test_relay_with_another_identity_is_refused(people: dict[str, ClientNode]) -> None:
    alice, bob = people["alice"], people["bob"]
    alice.config["relays"][0]["id"] = people["carol"].node_id
    alice.config["peers"] = [peer for peer in alice.config["peers"] if peer["name"] != "carol"]
    alice.start()
    wait_error(alice, "identit|node ?id|pin|certificate")
    assert alice.relay_status()["state"] != "connected"
    bob.start()
    bob.wait_relay()
    wait_until(lambda: bob.peer("alice")["state"] == "absent", 5.0, "bob to see that alice is not there")
    assert alice.relay_status()["state"] != "connected"


def test_open_relay_admits_everybody(town: Mesh, people: dict[str, ClientNode]) -> None:
    relay = town.relays["relay"]
    relay.config["admission"] = {"open": True, "nodes": []}
    relay.restart()
    try:
        people["mallory"].start()
        people["mallory"].wait_relay()
    finally:
        relay.config = {}
        town.configure()
        relay.restart()


def test_two_holders_of_one_identity_stop(people: dict[str, ClientNode]) -> None:
    """A cloned machine: the second flip stops both, and each names both addresses."""
    alice, clone, bob = (people[name] for name in ("alice", "carol", "bob"))
    own = clone.state_dir.rename(clone.directory / "own-state")
    shutil.copytree(alice.state_dir, clone.state_dir)
    clone.config["peers"] = [peer for peer in clone.config["peers"] if peer["name"] == "bob"]
    alice.config["peers"] = [peer for peer in alice.config["peers"] if peer["name"] == "bob"]
    clone.config["node"]["name"] = "alice"
    try:
        bob.start()
        alice.start()
        alice.wait_peers("bob")
        # The clone is launched, not waited for: it may be stopped before anybody could ask it.
        clone.launch()
        for holder in (alice, clone):
            assert holder.running_process.wait(DUPLICATE_TIMEOUT) == STOPPED_DUPLICATE
            for address in (alice.host.address, clone.host.address):
                assert address in holder.running_process.output(), f"{holder.name} must name {address}"
            assert holder.remains() == []
        assert bob.running_process.running
        assert bob.relay_status()["state"] == "connected"
    finally:
        clone.running_process.terminate()
        shutil.rmtree(clone.state_dir)
        own.rename(clone.state_dir)
