"""Bundles of datagrams, and the tunnel that makes them out of a UDP socket."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterator

import pytest

from shadowmesh._ext.bundle import MAX_BUNDLE, Bundler
from shadowmesh.io.tunnel import Tunnel
from shadowmesh.io.udp import local_address, open_udp
from shadowmesh.units import Address


def bundle_of(*datagrams: bytes) -> bytes:
    return b"".join(len(one).to_bytes(2, "big") + one for one in datagrams)


def split(bundle: bytes) -> list[bytes]:
    """The obvious twin of `scatter`."""
    found = []
    while bundle:
        size = int.from_bytes(bundle[:2], "big")
        assert 21 <= size <= len(bundle) - 2
        found.append(bundle[2 : 2 + size])
        bundle = bundle[2 + size :]
    return found


@contextlib.contextmanager
def engine_socket(host: str = "::1") -> Iterator[socket.socket]:
    udp = open_udp(host, 0)
    try:
        yield udp
    finally:
        udp.close()


@pytest.fixture
def udp() -> Iterator[socket.socket]:
    with engine_socket("127.0.0.1") as made:
        yield made


@pytest.fixture
def tunnel(udp: socket.socket) -> Iterator[Tunnel]:
    made = Tunnel(Bundler(), local_address(udp))
    yield made
    made.close()


def received(udp: socket.socket, count: int) -> list[bytes]:
    udp.settimeout(5.0)
    return [udp.recv(65536) for _ in range(count)]


async def collect(tunnel: Tunnel, count: int) -> list[bytes]:
    """What the tunnel sends into its stream, until that are `count` datagrams."""
    found: list[bytes] = []
    done = asyncio.Event()

    async def send(bundle: bytes) -> None:
        assert len(bundle) <= MAX_BUNDLE
        found.extend(split(bundle))
        if len(found) >= count:
            done.set()

    pump = asyncio.create_task(tunnel.pump(send))
    await asyncio.wait_for(done.wait(), 5.0)
    pump.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await pump
    return found


def test_datagrams_of_all_sizes_come_out_as_they_went_in(udp: socket.socket, tunnel: Tunnel) -> None:
    sizes = [21, 22, 63, 1200, 1200, 1200, 1199, 1452, 1452, 27, 9000, 16384]
    datagrams = [random.Random(size).randbytes(size) for size in sizes]
    tunnel.deliver(bundle_of(*datagrams))
    assert received(udp, len(datagrams)) == datagrams


def test_more_datagrams_than_one_system_call_takes(udp: socket.socket, tunnel: Tunnel) -> None:
    datagrams = [number.to_bytes(4, "big") * 8 for number in range(1000)]
    for start in range(0, 1000, 500):
        tunnel.deliver(bundle_of(*datagrams[start : start + 500]))
        assert received(udp, 500) == datagrams[start : start + 500]


async def test_what_the_engine_sends_is_bundled(udp: socket.socket, tunnel: Tunnel) -> None:
    datagrams = [random.Random(number).randbytes(21 + 37 * number % 1400) for number in range(100)]
    for datagram in datagrams:
        udp.sendto(datagram, (tunnel.address.host, tunnel.address.port))
    assert await collect(tunnel, len(datagrams)) == datagrams
    assert 1 <= tunnel.sent < len(datagrams)


async def test_segments_of_one_large_send_are_datagrams_again(udp: socket.socket, tunnel: Tunnel) -> None:
    """The engine sends runs by GSO, which reaches a socket of this machine in one piece."""
    udp.setsockopt(socket.SOL_UDP, 103, 1000)  # UDP_SEGMENT
    data = random.Random(1).randbytes(30_500)
    udp.sendto(data, (tunnel.address.host, tunnel.address.port))
    found = await collect(tunnel, 31)
    assert [len(one) for one in found] == [1000] * 30 + [500]
    assert b"".join(found) == data


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x00\x02a",
        bundle_of(bytes(21)) + b"\x00",
        bundle_of(bytes(21), bytes(20), bytes(21)),
        bundle_of(b"a" * 65507) + b"\xff",
    ],
    ids=["nothing", "half a size", "size zero", "too short", "rest", "too small", "rest after the largest"],
)
def test_what_is_no_bundle_is_refused_whole(udp: socket.socket, tunnel: Tunnel, bundle: bytes) -> None:
    with pytest.raises(ValueError, match="no bundle"):
        tunnel.deliver(bundle)
    udp.setblocking(False)
    with pytest.raises(BlockingIOError):
        udp.recv(65536)


async def test_what_no_packet_of_ours_is_does_not_get_in(udp: socket.socket, tunnel: Tunnel) -> None:
    """Else a peer whose channel packets are that small would end the connection of whom it talks to."""
    for size in (1, 20, 21, 4, 30):
        udp.sendto(bytes(size), (tunnel.address.host, tunnel.address.port))
    udp.setsockopt(socket.SOL_UDP, 103, 40)  # UDP_SEGMENT
    udp.sendto(bytes(100), (tunnel.address.host, tunnel.address.port))
    udp.sendto(bytes(60), (tunnel.address.host, tunnel.address.port))
    assert [len(one) for one in await collect(tunnel, 5)] == [21, 30, 40, 40, 40]
    assert tunnel._bundler.drops()["short"] == 5


def test_a_size_beyond_udp_is_refused(tunnel: Tunnel) -> None:
    with pytest.raises(ValueError, match="no bundle"):
        tunnel.deliver(b"\xff\xe4" + bytes(65508))


def test_random_bytes_never_do_harm(tunnel: Tunnel) -> None:
    numbers = random.Random(7)
    refused = 0
    for _ in range(2000):
        data = numbers.randbytes(numbers.randrange(64))
        try:
            tunnel.deliver(data)
        except ValueError:
            refused += 1
    assert 0 < refused <= 2000


async def test_only_the_one_socket_is_heard(udp: socket.socket, tunnel: Tunnel) -> None:
    with engine_socket("127.0.0.1") as other, contextlib.suppress(ConnectionRefusedError):
        other.sendto(b"from somebody else", (tunnel.address.host, tunnel.address.port))
    udp.sendto(b"from the engine itself", (tunnel.address.host, tunnel.address.port))
    assert await collect(tunnel, 1) == [b"from the engine itself"]


def test_a_full_queue_drops_and_counts(udp: socket.socket, tunnel: Tunnel) -> None:
    for _ in range(3000):
        with contextlib.suppress(BlockingIOError):
            udp.sendto(bytes(1400), (tunnel.address.host, tunnel.address.port))
    assert tunnel.dropped > 100
    before = tunnel.dropped
    tunnel.close()
    assert tunnel.dropped == before


@pytest.mark.parametrize(
    ("bound", "host"),
    [("::", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.1"), ("::1", "::1")],
)
async def test_wherever_the_engine_listens(bound: str, host: str) -> None:
    with engine_socket(bound) as udp:
        tunnel = Tunnel(Bundler(), local_address(udp))
        try:
            assert tunnel.address.host == host
            mapped = f"::ffff:{host}" if udp.family == socket.AF_INET6 and "." in host else host
            udp.sendto(b"there" * 5, (mapped, tunnel.address.port))
            assert await collect(tunnel, 1) == [b"there" * 5]
            tunnel.deliver(bundle_of(b"back" * 6))
            assert received(udp, 1) == [b"back" * 6]
        finally:
            tunnel.close()


def test_a_socket_that_can_not_be_reached_leaves_nothing_open() -> None:
    with pytest.raises(OSError, match=r".+"):
        Tunnel(Bundler(), Address("255.255.255.255", 4433))


def test_bundler_refuses_what_is_no_socket() -> None:
    with open("/dev/null", "rb") as file, pytest.raises(ValueError, match="socket"):
        Bundler().prepare(file.fileno())
