"""A relay that dies or deceives is left for another one, and sessions stay; on virtual time."""

from __future__ import annotations

import pytest

from shadowmesh.core.rendezvous import Channel
from shadowmesh.units import Address
from shadowmesh.wire.headers import LONG_HEADER
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import IDENTITIES, Mesh

LIMIT = 5.0
"""Seconds until sessions flow again: the project's requirement."""


@pytest.fixture
def two() -> Mesh:
    """Two clients that know each other at two relays."""
    mesh = Mesh()
    mesh.start_relay()
    mesh.start_second_relay()
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(5)
    return mesh


def channel(mesh: Mesh, number: int) -> Channel:
    found = mesh.peer(number, 1 - number).channel
    assert found is not None
    return found


def used_and_other(mesh: Mesh) -> tuple[MemoryRelay, MemoryRelay]:
    assert mesh.relay is not None
    assert mesh.second_relay is not None
    first = channel(mesh, 0).relay.config.host == "relay.test"
    return (mesh.relay, mesh.second_relay) if first else (mesh.second_relay, mesh.relay)


def sessions(mesh: Mesh) -> list[object]:
    return [mesh.peer(number, 1 - number).session for number in (0, 1)]


def talk(mesh: Mesh, seconds: int) -> None:
    """Twenty frames a second both ways, whether they arrive or not."""
    for _ in range(20 * seconds):
        for source, target in ((0, 1), (1, 0)):
            mesh.send(source, mesh.frame(source, target))
        mesh.network.run_for(0.05)


@pytest.mark.parametrize("direction", [(0, 1), (1, 0)])
def test_relay_that_dies_under_traffic_is_left_in_time(two: Mesh, direction: tuple[int, int]) -> None:
    talk(two, 3)
    before, (dead, _) = sessions(two), used_and_other(two)
    two.network.detach(dead)
    died = two.network.now
    source, target = direction
    two.stream_until_through(source, target, within=LIMIT)
    two.stream_until_through(target, source, within=died + LIMIT - two.network.now)
    assert sessions(two) == before
    assert {channel(two, number).relay.name for number in (0, 1)} == {f"{dead_other(two, dead)}:4433"}


def dead_other(mesh: Mesh, dead: MemoryRelay) -> str:
    return "second.test" if dead is mesh.relay else "relay.test"


def test_relay_that_answers_and_loses_what_it_forwards_is_left(two: Mesh) -> None:
    """Its control connection and its BOUNDs are as good as ever."""
    talk(two, 3)
    before, (deaf, _) = sessions(two), used_and_other(two)

    def forwards_nothing(source: Address, _target: Address, data: bytes) -> bool:
        known = data[:1] and not data[0] & LONG_HEADER and data[1:9]
        return source != deaf.address or not _is_channel(two, known or b"")

    two.network.filter = forwards_nothing
    two.stream_until_through(0, 1, within=LIMIT)
    two.stream_until_through(1, 0, within=1)
    assert sessions(two) == before
    assert all(relay.state.value == "connected" for relay in two.clients[0].core.relays)
    # It is not trusted again soon: nothing that it says brings it traffic.
    for _ in range(10):
        assert not two.peer(0, 1).rendezvous.move(
            next(one for one in two.clients[0].core.relays if one.address == deaf.address), two.network.now
        )
        talk(two, 1)


def _is_channel(mesh: Mesh, table_id: bytes) -> bool:
    return any(table_id in client.tables.channels for client in mesh.clients.values())


def test_session_moves_to_a_better_relay_without_losing_frames(two: Mesh) -> None:
    talk(two, 3)
    before, (_, other) = sessions(two), used_and_other(two)
    better = next(one for one in two.clients[0].core.relays if one.address == other.address)
    two.clients[0].core.homing.look = lambda *_: None  # type: ignore[method-assign]
    two.clients[0].core.homing.relay = better
    counts = [len(two.clients[number].frames) for number in (0, 1)]
    assert two.peer(0, 1).rendezvous.move(better, two.network.now)
    two.network.flush(two.clients[0])
    talk(two, 3)
    two.network.run_for(1)
    assert channel(two, 0).relay is better
    assert channel(two, 1).relay.address == other.address
    assert [len(two.clients[number].frames) - counts[number] for number in (0, 1)] == [60, 60]
    assert sessions(two) == before
    assert all(len(client.tables.channels) == 1 for client in two.clients.values())


def test_a_relay_whose_channel_carries_nothing_gets_no_traffic(two: Mesh) -> None:
    """It offers itself, answers all questions, and forwards nothing: not one frame is lost."""
    talk(two, 3)
    used, other = used_and_other(two)
    old = channel(two, 0)
    better = next(one for one in two.clients[0].core.relays if one.address == other.address)
    two.network.filter = lambda source, _target, data: (
        source != other.address or bool(data[0] & LONG_HEADER) or not _is_channel(two, data[1:9])
    )
    counts = [len(two.clients[number].frames) for number in (0, 1)]
    assert two.peer(0, 1).rendezvous.move(better, two.network.now)
    two.network.flush(two.clients[0])
    talk(two, 6)
    two.network.run_for(1)
    assert [len(two.clients[number].frames) - counts[number] for number in (0, 1)] == [120, 120]
    assert channel(two, 0) == old
    assert IDENTITIES[0].node_id in used.core.clients
    assert all(len(client.tables.channels) == 1 for client in two.clients.values())


def test_only_one_side_moves(two: Mesh) -> None:
    _, other = used_and_other(two)
    better = next(one for one in two.clients[1].core.relays if one.address == other.address)
    assert not two.peer(1, 0).rendezvous.move(better, two.network.now)


def test_a_move_to_where_the_peer_is_not_does_not_happen(two: Mesh) -> None:
    used, other = used_and_other(two)
    better = next(one for one in two.clients[0].core.relays if one.address == other.address)
    other.core.close(two.network.now)
    two.network.flush(other)
    two.network.detach(other)
    two.network.run_for(1)
    assert not two.peer(0, 1).rendezvous.move(better, two.network.now)
    two.exchange(0, 1)
    assert channel(two, 0).relay.address == used.address
