"""A relay with two forwarder threads: clients of both talk, and the kernel leads all to the right one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.traffic import iperf, iperf_server

if TYPE_CHECKING:
    from shadowmesh.testing.mesh import Mesh

pytestmark = pytest.mark.root


def test_clients_of_two_threads_talk(mesh: Mesh) -> None:
    relay, alice, bob = mesh.relay(), mesh.client("alice"), mesh.client("bob")
    mesh.configure()
    relay.config["relay"]["threads"] = 2
    for client in (alice, bob):
        client.config.setdefault("paths", {})["direct"] = "never"
    mesh.start()
    with iperf_server(bob.host, bob.ipv4):
        assert iperf(alice.host, bob.ipv4, 1).received_bytes > 1_000_000
    socket = str(relay.state_dir / "relay.sock")
    threads = json.loads(relay.run(["status", "--socket", socket, "--json"]).stdout)["threads"]
    assert [one["clients"] for one in threads] == [1, 1]
    assert min(one["tx_datagrams"] for one in threads) > 100
    assert [one["handed_over"] for one in threads] == [0, 0]
    alice.restart()
    alice.wait_peers("bob")
