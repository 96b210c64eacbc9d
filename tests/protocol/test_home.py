"""Of several relays the nearest is asked first, and another one when it does not help."""

from __future__ import annotations

import pytest

from shadowmesh.core.relays import RelayClient
from shadowmesh.wire.messages import Message, Open, Opened
from tests.protocol.mesh import Mesh


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


def place(mesh: Mesh, number: int, *distances: float) -> list[RelayClient]:
    relays = mesh.clients[number].core.relays
    for relay, distance in zip(relays, distances, strict=True):
        assert relay.binding is not None
        relay.binding.round_trip.lowest = distance
    return relays


def reopen(mesh: Mesh) -> None:
    """The smaller NodeID loses its channel, and opens another one."""
    peer = mesh.peer(0, 1)
    assert peer.channel is not None
    channel = peer.channel
    peer.rendezvous.handle_close(channel.relay, channel.send, mesh.network.now)
    mesh.network.flush(mesh.clients[0])


@pytest.mark.parametrize("nearest", [0, 1])
def test_channels_are_opened_at_the_nearest_relay(two: Mesh, nearest: int) -> None:
    distances = (0.01, 0.05) if nearest == 0 else (0.05, 0.01)
    relays = place(two, 0, *distances)
    assert two.clients[0].core.home is relays[nearest]
    reopen(two)
    two.pair_up()
    channel = two.peer(0, 1).channel
    assert channel is not None
    assert channel.relay is relays[nearest]
    two.exchange(0, 1)


def test_another_relay_is_asked_when_the_nearest_refuses(two: Mesh) -> None:
    relays = place(two, 0, 0.01, 0.05)
    send = relays[0].send

    def refuse(message: Message, now: float) -> None:
        if isinstance(message, Open):
            relays[0]._handle_message(relays[0], Opened(message.receive, refused="the node is busy"), now)
        else:
            send(message, now)

    relays[0].send = refuse  # type: ignore[method-assign]
    reopen(two)
    two.pair_up(within=15)
    channel = two.peer(0, 1).channel
    assert channel is not None
    assert channel.relay is relays[1]


def test_a_relay_that_is_going_down_is_nobodys_home(two: Mesh) -> None:
    relays = place(two, 0, 0.01, 0.05)
    relays[0].leaving = True
    assert two.clients[0].core.home is relays[1]
    relays[1].leaving = True
    assert two.clients[0].core.home is None
