"""Direct paths to configured addresses: frames leave the relay alone, and outlive it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

PORT = 4400


BORINGSSL = Path("/usr/lib/x86_64-linux-gnu/android/libcrypto.so.0")


@pytest.fixture
def direct(lab: Lab) -> Mesh:
    """alice and bob, each with the other's endpoint; alice seals by BoringSSL where Debian's is installed."""
    mesh = Mesh(lab)
    mesh.relay()
    alice, bob = mesh.client("alice"), mesh.client("bob")
    mesh.configure()
    for client, other in ((alice, bob), (bob, alice)):
        client.config["listen"]["port"] = PORT
        client.config["paths"] = {"direct": "static"}
        client.config["peers"][0]["endpoint"] = f"{other.host.address}:{PORT}"
    if BORINGSSL.exists():
        alice.config["aead_library"] = str(BORINGSSL)
    mesh.start()
    for client, other in ((alice, bob), (bob, alice)):
        wait_path(client, other.name, f"direct {other.host.address}:{PORT}")
    return mesh


def wait_path(client: ClientNode, peer: str, path: str, within: float = 5.0) -> None:
    wait_until(lambda: client.peer(peer)["path"] == path, within, lambda: str(client.peer(peer)))


def test_frames_go_directly_and_outlive_the_relay(direct: Mesh) -> None:
    alice, bob = direct.clients["alice"], direct.clients["bob"]
    relay = direct.relays["relay"]
    alice.host.ping(bob.ipv4)
    assert "via direct" in alice.verb("ping", "bob", "-c", "1").stdout
    assert alice.status()["node"]["aead"] == (
        "EVP_AEAD of the aead_library" if BORINGSSL.exists() else "OpenSSL"
    )
    relay.kill9()
    alice.host.ping(bob.ipv4)
    bob.host.ping(alice.ipv6)


def test_path_that_dies_gives_way_to_the_relay(direct: Mesh) -> None:
    """bob's host takes nothing from alice's any more, but what the relay brings."""
    alice, bob = direct.clients["alice"], direct.clients["bob"]
    relay = direct.relays["relay"]
    for host, other in ((bob.host, alice.host), (alice.host, bob.host)):
        host.run(["ip", "route", "add", "blackhole", f"{other.address}/32"])
    flood = alice.host.spawn(["ping", "-c", "60", "-i", "0.1", bob.ipv4], "flood.log")
    wait_path(alice, "bob", f"relay {relay.host.address}:4433")
    wait_path(bob, "alice", f"relay {relay.host.address}:4433")
    flood.wait(10)
    alice.host.ping(bob.ipv4)
