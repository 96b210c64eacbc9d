"""Members on demand over real devices: the first packet makes the session and arrives; none before it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.process import wait_until
from tests.e2e.test_membership import Domain, pings, state_of

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import ClientNode

pytestmark = pytest.mark.root


@pytest.fixture
def home(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Domain:
    return Domain(lab, monkeypatch)


def is_idle(client: ClientNode, name: str) -> bool:
    return client.answers() and state_of(client, name).get("state") == "idle"


def lanes(client: ClientNode) -> set[str]:
    return {peer["name"] for peer in client.status()["peers"] if peer["state"] == "connected"}


def balanced(one: ClientNode, other: ClientNode) -> bool:
    """Whether each has received as much as the other has sent."""
    sent, received = state_of(one, other.name), state_of(other, one.name)
    return all(
        sent[f"{mine}_{what}"] == received[f"{theirs}_{what}"] > 0
        for mine, theirs in (("tx", "rx"), ("rx", "tx"))
        for what in ("frames", "bytes")
    )


def test_the_first_packet_makes_the_session_and_arrives(home: Domain) -> None:
    clients = [home.member(name) for name in ("alice", "bob", "carol")]
    alice, bob, carol = clients
    for client in clients:
        client.config["network"]["connect"] = "demand"
    home.relay.start()
    for client in clients:
        client.start()
    for other in (bob, carol):
        wait_until(lambda o=other: is_idle(alice, o.name), 15.0, f"{other.name} is known")  # type: ignore[misc]
    assert state_of(alice, "bob")["addresses"] == [bob.ipv4, state_of(alice, "bob")["addresses"][1]]
    assert lanes(alice) == set()
    assert "a session is made with the first frame" in alice.verb("why", "bob", check=False).stdout
    assert pings(alice, bob.ipv4, wait=3), "one request only: it was held while the session was made"
    assert lanes(alice) == {"bob"}
    assert lanes(bob) == {"alice"}
    assert lanes(carol) == set()
    wait_until(lambda: balanced(alice, bob), 10.0, "the held frame among those that were sent")
    reply = json.loads(carol.verb("ping", "alice", "--json", "-c", "1").stdout.splitlines()[0])
    assert reply["peer"] == "alice"
    assert lanes(carol) == {"alice"}
    alice.stop()
    kept = [path for path in alice.state_dir.iterdir() if path.name.startswith("members-")]
    assert len(kept) == 1
    assert kept[0].stat().st_mode & 0o777 == 0o600
    alice.start()
    wait_until(lambda: is_idle(alice, "bob"), 15.0, "bob is known again")
