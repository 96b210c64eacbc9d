"""Whole nodes with direct paths and a relay on virtual time: nobody notices a change of path."""

from __future__ import annotations

import ipaddress
import itertools

import pytest

from shadowmesh.units import Address
from tests.protocol.mesh import Mesh


def direct(mesh: Mesh) -> bool:
    return all((mesh.peer(number, 1 - number).path or "").startswith("direct") for number in (0, 1))


@pytest.fixture
def pair(mesh: Mesh) -> Mesh:
    """Two clients that met through the relay and have found the direct path."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct="auto")
    mesh.pair_up()
    mesh.network.run_until(lambda: direct(mesh), 2)
    mesh.network.run_for(2)
    return mesh


class Stream:
    """Numbered frames from client 0 to client 1; the other way acknowledgements, if wanted."""

    def __init__(self, mesh: Mesh, both: bool = True) -> None:
        self.mesh, self.both = mesh, both
        self.sent = 0
        self.arrived: list[tuple[float, int]] = []
        self._seen = len(mesh.clients[1].frames)

    def run(self, duration: float, gap: float = 0.01) -> None:
        end = self.mesh.network.now + duration
        while self.mesh.network.now < end:
            self.mesh.send(0, self.mesh.frame(0, 1, self.sent.to_bytes(8, "big") * 8))
            self.sent += 1
            if self.both:
                self.mesh.send(1, self.mesh.frame(1, 0, b"ack" * 20))
            self.mesh.network.run_for(gap)
            self._collect()

    def drain(self) -> None:
        self.mesh.network.run_for(0.5)
        self._collect()

    def _collect(self) -> None:
        frames = self.mesh.clients[1].frames
        for frame in frames[self._seen :]:
            self.arrived.append((self.mesh.network.now, int.from_bytes(frame[14:22], "big")))
        self._seen = len(frames)

    def longest_gap(self) -> float:
        times = [at for at, _ in self.arrived]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


def test_direct_within_four_round_trips_of_the_session(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct="auto")
    mesh.pair_up()
    begun = mesh.network.now
    mesh.network.run_until(lambda: direct(mesh), 2)
    assert mesh.network.now - begun < 0.5


def test_migration_to_direct_loses_and_doubles_nothing(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct="auto")
    mesh.network.filter = lambda source, target, data: mesh.relay_address in (source, target)
    mesh.pair_up()
    stream = Stream(mesh)
    stream.run(2)
    assert not direct(mesh)
    mesh.network.filter = lambda source, target, data: True
    stream.run(40)
    stream.drain()
    assert direct(mesh)
    numbers = [number for _, number in stream.arrived]
    assert sorted(numbers) == list(range(stream.sent)), "nothing lost, nothing twice"


def test_migration_to_the_relay_when_asked_loses_nothing(pair: Mesh) -> None:
    """The direct path becomes bad, but works: frames move without a gap."""
    stream = Stream(pair)
    stream.run(1)
    for number in (0, 1):
        path = pair.peer(number, 1 - number).routing.paths.current
        assert path is not None
        path.probes.loss, path.probes.counted = 0.9, 31
    stream.run(6)
    stream.drain()
    assert "relay" in (pair.peer(0, 1).path or "")
    assert sorted(number for _, number in stream.arrived) == list(range(stream.sent))


@pytest.mark.parametrize("both", [True, False])
def test_cut_direct_path_costs_less_than_a_second(pair: Mesh, both: bool) -> None:
    stream = Stream(pair, both)
    stream.run(2.34)
    relay = pair.relay_address
    pair.network.filter = lambda source, target, data: relay in (source, target)
    stream.run(5)
    assert "relay" in (pair.peer(0, 1).path or "")
    assert stream.longest_gap() < 1
    pair.network.filter = lambda source, target, data: True
    stream.run(40)
    assert direct(pair)
    numbers = [number for _, number in stream.arrived]
    assert len(numbers) == len(set(numbers))


def test_roaming_client_keeps_its_session(pair: Mesh) -> None:
    stream = Stream(pair)
    stream.run(1)
    session = pair.peer(1, 0).session
    client = pair.clients[0]
    pair.network.detach(client)
    client.address = Address("203.0.113.200", 7)
    pair.network.attach(client)
    client.core.handle_network([client.address], pair.network.now)
    pair.network.flush(client)
    stream.run(3)
    assert pair.peer(1, 0).session is session
    assert pair.peer(1, 0).path == "direct 203.0.113.200:7"
    assert stream.longest_gap() < 0.1
    pair.exchange(1, 0, within=0.1)


def test_peer_that_roams_without_a_word(pair: Mesh) -> None:
    """A NAT in between gave it another address: it can't know."""
    stream = Stream(pair)
    stream.run(1)
    client = pair.clients[0]
    pair.network.detach(client)
    client.address = Address("203.0.113.200", 7)
    pair.network.attach(client)
    stream.run(3)
    assert pair.peer(1, 0).path == "direct 203.0.113.200:7"
    pair.exchange(1, 0, within=0.1)


def test_direct_path_and_control_outlive_the_relay(pair: Mesh) -> None:
    assert pair.relay is not None
    session = pair.peer(0, 1).session
    assert session is not None
    pair.network.detach(pair.relay)
    stream = Stream(pair)
    stream.run(20)
    stream.drain()
    assert len(stream.arrived) == stream.sent
    before = pair.peer(1, 0).routing._heard_sequence
    pair.clients[0].core.handle_mapped(Address("203.0.113.1", 9), pair.network.now)
    pair.network.flush(pair.clients[0])
    pair.network.run_for(1)
    assert pair.peer(1, 0).routing._heard_sequence > before, "control messages take the direct path too"
    pair.network.run_for(300)
    assert pair.peer(0, 1).session is session, "idle for long, and still there"
    pair.exchange(0, 1)


def test_idle_pair_on_the_relay_needs_rekeys_and_binds_alone(mesh: Mesh) -> None:
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct="never", rekey_seconds=240)
    mesh.pair_up()
    mesh.network.run_for(60)
    session, mark = mesh.peer(0, 1).session, len(mesh.network.sent)
    mesh.network.run_for(150)
    between_clients = [data for _, _, _, data in mesh.network.sent[mark:] if len(data) != 64]
    assert between_clients == [], "nothing but BIND and BOUND"
    mesh.network.run_for(400)
    assert mesh.peer(0, 1).session is session
    mesh.exchange(0, 1)


def test_each_tells_the_other_how_it_sees_the_paths(pair: Mesh) -> None:
    pair.network.run_for(10)
    told = pair.peer(0, 1).routing.peer_view
    assert told is not None
    assert told.path == pair.peer(1, 0).path
    assert "direct" in told.reason
    assert [one.address for one in told.tried] == ["198.51.100.1:5000"]


def test_peer_that_restarted_is_direct_again(pair: Mesh) -> None:
    pair.network.detach(pair.clients[1])
    pair.network.run_for(3)
    pair.start_client(1, (0,), direct="auto")
    pair.network.run_until(lambda: pair.connected(1, 0) and pair.connected(0, 1), 6)
    pair.network.run_until(lambda: direct(pair), 3)
    pair.exchange(0, 1)


def test_peer_that_allows_no_direct_path_is_reached_by_the_relay(mesh: Mesh) -> None:
    mesh.start_client(0, (1,), direct="auto")
    mesh.start_client(1, (0,), direct="never")
    mesh.pair_up()
    mesh.network.run_for(30)
    assert "relay" in (mesh.peer(0, 1).path or "")
    assert "relay" in (mesh.peer(1, 0).path or "")
    mesh.exchange(0, 1)


def test_addresses_behind_a_gateway_are_no_direct_paths(mesh: Mesh) -> None:
    """Neither if we are told of them, nor if the peer sends from there: answers would run in circles."""
    for number in (0, 1):
        mesh.start_client(number, (1 - number,), direct="auto")
    routed = ipaddress.ip_network("198.51.100.2/32")  # where the other one is
    mesh.clients[0].core.handle_routed([routed], mesh.network.now)
    mesh.pair_up()
    mesh.network.run_for(20)
    assert (mesh.peer(0, 1).path or "").startswith("relay")
    assert not any(path.way.address.host == "198.51.100.2" for path in mesh.peer(0, 1).routing.paths.paths)
    mesh.clients[0].core.handle_routed([], mesh.network.now)
    mesh.network.run_until(lambda: direct(mesh), 120)
