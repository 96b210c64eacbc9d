"""Drain, metrics and health of real relays and clients in namespaces."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.process import wait_until
from shadowmesh.web.client import request
from tests.unit.test_operations import NAMES, names_in, of_cluster, panels, rules
from tests.unit.test_relay_service import samples

if TYPE_CHECKING:
    from pathlib import Path

    from shadowmesh.testing.mesh import Mesh, RelayNode

pytestmark = pytest.mark.root


def get(socket: Path, path: str) -> tuple[int, str]:
    """Status and body; a Unix socket is reached from outside of the namespace."""
    status, body = request(socket, "GET", path, b"", 5.0)
    return status, body.decode()


def test_real_scrapes_have_what_dashboard_and_alerts_name(mesh: Mesh) -> None:
    relay, alice, bob = mesh.relay(), mesh.client("alice"), mesh.client("bob")
    mesh.configure()
    for node in (relay, alice, bob):
        node.config["metrics"] = str(node.directory / "metrics.sock")
    mesh.start()
    alice.host.ping(bob.ipv4)
    of_relay = get(relay.directory / "metrics.sock", "/metrics")[1]
    of_client = get(alice.directory / "metrics.sock", "/metrics")[1]
    used = " ".join(rule["expr"] for rule in rules())
    used += " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    in_networks = {
        "shadowmesh_client_certificate_expiry_timestamp_seconds",
        "shadowmesh_client_clock_behind_seconds",
    }
    found = names_in(of_relay) | names_in(of_client) | of_cluster()
    assert set(NAMES.findall(used)) - in_networks <= found
    assert samples(of_relay)["shadowmesh_relay_clients"] == {"": 2.0}
    assert samples(of_relay)["shadowmesh_relay_channels"] == {"": 1.0}
    values = samples(of_client)
    assert values["shadowmesh_client_peer_connected"] == {"bob": 1.0}
    assert values["shadowmesh_client_peer_transmitted_bytes_total"]["bob"] >= 98
    assert get(alice.directory / "metrics.sock", "/ready")[0] == 200
    relay.stop()
    wait_until(
        lambda: get(alice.directory / "metrics.sock", "/ready")[0] == 503,
        10.0,
        "a client without relay is not ready",
    )


def used_relay(mesh: Mesh) -> RelayNode:
    path = mesh.clients["alice"].peer("bob")["path"]
    return next(relay for relay in mesh.relays.values() if path == f"relay {relay.endpoint}")


def test_a_relay_is_drained_under_traffic(mesh: Mesh) -> None:
    mesh.relay("relay1")
    mesh.relay("relay2")
    alice, bob = mesh.client("alice"), mesh.client("bob")
    mesh.start()
    wait_until(
        lambda: all(one["state"] == "connected" for c in (alice, bob) for one in c.status()["relays"]),
        10.0,
        "both relays",
    )
    going = used_relay(mesh)
    ping = alice.host.spawn(["ping", "-i", "0.05", "-c", "160", bob.ipv4], "drained")
    ping.wait_for_line("icmp_seq=20", 10.0)
    socket = str(going.state_dir / "relay.sock")
    status = json.loads(going.run(["status", "--socket", socket, "--json"]).stdout)
    assert status["totals"]["clients"] == 2
    assert all(client["channels"] == 1 for client in status["clients"])
    going.run(["drain", "--socket", socket, "--timeout", "30"], timeout=45.0)
    assert used_relay(mesh) is not going
    lost = ping.wait_for_line(r"(\d+) received", 30.0)
    assert int(lost[1]) >= 158, "not more than what was under way"
    assert alice.peer("bob")["last_handshake"] > 5, "the session is the same"
    assert re.search(r"draining, 2 clients", going.output())
