"""`netcheck` behind real NATs of every kind, without a running client, and where nothing answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from shadowmesh.command import ExitCode
from shadowmesh.testing.mesh import ClientNode, Mesh, RelayNode
from shadowmesh.testing.natlab import Kind, NatLab
from shadowmesh.testing.process import wait_until

pytestmark = pytest.mark.root

SECOND_PORT = 4434
ONE_PORT = "endpoint-independent or address-dependent"
EVERY_PORT = "address-and-port-dependent"


@pytest.fixture
def nat_lab() -> Iterator[NatLab]:
    lab = NatLab()
    with lab:
        yield lab
    lab.check_leaks()


def home(
    lab: NatLab, kind: Kind | None, second_port: int | None = SECOND_PORT
) -> tuple[RelayNode, ClientNode]:
    """A relay in public that runs, and a client, behind a router of this kind, that does not yet."""
    mesh = Mesh(lab)
    relay = mesh.relay()
    if kind is not None:
        lab.behind("alice", lab.router("router", kind))
    alice = mesh.client("alice")
    mesh.configure()
    if second_port is not None:
        relay.config["relay"]["second_port"] = second_port
    relay.start()
    return relay, alice


def netcheck(client: ClientNode, *arguments: str, code: int = ExitCode.OK) -> dict[str, Any]:
    done = client.run(["netcheck", *arguments, "--json"], check=False)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("kind", "mapping", "filtering"),
    [
        (Kind.FULL_CONE, ONE_PORT, ONE_PORT),
        (Kind.RESTRICTED, ONE_PORT, ONE_PORT),
        (Kind.PORT_RESTRICTED, ONE_PORT, EVERY_PORT),
        (Kind.SYMMETRIC, EVERY_PORT, EVERY_PORT),
    ],
)
def test_every_kind_of_nat(nat_lab: NatLab, kind: Kind, mapping: str, filtering: str) -> None:
    _, alice = home(nat_lab, kind)
    alice.start()
    alice.wait_relay()
    found = netcheck(alice, "--socket", str(alice.socket_path))
    assert (found["nat"]["mapping"], found["nat"]["filtering"]) == (mapping, filtering)
    outside = nat_lab.routers["router"].wan
    assert {address.rpartition(":")[0] for address in found["nat"]["observed"]} == {outside}
    assert found["nat"]["local"][0].startswith(f"{alice.host.ipv4}:")
    assert (found["udp"], found["ipv4"], found["ipv6"]) == ("works", "works", "no route")
    assert found["relays"][0]["second_port"] == "answers"
    assert found["relays"][0]["rtt_ms"] > 0
    assert alice.status()["node"]["nat"]["mapping"] == mapping
    text = alice.verb("netcheck").stdout
    assert mapping in text
    assert found["relays"][0]["address"] in text


def test_without_nat_and_without_a_running_client(nat_lab: NatLab) -> None:
    relay, alice = home(nat_lab, None)
    alice.write_config()
    found = netcheck(alice, "-c", str(alice.config_path))
    assert (found["nat"]["mapping"], found["nat"]["filtering"]) == ("no NAT", ONE_PORT)
    assert found["relays"][0]["observed_address"].startswith(f"{alice.host.ipv4}:")
    assert found["datagram"] == 1200
    assert "smesh0" not in alice.host.interfaces()
    assert "the client is going down" in relay.output()
    assert alice.verb("netcheck", check=False).returncode == ExitCode.NOT_RUNNING


def test_a_relay_without_second_port_and_one_whose_second_port_is_shut(nat_lab: NatLab) -> None:
    relay, alice = home(nat_lab, Kind.FULL_CONE, None)
    alice.write_config()
    found = netcheck(alice, "-c", str(alice.config_path))
    assert (found["nat"]["mapping"], found["nat"]["filtering"]) == ("unknown", "unknown")
    assert found["relays"][0]["second_port"] == "none"
    relay.config["relay"]["second_port"] = SECOND_PORT
    relay.restart()
    chain = f"chain input {{ type filter hook input priority 0; udp dport {SECOND_PORT} drop; }}"
    relay.host.run(["nft", "-f", "-"], text_in=f"table inet shut {{\n{chain}\n}}\n")
    found = netcheck(alice, "-c", str(alice.config_path))
    assert found["relays"][0]["second_port"] == "silent"
    assert (found["nat"]["mapping"], found["nat"]["filtering"]) == ("unknown", "unknown")


def test_where_udp_is_blocked(nat_lab: NatLab) -> None:
    _, alice = home(nat_lab, Kind.PORT_RESTRICTED)
    nat_lab.routers["router"].block_udp()
    alice.write_config()
    found = netcheck(alice, "-c", str(alice.config_path), code=ExitCode.NO_RELAY)
    assert (found["udp"], found["ipv4"], found["datagram"]) == ("blocked", "not confirmed", None)
    assert found["relays"][0]["last_error"]


def test_a_roaming_client_is_asked_for_at_once(nat_lab: NatLab) -> None:
    """Its address changes; the relay knows the new one long before the next BIND of an idle client is due."""
    _, alice = home(nat_lab, None)
    alice.start()
    alice.wait_relay()
    old, new = str(alice.host.ipv4), "10.99.0.200"
    wait_until(
        lambda: str(alice.relay_status()["observed_address"]).startswith(old), 5.0, "the first address"
    )
    alice.host.run(["ip", "addr", "replace", f"{new}/24", "dev", "under0"])
    alice.host.run(["ip", "addr", "del", f"{old}/24", "dev", "under0"])
    alice.host.run(["ip", "addr", "replace", f"{new}/24", "dev", "under0"])  # gone with the primary one
    wait_until(lambda: str(alice.relay_status()["observed_address"]).startswith(new), 5.0, alice.output)
    assert [address for address in alice.status()["node"]["nat"]["local"] if new in address]
