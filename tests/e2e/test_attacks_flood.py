"""Strangers who flood and who reflect: handshakes from invented addresses, and all that anybody can send.

The relay and a client with a direct path are attacked by a host that has no key of anything.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from shadowmesh.testing.capture import parse_datagram
from shadowmesh.testing.lab import UNDERLAY_INTERFACE
from shadowmesh.testing.mesh import RELAY_PORT, Mesh
from shadowmesh.testing.process import wait_until

from .strangers import ETH_P_IP, Flood, Stranger, initial, liar, resident, stranger, token_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab
    from shadowmesh.testing.mesh import RelayNode

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

CLIENT_PORT = 7777
RATE = 2000
"""Datagrams a second: a flood to asyncio, and little for a machine that others use."""
MANY = 3000
"""Datagrams of the floods that wait for nothing."""
GROWTH = 16 << 20
"""Bytes of resident memory that a flood may cost: the two rings have 1.5 MB, and allocators round up."""
EACH = 10
"""Datagrams of each sort that may make somebody answer."""


@pytest.fixture(scope="module")
def mesh(module_lab: Lab) -> Mesh:
    """alice and bob, with a direct path; carol is there later."""
    mesh = Mesh(module_lab)
    mesh.relay()
    alice, bob = (mesh.client(name, [other]) for name, other in (("alice", "bob"), ("bob", "alice")))
    mesh.client("carol", [])
    mesh.configure()
    for client in (alice, bob):
        client.config["paths"] = {"direct": "auto"}
        client.config["listen"]["port"] = CLIENT_PORT
    mesh.relays["relay"].start()
    for client in (alice, bob):
        client.launch()
    for client, other in ((alice, "bob"), (bob, "alice")):
        client.wait_peers(other)
        wait_until(lambda c=client, o=other: c.peer(o)["path"].startswith("direct"), 60.0, "a direct path")  # type: ignore[misc]
    return mesh


@pytest.fixture(scope="module")
def mallory(mesh: Mesh) -> Iterator[Stranger]:
    hosts = (mesh.relays["relay"].host, mesh.clients["alice"].host)
    with stranger(mesh.lab.host("mallory"), *hosts) as made:
        yield made


def status(relay: RelayNode) -> dict[str, Any]:
    command = ["status", "--socket", str(relay.state_dir / "relay.sock"), "--json"]
    found: dict[str, Any] = json.loads(relay.run(command).stdout)
    return found


def dropped(relay: RelayNode, before: dict[str, Any], reason: str) -> int:
    return int(status(relay)["drops"].get(reason, 0) - before["drops"].get(reason, 0))


def alive(mesh: Mesh) -> None:
    alice, bob = mesh.clients["alice"], mesh.clients["bob"]
    text = alice.host.run(["ping", "-n", "-c", "20", "-i", "0.02", "-W", "5", bob.ipv4]).stdout
    assert " 0% packet loss" in text, text


def test_handshakes_from_invented_addresses_cost_the_relay_nothing_that_stays(
    mesh: Mesh, mallory: Stranger
) -> None:
    """Without a token, with a forged one, and with one that was given to somebody else."""
    relay, carol = mesh.relays["relay"], mesh.clients["carol"]
    before, memory = status(relay), resident(relay)
    mallory.send(initial(), liar(0), 4000, relay.host, RELAY_PORT)
    answered = [token_of(one.payload) for one in mallory.came_until_quiet()]
    assert answered[0] is not None, "a Retry, as for everybody"
    token, server_id = answered[0]

    def knock(number: int) -> None:
        datagram = (
            initial(),
            initial(secrets.token_bytes(49 + number % 13)),
            initial(token, destination=server_id),  # of liar(0), port 4000
        )[number % 3]
        mallory.send(datagram, liar(1 + number), 1024 + number % 60_000, relay.host, RELAY_PORT)

    with Flood(knock, RATE) as flood:
        carol.launch()
        carol.wait_relay()
        alive(mesh)
        wait_until(lambda: flood.sent >= MANY, 60.0, "the flood")
        assert status(relay)["totals"]["handshakes_under_way"] == 0
    came = mallory.came_until_quiet()
    handshakes = status(relay)["totals"]["handshakes"]
    assert handshakes["completed"] == before["totals"]["handshakes"]["completed"] + 1, "carol's"
    assert handshakes["failed"] == before["totals"]["handshakes"]["failed"], "no connection was begun"
    assert dropped(relay, before, "token") > 100, "two of three had a token"
    assert len({one.target for one in came}) > 20, "who has no token gets a Retry"
    assert all(token_of(one.payload) is not None for one in came)
    assert sum(len(one.payload) for one in came) < flood.sent / 3 * 1200 / 2
    assert resident(relay) - memory < GROWTH
    alive(mesh)


def test_tokens_that_were_earned_begin_few_handshakes_and_hold_no_place(
    mesh: Mesh, mallory: Stranger
) -> None:
    """Who answers its Retries, from 300 addresses of one network, with what never opens."""
    relay = mesh.relays["relay"]
    before, memory = status(relay), resident(relay)
    sources = {liar(number % 200): 2000 + number for number in range(300)}
    for source, port in sources.items():
        mallory.send(initial(), source, port, relay.host, RELAY_PORT)
    earned = {}
    for one in mallory.came_until_quiet():
        found = token_of(one.payload)
        if found is not None:
            earned[one.target, one.target_port] = found
    assert len(earned) > 20
    for _ in range(2):  # a token begins one handshake
        for (source, port), (token, server_id) in earned.items():
            mallory.send(initial(token, destination=server_id), source, port, relay.host, RELAY_PORT)
    wait_until(
        lambda: status(relay)["totals"]["handshakes"]["failed"] > before["totals"]["handshakes"]["failed"],
        60.0,
        "the first to be forgotten",
    )
    wait_until(lambda: status(relay)["totals"]["handshakes_under_way"] == 0, 60.0, "no place to be held")
    begun = status(relay)["totals"]["handshakes"]["failed"] - before["totals"]["handshakes"]["failed"]
    assert begun <= len(earned)
    assert relay.output().count("its first packet does not open") == begun, "forgotten at once"
    assert resident(relay) - memory < GROWTH
    answers = sum(len(one.payload) for one in mallory.came_until_quiet())
    assert answers <= 3 * 2 * 1200 * len(earned)
    alive(mesh)


def test_handshakes_at_the_port_of_a_client_are_not_even_read(mesh: Mesh, mallory: Stranger) -> None:
    """A client takes a handshake through a channel of its relay only."""
    alice = mesh.clients["alice"]
    before, memory = alice.status(), resident(alice)

    def knock(number: int) -> None:
        token = secrets.token_bytes(49) if number % 2 else b""
        mallory.send(initial(token), liar(number), 1024 + number % 60_000, alice.host, CLIENT_PORT)

    with Flood(knock, 2 * RATE) as flood:
        wait_until(lambda: flood.sent >= MANY, 60.0, "the flood")
        alive(mesh)
    wait_until(
        lambda: (
            alice.status()["drops"]["unexpected_long_header"] - before["drops"]["unexpected_long_header"]
            >= MANY / 2
        ),
        60.0,
        lambda: f"{flood.sent} sent: {alice.status()['drops']}",
    )
    assert mallory.came_until_quiet() == []
    assert alice.status()["counters"]["events"] - before["counters"]["events"] < flood.sent / 10
    assert resident(alice) - memory < GROWTH
    assert alice.peer("bob")["state"] == "connected"


# ---- reflection and amplification -------------------------------------------------------------


def recorded(mesh: Mesh, at: str) -> list[bytes]:
    """What the others send this node: of its relay leg, of channels, of a direct path."""
    nodes = {**mesh.relays, **mesh.clients}
    host = nodes[at].host
    port = RELAY_PORT if at == "relay" else CLIENT_PORT
    found: dict[tuple[str, bytes], bytes] = {}
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as tap:
        tap.bind((UNDERLAY_INTERFACE, ETH_P_IP))
        tap.settimeout(0.5)
        alive(mesh)
        mesh.clients["bob"].verb("netcheck", check=False)  # asks the relay, which an idle client does not
        while len(found) < 64:
            try:
                datagram = parse_datagram(tap.recv(65536))
            except TimeoutError:
                break
            if datagram is not None and datagram.target_port == port:
                found[datagram.source, datagram.payload[:40]] = datagram.payload
    return list(found.values())


def sorts(mesh: Mesh, at: str) -> dict[str, list[bytes]]:
    """Of everything that a stranger can send, `EACH` and the recorded ones."""
    known = recorded(mesh, at)
    assert known
    noise = secrets.token_bytes
    first = [bytes((0x40 | secrets.randbelow(64),)) for _ in range(EACH)]
    return {
        # No long header, of which some would be of another version, and be answered.
        "noise": [bytes((secrets.randbelow(0xC0),)) + noise(150 * number) for number in range(EACH)],
        "Initial": [initial() for _ in range(EACH)],
        "Initial of 1199": [initial(size=1199) for _ in range(EACH)],
        "Initial, forged token": [initial(noise(49)) for _ in range(EACH)],
        "Initial, invented ticket": [initial(noise(32)) for _ in range(EACH)],
        "other versions": [initial(version=0x0A0A0A0A), initial(version=0x6B3343CF)] * (EACH // 2),
        "other versions, short": [initial(version=0x0A0A0A0A, size=60) for _ in range(EACH)],
        "Version Negotiation": [initial(version=0) for _ in range(EACH)],
        "unknown id": [one + noise(300) for one in first],
        "stateless reset bait": [one + noise(42) for one in first],
        "known id, random": [data[:9] + noise(max(20, len(data) - 9)) for data in known],
        "known id, short": [data[:9] for data in known],
        "replayed": known,
        "replayed in a channel": [data[:9] + other for data in known[:8] for other in known[:8]],
    }


@pytest.mark.parametrize("at", ["relay", "alice"])
def test_nobody_is_sent_more_than_a_stranger_sent_in_its_name(mesh: Mesh, mallory: Stranger, at: str) -> None:
    """At most half of it, and only a Retry or a Version Negotiation; a client sends nothing at all."""
    host = {**mesh.relays, **mesh.clients}[at].host
    port = RELAY_PORT if at == "relay" else CLIENT_PORT
    went, came = Counter[str](), Counter[str]()
    mallory.came()
    for number, (sort, datagrams) in enumerate(sorts(mesh, at).items()):
        for data in datagrams:
            mallory.send(data, liar(number), 5000 + number, host, port)
            went[sort] += len(data)
        for one in mallory.came_until_quiet(quiet=0.15):
            assert one.target == liar(number)
            assert one.payload[0] & 0xC0 == 0xC0, "a long header"
            came[sort] += len(one.payload)
    answered = {"Initial", "Initial, invented ticket", "other versions"} if at == "relay" else set()
    assert set(came) == answered, came
    assert all(came[sort] <= went[sort] / 2 for sort in came), (came, went)
    alive(mesh)
