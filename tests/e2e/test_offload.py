"""Super-frames over real TAP devices: content of both protocols and families, and offloads in use."""

from __future__ import annotations

import random
import secrets
import socket
from typing import TYPE_CHECKING

import pytest

from shadowmesh.testing.process import wait_until
from shadowmesh.testing.traffic import send_tcp

if TYPE_CHECKING:
    from shadowmesh.testing.mesh import Mesh

pytestmark = pytest.mark.root

UDP_SEGMENT = 103
TIMEOUT = 10.0
IPPROTO_UDP = socket.IPPROTO_UDP


def receive(sock: socket.socket, count: int) -> list[bytes]:
    """Datagrams until `count` are there or nothing came for a second: the network may lose some."""
    got: list[bytes] = []
    sock.settimeout(1.0)
    try:
        while len(got) < count:
            got.append(sock.recv(65_536))
    except TimeoutError:
        pass
    return got


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_udp_super_frames_keep_their_datagrams(duo: Mesh, family: socket.AddressFamily) -> None:
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    address = bob.ipv4 if family == socket.AF_INET else bob.ipv6
    with (
        alice.host.socket(family, socket.SOCK_DGRAM) as near,
        bob.host.socket(family, socket.SOCK_DGRAM) as far,
    ):
        far.bind((address, 0))
        near.settimeout(TIMEOUT)
        near.connect((address, far.getsockname()[1]))
        for size in (1, 100, 1200):
            sent = [random.Random(size * number).randbytes(size) for number in range(40)] + [b"!"]
            segment = size.to_bytes(2, "little")
            near.sendmsg([b"".join(sent)], [(IPPROTO_UDP, UDP_SEGMENT, segment)])
            expected = sent if size > 1 else [bytes([byte]) for byte in b"".join(sent)]
            assert receive(far, len(expected)) == expected


def test_tcp_uses_super_frames_both_ways(duo: Mesh) -> None:
    alice, bob = duo.clients["alice"], duo.clients["bob"]
    for address in (bob.ipv4, bob.ipv6) * 4:
        send_tcp(alice.host, bob.host, address, secrets.token_bytes(500_000))
    for client in (alice, bob):
        wait_until(
            lambda client=client: all(  # type: ignore[misc]
                client.status()["counters"][name] > 0
                for name in ("split_frames", "coalesced_frames", "udp_gso_sends", "udp_gro_receives")
            ),
            TIMEOUT,
            f"{client.name} does not use its offloads",
        )
        drops = client.status()["drops"]
        assert drops["unsplittable"] == drops["malformed_segment"] == drops["tap_failed"] == 0
