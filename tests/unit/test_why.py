"""What `why` says in each situation: the cause, and something that a person can do about it."""

from __future__ import annotations

import re
from ipaddress import IPv6Address

import pytest

from shadowmesh.api.schema import Side, TriedAddress, WhyReply
from shadowmesh.core.shared import Changed
from shadowmesh.node.why import REFUSED, _relayed, explain
from tests.protocol.mesh import Mesh

SYMMETRIC = "mapping address-and-port-dependent, filtering address-and-port-dependent"
PICKY = "mapping endpoint-independent, filtering address-and-port-dependent"
RELAY = "relay relay.test:4433"


@pytest.fixture
def mesh() -> Mesh:
    """A relay and no client yet."""
    made = Mesh()
    made.start_relay()
    return made


def side(*tried: tuple[str, str], nat: str = "") -> Side:
    addresses = [
        TriedAddress(address=f"198.51.100.{number}:5", state=state, detail=detail)
        for number, (state, detail) in enumerate(tried)
    ]
    return Side(path=RELAY, reason="it is the first that works", nat=nat, tried=addresses)


DEAD = ("failed", "no answer")


@pytest.mark.parametrize(
    ("mode", "here", "there", "finding", "advice"),
    [
        ("never", side(), None, "switched off here", "auto"),
        ("static", side(), None, "names no `endpoint:`", "endpoint"),
        ("auto", side(), side(), "told us no address", "configuration of bob"),
        ("auto", side(DEAD, ("usable", "")), None, "198.51.100.1:5 works", ""),
        ("auto", side(("trying", "")), None, "being tried right now", "again"),
        ("auto", side(("failed", "small packets pass, full-size ones do not")), None, "1200 bytes", "MTU"),
        ("auto", side(DEAD), side(DEAD), "none of 1 addresses of bob", "firewall"),
        ("auto", side(DEAD), side(), "switched off there", "firewall"),
        ("auto", side(DEAD, nat=SYMMETRIC), side(DEAD, nat=SYMMETRIC), "NAT here and the NAT at bob", "UPnP"),
        ("auto", side(DEAD, nat=PICKY), side(DEAD, nat=SYMMETRIC), "NAT at bob takes another", "UPnP"),
        ("auto", side(DEAD, nat=SYMMETRIC), side(DEAD, nat="mapping no NAT"), "none of 1", "firewall"),
    ],
)
def test_the_cause_and_a_remedy(mode: str, here: Side, there: Side | None, finding: str, advice: str) -> None:
    findings, remedies = _relayed("bob", mode, here, there)  # type: ignore[arg-type]
    assert finding in " ".join(findings)
    assert advice in " ".join(remedies)
    with_id = [one for one in findings if re.search(r" \[path\.[a-z-]+\]$", one)]
    assert bool(with_id) == bool(remedies), "what can be mended can be looked up"


def story(mesh: Mesh, number: int = 0, problem: str | None = None) -> WhyReply:
    core = mesh.clients[number].core
    peer = mesh.peer(number, 1 - number)
    mode = core.peers[peer.member.node_id].routing._mode
    return explain(peer.member, peer.routing, mode, core.network, problem, peer.refusals)


def test_both_sides_of_a_direct_path(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct="auto")
    mesh.pair_up()
    mesh.network.run_for(10)
    reply = story(mesh)
    assert reply.direct
    assert reply.there is not None
    assert (reply.here.path, reply.there.path) == ("direct 198.51.100.2:5000", "direct 198.51.100.1:5000")
    assert reply.advice == []


def test_a_firewall_in_between(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct="auto")
    relay = mesh.relay_address
    mesh.network.filter = lambda source, target, data: relay in (source, target)
    mesh.pair_up()
    mesh.network.run_for(15)
    reply = story(mesh)
    assert not reply.direct
    assert "none of 1 addresses of node1 has answered us [path.unanswered]" in reply.findings
    assert "node1 tried 1 of ours: no answer" in reply.findings


def test_without_any_path() -> None:
    mesh = Mesh()
    mesh.start_client(0, (1,))
    reply = story(mesh, problem="no relay")
    assert reply.findings == ["there is no path to node1: no relay"]


def test_frames_that_the_guards_refused(mesh: Mesh) -> None:
    """Told to the log at once, and then once a minute."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    client = mesh.clients[0]
    example = ("spoofed_address", client.mac, IPv6Address("::ffff:10.77.0.9").packed)
    refused = client.tables.refusals[mesh.peer(0, 1).handle] = {
        "spoofed_address": 3,
        "ra_guard": 0,
        "example": example,
    }

    def lines() -> list[str]:
        return [one.what for one in client.events if isinstance(one, Changed) and "refused" in one.what]

    mesh.network.run_for(2)
    text = f"spoofed_address of the address 10.77.0.9, MAC {client.mac.hex(':')}"
    assert lines() == [f"frames refused: spoofed_address 3; for example {text} [peer.frames-refused]"]
    refused |= {"spoofed_address": 9, "ra_guard": 1, "example": None}
    mesh.network.run_for(50)
    assert len(lines()) == 1
    mesh.network.run_for(15)
    assert lines()[1:] == [
        f"frames refused: spoofed_address 6, ra_guard 1; for example {text} [peer.frames-refused]"
    ]
    mesh.network.run_for(200)
    assert len(lines()) == 2
    findings = story(mesh).findings
    claimed = REFUSED["spoofed_address"]
    assert f"9 frames of node1 were refused: {claimed} [peer.frames-refused]" in findings
    assert findings[-1].endswith(text)


def test_a_leg_over_tcp_is_part_of_the_story(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    core, peer = mesh.clients[0].core, mesh.peer(0, 1)
    reply = explain(
        peer.member, peer.routing, "never", core.network, None, peer.refusals, over_tcp="relay.test:4433"
    )
    assert "UDP to relay relay.test:4433 is blocked" in " ".join(reply.findings)
    assert "let UDP to relay.test:4433 out of this network" in reply.advice
    assert "TCP" not in " ".join(story(mesh).findings)
