"""`status`, `ping`, `id`, `version`: what they print and the versioned schema of their JSON."""

from __future__ import annotations

import json
import re
import stat
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.testing.process import wait_until

if TYPE_CHECKING:
    from shadowmesh.testing.mesh import Mesh

pytestmark = pytest.mark.root

OPTIONAL = (int, float, type(None))
TEXT = (str, type(None))
NODE = {
    "name": str,
    "node_id": str,
    "version": str,
    "interface": str,
    "mac": str,
    "mtu": int,
    "addresses": list,
    "listen": str,
    "uptime": (int, float),
}
RELAY = {
    "address": str,
    "node_id": str,
    "state": str,
    "rtt_ms": OPTIONAL,
    "observed_address": TEXT,
    "last_error": TEXT,
}
PEER = {
    "name": str,
    "node_id": str,
    "addresses": list,
    "state": str,
    "path": TEXT,
    "rtt_ms": OPTIONAL,
    "tx_bytes": int,
    "rx_bytes": int,
    "tx_frames": int,
    "rx_frames": int,
    "last_handshake": OPTIONAL,
    "epoch": (int, type(None)),
    "epoch_age": OPTIONAL,
    "cipher": TEXT,
    "key_exchange": TEXT,
    "last_error": TEXT,
}


def check(entry: dict[str, Any], fields: dict[str, Any]) -> None:
    """Every documented field is there with its type; more fields may come at any time."""
    for name, kind in fields.items():
        assert name in entry, name
        assert isinstance(entry[name], kind), (name, entry[name])


def test_schema_of_status(duo: Mesh) -> None:
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    document = json.loads(alice.verb("status", "--json").stdout)
    assert document["schema"] == "shadowmesh.status/1"
    check(document["node"], NODE)
    for relay in document["relays"]:
        check(relay, RELAY)
    for peer in document["peers"]:
        check(peer, PEER)
    for counters in (document["counters"], document["drops"]):
        assert counters
        assert all(isinstance(value, int) for value in counters.values())
    assert document["node"]["node_id"] == alice.node_id
    assert document["node"]["interface"] in alice.host.interfaces()
    assert document["relays"][0]["state"] == "connected"
    assert document["relays"][0]["node_id"] == duo.relays["relay"].node_id
    assert document["peers"][0]["node_id"] == bob.node_id


def test_status_agrees_with_the_system(duo: Mesh) -> None:
    alice = duo.clients["alice"]
    node = alice.status()["node"]
    link = alice.host.link(alice.interface) or {}
    assert link["address"] == node["mac"]
    assert link["mtu"] == node["mtu"]
    assert int(node["mac"][:2], 16) & 3 == 2, "locally administered, unicast (IEEE 802 section 8.2)"
    local = {f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"]}
    assert {f"{alice.ipv4}/24", f"{alice.ipv6}/64"} <= local
    assert set(node["addresses"]) == {f"{alice.ipv4}/24", f"{alice.ipv6}/64"}
    # Known from the first BOUND on, a moment after the session with the relay.
    observed = wait_until(lambda: alice.relay_status()["observed_address"], 5.0, "the observed address")
    assert alice.host.address in observed
    assert stat.S_IMODE(alice.socket_path.stat().st_mode) == 0o600


def test_session_is_hybrid_and_relayed(duo: Mesh) -> None:
    for one, two in (("alice", "bob"), ("bob", "alice")):
        peer = duo.clients[one].peer(two)
        assert peer["state"] == "connected"
        assert "relay" in peer["path"]
        assert re.search("chacha20", peer["cipher"], re.IGNORECASE)
        assert re.search("ml-?kem", peer["key_exchange"], re.IGNORECASE)
        assert re.search("x25519", peer["key_exchange"], re.IGNORECASE)


def test_status_table(duo: Mesh) -> None:
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    text = alice.verb("status").stdout
    for word in ("bob", bob.node_id[:10], bob.ipv4, bob.ipv6):
        assert word in text
    assert re.search("ml-?kem", text, re.IGNORECASE)


def test_status_takes_the_socket_from_configuration_and_environment(duo: Mesh) -> None:
    alice = duo.clients["alice"]
    by_file = alice.run(["status", "--json", "-c", str(alice.config_path)])
    assert json.loads(by_file.stdout)["node"]["name"] == "alice"
    command = f"SHADOWMESH_SOCKET={alice.socket_path} shadowmesh-client status --json"
    assert json.loads(alice.host.run(["sh", "-c", command]).stdout)["node"]["name"] == "alice"


def test_ping_verb(duo: Mesh) -> None:
    alice = duo.clients["alice"]
    text = alice.verb("ping", "bob", "-c", "2").stdout
    assert "bob" in text
    assert "relay" in text
    reply = json.loads(alice.verb("ping", "bob", "-c", "1", "--json").stdout.splitlines()[0])
    assert reply["schema"] == "shadowmesh.ping/1"
    assert reply["node_id"] == duo.clients["bob"].node_id
    assert 0.0 < reply["rtt_ms"] < 1000.0
    assert "relay" in reply["path"]


def test_ping_verb_of_an_unknown_peer(duo: Mesh) -> None:
    done = duo.clients["alice"].verb("ping", "nobody", "-c", "1", check=False)
    assert done.returncode == 6
    assert "nobody" in done.stdout + done.stderr
    done = duo.clients["alice"].verb("ping", "bbo", "-c", "1", check=False)
    assert done.stderr.endswith("in the configuration; did you mean bob? [peer.unknown]\n")


def test_peers_verb(duo: Mesh) -> None:
    alice = duo.clients["alice"]
    shown = json.loads(alice.verb("peers", "--relayed", "--json").stdout)
    assert shown["schema"] == "shadowmesh.peers/1"
    assert [peer["name"] for peer in shown["peers"]] == ["bob"]
    assert alice.verb("peers", "--direct").stdout == "No such peers.\n"
    assert duo.clients["bob"].node_id in alice.verb("peers", "bob").stdout


def test_id_and_version(duo: Mesh) -> None:
    alice = duo.clients["alice"]
    assert alice.node_id in alice.verb("id").stdout
    for program in ("shadowmesh-client", "shadowmesh-relay"):
        verb, option = (alice.host.run([program, word]).stdout for word in ("version", "--version"))
        assert re.search(r"\d+\.\d+", verb)
        assert re.search(r"\d+\.\d+", option)


def test_verbs_without_a_client(duo: Mesh) -> None:
    alice = duo.clients["alice"]
    nowhere = str(alice.directory / "no-such.sock")
    for arguments in (["status"], ["down"], ["ping", "bob"]):
        done = alice.run([*arguments, "--socket", nowhere], check=False)
        assert done.returncode == 4, done
        assert nowhere in done.stdout + done.stderr


def test_set_changes_the_file_and_the_client(duo: Mesh) -> None:
    alice = duo.clients["alice"]
    before = alice.config_path.read_text()
    done = alice.verb("set", "peers.bob.groups", "friends", "session.rekey_seconds", "77")
    assert "counts at once: peers[].groups" in done.stdout
    assert done.stderr.strip().endswith("needs a restart: session [config.pending]")
    assert alice.peer("bob")["groups"] == ["friends"]
    assert alice.verb("get", "session.rekey_seconds").stdout == "77\n"
    assert alice.verb("set", "peers.bob.groups", "B A D", check=False).returncode == 3
    alice.verb("set", "--unset", "peers.bob.groups", "--unset", "session.rekey_seconds")
    assert alice.peer("bob")["groups"] == []
    assert alice.config_path.read_text() == before


def test_checks_of_a_supervisor(duo: Mesh) -> None:
    alice = duo.clients["alice"]
    for name in ("live", "startup", "ready"):
        done = alice.verb("status", "--check", name, "--json")
        assert json.loads(done.stdout)["ok"], done.stdout
    assert "is up, connected: 1 relay, " in alice.verb("status", "--check", "ready").stdout
    alice.host.run(["ip", "link", "set", alice.interface, "down"])
    try:
        done = alice.verb("status", "--check", "ready", check=False)
        assert (done.returncode, done.stdout) == (
            1,
            f"not ready: interface {alice.interface} is down or gone [device.down]\n",
        )
    finally:
        alice.host.run(["ip", "link", "set", alice.interface, "up"])
    alice.verb("status", "--check", "ready", "--wait", "10")
    absent = alice.host.run(
        ["shadowmesh-client", "status", "--check", "live", "--socket", "/no"], check=False
    )
    assert absent.returncode == 4
