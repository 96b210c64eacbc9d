"""Fresh keys in live sessions: when they come, that no frame notices, and what happens when they don't."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from shadowmesh.core.session import FAILED_OPENS_REKEY, NUMBER_MARGIN, OLD_LANES, REKEY_PAUSE, Session
from shadowmesh.crypto.keys import Direction
from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.network import Network
from shadowmesh.units import EPOCH_LIFETIME, NUMBER_LIMIT, REKEY_AFTER, Address
from shadowmesh.wire import messages
from shadowmesh.wire.messages import RekeyAsk
from tests.protocol.mesh import Mesh

FRAME_SIZE = 700


def connect(mesh: Mesh, rekey_seconds: tuple[int, int] = (REKEY_AFTER, REKEY_AFTER)) -> Mesh:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), rekey_seconds=rekey_seconds[number])
    mesh.pair_up()
    mesh.network.run_for(1)
    return mesh


@pytest.fixture
def pair(mesh: Mesh) -> Mesh:
    """Two connected clients."""
    return connect(mesh)


def session(mesh: Mesh, number: int) -> Session:
    found = mesh.peer(number, 1 - number).session
    assert found is not None
    return found


def number_of(mesh: Mesh, role: Direction) -> int:
    """The client that has this role in the session."""
    return next(number for number in (0, 1) if session(mesh, number)._rekey.role is role)


def epochs(mesh: Mesh) -> list[int]:
    return [session(mesh, number).epoch for number in (0, 1)]


def received_epochs(mesh: Mesh, number: int) -> int:
    """How many epochs the data plane of a client opens packets of."""
    return len({lane.session for lane in mesh.clients[number].tables.lanes.values() if lane.peer})


def through_channel(mesh: Mesh, target: Address, data: bytes) -> bool:
    """Whether this is a datagram between the two clients on its last hop."""
    clients = (client for client in mesh.clients.values() if client.address == target)
    return any(data[1:9] in client.tables.channels for client in clients)


def is_frame(data: bytes) -> bool:
    return FRAME_SIZE < len(data) < FRAME_SIZE + 100


class Stream:
    """Numbered frames in both directions."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._numbers = itertools.count()
        self.sent: list[list[bytes]] = [[], []]

    def run_until(self, condition: Callable[[], bool], within: float, interval: float = 0.02) -> None:
        end = self._mesh.network.now + within
        while not condition():
            assert self._mesh.network.now < end, f"did not come true within {within} s"
            self.step()
            self._mesh.network.run_for(interval)

    def step(self) -> None:
        for source in (0, 1):
            body = next(self._numbers).to_bytes(8, "big").ljust(FRAME_SIZE, b"#")
            frame = self._mesh.frame(source, 1 - source, body)
            self.sent[source].append(frame)
            self._mesh.send(source, frame)

    def check(self) -> None:
        """Every frame arrived, and once."""
        self._mesh.network.run_for(2)
        for source in (0, 1):
            arrived = [frame for frame in self._mesh.clients[1 - source].frames if len(frame) > FRAME_SIZE]
            assert len(arrived) == len(self.sent[source])
            assert set(arrived) == set(self.sent[source])


def test_keys_are_fresh_every_two_minutes(pair: Mesh) -> None:
    first = [session(pair, number) for number in (0, 1)]
    for epoch in range(5):
        fresh = [epoch + 1] * 2
        assert epochs(pair) == [epoch, epoch]
        pair.exchange(0, 1)
        pair.network.run_for(REKEY_AFTER - 5)
        assert [received_epochs(pair, number) for number in (0, 1)] == [1, 1]
        pair.network.run_until(lambda fresh=fresh: epochs(pair) == fresh, 6)  # type: ignore[misc]
        assert [received_epochs(pair, number) for number in (0, 1)] == [2, 2]
        pair.exchange(0, 1)
    assert [session(pair, number) for number in (0, 1)] == first
    materials = [pair.clients[number].tables.material for number in (0, 1)]
    assert set(materials[0]) & set(materials[1]) >= set(materials[0][-4:])
    assert all(len(set(material)) == len(material) for material in materials)


@pytest.mark.timeout(120)
def test_two_hundred_rekeys_lose_and_double_no_frame(mesh: Mesh) -> None:
    mesh.network.link.change(jitter=0.03)
    connect(mesh, (2, 2))
    for client in mesh.clients.values():
        client.drops.clear()  # while the session was set up, what overtook its channel was unknown
    first = session(mesh, 0)
    stream = Stream(mesh)
    stream.run_until(lambda: min(epochs(mesh)) >= 200, 600)
    stream.check()
    assert session(mesh, 0) is first
    assert len(stream.sent[0]) > 15_000
    assert mesh.clients[0].drops == mesh.clients[1].drops == {}


def test_rekeys_under_loss_of_control_lose_no_frame(mesh: Mesh) -> None:
    """Between the two, every fifth datagram that is no frame is lost, and some come twice."""
    mesh.network = Network(seed=3, link=Impairment(delay=0.02, jitter=0.05, duplicate=0.05))
    mesh.start_relay()
    connect(mesh, (2, 2))
    first, control = session(mesh, 0), mesh.network.random

    def drop(_source: Address, target: Address, data: bytes) -> bool:
        return is_frame(data) or not through_channel(mesh, target, data) or control.random() > 0.2

    mesh.network.filter = drop
    stream = Stream(mesh)
    stream.run_until(lambda: min(epochs(mesh)) >= 15, 120)
    stream.check()
    assert session(mesh, 0) is first


def test_at_most_two_epochs_are_received(mesh: Mesh) -> None:
    connect(mesh, (2, 2))
    for _ in range(200):
        mesh.network.run_for(0.1)
        assert max(received_epochs(mesh, number) for number in (0, 1)) <= 2
    assert min(epochs(mesh)) >= 7


def test_old_epoch_is_received_for_ten_seconds_more(pair: Mesh) -> None:
    """A packet that is late still arrives; the same packet again, or later, does not."""
    late: list[tuple[Address, Address, bytes]] = []

    def hold(source: Address, target: Address, data: bytes) -> bool:
        held = is_frame(data) and target != pair.relay_address
        if held:
            late.append((source, target, data))
        return not held

    pair.network.filter = hold
    pair.network.run_for(REKEY_AFTER - 3)
    Stream(pair).step()
    Stream(pair).step()
    pair.network.run_for(1)
    to_bob = [packet for packet in late if packet[1] == pair.clients[1].address]
    pair.network.run_until(lambda: epochs(pair) == [1, 1], 5)
    bob = pair.clients[1]
    bob.receive(to_bob[0][2], to_bob[0][0], pair.network.now)
    assert len(bob.frames) == 1
    bob.receive(to_bob[0][2], to_bob[0][0], pair.network.now)
    assert bob.drops["duplicate"] == 1
    pair.network.run_for(OLD_LANES + 1)
    bob.receive(to_bob[1][2], to_bob[1][0], pair.network.now)
    assert len(bob.frames) == 1
    assert bob.drops["unknown_id"] == 1


def test_responder_seals_with_new_keys_only_when_it_has_seen_them(pair: Mesh) -> None:
    """The initiator's first packets of an epoch are lost: frames of the responder still come through."""
    initiator, responder = (number_of(pair, role) for role in Direction)
    pair.network.run_for(REKEY_AFTER - 5)
    there, lanes = pair.clients[responder].address, pair.clients[responder].tables.lanes

    def drop(_source: Address, target: Address, data: bytes) -> bool:
        sealed = target == there and data[10:18] in lanes
        return not sealed or session(pair, initiator).epoch == 0

    pair.network.filter = drop
    pair.network.run_until(lambda: session(pair, initiator).epoch == 1, 10)
    for _ in range(50):
        assert session(pair, responder).epoch == 0
        frame = pair.frame(responder, initiator, pair.network.random.randbytes(60))
        pair.send(responder, frame)
        pair.network.run_for(0.1)
        assert frame in pair.clients[initiator].frames
    pair.network.filter = lambda *_: True
    pair.network.run_until(lambda: session(pair, responder).epoch == 1, 11)
    pair.exchange(0, 1)


def test_late_packet_of_a_replaced_session_does_not_bring_it_back(pair: Mesh) -> None:
    """It was to make the responder seal with its newest epoch, but frames have a better session by now."""
    initiator, responder = (number_of(pair, role) for role in Direction)
    there = pair.clients[responder]
    held: list[tuple[Address, bytes]] = []

    def hold(source: Address, target: Address, data: bytes) -> bool:
        wanted = target == there.address and data[10:18] in there.tables.lanes
        if wanted and session(pair, initiator).epoch == 1 and not held:
            held.append((source, data))
            return False
        return not wanted or not held

    pair.network.filter = hold
    pair.network.run_until(lambda: bool(held), REKEY_AFTER + 5)
    old = session(pair, responder)
    pair.peer(initiator, responder).handshakes.dial(pair.network.now)
    pair.network.flush(pair.clients[initiator])
    pair.network.run_until(lambda: pair.peer(responder, initiator).session is not old, 3)
    pair.network.filter = lambda *_: True
    there.receive(held[0][1], held[0][0], pair.network.now)
    assert there.drops == {}
    pair.exchange(0, 1)
    assert old.epoch == 0


def test_old_keys_are_wiped(pair: Mesh) -> None:
    old = [session(pair, number)._sending for number in (0, 1)]
    pair.network.run_for(REKEY_AFTER)
    assert epochs(pair) == [1, 1]
    for sending in old:
        with pytest.raises(ValueError, match="wiped"):
            sending.control.seal(b"\3", pair.network.now)
        with pytest.raises(ValueError, match="wiped"):
            sending.keys.packet_keys.seal(1, bytes(8), 0, b"\3")


@pytest.mark.parametrize("eager", Direction)
def test_either_side_can_have_fresh_keys_earlier(mesh: Mesh, eager: Direction) -> None:
    """Its own `rekey_seconds` is enough: the initiator offers, the responder asks."""
    connect(mesh)
    seconds = [240, 240]
    seconds[number_of(mesh, eager)] = 10
    mesh = Mesh()
    mesh.start_relay()
    connect(mesh, (seconds[0], seconds[1]))
    mesh.network.run_for(100)
    assert epochs(mesh)[0] == epochs(mesh)[1]
    assert 5 <= epochs(mesh)[0] <= 10


@pytest.mark.parametrize("role", Direction)
def test_lanes_that_run_out_bring_fresh_ones(pair: Mesh, role: Direction) -> None:
    """Whoever changes its path often gets new lanes before the last one is taken."""
    number = number_of(pair, role)
    here = pair.peer(number, 1 - number)
    for change in range(20):
        here.take_lane(pair.network.now)
        pair.network.run_for(1.5)
        assert session(pair, number).lanes_left, f"no lane is left after {change} changes"
        pair.exchange(0, 1)
    assert epochs(pair)[0] == epochs(pair)[1] >= 3


@pytest.mark.parametrize("role", Direction)
def test_numbers_that_run_out_bring_fresh_ones(pair: Mesh, role: Direction) -> None:
    route = pair.clients[number_of(pair, role)].tables.routes[1]
    route.number = NUMBER_LIMIT - NUMBER_MARGIN + 1
    pair.network.run_for(2)
    assert epochs(pair) == [1, 1]
    pair.exchange(0, 1)


@pytest.mark.parametrize("role", Direction)
def test_forgeries_bring_fresh_keys(pair: Mesh, role: Direction) -> None:
    """Half of the limit is enough; the count of the old epoch changes nothing while it is received."""
    first = session(pair, 0)
    tables = pair.clients[number_of(pair, role)].tables
    tables.failed_opens = FAILED_OPENS_REKEY
    pair.network.run_for(OLD_LANES)
    assert epochs(pair) == [1, 1]
    tables.failed_opens = 0
    pair.network.run_for(30)
    assert epochs(pair) == [1, 1]
    assert session(pair, 0) is first


def test_flood_of_asks_costs_one_rekey_a_second(pair: Mesh) -> None:
    number = number_of(pair, Direction.RESPONDER)
    link = session(pair, number).driver
    for _ in range(100):
        for epoch in range(1, 12):
            link.link.send(RekeyAsk(epoch))
        pair.clients[number].core._shared.links.pump(link, pair.network.now)
        pair.network.flush(pair.clients[number])
        pair.network.run_for(0.1)
    assert 8 <= epochs(pair)[0] <= 10 / REKEY_PAUSE


def test_offers_without_a_pause_end_the_session(pair: Mesh) -> None:
    """An initiator that does not wait would make us sign as fast as it likes."""
    number = number_of(pair, Direction.INITIATOR)
    first = session(pair, number)
    for _ in range(2):
        first._rekey_at = pair.network.now
        first.handle_timer(pair.network.now)
        pair.network.flush(pair.clients[number])
        pair.network.run_for(0.2)
    pair.pair_up()
    pair.network.run_for(1)
    assert session(pair, number) is not first
    pair.exchange(0, 1)


def withhold_control(mesh: Mesh) -> None:
    """What a hostile relay can do: QUIC between the two clients is lost, everything else passes."""

    def passes(_source: Address, target: Address, data: bytes) -> bool:
        lanes = {lane for client in mesh.clients.values() for lane in client.tables.lanes}
        return not through_channel(mesh, target, data) or data[10:18] in lanes

    mesh.network.filter = passes


def test_who_withholds_a_rekey_gains_no_time(pair: Mesh) -> None:
    """After 300 s the keys seal nothing; when control comes through again, a new session is made."""
    begun, first = pair.network.now, session(pair, 0)
    withhold_control(pair)
    last = [0.0, 0.0]
    while pair.network.now < begun + EPOCH_LIFETIME + 30:
        Stream(pair).step()
        arrived = [len(pair.clients[number].frames) for number in (0, 1)]
        pair.network.run_for(1)
        for number in (0, 1):
            if len(pair.clients[number].frames) > arrived[number]:
                last[number] = pair.network.now
    assert min(last) > begun + EPOCH_LIFETIME - 5
    assert max(last) < begun + EPOCH_LIFETIME + 1
    assert pair.peer(0, 1).session is not first
    pair.network.filter = lambda *_: True
    pair.pair_up(within=60)
    pair.exchange(0, 1)


def test_keys_past_their_time_seal_nothing_even_if_no_timer_ran(pair: Mesh) -> None:
    client = pair.clients[0]
    late = pair.network.now + EPOCH_LIFETIME + 1
    assert session(pair, 0).seal(b"\3", pair.network.now)
    assert session(pair, 0).seal(b"\3", late) is None
    client.transmit()
    client.send_frame(pair.frame(0, 1), late)
    assert client.drops["expired_keys"] == 1
    assert client.transmit() == []


def test_pair_that_lost_step_finds_a_new_session(pair: Mesh) -> None:
    """The two ends agree on nothing after the rekey: probes stay unanswered, the session is replaced."""
    first = session(pair, 0)
    session(pair, 1)._rekey._root[0] ^= 1
    pair.network.run_for(REKEY_AFTER + 30)
    assert pair.peer(0, 1).session is not first
    pair.pair_up(within=10)
    pair.network.run_for(1)
    pair.exchange(0, 1)


def test_refused_rekey_ends_the_session_and_a_new_one_comes(pair: Mesh) -> None:
    number = number_of(pair, Direction.INITIATOR)
    first = session(pair, number)
    first._rekey.epoch += 1
    pair.network.run_for(REKEY_AFTER)
    pair.pair_up(within=10)
    assert session(pair, number) is not first
    pair.exchange(0, 1)


def test_rekey_that_meets_an_outage_is_done_when_the_path_is_back(pair: Mesh) -> None:
    """QUIC's timer has grown long by then; the session does not wait for it, and keeps its keys' limit."""
    pair.network.run_for(REKEY_AFTER - 3)
    first = session(pair, 0)
    assert pair.relay is not None
    pair.network.detach(pair.relay)
    pair.network.run_for(100)
    assert epochs(pair) == [0, 0]
    pair.start_relay()
    pair.stream_until_through(0, 1, within=10)
    pair.network.run_for(1)
    assert epochs(pair) == [1, 1]
    assert session(pair, 0) is first


def test_rekey_goes_directly_when_no_relay_is_left(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct="static")
    mesh.pair_up()
    mesh.network.run_for(2)
    first = session(mesh, 0)
    assert mesh.relay is not None
    mesh.network.detach(mesh.relay)
    stream = Stream(mesh)
    stream.run_until(lambda: min(epochs(mesh)) >= 5, 700, interval=1.0)
    stream.check()
    assert session(mesh, 0) is first


def test_relay_never_holds_keys_of_any_epoch(mesh: Mesh) -> None:
    connect(mesh, (2, 2))
    mesh.network.run_for(20)
    assert mesh.relay is not None
    relay, clients = set(mesh.relay.tables.material), [mesh.clients[n].tables.material for n in (0, 1)]
    assert len(set(clients[0]) & set(clients[1])) >= 2 * 8
    assert not relay & set(clients[0]) & set(clients[1])


def test_what_a_relay_makes_of_rekey_messages(pair: Mesh) -> None:
    """They are none of its business: counted and forgotten."""
    assert pair.relay is not None
    relay = pair.clients[0].core.relays[0]
    relay.send(RekeyAsk(1), pair.network.now)
    pair.network.flush(pair.clients[0])
    pair.network.run_for(1)
    assert pair.relay.core.drops["unexpected_message"] == 1
    assert relay.state.value == "connected"
    assert messages.MessageType.REKEY_ASK not in messages.HANDSHAKE
