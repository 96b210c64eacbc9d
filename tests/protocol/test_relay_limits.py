"""The limits of a relay against real handshakes and channels, on virtual time; each must bite."""

from __future__ import annotations

import pytest

from shadowmesh.units import Address
from shadowmesh_relay import clients
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import IDENTITIES, RELAY_IDENTITY, Mesh


def mesh_with(limits: Limits, admission: Admission | None = None) -> tuple[Mesh, MemoryRelay]:
    mesh = Mesh()
    admitted = admission or Admission(True, frozenset())
    relay = MemoryRelay(RELAY_IDENTITY, admitted, mesh.relay_address, mesh.network.now, 1, limits=limits)
    mesh.relay = relay
    mesh.network.attach(relay)
    return mesh, relay


def error_of(mesh: Mesh, number: int) -> str:
    return mesh.clients[number].core.relays[0].last_error or ""


def test_a_full_relay_takes_no_more_and_says_so() -> None:
    mesh, relay = mesh_with(Limits(clients=2))
    for number in range(3):
        mesh.start_client(number, ())
    mesh.network.run_for(3)
    assert len(relay.core.clients) == 2
    assert relay.core.drops["too_many_clients"] >= 1
    late = next(n for n in range(3) if IDENTITIES[n].node_id not in relay.core.clients)
    assert "full" in error_of(mesh, late)
    handshakes = relay.core._reception.greetings
    mesh.network.run_for(30)
    assert relay.core._reception.greetings == handshakes, "a full relay spends nothing on handshakes"
    staying = next(n for n in range(3) if n != late)
    mesh.clients[staying].core.close(mesh.network.now)
    mesh.network.flush(mesh.clients[staying])
    mesh.network.run_until(lambda: IDENTITIES[late].node_id in relay.core.clients, 90)


def test_a_client_of_a_full_relay_may_come_back() -> None:
    mesh, relay = mesh_with(Limits(clients=1))
    first = mesh.start_client(0, ())
    mesh.network.run_for(2)
    tickets = tuple(first.core._shared.tickets.values())
    assert tickets
    mesh.network.detach(first)
    again = mesh.start_client(0, (), tickets=tickets)
    mesh.network.run_until(lambda: again.core.relays[0].state.value == "connected", 10)
    assert len(relay.core.clients) == 1


@pytest.mark.parametrize("channels", [1, 2])
def test_channels_of_a_client_are_limited_at_both_ends(channels: int) -> None:
    mesh, relay = mesh_with(Limits(channels_per_client=channels))
    for number in range(4):
        mesh.start_client(number, tuple({0, 1, 2, 3} - {number}))
    mesh.network.run_for(20)
    held = [len(relay.core._rendezvous._of_client[client]) for client in relay.core.clients.values()]
    assert max(held) == channels
    assert relay.core._rendezvous.refusals["too many channels"] >= 1


def test_handshakes_of_a_network_wait_their_turn() -> None:
    mesh, relay = mesh_with(Limits(handshakes_per_second=1))
    for _ in range(1000):
        relay.core._reception.door._begun.take("198.51.100.0", mesh.network.now)
    mesh.start_client(0, ())
    mesh.start_client(1, (), address=Address("203.0.113.1", 5000))
    mesh.network.run_for(0.9)
    assert set(relay.core.clients) == {IDENTITIES[1].node_id}, "who is elsewhere is not held up"
    assert relay.core.drops["handshake_rate"] >= 1
    mesh.network.run_until(lambda: IDENTITIES[0].node_id in relay.core.clients, 30)


def test_a_stranger_that_is_refused_again_and_again_costs_less_and_less() -> None:
    """Every refusal took a whole handshake; the members behind the same address are let in by ticket."""
    member = IDENTITIES[0].node_id
    mesh, relay = mesh_with(Limits(refusals_per_minute=1), Admission(False, frozenset({member})))
    first = mesh.start_client(0, ())
    mesh.network.run_for(2)
    tickets = tuple(first.core._shared.tickets.values())
    for number in range(1, 6):
        mesh.start_client(number, ())
    refusals = 0
    door = relay.core._reception.door
    refuse = door.refuse

    def count(host: str, now: float) -> None:
        nonlocal refusals
        refusals += 1
        refuse(host, now)

    door.refuse = count  # type: ignore[method-assign]
    mesh.network.run_for(300)
    assert 30 <= refusals <= 40, "the burst, and one a minute"
    assert relay.core.drops["refused_before"] > 10
    mesh.network.detach(first)
    again = mesh.start_client(0, (), tickets=tickets)
    mesh.network.run_until(lambda: again.core.relays[0].state.value == "connected", 5)


def test_the_addresses_of_handshakes_under_way_are_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    mesh, relay = mesh_with(Limits(handshakes=3, handshakes_per_host=1))
    mesh.network.filter = lambda source, target, data: source != mesh.relay_address or len(data) < 600
    mesh.start_client(0, ())
    mesh.network.run_for(1)

    def counted(host: str) -> str:
        parsed.append(host)
        return host

    monkeypatch.setattr(clients, "network_of", counted)
    mesh.start_client(1, (), address=Address("198.51.100.9", 6000))
    mesh.network.run_for(0.5)
    assert len(relay.core._half_open) == 2
    assert set(parsed) == {"198.51.100.9"}


def test_half_open_handshakes_are_limited() -> None:
    mesh, relay = mesh_with(Limits(handshakes=3, handshakes_per_host=1))
    mesh.network.filter = lambda source, target, data: source != mesh.relay_address or len(data) < 600
    for number in range(4):
        mesh.start_client(number, ())
        mesh.start_client(number, (), address=Address(f"198.51.100.{number + 1}", 6000))
    mesh.network.run_for(2)
    assert len(relay.core._half_open) == 3
    assert len({knock.source.host for knock in relay.core._half_open.values()}) == 3
    assert relay.core.drops["too_many_handshakes"] >= 2
