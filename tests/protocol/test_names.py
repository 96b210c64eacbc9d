"""Resolvers that fail: the relay is found where it was, and people learn what is wrong."""

from __future__ import annotations

import pytest

from shadowmesh.core.relays import RelayState
from shadowmesh.units import Address

from .mesh import Mesh


@pytest.fixture
def mesh() -> Mesh:
    mesh = Mesh(seed=3)
    mesh.start_relay()
    mesh.start_client(0, (1,))
    mesh.start_client(1, (0,))
    mesh.pair_up()
    return mesh


def test_a_relay_that_comes_back_is_found_without_a_resolver(mesh: Mesh) -> None:
    before = mesh.names.pop("relay.test")
    relay = mesh.clients[0].core.relays[0]
    assert mesh.relay is not None
    mesh.network.detach(mesh.relay)
    mesh.network.run_until(lambda: relay.last_error == "nothing answered where it was last; unknown name", 60)
    mesh.start_relay()
    mesh.network.run_until(lambda: relay.state is RelayState.CONNECTED, 60)
    mesh.exchange(0, 1, within=20)
    assert relay.address in before


def test_a_new_address_counts_as_soon_as_it_is_told(mesh: Mesh) -> None:
    mesh.names.pop("relay.test")
    relay = mesh.clients[0].core.relays[0]
    assert mesh.relay is not None
    mesh.network.detach(mesh.relay)
    mesh.network.run_until(lambda: relay.state is RelayState.WAITING, 60)
    moved = Address("203.0.113.99", 4433)
    mesh.relay_address = moved
    mesh.start_relay()
    mesh.network.run_for(30)
    assert relay.state is not RelayState.CONNECTED
    mesh.names["relay.test"] = [moved]
    mesh.network.run_until(lambda: relay.state is RelayState.CONNECTED, 60)
    assert relay.address == moved


def test_a_name_that_was_never_told_fails_for_that_reason() -> None:
    mesh = Mesh(seed=4)
    mesh.start_relay()
    mesh.names.pop("relay.test")
    relay = mesh.start_client(0, (1,)).core.relays[0]
    mesh.network.run_until(lambda: relay.last_error == "unknown name", 10)
