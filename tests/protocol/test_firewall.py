"""Rules by name and group meet members that nobody has listed: by certificates, before any frame counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from shadowmesh._ext.firewall import Firewall as Judge
from shadowmesh.config import Peer
from shadowmesh.node.wall import Wall
from shadowmesh.rules import FirewallSection, Rule, parse_protocol
from tests.protocol.mesh import IDENTITIES, Mesh
from tests.protocol.test_membership import Domain, served
from tests.unit.test_ext_firewall import tcp_frame

if TYPE_CHECKING:
    from shadowmesh._ext.engine import Engine
    from shadowmesh._ext.firewall import Compiled

FRAME = tcp_frame("10.77.0.2", "10.77.0.1", 5000, 22)


def allow(peers: tuple[str, ...] = (), groups: tuple[str, ...] = ()) -> Rule:
    tcp = (parse_protocol("tcp"),)
    return Rule(line=1, action="allow", direction="in", protocols=tcp, peers=peers, groups=groups)


class Gate:
    """Stands for the engine: the firewall alone."""

    def __init__(self) -> None:
        self.judge = Judge()
        self.installed: list[bool] = []

    def set_firewall(self, compiled: Compiled | None, *, same_rules: bool = False) -> None:
        assert compiled is not None
        self.installed.append(same_rules)
        self.judge.install(compiled, same_rules=same_rules)


@pytest.fixture
def home() -> Domain:
    return Domain()


class Guarded:
    """Client 0 of a mesh behind a firewall."""

    def __init__(self, mesh: Mesh, *rules: Rule, peers: tuple[Peer, ...] = ()) -> None:
        self.mesh = mesh
        self.gate = Gate()
        self.wall = Wall(cast("Engine", self.gate), mesh.clients[0].core)
        self.config = mesh.config(0, (), {}, b"")
        self.use(*rules, peers=peers)

    def use(self, *rules: Rule, peers: tuple[Peer, ...] = ()) -> None:
        section = FirewallSection(inbound="deny", outbound="allow", rules=rules)
        self.wall.install(msgspec.structs.replace(self.config, firewall=section, peers=peers))

    def passes(self, other: int, life: int = 1) -> bool:
        number = self.mesh.peer(0, other).handle
        return self.gate.judge.judge(False, number, FRAME, 1, serial=number << 8 | life) == "pass"


def meet(mesh: Mesh, *others: int) -> None:
    mesh.network.run_until(
        lambda: all(IDENTITIES[other].node_id in mesh.clients[0].core.peers for other in others), 10.0
    )
    for other in others:
        mesh.pair_up(0, other)


def start(mesh: Mesh, home: Domain, number: int, **asked: Any) -> None:
    mesh.start_client(number, (), membership=home.member(number, **asked))


def test_a_group_counts_before_the_first_lane_is_there(home: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = served(home)
    start(mesh, home, 0)
    guarded = Guarded(mesh, allow(groups=("admin",)))
    tables = mesh.clients[0].tables
    real = tables.install_receive
    seen: list[tuple[int, bool]] = []

    def install_receive(session: int, peer: int, *rest: Any) -> None:
        peers = mesh.clients[0].core.peers
        known = {node: one.handle for node, one in peers.items()}
        others = [number for number in (1, 2) if known.get(IDENTITIES[number].node_id) == peer]
        seen.extend((other, guarded.passes(other)) for other in others)
        real(session, peer, *rest)

    monkeypatch.setattr(tables, "install_receive", install_receive)
    start(mesh, home, 1, groups=("admin", "web"))
    start(mesh, home, 2, groups=("web",))
    meet(mesh, 1, 2)
    assert set(seen) == {(1, True), (2, False)}
    assert guarded.gate.installed == [False, True], "a member that no rule names changes nothing"


def test_names_are_those_of_certificates_and_a_configured_one_is_nobody_elses(home: Domain) -> None:
    mesh = served(home)
    start(mesh, home, 0)
    bob = Peer("bob", IDENTITIES[2].node_id, (), None, ("admin",))
    guarded = Guarded(mesh, allow(peers=("member1",)))
    start(mesh, home, 1)
    start(mesh, home, 2, name="eve")
    start(mesh, home, 3, name="bob")
    meet(mesh, 1, 2, 3)
    assert [guarded.passes(other) for other in (1, 2, 3)] == [True, False, False]
    guarded.use(allow(peers=("bob",)))
    assert [guarded.passes(other, 2) for other in (1, 2, 3)] == [False, False, True]
    guarded.use(allow(peers=("bob",)), peers=(bob,))
    assert [guarded.passes(other, 3) for other in (1, 2, 3)] == [False, True, False]
    guarded.use(allow(peers=("eve",)), peers=(bob,))
    assert not any(guarded.passes(other, 4) for other in (1, 2, 3)), "the configuration's name goes before"
    guarded.use(allow(groups=("admin",)), peers=(bob,))
    assert [guarded.passes(other, 5) for other in (1, 2, 3)] == [False, True, False]


def test_the_next_certificate_counts_with_its_session_and_ends_connections(home: Domain) -> None:
    mesh = served(home)
    start(mesh, home, 0)
    guarded = Guarded(mesh, allow(groups=("admin",)))
    start(mesh, home, 1, groups=("admin",))
    meet(mesh, 1)
    assert guarded.passes(1)
    counters = guarded.gate.judge.counters()
    mesh.network.detach(mesh.clients[1])
    start(mesh, home, 1, groups=("web",))
    mesh.network.run_until(lambda: mesh.peer(0, 1).member.groups == ("web",), 30.0)
    assert not guarded.passes(1), "a known connection, of a member that may not open it any more"
    assert guarded.gate.installed == [False, True, True]
    after = guarded.gate.judge.counters()
    assert counters is not None
    assert after is not None
    assert after["decided"][0][0] == counters["decided"][0][0] == 1
