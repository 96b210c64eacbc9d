"""Port mapping at a real gateway: Debian's miniupnpd with nftables, in namespaces.

    inside --under0-- gateway (10.99.0.2 | 8.8.4.4) --ext0-- outside

The outside address must look public, or miniupnpd refuses; nothing leaves the namespaces.
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shadowmesh.io.network import Gateway
from shadowmesh.io.portmap import PortMapper
from shadowmesh.io.upnp import UpnpMapping
from shadowmesh.path.portmap import PortMapping
from shadowmesh.testing.lab import Host, Lab
from shadowmesh.testing.mesh import Mesh
from shadowmesh.testing.process import wait_until
from shadowmesh.units import Address
from shadowmesh.wire.portmap import encode_pcp_map

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("miniupnpd") is None, reason="Debian's miniupnpd-nftables is not there"),
]
needs_upnp = pytest.mark.skipif(
    importlib.util.find_spec("async_upnp_client") is None, reason="the extra upnp is not installed"
)

PORT = 4400
OUTSIDE_ADDRESS = "8.8.4.4"
_RULES = """
table inet filter {
    chain forward {
        type filter hook forward priority 0; policy drop; jump miniupnpd; iifname "under0" accept;
    }
    chain miniupnpd { }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting {
        type nat hook postrouting priority 100; jump postrouting_miniupnpd; oifname "ext0" masquerade;
    }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
"""


class Home:
    """A host behind a gateway that runs miniupnpd."""

    def __init__(self, lab: Lab) -> None:
        self.inside, self.gateway, self.outside = (
            lab.host(name) for name in ("inside", "gateway", "outside")
        )
        self.lab = lab
        namespace = self.outside.namespace
        self.gateway.run(
            ["ip", "link", "add", "ext0", "type", "veth", "peer", "name", "ext0", "netns", namespace]
        )
        self.gateway.run(["ip", "addr", "add", f"{OUTSIDE_ADDRESS}/24", "dev", "ext0"])
        self.outside.run(["ip", "addr", "add", "8.8.4.1/24", "dev", "ext0"])
        for host in (self.gateway, self.outside):
            host.run(["ip", "link", "set", "ext0", "up"])
        self.outside.run(["ip", "link", "set", "under0", "down"])
        self.gateway.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        self.nft(self.gateway, _RULES)
        assert self.gateway.ipv4
        self.inside.run(["ip", "route", "add", "default", "via", self.gateway.ipv4])
        self.way = Gateway(self.gateway.ipv4, str(self.inside.ipv4), 0)

    def nft(self, host: Host, rules: str) -> None:
        path = self.lab.directory / f"{secrets.token_hex(4)}.nft"
        path.write_text(rules)
        host.run(["nft", "-f", str(path)])

    def start(self, *, pcp: bool, upnp: bool) -> None:
        """`pcp` stands for NAT-PMP too: miniupnpd has one switch for both."""
        config = self.lab.directory / "miniupnpd.conf"
        lines = {
            "ext_ifname": "ext0",
            "ext_ip": OUTSIDE_ADDRESS,
            "listening_ip": "under0",
            "enable_natpmp": "yes" if pcp else "no",
            "enable_upnp": "yes" if upnp else "no",
            "secure_mode": "yes",
            "upnp_table_name": "filter",
            "upnp_nat_table_name": "filter",
            "upnp_forward_chain": "miniupnpd",
            "upnp_nat_chain": "prerouting_miniupnpd",
            "upnp_nat_postrouting_chain": "postrouting_miniupnpd",
            "uuid": "00000000-0000-4000-8000-000000000001",
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        config.write_text(f"{text}allow 1024-65535 10.99.0.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n")
        pid = str(self.lab.directory / "miniupnpd.pid")
        self.gateway.spawn(["miniupnpd", "-f", str(config), "-d", "-P", pid], "miniupnpd.log")
        port = ":5351" if pcp else ":1900"
        wait_until(lambda: port in self.gateway.run(["ss", "-Hlun"]).stdout, 10.0, f"miniupnpd on {port}")

    def rules(self) -> str:
        return self.gateway.run(["nft", "list", "ruleset"]).stdout

    def run(self, steps: Callable[[PortMapper], Awaitable[None]], way: Gateway | None = None) -> None:
        """`steps` with a mapper on the inside; it is stopped afterwards."""

        async def main() -> None:
            mapper = PortMapper(lambda _external: None, PORT)
            mapper.handle_network([way or self.way])
            try:
                await steps(mapper)
            finally:
                await mapper.stop()

        self.inside.inside(lambda: asyncio.run(main()))

    async def is_reached(self, target: Address) -> bool:
        """Whether a datagram from outside to `target` comes to our port inside."""
        receiver = self.inside.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender = self.outside.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with receiver, sender:
            receiver.bind(("0.0.0.0", PORT))
            receiver.settimeout(2.0)
            sender.sendto(b"hello", tuple(target))
            return await asyncio.to_thread(receiver.recv, 100) == b"hello"


@pytest.fixture
def home(lab: Lab) -> Home:
    return Home(lab)


async def until(mapper: PortMapper, condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition, 15.0, lambda: f"{mapper.external} {mapper.report}")


async def mapped(mapper: PortMapper) -> Address:
    await until(mapper, lambda: mapper.external)
    assert mapper.external is not None
    return mapper.external


def check(home: Home, protocol: str) -> None:
    async def steps(mapper: PortMapper) -> None:
        external = await mapped(mapper)
        assert external.host == OUTSIDE_ADDRESS
        assert mapper.report[protocol] == f"maps {external}"
        assert f"dnat ip to 10.99.0.1:{PORT}" in home.rules()
        assert await home.is_reached(external)

    home.run(steps)
    wait_until(lambda: "dnat" not in home.rules(), 5.0, "the mapping is deleted at the end")


def test_pcp(home: Home) -> None:
    home.start(pcp=True, upnp=False)
    check(home, "pcp")


def test_nat_pmp(home: Home) -> None:
    """The gateway's firewall takes PCP's larger datagrams away; 68 is 60 with the UDP header."""
    home.start(pcp=True, upnp=False)
    chain = "chain input { type filter hook input priority 0; udp dport 5351 udp length 68 drop; }"
    home.nft(home.gateway, f"table inet nopcp {{\n{chain}\n}}\n")
    check(home, "nat-pmp")


@needs_upnp
def test_upnp(home: Home) -> None:
    home.start(pcp=False, upnp=True)
    check(home, "upnp")


@needs_upnp
def test_upnp_takes_another_port_where_somebody_has_ours(home: Home) -> None:
    home.start(pcp=False, upnp=True)
    neighbour = home.lab.host("neighbour")
    first = UpnpMapping(str(home.gateway.ipv4), str(neighbour.ipv4), PORT)
    assert neighbour.inside(lambda: asyncio.run(first.renew())).port == PORT

    async def steps(mapper: PortMapper) -> None:
        external = await mapped(mapper)
        assert external.port != PORT
        assert await home.is_reached(external)

    home.run(steps)


@pytest.mark.parametrize("protocol", ["pcp", pytest.param("upnp", marks=needs_upnp)])
def test_client_shows_its_mapping_and_gives_it_back(home: Home, protocol: str) -> None:
    home.start(pcp=protocol == "pcp", upnp=protocol == "upnp")
    mesh = Mesh(home.lab)
    mesh.relay("gateway")  # never started: no relay is needed for this
    client = mesh.client("inside")
    mesh.configure()
    client.config["log"] = {"addresses": True}
    client.start()

    def nat() -> dict[str, Any]:
        found: dict[str, Any] = client.status()["node"]["nat"]
        return found

    wait_until(lambda: nat()["mapped"], 15.0, lambda: str(nat()))
    port = client.status()["node"]["listen"].rpartition(":")[2]
    assert nat()["mapped"] == f"{OUTSIDE_ADDRESS}:{port}"
    assert nat()["port_mapping"][protocol] == f"maps {OUTSIDE_ADDRESS}:{port}"
    assert f"dnat ip to 10.99.0.1:{port}" in home.rules()
    assert f"port mapping: {OUTSIDE_ADDRESS}:{port}" in client.output()
    assert client.stop() == 0
    wait_until(lambda: "dnat" not in home.rules(), 5.0, "the mapping is deleted at the end")


def test_client_that_may_not_asks_nobody(home: Home) -> None:
    home.start(pcp=True, upnp=True)
    mesh = Mesh(home.lab)
    mesh.relay("gateway")
    client = mesh.client("inside")
    mesh.configure()
    client.config["paths"]["port_mapping"] = "off"
    client.start()
    wait_until(lambda: client.status()["node"]["nat"]["local"], 5.0, "the network is known")
    assert client.status()["node"]["nat"]["port_mapping"] == {}
    assert "dnat" not in home.rules()


def test_gateway_without_any_service(home: Home) -> None:
    """Its system says at once that nobody listens on 5351 (ICMP)."""

    async def steps(mapper: PortMapper) -> None:
        await until(mapper, lambda: "upnp" in mapper.report)
        assert mapper.external is None
        assert mapper.report["pcp"] == "not offered"
        assert mapper.report["upnp"] in ("no answer", "not installed (see Extras in docs/install.md)")

    home.run(steps)


def test_answers_from_elsewhere_are_not_even_seen(home: Home) -> None:
    """Another host of the local network knows our port, and answers in time: the kernel drops it."""
    chain = "chain input { type filter hook input priority 0; udp dport 5351 drop; }"
    home.nft(home.gateway, f"table inet silent {{\n{chain}\n}}\n")
    forger = home.lab.host("forger")

    async def steps(mapper: PortMapper) -> None:
        assert mapper._socket is not None
        request = encode_pcp_map(bytes(12), str(home.inside.ipv4), PORT, 1200)
        reply = b"\x02\x81\0\0" + request[4:8] + bytes(16) + request[24:]
        with forger.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("0.0.0.0", 5351))
            for _ in range(10):
                sender.sendto(reply, mapper._socket.getsockname())
        await asyncio.sleep(0.5)
        assert mapper.external is None
        assert mapper.drops == {}, "nothing came to us at all"

    home.run(steps)


def test_gateway_that_is_behind_a_nat_itself(home: Home) -> None:
    """A small PCP server that answers with a private outside address."""

    def serve() -> None:
        with home.gateway.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.settimeout(15.0)
            server.bind(("0.0.0.0", 5351))
            ready.set()
            data, address = server.recvfrom(1100)
            outside = bytes(10) + b"\xff\xff" + bytes((192, 168, 178, 20))
            server.sendto(
                b"\x02\x81\0\0" + data[4:8] + bytes(16) + data[24:42] + b"\x11\x30" + outside, address
            )

    async def steps(mapper: PortMapper) -> None:
        await until(mapper, lambda: mapper.report)
        assert mapper.external is None
        assert mapper.report["pcp"] == "double NAT: the gateway's outside address 192.168.178.20 is private"

    ready = threading.Event()
    server = threading.Thread(target=serve)
    server.start()
    ready.wait(5)
    home.run(steps)
    server.join()


def test_public_addresses_are_not_mapped(home: Home) -> None:
    async def steps(mapper: PortMapper) -> None:
        assert mapper._mapping is None
        assert mapper.report == {}

    home.run(steps, Gateway("8.8.4.1", OUTSIDE_ADDRESS, 0))


def test_a_mapping_is_asked_for_with_enough_randomness() -> None:
    one, other = (PortMapping(secrets.token_bytes, "10.0.0.1", PORT, 0.0).poll(0.0) for _ in range(2))
    assert one is not None
    assert other is not None
    assert one[24:36] != other[24:36]
