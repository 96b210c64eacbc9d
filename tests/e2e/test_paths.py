"""Direct paths that find themselves: between two hosts, without an endpoint in any configuration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root


def is_direct(client: ClientNode, peer: str) -> bool:
    return str(client.peer(peer)["path"]).startswith("direct ")


@pytest.fixture
def pair(lab: Lab) -> Mesh:
    """alice and bob, who have found each other."""
    mesh = Mesh(lab)
    mesh.relay()
    alice, bob = mesh.client("alice"), mesh.client("bob")
    mesh.configure()
    for client in (alice, bob):
        client.config["paths"] = {"direct": "auto"}
    mesh.start()
    wait_until(lambda: is_direct(alice, "bob") and is_direct(bob, "alice"), 5, lambda: str(alice.peer("bob")))
    return mesh


def test_direct_without_configuration_and_without_the_relay(pair: Mesh) -> None:
    alice, bob = pair.clients["alice"], pair.clients["bob"]
    alice.host.ping(bob.ipv4)
    assert alice.verb("ping", "bob", "-c", "3", "--until-direct").returncode == 0
    assert alice.verb("why", "bob").returncode == 0
    wait_until(
        lambda: "from bob, as it last said: direct" in alice.verb("why", "bob").stdout, 10, "bob's side"
    )

    def used() -> dict[str, Any]:
        return next(path for path in alice.peer("bob")["paths"] if path["in_use"])

    wait_until(lambda: used()["budget"] == 1452, 10, lambda: str(used()))
    assert used()["rtt_ms"] > 0
    pair.relays["relay"].kill9()
    bob.host.ping(alice.ipv6)


def test_address_that_changes_is_followed(pair: Mesh) -> None:
    alice, bob = pair.clients["alice"], pair.clients["bob"]
    session = bob.peer("alice")["last_handshake"]
    old = alice.host.address
    new = old.rsplit(".", 1)[0] + ".77"
    device = next(
        link["ifname"]
        for link in json.loads(alice.host.run(["ip", "-j", "-4", "addr"]).stdout)
        if any(one["local"] == old for one in link["addr_info"])
    )
    prefix = alice.host.run(["ip", "-j", "-4", "addr", "show", "dev", device]).stdout
    length = next(one["prefixlen"] for one in json.loads(prefix)[0]["addr_info"] if one["local"] == old)
    # In this order: with the primary address the kernel removes the others of its subnet.
    alice.host.run(["ip", "addr", "del", f"{old}/{length}", "dev", device])
    alice.host.run(["ip", "addr", "add", f"{new}/{length}", "dev", device])
    wait_until(
        lambda: any(new in one["path"] and one["state"] == "usable" for one in bob.peer("alice")["paths"]),
        10,
        lambda: str(bob.peer("alice")),
    )
    bob.host.ping(alice.ipv4)
    assert bob.peer("alice")["last_handshake"] > session, "the session is the same"
