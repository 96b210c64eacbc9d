"""A relay that drains is left without losing sessions, on virtual time."""

from __future__ import annotations

from shadowmesh.core import relays
from tests.protocol.mesh import IDENTITIES, Mesh


def pair_at_two_relays() -> Mesh:
    mesh = Mesh()
    mesh.start_relay()
    mesh.start_second_relay()
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    mesh.network.run_for(5)
    return mesh


def used(mesh: Mesh) -> str:
    channel = mesh.peer(0, 1).channel
    assert channel is not None
    return channel.relay.config.host


def test_sessions_go_to_another_relay_before_it_ends() -> None:
    mesh = pair_at_two_relays()
    sessions = [mesh.peer(number, 1 - number).session for number in (0, 1)]
    assert mesh.relay is not None
    assert mesh.second_relay is not None
    going, staying = mesh.relay, mesh.second_relay
    if used(mesh) != "relay.test":
        going, staying = staying, going
    going.core.drain(mesh.network.now + 60, mesh.network.now)
    mesh.network.flush(going)
    for _ in range(40):  # traffic all the while
        mesh.exchange(0, 1, within=1.0)
        mesh.network.run_for(0.05)
    mesh.network.run_until(lambda: going.core.drained, 5)
    assert going.core.clients == {}
    assert len(staying.core.clients) == 2
    assert [mesh.peer(number, 1 - number).session for number in (0, 1)] == sessions
    mesh.network.detach(going)
    mesh.exchange(0, 1)


def test_nobody_is_admitted_while_it_drains() -> None:
    mesh = pair_at_two_relays()
    assert mesh.relay is not None
    mesh.relay.core.drain(mesh.network.now + 60, mesh.network.now)
    mesh.network.flush(mesh.relay)
    late = mesh.start_client(2, ())
    mesh.network.run_for(3)
    assert IDENTITIES[2].node_id not in mesh.relay.core.clients
    assert mesh.relay.core.drops["draining"] >= 1
    assert late.core.relays[1].state is relays.RelayState.CONNECTED


def test_who_knows_no_other_relay_stays_until_its_end() -> None:
    mesh = Mesh()
    relay = mesh.start_relay()
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.pair_up()
    relay.core.drain(mesh.network.now + 20, mesh.network.now)
    mesh.network.flush(relay)
    mesh.network.run_for(19)
    mesh.exchange(0, 1, within=0.5)
    assert not relay.core.drained
    assert len(relay.core.clients) == 2
    mesh.network.run_until(lambda: relay.core.drained, 2)
    assert "going down" in (mesh.clients[0].core.relays[0].last_error or "going down")


def test_a_relay_that_is_back_is_found_again() -> None:
    mesh = pair_at_two_relays()
    old = mesh.relay
    assert old is not None
    old.core.drain(mesh.network.now + 60, mesh.network.now)
    mesh.network.flush(old)
    mesh.network.run_until(lambda: old.core.drained, 10)
    mesh.network.detach(old)
    new = mesh.start_relay()
    mesh.network.run_until(lambda: len(new.core.clients) == 2, relays.LEAVE_DELAY + 5)


def test_twenty_peers_move_without_a_storm() -> None:
    """More than a relay lets one client open in a second."""
    mesh = Mesh()
    mesh.start_relay()
    mesh.start_second_relay()
    everybody = range(6)
    for number in everybody:
        mesh.start_client(number, tuple(other for other in everybody if other != number))
    mesh.network.run_for(20)
    assert mesh.relay is not None
    relay = mesh.relay
    relay.core.drain(mesh.network.now + 60, mesh.network.now)
    mesh.network.flush(relay)
    mesh.network.run_until(lambda: relay.core.drained, 20)
    assert relay.core.clients == {}
    for number in everybody:
        for other in everybody:
            assert number == other or mesh.connected(number, other)
