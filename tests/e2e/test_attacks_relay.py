"""One of two relays is hostile, as a real process: traffic goes on, and nobody outside is harmed.

alice and bob have a direct path, alice and carol the honest relay; dave knows the hostile one only.  Each
test starts that with another behaviour (`hostile_relay.py`).
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.mesh import ClientNode, Mesh
from shadowmesh.testing.process import wait_until
from tests.e2e.wiretap import listening

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Lab

pytestmark = pytest.mark.root

LAB = {"ipv6": False}
HERE = Path(__file__).parent
PINGS = 50
CONFLICT = 7
"""Exit code of a client whose identity two machines hold (docs/cli.md)."""
MAX_GROWTH = 24_000
"""KB that a client may grow by in a few seconds of attack: twice what was seen."""
NEVER = re.compile(r"direct \[?(127|224|255|0\.|10\.77|fe80|ff02|::1)")
"""What is no address of anybody, whoever names it."""
LOOKS = 20
"""At the paths of both, a tenth of a second apart: a lie lasts as long as the next."""
PROBE_SIZE = 100
"""Bytes: no probe to an address that has not answered is larger (docs/protocol.md, 8.2)."""


class Bench:
    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.evil = mesh.relays["evil"]
        self.alice, self.bob, self.carol, self.dave = (
            mesh.clients[name] for name in ("alice", "bob", "carol", "dave")
        )

    def strike(self, behaviour: str) -> None:
        """Start the hostile relay anew; returns when alice has come to it."""
        evil = self.evil
        if evil.process is not None and evil.process.running:
            evil.stop()  # with a goodbye, so that the clients come back at once
        before = len(evil.output())
        evil.write_config()
        command = [sys.executable, str(HERE / "hostile_relay.py"), behaviour, "serve", "-c"]
        evil.process = evil.host.spawn([*command, str(evil.config_path)], str(evil.directory / "log"))
        wait_until(
            lambda: " joined from" in evil.output()[before:],
            40.0,
            lambda: f"a client at it: {evil.output()[-900:]}",
        )

    def at_evil(self, client: ClientNode) -> dict[str, object]:
        """The leg to the hostile relay, in the client's status."""
        name = self.evil.endpoint
        return next(one for one in client.status()["relays"] if one["address"] == name)

    def goes_on(self) -> None:
        """Echoes over the direct path and through a relay: none lost, none doubled."""
        for target in (self.bob, self.carol):
            command = ["ping", "-n", "-q", "-c", str(PINGS), "-i", "0.01", "-W", "3", target.ipv4]
            said = self.alice.host.run(command).stdout
            assert " 0% packet loss" in said, said
            assert "duplicates" not in said
        assert str(self.alice.peer("bob")["path"]).startswith("direct ")
        assert str(self.alice.peer("carol")["path"]).startswith("relay "), "one that carries what it says"


def memory(client: ClientNode) -> int:
    """KB in memory (proc(5), VmRSS)."""
    status = Path(f"/proc/{client.running_process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


@pytest.fixture(scope="module")
def bench(module_lab: Lab) -> Bench:
    mesh = Mesh(module_lab)
    mesh.relay()
    evil = mesh.relay("evil")
    listed = {
        "alice": ["bob", "carol", "dave"],
        "bob": ["alice"],
        "carol": ["alice", "dave"],
        "dave": ["alice"],
    }
    for name, peers in listed.items():
        mesh.client(name, peers)
    module_lab.host("victim")
    mesh.configure()
    for name in ("alice", "bob"):
        mesh.clients[name].config["paths"] = {"direct": "auto"}
    dave = mesh.clients["dave"]
    dave.config["relays"] = [one for one in dave.config["relays"] if one["id"] == evil.node_id]
    mesh.relays["relay"].start()
    for client in mesh.clients.values():
        client.launch()
    mesh.clients["alice"].wait_peers("bob", "carol")
    bench = Bench(mesh)
    wait_until(lambda: str(bench.alice.peer("bob")["path"]).startswith("direct "), 20.0, "a direct path")
    return bench


@pytest.mark.parametrize("behaviour", ["middle", "substitute"])
def test_somebody_else_in_the_peers_place(bench: Bench, behaviour: str) -> None:
    """dave calls alice; the relay itself answers, or carol, who waits for dave: neither has alice's keys.

    The first test: later on dave and alice have met, and a session that stands is not touched by any of this.
    """
    before = len(bench.evil.output())
    bench.strike(behaviour)
    dave = bench.dave
    wait_until(
        lambda: "NodeID" in str(dave.peer("alice")["last_error"]), 40.0, lambda: str(dave.peer("alice"))
    )
    assert dave.peer("alice")["state"] != "connected"
    assert bench.carol.peer("dave")["state"] != "connected"
    assert "NodeID" in dave.verb("why", "alice", check=False).stdout
    assert dave.host.run(
        ["ping", "-c", "3", "-i", "0.1", "-W", "1", bench.alice.ipv4], check=False
    ).returncode
    assert dave.peer("alice")["tx_frames"] == 0, "nothing was sealed for whoever that is"
    said = bench.evil.output()[before:]
    assert "the middle has agreed" not in said
    # Of alice it may get sealed probes of her session with carol, for whom its channel is on trial.
    assert f"a sealed packet by {dave.node_id}" not in said
    bench.goes_on()


def test_flood_of_inventions(bench: Bench) -> None:
    bench.strike("flood")
    wait_until(lambda: bench.alice.status()["drops"].get("unknown_node", 0) > 300, 20.0, "it floods")
    before = memory(bench.alice), len(bench.alice.status()["peers"])
    seen = bench.alice.status()["drops"].get("unknown_node", 0)
    bench.goes_on()
    assert bench.alice.status()["drops"].get("unknown_node", 0) > seen, "it went on all the time"
    assert memory(bench.alice) - before[0] < MAX_GROWTH
    assert len(bench.alice.status()["peers"]) == before[1] == 3
    bench.carol.restart()  # and it keeps nobody apart who is not met yet
    bench.alice.wait_peers("carol", timeout=40.0)
    bench.goes_on()


def test_messages_that_no_limit_allows(bench: Bench) -> None:
    bench.strike("oversized")
    wait_until(
        lambda: "oversized_message" in str(bench.at_evil(bench.alice)["last_error"]),
        20.0,
        lambda: str(bench.at_evil(bench.alice)),
    )
    bench.goes_on()


def test_lies_about_addresses(bench: Bench) -> None:
    """alice and bob are told that they were seen at a victim's address, and each tells the other."""
    victim = bench.mesh.lab.host("victim")
    with listening(victim) as arrived:
        began = time.monotonic()
        bench.strike(f"liar={victim.ipv4}")
        ours, tried = {str(one.host.ipv4) for one in (bench.alice, bench.bob)}, set[str]()
        looks = 0

        def probed() -> bool:
            nonlocal looks
            looks += 1
            tried.update(path["path"] for client in (bench.alice, bench.bob) for path in _paths(client))
            return looks > LOOKS and ours <= {source for source, _, _ in arrived()}

        wait_until(probed, 30.0, "probes of both at the victim", interval=0.1)
        assert not [one for one in tried if NEVER.search(one)]
        bench.goes_on()
        bench.evil.stop()
        lasted = time.monotonic() - began
        quiet = [time.monotonic(), len(arrived())]

        def is_quiet() -> bool:
            if len(arrived()) != quiet[1]:
                quiet[:] = [time.monotonic(), len(arrived())]
            return time.monotonic() - quiet[0] > 2.5

        wait_until(is_quiet, 30.0, "an end of the probes: nothing answers, and a direct path works")
        probes = [one for one in arrived() if one[0] in ours]
    assert max(len(payload) for _, _, payload in probes) <= PROBE_SIZE
    most = max(Counter((source, port) for source, port, _ in probes).values())
    assert most <= 5 * (lasted + 3) + 1, "five a second to each address, from each of them"


def test_claim_of_two_holders(bench: Bench) -> None:
    """Who has another relay leaves this one, for an hour: so the test is the last.  dave has no other."""
    bench.strike("duplicate")
    wait_until(
        lambda: "two machines" in str(bench.at_evil(bench.alice)["last_error"]),
        20.0,
        lambda: str(bench.at_evil(bench.alice)),
    )
    bench.goes_on()
    assert bench.alice.running_process.running
    assert bench.dave.running_process.wait(20.0) == CONFLICT


def _paths(client: ClientNode) -> list[dict[str, str]]:
    other = "bob" if client.name == "alice" else "alice"
    return list(client.peer(other)["paths"])
