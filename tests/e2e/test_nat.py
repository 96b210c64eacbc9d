"""Real clients behind real NATs: direct where theory allows it, else relayed, and `status` says which.

All clients are in one lab and all are peers of each other, so that one start shows every pair.
"""

from __future__ import annotations

import json
import time
from functools import partial
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from bench import fallback, migrate, roam
from shadowmesh.testing.mesh import RELAY_PORT, Mesh
from shadowmesh.testing.natlab import Kind, NatLab
from shadowmesh.testing.process import wait_until
from tests.protocol.nat_matrix import ACCESSES, DIRECT, RELAY, Access, expected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root

DIRECT_WITHIN = 20.0
"""Seconds until every pair that can be direct is: eleven clients start at once on a small machine."""

CLIENTS = {
    "open": "open",
    "cone": "full cone",
    "restricted": "restricted",
    "strict": "port-restr.",
    "strict2": "port-restr.",
    "neighbour": "port-restr.",
    "random": "symmetric",
    "random2": "symmetric",
    "double": "double",
    "walled": "walled",
    "six": "IPv6",
}
"""Names of the clients, and which access of the matrix each has."""

SAME_NETWORK = {"strict", "neighbour"}


def place(lab: NatLab, relay: str) -> None:
    """Put every client where it belongs; `strict` and `neighbour` are behind one router."""
    kinds = {"cone": Kind.FULL_CONE, "restricted": Kind.RESTRICTED, "random": Kind.SYMMETRIC}
    kinds |= {"random2": Kind.SYMMETRIC}
    lab.host("open", ipv6=False)
    lab.host("six", ipv4=False)
    carrier = lab.router("carrier", Kind.FULL_CONE)
    for name in CLIENTS:
        if name in lab.hosts or name == "neighbour":
            continue
        behind = carrier if name == "double" else None
        router = lab.router(f"r-{name}", kinds.get(name, Kind.PORT_RESTRICTED), behind=behind)
        if name == "walled":
            router.block_udp(relay)
        lab.behind(name, router)
    lab.behind("neighbour", lab.routers["r-strict"])


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with NatLab() as lab:
        mesh = Mesh(lab)
        relay = mesh.relay()
        place(lab, relay.host.address)
        for name in CLIENTS:
            mesh.client(name)
        mesh.configure()
        for client in mesh.clients.values():
            client.config["paths"] = {"direct": "auto"}
        mesh.clients["six"].config["relays"][0]["address"] = f"[{relay.host.ipv6}]:{RELAY_PORT}"
        yield mesh.start()
    lab.check_leaks()


def access(name: str) -> Access:
    return next(one for one in ACCESSES if one.name == CLIENTS[name])


def hoped(one: str, two: str) -> str:
    return DIRECT if {one, two} == SAME_NETWORK else expected(access(one), access(two))


def kinds(client: ClientNode) -> dict[str, str]:
    """The sort of path to each peer, as `status` has it."""
    return {peer["name"]: (peer["path"] or "none").split()[0] for peer in client.status()["peers"]}


def test_every_pair_takes_the_best_path_that_theory_allows(mesh: Mesh) -> None:
    def wrong() -> list[tuple[str, str]]:
        found = {name: kinds(client) for name, client in mesh.clients.items()}
        return [(one, two) for one, two in permutations(CLIENTS, 2) if found[one][two] != hoped(one, two)]

    def described() -> str:
        return "\n".join(f"{one}: {mesh.clients[one].verb('why', two).stdout}" for one, two in wrong())

    wait_until(lambda: not wrong(), DIRECT_WITHIN, described)
    time.sleep(3.0)
    assert not wrong(), described()


def test_frames_cross_every_sort_of_path(mesh: Mesh) -> None:
    for one, two in (("strict", "strict2"), ("random", "random2"), ("six", "open"), ("strict", "neighbour")):
        mesh.clients[one].host.ping(mesh.clients[two].ipv4)


def test_neighbours_use_their_own_network(mesh: Mesh) -> None:
    path = mesh.clients["strict"].peer("neighbour")["path"]
    assert mesh.clients["neighbour"].host.address in path


def test_the_status_command_says_so(mesh: Mesh) -> None:
    peers = json.loads(mesh.clients["random"].verb("status", "--json").stdout)["peers"]
    paths = {peer["name"]: peer["path"].split()[0] for peer in peers}
    assert paths == {name: hoped("random", name) for name in CLIENTS if name != "random"}
    assert set(paths.values()) == {DIRECT, RELAY}


def test_falls_back_within_a_second_and_returns() -> None:
    figures = fallback.measure(3)
    assert max(figures["interrupted"]) < fallback.LIMIT
    assert len(figures["returned"]) == 1
    assert len(figures["returned at once"]) == 2


def test_migration_loses_and_doubles_nothing() -> None:
    with NatLab() as lab:
        pair = migrate.Pair(lab)
        run = migrate.stream(pair.nodes, 5000, 1000, 1.0, partial(migrate.migrate, pair, 5000))
    lab.check_leaks()
    assert run.path.startswith("direct ")
    assert (run.result.lost, run.result.doubled) == (0, 0), migrate.describe(run)


def test_roaming_client_keeps_its_tcp_connection() -> None:
    figures = roam.measure(2)
    assert max(figures["tcp"]) < 5.0
