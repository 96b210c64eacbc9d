"""Facts for the checks of `doctor`: of a healthy member, and of others to whom something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shadowmesh.api.schema import (
    NamesStatus,
    NatStatus,
    Netcheck,
    NetworkStatus,
    PathStatus,
    RelayCheck,
    Status,
)
from shadowmesh.config import load_client_config
from shadowmesh.diagnosis.facts import (
    Facts,
    FileFact,
    Files,
    HostFirewall,
    Kernel,
    Link,
    Lookup,
    Machine,
    Papers,
    Surroundings,
    Unseen,
    Way,
)
from shadowmesh.diagnosis.findings import Result
from shadowmesh.io import udp
from tests.unit.test_api import make_status

ROOT = Path(__file__).parents[2]
OK, SKIPPED, NOTE, WARNING, PROBLEM = Result
replace = msgspec.structs.replace
NOW = 1_800_000_000.0
DAY = 86_400.0
UNSEEN = Unseen("it is dark")
CONFIG = load_client_config(ROOT / "configs/client.yaml")


MACHINE = Machine(
    system="Linux",
    release="6.6.1-amd64",
    architecture="x86_64",
    memory=1 << 30,
    python=(3, 11),
    openssl=(3, 5),
    openssl_text="OpenSSL 3.5.0",
    installed="0.1.0",
    root=True,
    net_admin=True,
    synchronised=True,
)
KERNEL = Kernel(
    tun="",
    vnet_header=True,
    udp_segments=True,
    udp_coalesces=True,
    shares_ports=True,
    netlink="",
    ipv6=True,
    receive_buffer=udp.BUFFER,
    receive_limit=212_992,
)
FILES = Files(
    config=FileFact(path="/etc/shadowmesh/client.yaml", mode=0o644),
    state_dir=FileFact(path="/var/lib/shadowmesh", mode=0o700),
    identity=FileFact(path="/var/lib/shadowmesh/identity.pem", mode=0o600),
    keys=(FileFact(path="/var/lib/shadowmesh/tickets", mode=0o600),),
    tokens=(),
    free=1 << 30,
)


def healthy() -> Facts:
    """A member whose client runs and to whom nothing is wrong."""
    return Facts(
        now=NOW,
        machine=MACHINE,
        kernel=KERNEL,
        config=CONFIG,
        files=FILES,
        socket=FileFact(path="/run/shadowmesh/shadowmesh.sock", mode=0o600),
        status=running(),
        stopped=False,
        netcheck=reached(),
        names=(Lookup(host="relay.example.net", addresses=("192.0.2.1",)),),
        papers=Papers(
            network="home",
            network_id="h" * 52,
            member="alice",
            groups=(),
            addresses=("10.77.0.1/24",),
            not_before=NOW - 30 * DAY,
            not_after=NOW + 60 * DAY,
            warn_before=14 * DAY,
            list_number=3,
            list_until=NOW + DAY,
        ),
        surroundings=Surroundings(
            links=(Link(name="lo", mtu=65536), Link(name="eth0"), Link(name="smesh0", kind="tun", mtu=1380)),
            ways=(
                Way(to="0.0.0.0/0", device="eth0"),
                Way(to="192.0.2.0/24", device="eth0"),
                Way(to="10.77.0.0/24", device="smesh0"),
            ),
        ),
        firewall=HostFirewall(ruleset=()),
    )


def running() -> Status:
    found = make_status()
    member = NetworkStatus(
        name="home",
        network_id="h" * 52,
        member="alice",
        groups=[],
        serial=1,
        expires_in=60 * DAY,
        revocation_list=3,
        revocation_list_age=5.0,
        clock_behind=0.0,
        renews_for=DAY,
    )
    direct = PathStatus(path="direct", kind="local", state="usable", in_use=True, budget=1472)
    bob = replace(found.peers[0], paths=[*found.peers[0].paths, direct])
    return replace(found, node=replace(found.node, network=member), peers=[bob])


def reached() -> Netcheck:
    return Netcheck(
        nat=NatStatus(mapping="no NAT"),
        udp="works",
        ipv4="works",
        ipv6="no route",
        datagram=1200,
        relays=[
            RelayCheck(address="relay.example.net:4433", state="connected", clock_skew=0.2, clock_error=0.1)
        ],
    )


def stopped(facts: Facts) -> Facts:
    return replace(facts, status=Unseen("no client runs here"), stopped=True)


def machine_with(**changes: object) -> Facts:
    return replace(healthy(), machine=replace(healthy().machine, **changes))


def kernel_with(**changes: object) -> Facts:
    return replace(healthy(), kernel=replace(healthy().kernel, **changes))


def files_with(**changes: object) -> Facts:
    return replace(healthy(), files=replace(healthy().files, **changes))


def node_with(**changes: object) -> Facts:
    status = running()
    return replace(healthy(), status=replace(status, node=replace(status.node, **changes)))


def names_with(**changes: object) -> Facts:
    asked = NamesStatus(
        domain="mesh", listen=["10.77.0.1"], host="resolved", queries=1, answered=1, refused=0, malformed=0
    )
    return replace(healthy(), status=replace(running(), names=replace(asked, **changes)))


def member_with(**changes: object) -> Facts:
    network = running().node.network
    assert network is not None
    return node_with(network=replace(network, **changes))


def net_with(**changes: object) -> Facts:
    return replace(healthy(), netcheck=replace(reached(), **changes))


def relay_with(*others: RelayCheck, **changes: object) -> Facts:
    return net_with(relays=[replace(reached().relays[0], **changes), *others])


def papers_with(**changes: object) -> Facts:
    papers = healthy().papers
    assert isinstance(papers, Papers)
    return replace(healthy(), papers=replace(papers, **changes))


def links_with(*links: Link) -> Facts:
    """Instead of those of the same name."""
    there = {one.name: one for one in healthy().surroundings.links}  # type: ignore[union-attr]
    there.update({one.name: one for one in links})
    return replace(healthy(), surroundings=replace(healthy().surroundings, links=tuple(there.values())))


def without_link(name: str) -> Facts:
    links = tuple(one for one in healthy().surroundings.links if one.name != name)  # type: ignore[union-attr]
    return replace(healthy(), surroundings=replace(healthy().surroundings, links=links))


def way_to(prefix: str) -> Facts:
    ways = (*healthy().surroundings.ways, Way(to=prefix, device="wg0"))  # type: ignore[union-attr]
    return replace(healthy(), surroundings=replace(healthy().surroundings, ways=ways))


def budget_of(kind: str, budget: int | None) -> Facts:
    path = PathStatus(path="this", kind=kind, state="usable", in_use=True, budget=budget)  # type: ignore[arg-type]
    return replace(healthy(), status=replace(running(), peers=[replace(running().peers[0], paths=[path])]))


def rules(*added: dict[str, Any], policy: str = "accept", hook: str = "input") -> HostFirewall:
    chain = {
        "family": "inet",
        "table": "host",
        "name": "in",
        "type": "filter",
        "hook": hook,
        "policy": policy,
    }
    where = {"family": "inet", "table": "host", "chain": "in"}
    told: list[dict[str, object]] = [
        {"rule": {**where, "handle": number, "expr": rule["expr"]}} for number, rule in enumerate(added, 2)
    ]
    return HostFirewall(ruleset=({"metainfo": {}}, {"chain": chain}, *told))


def rule(*expressions: object) -> dict[str, Any]:
    return {"expr": list(expressions)}


def udp_port(right: object, field: str = "dport", op: str = "==", protocol: str = "udp") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}


DROP: dict[str, Any] = {"drop": None}
ACCEPT: dict[str, Any] = {"accept": None}
ALL_UDP: dict[str, Any] = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "udp"}}
REPLIES: dict[str, Any] = {
    "match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}
}
FROM_ETH0: dict[str, Any] = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}


def walled(**changes: object) -> Facts:
    return replace(healthy(), firewall=rules(rule(ALL_UDP, DROP)), **changes)
