"""Direct paths to addresses of the configuration: taken while they answer, left when they don't."""

from __future__ import annotations

import pytest

from tests.protocol.mesh import Mesh


def crosses_relay(mesh: Mesh, mark: int) -> bool:
    """Whether anything as large as a frame went to the relay since `mark`."""
    return any(
        target == mesh.relay_address and len(data) > 500 for _, _, target, data in mesh.network.sent[mark:]
    )


@pytest.fixture
def pair(mesh: Mesh) -> Mesh:
    """Two clients that know each other's address, and have used it for a while."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct="static")
    mesh.pair_up()
    mesh.network.run_for(2)
    return mesh


def exchange_large(mesh: Mesh) -> None:
    for source, target in ((0, 1), (1, 0)):
        frame = mesh.frame(source, target, mesh.network.random.randbytes(1000))
        mesh.send(source, frame)
        mesh.network.run_until(lambda f=frame, t=target: f in mesh.clients[t].frames, 1)  # type: ignore[misc]


def test_frames_go_directly(pair: Mesh) -> None:
    assert pair.peer(0, 1).path == "direct 198.51.100.2:5000"
    assert pair.peer(1, 0).path == "direct 198.51.100.1:5000"
    mark = len(pair.network.sent)
    exchange_large(pair)
    assert not crosses_relay(pair, mark)


def test_without_the_word_static_endpoints_are_not_used(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(2)
    assert mesh.peer(0, 1).path == "relay relay.test:4433"


def test_falls_back_to_the_relay_and_returns(pair: Mesh) -> None:
    relay = pair.relay_address
    pair.network.filter = lambda source, target, data: relay in (source, target)
    pair.network.run_until(lambda: "relay" in (pair.peer(0, 1).path or ""), 40)
    pair.network.run_until(lambda: "relay" in (pair.peer(1, 0).path or ""), 40)
    exchange_large(pair)
    pair.network.filter = lambda source, target, data: True
    pair.network.run_until(lambda: "direct" in (pair.peer(0, 1).path or ""), 20)
    exchange_large(pair)


def test_direct_path_outlives_the_relay(pair: Mesh) -> None:
    assert pair.relay is not None
    pair.network.detach(pair.relay)
    pair.network.run_for(170)
    exchange_large(pair)
    pair.network.run_for(60)
    exchange_large(pair)
    assert pair.clients[0].core.probe(pair.clients[0].core.roster.members[0], pair.network.now)


def test_wrong_address_costs_nothing_but_probes(mesh: Mesh) -> None:
    """Nothing answers there: all goes through the relay, and the session stays."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct="static")
    relay = mesh.relay_address
    mesh.network.filter = lambda source, target, data: relay in (source, target)
    mesh.pair_up()
    session = mesh.peer(0, 1).session
    mesh.network.run_for(120)
    assert mesh.peer(0, 1).session is session
    exchange_large(mesh)


def test_relay_that_comes_and_goes_costs_a_direct_path_no_lanes(pair: Mesh) -> None:
    session = pair.peer(0, 1).session
    assert session is not None
    left = session.lanes_left
    for _ in range(8):
        assert pair.relay is not None
        pair.relay.core.close(pair.network.now)
        pair.network.flush(pair.relay)
        pair.network.run_for(0.05)
        pair.network.detach(pair.relay)
        pair.network.run_for(0.5)
        pair.start_relay()
        pair.network.run_until(lambda: pair.peer(0, 1).channel is not None, 10)
        exchange_large(pair)
    assert pair.peer(0, 1).session is session
    assert session.lanes_left == left
