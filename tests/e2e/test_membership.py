"""A network with an authority, end to end: members that list nobody, and who is kept out or cut off."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.testing.mesh import Mesh, command_path
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.web import HTTPS_PORT, block_udp, serve_tcp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

PASSPHRASE = "correct horse battery"
CUT_OFF = 3.0
"""Seconds within which a revoked member is cut off from everybody."""


class Domain:
    """An authority on its own host, and the mesh whose members it signs."""

    def __init__(self, lab: Lab, monkeypatch: pytest.MonkeyPatch, tcp: bool = False) -> None:
        monkeypatch.setenv("SHADOWMESH_PASSPHRASE", PASSPHRASE)
        self.mesh = Mesh(lab)
        self.relay = self.mesh.relay()
        self.folder = lab.directory / "authority"
        self.public = lab.directory / "home.pem"
        relay = f"{self.relay.endpoint},{self.relay.node_id}"
        relay += f",{self.relay.host.address}:{HTTPS_PORT}" if tcp else ""
        self.run("create", "home", "--subnet", "10.77.0.0/16", "--subnet6", "fd77::/64", "--relay", relay)
        self.export()
        self.relay.config = {
            "relay": {"name": "relay", "state_dir": str(self.relay.state_dir), "listen": "[::]:4433"},
            "admission": {"networks": [str(self.public)]},
        }
        if tcp:
            serve_tcp(self.relay)

    def run(self, *arguments: str) -> str:
        command = [command_path("shadowmesh-client"), "network", *arguments, "--state-dir", str(self.folder)]
        return self.relay.host.run(command, True, 30.0).stdout

    def export(self) -> None:
        self.public.write_text(self.run("export"))

    def member(self, name: str, signed: bool = True, options: Sequence[str] = ()) -> ClientNode:
        """A client that knows its network and nobody else."""
        client = self.mesh.client(name)
        client.peers = []
        client.config = {
            "node": {"name": name, "state_dir": str(client.state_dir), "socket": str(client.socket_path)},
            "relays": [{"address": self.relay.endpoint, "id": self.relay.node_id}],
            "paths": {"direct": "never"},
        }
        if signed:
            path = client.directory / "certificate.pem"
            made = self.run("sign", client.node_id, "--name", name, *options, "-o", str(path), "--json")
            client.ipv4 = json.loads(made)["addresses"][0].partition("/")[0]
            client.config["network"] = {"file": str(self.public), "certificate": str(path)}
            del client.config["relays"]
        return client


@pytest.fixture
def home(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Domain:
    return Domain(lab, monkeypatch)


def met(client: ClientNode, name: str) -> bool:
    if not client.answers():
        return False
    peers = {peer["name"]: peer["state"] for peer in client.status()["peers"]}
    return peers.get(name) == "connected"


def state_of(client: ClientNode, name: str) -> dict[str, Any]:
    return next((peer for peer in client.status()["peers"] if peer["name"] == name), {})


def wait_met(*clients: ClientNode, timeout: float = 15.0) -> None:
    for client in clients:
        for other in clients:
            if other is not client:
                what = f"a session of {client.name} with {other.name}"
                wait_until(lambda c=client, o=other: met(c, o.name), timeout, lambda w=what: w)  # type: ignore[misc]


def pings(client: ClientNode, address: str, wait: int = 1) -> bool:
    return client.host.run(["ping", "-c", "1", "-W", str(wait), address], False, 10.0).returncode == 0


def test_members_that_list_nobody_meet_and_a_revoked_one_is_cut_off(home: Domain) -> None:
    """No `peers:`, no `addresses:`, no `relays:`: all of that comes from the network and the certificate."""
    alice, bob, carol = (home.member(name) for name in ("alice", "bob", "carol"))
    stranger = home.member("stranger", signed=False)
    home.relay.start()
    for client in (alice, bob, carol, stranger):
        client.launch()
    wait_met(alice, bob, carol)
    assert [one.ipv4 for one in (alice, bob, carol)] == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]
    assert alice.status()["node"]["addresses"] == ["10.77.0.1/16", "fd77::1/64"]
    for target in ("10.77.0.2", "fd77::2", "10.77.0.3"):
        assert pings(alice, target, 3), target
    assert alice.status()["node"]["network"]["name"] == "home"
    refused = wait_until(lambda: stranger.relay_status()["last_error"], 10.0, lambda: "the relay's refusal")
    assert "does not admit your NodeID" in refused

    home.run("revoke", "carol")
    began = time.monotonic()
    alice.verb("network", "spread", str(home.folder / "revocations.pem"))
    for client in (alice, bob):
        error = wait_until(
            lambda c=client: state_of(c, "carol").get("last_error"),  # type: ignore[misc]
            CUT_OFF,
            lambda c=client: f"{c.name} still knows carol: {c.status()['peers']}",  # type: ignore[misc]
        )
        assert "carol is revoked (list 1 of home)" in error
    assert time.monotonic() - began < CUT_OFF
    assert not pings(alice, "10.77.0.3")
    assert not pings(carol, "10.77.0.2")
    assert pings(alice, "10.77.0.2", 3)
    wait_until(lambda: "is revoked" in (carol.relay_status()["last_error"] or ""), 5.0, lambda: "the reason")
    bob.restart()
    wait_met(alice, bob)
    assert bob.status()["node"]["network"]["revocation_list"] == 1
    assert not pings(carol, "10.77.0.2")


def test_rules_know_members_by_the_names_and_groups_of_their_certificates(home: Domain) -> None:
    alice = home.member("alice")
    bob = home.member("bob", options=["--group", "admin"])
    carol = home.member("carol", options=["--group", "web"])
    alice.config["firewall"] = {
        "inbound": "deny",
        "rules": [{"action": "allow", "direction": "in", "groups": ["admin"], "peers": ["zoe"]}],
    }
    home.relay.start()
    for client in (alice, bob, carol):
        client.launch()
    wait_met(alice, bob, carol)
    assert pings(bob, alice.ipv4, 3)
    assert not pings(carol, alice.ipv4)
    assert pings(alice, carol.ipv4, 3), "what alice opens is answered"
    path = str(alice.config_path)
    assert "Nobody called zoe is known now: rule 1\n" in alice.run(["firewall", "explain", "-c", path]).stdout
    for name, code in (("bob", 0), ("carol", 10)):
        asked = ["firewall", "test", "-c", path, "--from", name]
        assert alice.run(asked, check=False).returncode == code, name
    before = alice.status()["firewall"]["rules"][0]["decided"]
    home.run("sign", carol.node_id, "--name", "zoe", "-o", carol.config["network"]["certificate"])
    carol.restart()
    wait_until(lambda: met(alice, "zoe"), 15.0, lambda: f"zoe: {alice.status()['peers']}")
    assert pings(carol, alice.ipv4, 3)
    assert alice.status()["firewall"]["rules"][0]["decided"] > before > 0


def test_what_does_not_count_is_told_before_anything_is_touched(home: Domain) -> None:
    """The certificate of another machine: exit code 3, and the reason names both."""
    alice, bob = home.member("alice"), home.member("bob")
    alice.config["network"]["certificate"] = bob.config["network"]["certificate"]
    alice.write_config()
    for extra in ([], ["--check"]):
        done = alice.run(["up", "-c", str(alice.config_path), *extra], check=False)
        assert done.returncode == 3
        assert re.search(r"the certificate of bob is for another NodeID", done.stderr)
    assert not alice.remains()
    assert os.path.exists(bob.config["network"]["certificate"])


def test_a_member_whose_udp_is_blocked_finds_the_relays_tcp_in_the_network(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own configuration names no relay at all."""
    home = Domain(lab, monkeypatch, tcp=True)
    alice = home.member("alice")
    home.relay.start()
    block_udp(alice.host)
    alice.start()
    alice.wait_relay()
    assert alice.relay_status()["transport"] == "tcp"
    assert "relays" not in alice.config
