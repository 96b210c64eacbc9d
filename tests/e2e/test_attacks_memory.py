"""Members that use memory up: tables are bounded, what is over is counted, and others do not notice.

mallory floods within what a session may carry, oscar breaks the protocol again and again; both attack alice,
who has a session with bob meanwhile.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.site import allow_bridges
from shadowmesh.testing.traffic import send_tcp

from .strangers import resident

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

HERE = Path(__file__).parent
STATIONS = 2048
"""Of one peer, at most (docs/protocol.md section 10)."""
GROWTH = 24 << 20
"""Bytes: all tables of a client together are below 10 MB, and allocators round up."""


def launch(client: ClientNode, attack: str, victim: ClientNode, at: float) -> None:
    client.write_config()
    command = [sys.executable, str(HERE / "hostile_member.py"), "up", "-c", str(client.config_path)]
    mac = victim.status()["node"]["mac"].replace(":", "")
    settings = {"ATTACK": attack, "ATTACK_AT": str(at), "VICTIM_MAC": mac}
    client.process = client.host.spawn(command, str(client.directory / "log"), settings)


@pytest.fixture(scope="module")
def mesh(module_lab: Lab) -> Mesh:
    mesh = Mesh(module_lab)
    mesh.relay()
    for name, others in (("alice", ["bob", "mallory", "oscar"]), ("bob", ["alice"])):
        mesh.client(name, others)
    for name in ("mallory", "oscar"):
        mesh.client(name, ["alice"])
    mesh.configure()
    allow_bridges(mesh, "mallory")
    mesh.relays["relay"].start()
    alice, bob = mesh.clients["alice"], mesh.clients["bob"]
    for client in (alice, bob):
        client.launch()
    alice.wait_peers("bob")
    bob.wait_peers("alice")
    return mesh


def drops(client: ClientNode) -> dict[str, int]:
    found: dict[str, int] = client.status()["drops"]
    return found


def session_of(alice: ClientNode) -> float:
    """When that with bob began."""
    return time.time() - float(alice.peer("bob")["last_handshake"])


def good(mesh: Mesh, transfer: bool = True) -> None:
    """bob's echoes come back, all of them; and what he sends by TCP arrives."""
    alice, bob = mesh.clients["alice"], mesh.clients["bob"]
    text = alice.host.run(["ping", "-n", "-c", "20", "-i", "0.02", "-W", "5", bob.ipv4]).stdout
    assert " 0% packet loss" in text, text
    if transfer:
        send_tcp(bob.host, alice.host, alice.ipv4, b"bob" * 100_000)


def relay_status(mesh: Mesh) -> dict[str, Any]:
    relay = mesh.relays["relay"]
    found: dict[str, Any] = json.loads(
        relay.run(["status", "--socket", str(relay.state_dir / "relay.sock"), "--json"]).stdout
    )
    return found


def test_a_member_that_floods_fills_nothing(mesh: Mesh) -> None:
    """Stations, ARP, fragments without end, probes, candidates: some thousands a second."""
    alice, bob, mallory = (mesh.clients[name] for name in ("alice", "bob", "mallory"))
    good(mesh)
    launch(mallory, "flood", alice, time.time() + 2)
    alice.wait_peers("mallory")
    before, memory, of_relay = drops(alice), resident(alice), resident(mesh.relays["relay"])
    began = session_of(alice)
    wanted = {"incomplete_frame": 300, "broadcast_budget": 100, "message_rate": 100}

    def over() -> bool:
        now = drops(alice)
        return alice.peer("mallory")["stations"] == STATIONS and all(
            now[reason] - before[reason] >= least for reason, least in wanted.items()
        )

    wait_until(over, 90.0, lambda: f"{alice.peer('mallory')}\n{drops(alice)}", interval=0.2)
    good(mesh, transfer=False)
    assert alice.peer("mallory")["stations"] <= STATIONS
    assert resident(alice) - memory < GROWTH
    assert resident(mesh.relays["relay"]) - of_relay < GROWTH
    assert relay_status(mesh)["totals"]["channels"] <= 4
    mallory.running_process.kill()
    good(mesh)
    assert time.time() - alice.peer("bob")["last_handshake"] == pytest.approx(began, abs=1.0), (
        "the same session"
    )
    assert "Traceback" not in alice.output() + mesh.relays["relay"].output() + bob.output()


def test_a_member_that_breaks_the_protocol_ends_its_own_session(mesh: Mesh) -> None:
    """Streams without end, messages without end, handshakes that stay half open; it comes back each time."""
    alice, oscar = mesh.clients["alice"], mesh.clients["oscar"]
    launch(oscar, "breach", alice, time.time())
    memory = resident(alice)
    began = session_of(alice)
    said = ("unknown_stream", "oversized_message")
    wait_until(lambda: all(one in alice.output() for one in said), 90.0, alice.output, interval=0.2)
    good(mesh, transfer=False)
    assert resident(alice) - memory < GROWTH
    oscar.running_process.kill()
    good(mesh)
    assert session_of(alice) == pytest.approx(began, abs=1.0)
    assert "Traceback" not in alice.output()
