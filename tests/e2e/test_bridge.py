"""Physical networks bridged over the overlay: hosts that know nothing of it, stations that move, loops."""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.site import LAN_BRIDGE, Site, allow_bridges
from shadowmesh.testing.traffic import send_tcp

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

ETH_P_ALL = 3
SOL_PACKET, PACKET_AUXDATA = 263, 8
"""linux/if_ether.h, bits/socket.h, linux/if_packet.h"""
FAILED = 1


class Bridged:
    """alice and bob with a network and a host behind each, carol with none."""

    def __init__(
        self, lab: Lab, *allowed: str, mtu: int | str = "auto", vlans: list[int] | None = None
    ) -> None:
        self.mesh = Mesh(lab)
        self.mesh.relay()
        self.alice, self.bob, self.carol = (self.mesh.client(name) for name in ("alice", "bob", "carol"))
        self.mesh.configure()
        self.here, self.there = Site(self.alice), Site(self.bob)
        for client in (self.alice, self.bob):
            client.config["interface"]["mtu"] = mtu
            if vlans:
                client.config["interface"]["vlans"] = vlans
        allow_bridges(self.mesh, *allowed)
        self.anna = self.here.host("anna", "10.77.0.101/24")
        self.ben = self.there.host("ben", "10.77.0.102/24")

    def start(self) -> Bridged:
        self.mesh.start()
        for client in (self.alice, self.bob):
            wait_forwarding(client)
        return self


def state(client: ClientNode) -> str:
    return str(client.status()["node"]["bridge"]["state"])


def wait_forwarding(client: ClientNode, timeout: float = 15.0) -> None:
    wait_until(
        lambda: state(client) == "forwarding", timeout, lambda: f"{client.name}: {client.status()['node']}"
    )


@pytest.fixture(scope="module")
def bridged(module_lab: Lab) -> Bridged:
    return Bridged(module_lab, "alice", "bob").start()


def test_hosts_behind_both_sites_reach_each_other_and_members(bridged: Bridged) -> None:
    anna, ben, carol = bridged.anna, bridged.ben, bridged.carol
    anna.ping("10.77.0.102")
    ben.ping("10.77.0.101")
    anna.ping(carol.ipv4)
    carol.host.ping("10.77.0.102")
    for address in (bridged.alice.ipv4, bridged.bob.ipv4):
        anna.ping(address)
        carol.host.ping(address)
    carol.host.ping(bridged.alice.ipv6)
    send_tcp(anna, ben, "10.77.0.102", b"a" * 300_000)
    send_tcp(ben, anna, "10.77.0.101", b"b" * 300_000)
    send_tcp(carol.host, anna, "10.77.0.101", b"c" * 300_000)
    shown = bridged.alice.status()["node"]
    assert (shown["mtu"], shown["bridge"]["name"]) == (1500, LAN_BRIDGE)
    assert shown["bridge"]["stations"] >= 1
    assert bridged.carol.peer("alice")["stations"] >= 2, "anna, and alice's own bridge"
    assert [bridged.carol.peer(name)["bridge"] for name in ("alice", "bob")] == [True, True]
    assert shown["addresses"] == [f"{bridged.alice.ipv4}/24", f"{bridged.alice.ipv6}/64"]
    assert "bridge lan0: forwarding" in bridged.alice.verb("status").stdout


def test_full_size_packets_pass_though_the_overlay_carries_less(bridged: Bridged) -> None:
    """1500 bytes that may not be fragmented by IP, from host to host: the bridge's MTU is as it was."""
    ping = ["ping", "-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1472", "10.77.0.102"]
    wait_until(lambda: bridged.anna.run(ping, check=False).returncode == 0, 10.0, lambda: "a full-size ping")
    link = bridged.alice.host.link(LAN_BRIDGE)
    assert link is not None
    assert link["mtu"] == 1500
    assert f"{bridged.alice.ipv4}" in {one["local"] for one in link["addr_info"]}
    tap = bridged.alice.host.link("smesh0")
    assert tap is not None
    assert (tap["master"], tap["addr_info"]) == (LAN_BRIDGE, [])


def test_a_station_that_moves_is_found_where_it_is(bridged: Bridged) -> None:
    """The same MAC and address first behind alice, then behind bob: both sites and carol find it again."""
    lab, mac = bridged.alice.host.lab, "02:77:00:00:00:07"
    for number, site in enumerate((bridged.here, bridged.there, bridged.here)):
        guest = site.host(f"guest{number}", "10.77.0.77/24")
        guest.ip_batch(["link set under0 address " + mac])
        guest.ping("10.77.0.101")
        for other in (bridged.carol.host, bridged.anna, bridged.ben):
            other.ping("10.77.0.77")
        guest.ip_batch(["link set under0 down"])
        assert lab.hosts[guest.name] is guest


def test_tagged_frames_are_carried_and_learned_by_vlan(bridged: Bridged) -> None:
    """One MAC in two VLANs is two stations."""
    before = bridged.bob.peer("alice")["stations"]
    with (
        bridged.anna.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
        bridged.ben.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as receiver,
    ):
        sender.bind(("under0", 0))
        receiver.bind(("under0", ETH_P_ALL))
        receiver.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        receiver.settimeout(5.0)
        for vlan in (10, 20):
            marker = b"marker of VLAN %d" % vlan
            tag = b"\x81\x00" + vlan.to_bytes(2, "big")
            sender.send(b"\xff" * 6 + b"\x02\x77\0\0\0\x09" + tag + b"\x88\xb6" + marker.ljust(60))
            data, control, _, _ = receiver.recvmsg(2000, 100)
            while marker not in data:
                data, control, _, _ = receiver.recvmsg(2000, 100)
            # struct tpacket_auxdata: the tag that the kernel took off is its last but one field.
            assert int.from_bytes(control[0][2][16:18], sys.byteorder) == vlan
    assert bridged.bob.peer("alice")["stations"] == before + 2


def test_spanning_tree_messages_are_not_carried(bridged: Bridged) -> None:
    bpdu = bytes.fromhex("0180c2000000") + b"\x02\x99\0\0\0\x01" + b"\0\x26\x42\x42\x03".ljust(46, b"\0")
    before = bridged.carol.status()["drops"]["link_local_group"]
    with bridged.carol.host.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("smesh0", 0))
        sender.send(bpdu)
    wait_until(lambda: bridged.carol.status()["drops"]["link_local_group"] > before, 5.0, lambda: "the drop")


def test_a_loop_is_blocked_said_and_mended(bridged: Bridged) -> None:
    """A cable between both networks: one port is blocked within seconds, all still reach each other."""
    here, there = bridged.here, bridged.there
    here.cable(there)
    sites = (bridged.alice, bridged.bob)
    try:
        wait_until(
            lambda: sorted(state(client) for client in sites) == ["blocked", "forwarding"],
            10.0,
            lambda: f"one blocked port: {[client.status()['node']['bridge'] for client in sites]}",
        )
        blocked = next(client for client in sites if state(client) == "blocked")
        other = next(client for client in sites if client is not blocked)
        shown = blocked.status()["node"]["bridge"]
        assert f"{other.name} is in the network behind our bridge" in shown["reason"]
        assert shown["blocks"] >= 1
        assert "loop: " in blocked.verb("status").stdout
        blocked.running_process.wait_for_line(r"WARNING bridge lan0: loop: ", 5.0)
        for near, address in ((bridged.anna, "10.77.0.102"), (bridged.carol.host, "10.77.0.101")):
            near.ping(address)
        bridged.carol.host.ping("10.77.0.102")
        bridged.carol.host.ping(blocked.ipv4)
    finally:
        here.uncable()
    wait_forwarding(blocked, 45.0)
    bridged.anna.ping("10.77.0.102")


def test_a_member_without_the_right_is_refused_by_the_others(lab: Lab) -> None:
    """alice bridges, but bob and carol do not let her: her hosts reach nobody, she herself does."""
    bridged = Bridged(lab, "bob").start()
    bridged.ben.ping(bridged.carol.ipv4)
    before = bridged.carol.status()["drops"]["spoofed_source"]
    for address in (bridged.carol.ipv4, "10.77.0.102"):
        assert bridged.anna.run(["ping", "-c", "2", "-W", "1", address], check=False).returncode != 0
    assert bridged.carol.status()["drops"]["spoofed_source"] > before
    assert [bridged.carol.peer(name)["bridge"] for name in ("alice", "bob")] == [False, True]
    assert bridged.carol.peer("alice")["stations"] == 0


def test_what_was_taken_is_given_back_and_a_missing_bridge_is_told(lab: Lab) -> None:
    mesh = Mesh(lab)
    mesh.relay()
    alice = mesh.client("alice")
    mesh.configure()
    Site(alice)
    mesh.start()
    host = alice.host

    def lent() -> set[str]:
        link = host.link(LAN_BRIDGE)
        assert link is not None
        return {one["local"] for one in link["addr_info"]}

    assert lent() == {alice.ipv4, alice.ipv6}
    alice.kill9()
    assert lent() == {alice.ipv4, alice.ipv6}
    route = ["192.168.5.0/24", "via", "10.77.0.77", "metric", "1024", "dev", LAN_BRIDGE]
    host.run(["ip", "route", "add", *route])
    file = alice.state_dir / "lent"
    left = json.loads(file.read_text())
    file.write_text(json.dumps({**left, "routes": [["192.168.5.0/24", 1024, "10.77.0.77"]]}))
    alice.start()
    assert "addresses: 2, routes: 1" in alice.output()
    assert lent() == {alice.ipv4, alice.ipv6}
    assert host.run(["ip", "route", "show", "192.168.5.0/24"]).stdout == ""
    assert alice.stop() == 0
    assert not alice.remains()
    assert (lent(), file.exists()) == (set(), False)

    # A start that fails late: the control socket can't be made.
    alice.config["node"]["socket"] = "/proc/shadowmesh.sock"
    assert alice.launch().wait(20.0) != 0
    assert (lent(), "smesh0" in host.interfaces()) == (set(), False)

    alice.config["interface"]["bridge"] = "lan1"
    alice.write_config()
    done = alice.run(["up", "-c", str(alice.config_path)], check=False)
    assert done.returncode == FAILED, "as a unit tries again after it"
    assert "config.yaml: interface.bridge: there is no bridge lan1; make it with" in done.stderr
    alice.config["interface"]["bridge"] = "under0"
    alice.write_config()
    assert "under0 is no bridge" in alice.run(["up", "-c", str(alice.config_path)], check=False).stderr
    assert "smesh0" not in host.interfaces()
