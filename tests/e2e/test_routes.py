"""Networks behind members: reached through the gateways that certificates name, and through no other."""

from __future__ import annotations

import itertools
import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.mesh import wait_gone
from shadowmesh.testing.process import wait_until
from tests.e2e.test_membership import Domain, pings, wait_met

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host, Lab
    from shadowmesh.testing.mesh import ClientNode, Mesh

pytestmark = pytest.mark.root

LAN, LAN6 = "192.168.5.0/24", "fd00:5::/64"
BEHIND, BEHIND6 = "192.168.5.9", "fd00:5::9"
TOOK_OVER = 2.0
"""Seconds within which the other gateway carries."""


@pytest.fixture
def home(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Domain:
    return Domain(lab, monkeypatch)


def behind(lab: Lab, *gateways: ClientNode) -> Host:
    """A host in a network of its own, with these gateways in it; the first is its way to the overlay."""
    host = lab.new_host("behind")
    host.add_bridge("lan0")
    host.ip_batch([f"address add {BEHIND}/24 dev lan0", f"address add {BEHIND6}/64 dev lan0 nodad"])
    for number, gateway in enumerate(gateways, 1):
        space = gateway.host.namespace
        host.ip_batch(
            [
                f"link add lan{number} type veth peer name lan0 netns {space}",
                f"link set lan{number} master lan0 up",
            ]
        )
        gateway.host.ip_batch(
            [
                f"address add 192.168.5.{number}/24 dev lan0",
                f"address add fd00:5::{number}/64 dev lan0 nodad",
                "link set lan0 up",
            ]
        )
        forward(gateway, True)
    return host


def forward(gateway: ClientNode, on: bool) -> None:
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        gateway.host.run(["sysctl", "-q", "-w", f"{name}={int(on)}"])


def way_back(host: Host, overlay: str, gateway: str) -> None:
    host.ip_batch([f"route replace {overlay} via {gateway}"])


def routes_of(client: ClientNode) -> dict[tuple[str, str], tuple[str, str | None]]:
    if not client.answers():
        return {}
    return {(one["to"], one["via"]): (one["state"], one["reason"]) for one in client.status()["routes"]}


def wait_route(client: ClientNode, to: str, via: str, state: str, timeout: float = 15.0) -> None:
    wait_until(
        lambda: routes_of(client).get((to, via), ("", None))[0] == state,
        timeout,
        lambda: f"route to {to} via {via} is not {state}: {routes_of(client)}",
    )


def table(host: Host, family: str = "-4") -> list[str]:
    listed = json.loads(
        host.run(["ip", family, "-j", "route", "show", "dev", "smesh0"], False).stdout or "[]"
    )
    return [f"{one['dst']} via {one['gateway']}" for one in listed if "gateway" in one]


def test_a_host_behind_a_member_is_reached_and_nothing_is_left(home: Domain, lab: Lab) -> None:
    alice = home.member("alice")
    bob = home.member("bob", options=("--route", LAN, "--route", LAN6))
    alice.config["routes"] = [
        {"via": "bob", "to": LAN},
        {"via": "bob", "to": LAN6, "metric": 50},
        {"via": "bob", "to": "192.168.6.0/24"},
        {"via": "bob", "to": "10.99.0.0/24"},
    ]
    host = behind(lab, bob)
    way_back(host, "10.77.0.0/16", "192.168.5.1")
    way_back(host, "fd77::/64", "fd00:5::1")
    home.relay.start()
    for client in (alice, bob):
        client.start()
    wait_met(alice, bob)
    wait_route(alice, LAN, "bob", "installed")
    wait_route(alice, LAN6, "bob", "installed")
    for address in (BEHIND, BEHIND6):
        wait_until(lambda a=address: pings(alice, a), 10.0, f"{address} answers")  # type: ignore[misc]
    state, reason = routes_of(alice)["192.168.6.0/24", "bob"]
    why = f"bob may not carry 192.168.6.0/24 (its routes: {LAN}, {LAN6}) [route.refused]"
    assert (state, reason) == ("refused", why)
    assert table(alice.host) == [f"{LAN} via {bob.ipv4}"]
    assert len(table(alice.host, "-6")) == 1
    before = table(alice.host), table(alice.host, "-6")
    alice.host.ip_batch(["link set smesh0 down"])
    assert table(alice.host) == table(alice.host, "-6") == [], "the kernel takes them"
    alice.host.ip_batch(["link set smesh0 up"])
    wait_until(lambda: (table(alice.host), table(alice.host, "-6")) == before, 10.0, "the routes again")
    assert "bob may not carry 192.168.6.0/24" in alice.verb("why", "bob", check=False).stdout
    assert alice.output().count("route to 192.168.6.0/24 via bob: refused") == 1
    assert "bob may not carry" in alice.verb("status").stdout
    home.run("revoke", "bob")
    home.export()
    alice.verb("network", "spread", str(home.public))
    wait_route(alice, LAN, "bob", "refused", 3.0)
    assert table(alice.host) == table(alice.host, "-6") == []
    alice.stop()
    wait_gone(alice)


def test_routes_change_by_reload_and_not_over_the_way_to_the_relay(home: Domain, lab: Lab) -> None:
    alice = home.member("alice")
    bob = home.member("bob", options=("--route", "10.99.0.0/16", "--route", LAN))
    alice.config["routes"] = [{"via": "bob", "to": "10.99.0.0/16"}]
    home.relay.start()
    for client in (alice, bob):
        client.start()
    wait_met(alice, bob)
    wait_route(alice, "10.99.0.0/16", "bob", "refused")
    assert "would swallow 10.99.0." in str(routes_of(alice)["10.99.0.0/16", "bob"][1])
    assert table(alice.host) == []
    alice.config["routes"] = [{"via": "bob", "to": LAN, "metric": 77}]
    alice.write_config()
    reply = json.loads(alice.verb("reload", "--json").stdout)
    assert (reply["applied"], reply["restart"]) == (["routes"], [])
    wait_route(alice, LAN, "bob", "installed", 3.0)
    assert table(alice.host) == [f"{LAN} via {bob.ipv4}"]
    alice.config["routes"] = []
    alice.write_config()
    alice.verb("reload")
    wait_until(lambda: table(alice.host) == [], 3.0, "the route goes")
    alice.host.ip_batch([f"route add {LAN} dev under0 metric 1024"])
    alice.config["routes"] = [{"via": "bob", "to": LAN}]
    alice.write_config()
    alice.verb("reload")
    wait_route(alice, LAN, "bob", "refused", 3.0)
    assert "metric 1024 already" in str(routes_of(alice)[LAN, "bob"][1])
    assert f"{LAN} scope link metric 1024" in alice.host.run(["ip", "route", "show", "dev", "under0"]).stdout


def test_the_second_gateway_takes_over_under_traffic_and_the_first_returns(home: Domain, lab: Lab) -> None:
    alice = home.member("alice")
    bob, carol = (home.member(name, options=("--route", LAN)) for name in ("bob", "carol"))
    alice.config["routes"] = [{"via": "bob", "to": LAN}, {"via": "carol", "to": LAN}]
    host = behind(lab, bob, carol)
    for gateway in (bob, carol):  # so that answers come back to whoever asked
        gateway.host.run(
            ["nft", "add table ip n; add chain ip n p { type nat hook postrouting priority 100; }"]
        )
        gateway.host.run(["nft", "add rule ip n p oifname lan0 masquerade"])
    home.relay.start()
    for client in (alice, bob, carol):
        client.start()
    wait_met(alice, bob)
    wait_met(alice, carol)
    wait_route(alice, LAN, "bob", "installed")
    wait_route(alice, LAN, "carol", "standby")
    wait_until(lambda: pings(alice, BEHIND), 10.0, "the host behind answers")
    stream = alice.host.spawn(["ping", "-i", "0.1", "-D", BEHIND], "stream.log")
    time.sleep(1.0)
    bob.kill9()
    wait_route(alice, LAN, "carol", "installed", 5.0)
    assert table(alice.host) == [f"{LAN} via {carol.ipv4}"]
    time.sleep(1.0)
    bob.start()
    wait_route(alice, LAN, "bob", "installed", 20.0)
    time.sleep(1.0)
    stream.terminate()
    text = (lab.directory / "stream.log").read_text()
    times = [float(found) for found in re.findall(r"^\[([\d.]+)\] \d+ bytes", text, re.MULTILINE)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    print("longest gap", max(gaps))
    assert max(gaps) < TOOK_OVER
    assert host.name == "behind"


def test_without_a_network_the_configuration_says_who_carries_what(mesh: Mesh, lab: Lab) -> None:
    mesh.relay()
    alice, bob = mesh.client("alice"), mesh.client("bob")
    mesh.configure()
    alice.config["peers"][0]["routes"] = [LAN]
    alice.config["routes"] = [{"via": "bob", "to": LAN}, {"via": "bob", "to": "192.168.6.0/24"}]
    host = behind(lab, bob)
    way_back(host, "10.77.0.0/24", "192.168.5.1")
    mesh.start()
    wait_route(alice, LAN, "bob", "installed")
    wait_until(lambda: pings(alice, BEHIND), 10.0, "the host behind answers")
    assert routes_of(alice)["192.168.6.0/24", "bob"][0] == "refused"
    assert alice.status()["drops"]["spoofed_address"] == 0


def test_a_gateway_that_does_not_forward_says_so(home: Domain) -> None:
    bob = home.member("bob", options=("--route", LAN))
    forward(bob, False)
    home.relay.start()
    bob.start()
    assert "net.ipv4.ip_forward is off" in bob.output()
    assert "net.ipv4.ip_forward is off" in bob.status()["node"]["network"]["warning"]
    forward(bob, True)
    assert bob.status()["node"]["network"]["warning"] is None
