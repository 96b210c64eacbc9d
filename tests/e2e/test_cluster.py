"""Two relays that share clients through a real NATS server; every client knows one of them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host
    from shadowmesh.testing.mesh import Mesh, RelayNode
    from shadowmesh.testing.process import Process

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

PATIENCE = 40.0
"""Seconds: seven processes start on a machine that may be busy; each of these waits takes a few."""

SECRET = "not-to-be-seen"


def start_nats(host: Host) -> Process:
    arguments = ["-js", "-sd", str(host.lab.directory / "jetstream"), "-a", str(host.address)]
    return host.spawn(["nats-server", *arguments, "--user", "relays", "--pass", SECRET], "nats")


def status(relay: RelayNode) -> dict[str, Any]:
    asked = relay.run(["status", "--socket", str(relay.state_dir / "relay.sock"), "--json"])
    found: dict[str, Any] = json.loads(asked.stdout)["cluster"]
    return found


def until_connected(relay: RelayNode, others: int = 1) -> None:
    wait_until(
        lambda: status(relay)["connected"] and sum(one["alive"] for one in status(relay)["relays"]) == others,
        PATIENCE,
        lambda: f"{relay.name} in the cluster\n{status(relay)}",
    )


def cluster(mesh: Mesh, **homes: str) -> Host:
    """Relays and clients by name of their home, configured; returns the host for NATS."""
    host = mesh.lab.host("nats")
    relays = {name: mesh.relay(name) for name in sorted(set(homes.values()))}
    for name in homes:
        mesh.client(name)
    mesh.configure()
    for relay in relays.values():
        url = f"nats://relays:{SECRET}@{host.address}:4222"
        relay.config["cluster"] = {"nats": url, "address": relay.endpoint}
    for name, home in homes.items():
        relay = relays[home]
        mesh.clients[name].config["relays"] = [{"address": relay.endpoint, "id": relay.node_id}]
    return host


def test_nats_is_killed_and_comes_back_under_traffic(mesh: Mesh) -> None:
    host = cluster(mesh, alice="relay1", bob="relay2", carol="relay2")
    nats = start_nats(host)
    alice, bob, carol = mesh.clients.values()
    for relay in mesh.relays.values():
        relay.start()
    for relay in mesh.relays.values():
        until_connected(relay)
    for client in (alice, bob):
        client.start()
    alice.wait_peers("bob", timeout=PATIENCE)
    alice.host.ping(bob.ipv4)
    ping = alice.host.spawn(["ping", "-i", "0.05", "-c", "80", bob.ipv4], "across")
    ping.wait_for_line("icmp_seq=10", 10.0)
    nats.kill()
    wait_until(lambda: not any(status(one)["connected"] for one in mesh.relays.values()), PATIENCE, "lost")
    carol.start()
    carol.wait_peers("bob", timeout=PATIENCE)
    carol.host.ping(bob.ipv4)
    lost = ping.wait_for_line(r"(\d+) received", 30.0)
    assert int(lost[1]) == 80, "traffic between the relays does not need NATS"
    assert alice.peer("carol")["state"] != "connected"
    start_nats(host)
    alice.wait_peers("carol", timeout=PATIENCE)
    alice.host.ping(carol.ipv4)
    assert alice.peer("bob")["last_handshake"] > 3, "the session is the same"
    mesh.relays["relay2"].kill9()
    wait_until(lambda: alice.peer("bob")["state"] != "connected", PATIENCE, "bob's relay is missed")
    wait_until(
        lambda: not status(mesh.relays["relay1"])["relays"][0]["alive"], PATIENCE, "and seen to be dead"
    )
    for relay in mesh.relays.values():
        text = relay.output()
        assert "the cluster is out of reach" in text
        assert len(re.findall("connected to the directory", text)) == 2
        assert SECRET not in text
    assert SECRET not in json.dumps(status(mesh.relays["relay1"]))
