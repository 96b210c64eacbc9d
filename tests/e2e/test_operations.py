"""Drain, metrics and health of real relays and clients in namespaces."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.process import wait_until
from shadowmesh.web.client import request
from tests.unit.test_operations import NAMES, names_in, of_cluster, panels, rules
from tests.unit.test_relay_service import samples
from tests.unit.test_tracing import collected, collecting

from .test_recovery import Pinging

if TYPE_CHECKING:
    from pathlib import Path

    from shadowmesh.testing.mesh import Mesh, RelayNode

pytestmark = pytest.mark.root

FAILOVER_LIMIT = 5.0
"""Seconds until sessions flow again through another relay: the project's requirement."""


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


def test_real_set_ups_are_traced(mesh: Mesh) -> None:
    nodes = (mesh.relay(), mesh.client("alice"), mesh.client("bob"))
    mesh.configure()
    with contextlib.ExitStack() as stack:
        servers = []
        for node in nodes[:2]:
            listener = node.host.inside(lambda: socket.create_server(("127.0.0.1", 4318)))
            servers.append(stack.enter_context(collecting(listener)))
            node.config["tracing"] = {"otlp": "http://127.0.0.1:4318"}
        mesh.start()
        nodes[1].host.ping(nodes[2].ipv4)
        for node in nodes:
            assert node.stop() == 0
        of_relay, of_alice = (collected(server) for server in servers)
    names = {span.name for span in of_relay}
    assert {"client.join", "session.handshake", "relay.admission", "relay.introduce"} <= names
    attempt = next(span for span in of_alice if span.name == "relay.attempt")
    connect = next(span for span in of_alice if span.span_id == attempt.parent_span_id)
    assert connect.name == "relay.connect"
    setup = next(span for span in of_alice if span.name == "session.setup" and not span.status.code)
    parts = {span.name for span in of_alice if span.parent_span_id == setup.span_id}
    assert {"session.handshake", "path.first"} <= parts
    # Of the machine's clock, not of virtual time: within this test.
    assert 0 < time.time_ns() - setup.start_time_unix_nano < 300e9
    assert not any("alice" in str(span) or "10.77." in str(span) for span in (*of_relay, *of_alice))


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


def session_began(mesh: Mesh, one: str, two: str) -> float:
    """When its session with the other was made, or a little before, as long as the answer took."""
    asked = time.time()
    ago = mesh.clients[one].peer(two)["last_handshake"]
    assert ago is not None
    return asked - float(ago)


def test_one_of_two_relays_is_killed_under_traffic(mesh: Mesh) -> None:
    """SIGKILL: its sessions flow again through the other one within 5 s, and are the same ones."""
    mesh.relay("relay1")
    mesh.relay("relay2")
    alice, bob = mesh.client("alice"), mesh.client("bob")
    mesh.start()
    wait_until(
        lambda: all(one["state"] == "connected" for c in (alice, bob) for one in c.status()["relays"]),
        10.0,
        "both relays",
    )
    pinging = Pinging(alice.host, bob.ipv4)
    try:
        dead = used_relay(mesh)
        died = time.time()
        dead.kill9()
        gone = (None, f"relay {dead.endpoint}")
        wait_until(lambda: alice.peer("bob")["path"] not in gone, 4 * FAILOVER_LIMIT, "another relay")
        assert pinging.wait_reply(time.time(), 4 * FAILOVER_LIMIT) - died < FAILOVER_LIMIT
        for names in (("alice", "bob"), ("bob", "alice")):
            assert session_began(mesh, *names) < died, "the session is the same"
        assert all("session renewed" not in client.output() for client in (alice, bob))
        assert all("disconnected" not in client.output() for client in (alice, bob))
    finally:
        pinging.stop()


def test_a_token_that_is_removed_ends_the_session_that_it_admitted(mesh: Mesh) -> None:
    """`reload` reads the file again; bob, whose NodeID is listed, stays."""
    relay = mesh.relay()
    relay.admitted = ["bob"]
    alice, bob = mesh.client("alice"), mesh.client("bob")
    mesh.configure()
    mine, theirs = alice.directory / "token", relay.directory / "tokens"
    for file, text in ((mine, "n2yq8rWcDk5VtGm1Zs0xEu7b"), (theirs, "n2yq8rWcDk5VtGm1Zs0xEu7b")):
        file.write_text(f"{text}\n")
        file.chmod(0o600)
    alice.config["relays"][0]["token_file"] = str(mine)
    relay.config["admission"]["token_file"] = str(theirs)
    mesh.start()
    alice.host.ping(bob.ipv4)
    theirs.write_text("Q0j9aL4hTf6pXw3oRi8cYv2e\n")
    done = json.loads(relay.run(["reload", "-c", str(relay.config_path), "--json"]).stdout)
    assert (done["applied"], done["ended"]) == (["admission.token_file"], 1)
    wait_until(
        lambda: "does not admit" in (alice.relay_status()["last_error"] or ""), 15.0, "alice to be refused"
    )
    assert bob.relay_status()["state"] == "connected"
    theirs.write_text("n2yq8rWcDk5VtGm1Zs0xEu7b\n")
    relay.running_process.send(signal.SIGHUP)
    alice.wait_relay()
    alice.wait_peers("bob")
    alice.host.ping(bob.ipv4)
