"""The middlebox in a cable of the lab does what it is told: shown with plain sockets, no ShadowMesh."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.cable import Cable
from shadowmesh.testing.impair import Impairment
from shadowmesh.testing.process import wait_until
from shadowmesh.testing.stream import Stream
from shadowmesh.testing.traffic import send_tcp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmesh.testing.lab import Lab

pytestmark = pytest.mark.root

PORT = 5000


@pytest.fixture(scope="module")
def cable(module_lab: Lab) -> Cable:
    near, _ = (module_lab.host(name) for name in ("near", "far"))
    return Cable(near)


@pytest.fixture
def sockets(cable: Cable) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Of near and far; the box is a plain cable before and after."""
    cable.clear()
    with contextlib.ExitStack() as stack:
        found = []
        for name in ("near", "far"):
            host = cable.host.lab.hosts[name]
            one = stack.enter_context(host.socket(socket.AF_INET, socket.SOCK_DGRAM))
            one.bind((host.address, PORT))
            one.settimeout(5.0)
            found.append(one)
        yield found[0], found[1]
    cable.clear()


def test_plain_cable_carries_everything(cable: Cable) -> None:
    """Also what the kernel hands over in large packets with unfinished checksums."""
    near, far = (cable.host.lab.hosts[name] for name in ("near", "far"))
    assert far.ipv4 is not None
    assert far.ipv6 is not None
    for address in (far.ipv4, far.ipv6):
        near.ping(address)
        send_tcp(near, far, address, secrets.token_bytes(300_000))


def test_stream_through_a_bad_link(cable: Cable) -> None:
    near, far = (cable.host.lab.hosts[name] for name in ("near", "far"))
    cable.impair(Impairment(loss=0.2, duplicate=0.2, delay=0.02, jitter=0.02))
    with Stream(near, far, far.address, 2000) as stream:
        stream.wait_flowing()
        passed, _ = cable.counters()
        wait_until(lambda: cable.counters()[0]["up"]["packets"] > passed["up"]["packets"] + 1000, 10, "1000")
        result = stream.stop()
    cable.clear()
    assert 0.15 < result.lost / result.sent < 0.25
    assert 0.15 < result.doubled / result.received < 0.25
    assert result.overtaken > 100


def test_damaged_datagram_arrives(cable: Cable, sockets: tuple[socket.socket, socket.socket]) -> None:
    """The kernel of the receiver must not drop it: its checksum was made right."""
    near, far = sockets
    cable.impair(Impairment(corrupt=1.0))
    for size in (10, 1001):
        sent = secrets.token_bytes(size)
        near.sendto(sent, far.getsockname())
        got = far.recv(2000)
        assert sum((a ^ b).bit_count() for a, b in zip(sent, got, strict=True)) == 1


def test_other_external_port(cable: Cable, sockets: tuple[socket.socket, socket.socket]) -> None:
    near, far = sockets
    seen = set()
    for _ in range(3):
        near.sendto(b"here", far.getsockname())
        source = far.recvfrom(100)[1]
        far.sendto(b"there", source)
        assert near.recvfrom(100) == (b"there", far.getsockname())
        seen.add(source)
        cable.rebind()
    assert len(seen) == 3
    assert near.getsockname() in seen


def test_one_direction_is_delayed_and_the_other_is_cut(
    cable: Cable, sockets: tuple[socket.socket, socket.socket]
) -> None:
    near, far = sockets
    cable.impair(Impairment(delay=0.2), Impairment(cut=True), [far.getsockname()[0]])
    begun = time.monotonic()
    near.sendto(b"late", far.getsockname())
    assert far.recv(100) == b"late"
    assert time.monotonic() - begun >= 0.2
    far.sendto(b"never", near.getsockname())
    wait_until(lambda: cable.counters()[1]["down"].get("cut") == 1, 5.0, "the drop")
    cable.clear()
    far.sendto(b"again", near.getsockname())
    assert near.recv(100) == b"again"


def test_box_can_be_taken_out(cable: Cable) -> None:
    """The last test: the cable is as it was."""
    lab = cable.host.lab
    cable.remove()
    cable.host.ping(lab.hosts["far"].address)
    assert lab.switch.interfaces() == {"lo", "br0", "port1", "port2"}
