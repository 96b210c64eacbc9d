"""A relay sends an address that proved nothing less than came from there: no amplifier, no reflector.

RFC 9000 section 8.1 allows three times as much.  Every datagram that real clients send is sent by an attacker
as well, before it and after it, and what no client would send besides; bytes are UDP payload.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from shadowmesh.crypto.retry import TICKET_SIZE
from shadowmesh.units import Address
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.testing import MemoryRelay
from tests.protocol.mesh import RELAY_IDENTITY, Mesh

VICTIM = Address("203.0.113.66", 6666)
RETRY_WAIT = 200.0
"""Seconds of virtual time after the attack: everything that QUIC would send again has been sent."""


@pytest.fixture
def attacked() -> Mesh:
    mesh = Mesh()
    relay = MemoryRelay(
        RELAY_IDENTITY, Admission(True, frozenset()), mesh.relay_address, mesh.network.now, 1, 4434
    )
    assert relay.second is not None
    mesh.relay = relay
    mesh.network.attach(relay)
    mesh.network.attach(relay.second)
    return mesh


def sent_to(mesh: Mesh, victim: Address, mark: int = 0) -> list[bytes]:
    return [data for _, _, target, data in mesh.network.sent[mark:] if target == victim]


def send(mesh: Mesh, data: bytes, second: bool = False, victim: Address = VICTIM) -> None:
    assert mesh.relay is not None
    assert mesh.relay.second is not None
    station = mesh.relay.second if second else mesh.relay
    station.receive(data, victim, mesh.network.now)
    mesh.network.flush(station)


def long_header(kind: int, version: int, destination: bytes, source: bytes, rest: bytes, size: int) -> bytes:
    head = bytes((0xC0 | kind << 4,)) + version.to_bytes(4, "big")
    head += bytes([len(destination)]) + destination + bytes([len(source)]) + source
    return (head + rest).ljust(size, b"\0")[:size]


def of_every_sort() -> Iterator[bytes]:
    """All types, versions and lengths of ids, with tokens of every size; short headers; noise."""
    noise = random.Random(7)
    for size in (1, 20, 21, 64, 1199, 1200, 1472, 9000):
        for kind in range(4):
            for version in (0, 1, 2, 0x6B3343CF, 0xFF00001D, 0x0A0A0A0A):
                for ids in (0, 8, 20, 255):
                    token = noise.randbytes(noise.choice((0, 16, TICKET_SIZE, 49, 61)))
                    rest = bytes((len(token),)) + token + b"\x44\x00" + noise.randbytes(64)
                    destination = noise.randbytes(ids)
                    yield long_header(kind, version, destination, noise.randbytes(ids), rest, size)
        for first in (0x00, 0x40, 0x43, 0x5A, 0x7F, 0x80, 0xBF, 0xFF):
            yield bytes((first,)) + noise.randbytes(size - 1)


def test_nothing_that_a_stranger_sends_is_answered_with_more(attacked: Mesh) -> None:
    """One answer at most to each, and none that is larger than half of what it answers."""
    came, went = 0, 0
    for data in of_every_sort():
        for second in (False, True):
            mark = len(attacked.network.sent)
            send(attacked, data, second)
            answers = sent_to(attacked, VICTIM, mark)
            assert len(answers) <= (0 if second else 1)
            assert sum(map(len, answers)) <= len(data) / 2
            came += len(data)
            went += sum(map(len, answers))
    mark = len(attacked.network.sent)
    attacked.network.run_for(RETRY_WAIT)
    assert sent_to(attacked, VICTIM, mark) == [], "nothing is sent later"
    assert 0 < went < came / 10


@pytest.mark.parametrize("first", [True, False])
def test_nothing_that_a_member_sends_gains_from_elsewhere(attacked: Mesh, first: bool) -> None:
    """The attacker sees it on the way, and sends it from an address of its own: before it comes, or after."""
    mesh = attacked
    came: list[int] = []

    def copy(source: Address, target: Address, data: bytes) -> bool:
        if source == VICTIM or target.host != mesh.relay_address.host:
            return True
        came.append(len(data))
        delay = 0.0 if first else 2 * mesh.network.latency
        mesh.network.after(delay, lambda: send(mesh, data, second=target.port == 4434))
        return True

    mesh.network.filter = copy
    for number in (0, 1):
        mesh.start_client(number, (1 - number,))
    mesh.network.run_for(5)
    for _ in range(20):
        for number in (0, 1):
            mesh.send(number, mesh.frame(number, 1 - number, bytes(1200)))
        mesh.network.run_for(0.1)
    tickets = tuple(mesh.clients[0].core._shared.tickets.values())
    mesh.clients[0].core.close(mesh.network.now)
    mesh.network.flush(mesh.clients[0])
    mesh.network.run_for(1)
    mesh.start_client(0, (1,), tickets=tickets)
    mesh.network.run_for(5)
    mesh.clients[1].core.close(mesh.network.now)
    mesh.network.flush(mesh.clients[1])
    mesh.network.filter = lambda *_: True
    mesh.network.run_for(RETRY_WAIT)
    went = [len(data) for data in sent_to(mesh, VICTIM)]
    assert len(came) > 100
    assert sum(went) <= sum(came)
    assert max(went) < 600, "a Retry or BOUND, and no flight of a handshake"


def test_a_ticket_shown_by_somebody_else_behind_the_same_address(attacked: Mesh) -> None:
    """The port is not proved by a ticket: what that costs at most, everything sent again included."""
    mesh = attacked
    mesh.start_client(0, ())
    mesh.network.run_for(2)
    client = mesh.clients[0]
    tickets = tuple(client.core._shared.tickets.values())
    client.core.close(mesh.network.now)
    mesh.network.flush(client)
    mesh.network.run_for(1)
    flight: list[bytes] = []

    def capture(source: Address, target: Address, data: bytes) -> bool:
        flight.append(data)
        return False

    mesh.network.filter = capture
    again = mesh.start_client(0, (), tickets=tickets)
    mesh.network.run_for(0.01)
    mesh.network.detach(again)
    mesh.network.filter = lambda *_: True
    neighbour = Address(client.address.host, 7777)
    mark = len(mesh.network.sent)
    for data in flight:
        send(mesh, data, victim=neighbour)
    mesh.network.run_for(RETRY_WAIT)
    answers = sent_to(mesh, neighbour, mark)
    assert answers, "it was taken"
    assert sum(map(len, answers)) <= 3 * sum(map(len, flight))
