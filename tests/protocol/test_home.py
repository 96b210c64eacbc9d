"""Of several relays the best is home: by round trip, loss and load, without flapping; on virtual time."""

from __future__ import annotations

import itertools
import re
from itertools import pairwise

import pytest

from shadowmesh.core.home import HOLD, MARGIN
from shadowmesh.core.relays import RelayClient, RelayState
from shadowmesh.path.cost import LOAD_COST
from shadowmesh.units import Address
from shadowmesh.wire.messages import NO_TICKET, Message, Open, Opened, Ticket
from shadowmesh.wire.payload import Kind
from tests.protocol.mesh import IDENTITIES, SECOND_RELAY, Mesh


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


def settle(mesh: Mesh) -> None:
    """Let the choice follow what was measured."""
    mesh.network.run_for(HOLD + 2)


def reopen(mesh: Mesh) -> None:
    """The smaller NodeID loses its channel, and opens another one."""
    peer = mesh.peer(0, 1)
    assert peer.channel is not None
    channel = peer.channel
    peer.rendezvous.handle_close(channel.relay, channel.send, mesh.network.now)
    mesh.network.flush(mesh.clients[0])


@pytest.mark.parametrize("nearest", [0, 1])
def test_channels_are_opened_at_the_nearest_relay(two: Mesh, nearest: int) -> None:
    delay(two, SECOND_RELAY if nearest == 0 else "relay.test", 0.05)
    for number in (0, 1):
        place(two, number, *((0.01, 0.05) if nearest == 0 else (0.05, 0.01)))
    relays = two.clients[0].core.relays
    settle(two)
    assert two.clients[0].core.home is relays[nearest]
    reopen(two)
    two.pair_up()
    channel = two.peer(0, 1).channel
    assert channel is not None
    assert channel.relay is relays[nearest]
    two.exchange(0, 1)


def test_another_relay_is_asked_when_the_nearest_refuses(two: Mesh) -> None:
    relays = place(two, 0, 0.01, 0.05)
    two.clients[0].core.homing.look(relays, two.network.now)
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


def look(mesh: Mesh) -> RelayClient | None:
    core = mesh.clients[0].core
    core.homing.look(core.relays, mesh.network.now)
    return core.home


def test_a_relay_that_is_going_down_is_nobodys_home(two: Mesh) -> None:
    relays = place(two, 0, 0.01, 0.05)
    relays[0].leaving = True
    assert look(two) is relays[1]
    relays[1].leaving = True
    assert look(two) is None


def delay(mesh: Mesh, host: str, seconds: float) -> None:
    """What goes to or from this relay takes so much longer, both ways together."""
    far = mesh.names[host][0]
    send = mesh.network.send

    def late(data: bytes, source: Address, target: Address) -> None:
        if far in (source, target):
            mesh.network.after(seconds / 2, lambda: send(data, source, target))
        else:
            send(data, source, target)

    mesh.network.send = late  # type: ignore[method-assign]


def homes(mesh: Mesh, seconds: int) -> list[str]:
    """The home relay of client 0, second by second, under traffic."""
    found = []
    for _ in range(seconds):
        for source, target in ((0, 1), (1, 0)):
            mesh.send(source, mesh.frame(source, target))
        mesh.network.run_for(1)
        home = mesh.clients[0].core.home
        found.append(home.config.host if home is not None else "-")
    return found


def sessions(mesh: Mesh) -> list[object]:
    return [mesh.peer(number, 1 - number).session for number in (0, 1)]


def used(mesh: Mesh) -> set[str]:
    channels = [mesh.peer(number, 1 - number).channel for number in (0, 1)]
    return {one.relay.config.host for one in channels if one is not None}


def other_than(host: str) -> str:
    return SECOND_RELAY if host == "relay.test" else "relay.test"


def test_sessions_move_to_the_better_relay_and_lose_nothing(two: Mesh) -> None:
    homes(two, 3)
    before, (here,) = sessions(two), used(two)
    arrived = [len(two.clients[number].frames) for number in (0, 1)]
    delay(two, here, 0.1)
    found = homes(two, 60)
    two.network.run_for(1)
    assert found[0] == here
    assert found[-1] == other_than(here)
    assert sum(one != other for one, other in pairwise(found)) == 1
    assert used(two) == {other_than(here)}
    assert sessions(two) == before
    assert [len(two.clients[number].frames) - arrived[number] for number in (0, 1)] == [60, 60]
    assert f"{here}:4433 was worse" in two.clients[0].core.homing.reason


def test_little_is_no_reason_to_move(two: Mesh) -> None:
    """Less than the margin, or not for long enough."""
    homes(two, 8)
    (here,) = set(homes(two, 1))
    delay(two, here, MARGIN / 2)
    assert set(homes(two, 60)) == {here}
    other = two.clients[0].core.relays[0 if here != "relay.test" else 1]
    for turn in range(20):  # better and worse in turn, each for less than HOLD
        other.load = 100 * (turn % 2)
        assert set(homes(two, int(HOLD) - 3)) == {here}


def test_loss_is_measured(two: Mesh) -> None:
    """Every fourth datagram of a relay that is small enough to be a BOUND is lost."""
    relay = two.clients[1].core.relays[0]
    count = itertools.count()

    def lossy(source: Address, target: Address, data: bytes) -> bool:
        bound = source == relay.address and target == two.clients[1].address and len(data) < 80
        return not bound or next(count) % 4 > 0

    two.network.filter = lossy
    assert relay.binding is not None
    relay.handle_traffic(two.network.now)
    two.network.run_for(60)
    assert relay.loss == pytest.approx(0.25, abs=0.1)
    two.network.filter = lambda *_: True
    relay.handle_traffic(two.network.now)
    two.network.run_for(55)
    assert relay.loss == pytest.approx(0.0, abs=0.02)


def test_loss_is_a_reason(two: Mesh) -> None:
    homes(two, 8)
    (here,) = set(homes(two, 1))
    relay = next(one for one in two.clients[0].core.relays if one.config.host == here)
    assert relay.binding is not None
    relay.binding.loss = 0.5
    assert homes(two, 30)[-1] == other_than(here)
    assert re.search(r"was worse for 15 s \(20.0 ms, loss [1-9]", two.clients[0].core.homing.reason)


def test_load_is_told_and_a_reason(two: Mesh) -> None:
    homes(two, 8)
    (here,) = set(homes(two, 1))
    busy = two.relay if here == "relay.test" else two.second_relay
    assert busy is not None
    busy.core._busy = lambda: 97
    found = homes(two, 40)
    relay = next(one for one in two.clients[0].core.relays if one.config.host == here)
    assert relay.load == 97
    assert found[-1] == other_than(here)
    assert used(two) == {other_than(here)}
    assert busy.core.totals().load == 97


def test_a_relay_that_boasts_gains_little(two: Mesh) -> None:
    """It says that it has nothing to do, and delays nothing; the nearer one stays home, busy as it is."""
    homes(two, 8)
    (here,) = set(homes(two, 1))
    delay(two, other_than(here), 2 * LOAD_COST)
    two.network.run_for(240)  # the lowest of eight round trips, 25 s apart
    two.clients[0].core.relays[0 if here == "relay.test" else 1].load = 100
    assert set(homes(two, 60)) == {here}


def test_a_relay_can_not_seem_nearer_than_it_is(two: Mesh) -> None:
    """BOUND without being asked, or with an old nonce, measures nothing."""
    relay = two.clients[0].core.relays[0]
    binding = relay.binding
    assert binding is not None
    lowest = binding.round_trip.lowest or 0.0
    assert lowest == pytest.approx(0.02, abs=1e-3)
    now = two.network.now
    binding.hurry(now)
    bind = binding.poll(now)
    assert bind is not None
    payload = bytes((Kind.BOUND,)) + bind[9:17] + bytes(8) + bytes(10) + b"\xff\xff" + bytes(6)
    relay.handle_payload_untrusted(payload, relay.address, now + lowest)
    for _ in range(20):  # the newest nonce again, which was answered
        relay.handle_payload_untrusted(payload, relay.address, now)
        relay.handle_payload_untrusted(payload[:1] + bytes(8) + payload[9:], relay.address, now)
    assert binding.round_trip.lowest == pytest.approx(lowest)


def test_a_load_out_of_range_ends_that_session_only(two: Mesh) -> None:
    assert two.relay is not None
    client = two.relay.core.clients[IDENTITIES[0].node_id]
    two.relay.core._send(client, Ticket(NO_TICKET, 101), two.network.now)
    two.network.flush(two.relay)
    two.network.run_for(0.2)
    first, second = two.clients[0].core.relays
    assert first.state is not RelayState.CONNECTED
    assert second.state is RelayState.CONNECTED
    two.exchange(0, 1, within=5)


def test_clients_with_different_homes_reach_each_other() -> None:
    mesh = Mesh()
    mesh.start_relay()
    mesh.start_second_relay()
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    far = {0: mesh.names[SECOND_RELAY][0], 1: mesh.names["relay.test"][0]}
    send = mesh.network.send

    def late(data: bytes, source: Address, target: Address) -> None:
        slow = any({source, target} == {mesh.clients[one].address, relay} for one, relay in far.items())
        mesh.network.after(0.03 if slow else 0.0, lambda: send(data, source, target))

    mesh.network.send = late  # type: ignore[method-assign]
    mesh.pair_up()
    homes(mesh, 30)
    assert [mesh.clients[number].core.home for number in (0, 1)] == [
        mesh.clients[0].core.relays[0],
        mesh.clients[1].core.relays[1],
    ]
    assert len(used(mesh)) == 1
    mesh.exchange(0, 1)
    assert len(set(homes(mesh, 30))) == 1


def test_a_relay_near_to_us_and_far_from_the_peer_is_not_taken(two: Mesh) -> None:
    homes(two, 8)
    (here,) = set(homes(two, 1))
    assert used(two) == {here}
    near, peer = two.names[other_than(here)][0], two.clients[1].address
    send = two.network.send

    def late(data: bytes, source: Address, target: Address) -> None:
        wait = 0.2 if {source, target} == {near, peer} else 0.0
        wait += 0.01 if two.names[here][0] in (source, target) else 0.0
        two.network.after(wait, lambda: send(data, source, target))

    two.network.send = late  # type: ignore[method-assign]
    arrived = len(two.clients[1].frames)
    assert other_than(here) in homes(two, 60)
    two.network.run_for(1)
    assert used(two) == {here}, "the channel stays where the whole way is shorter"
    assert len(two.clients[1].frames) - arrived == 60
