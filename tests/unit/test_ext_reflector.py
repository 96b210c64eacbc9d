"""The forwarder sends an address that proved nothing no more than came from there, over loopback."""

from __future__ import annotations

import random
import socket

from tests.unit.ext_harness import udp_socket
from tests.unit.test_ext_forward import relay_and_client


def drained(sock: socket.socket) -> list[int]:
    """Sizes of what has come; on loopback it is there as soon as it is sent."""
    sock.setblocking(False)
    sizes = []
    while True:
        try:
            sizes.append(len(sock.recv(65536)))
        except BlockingIOError:
            return sizes


def test_noise_and_replays_are_not_answered() -> None:
    noise = random.Random(3)
    with relay_and_client() as (relay, client), udp_socket() as stranger:
        relay.forwarder.install_control(b"control!")
        relay.forwarder.install_channel(b"channel1", 4, 4, b"arriving")
        bind = client.packet(client.bind_payload())
        client.send(bind)
        client.bound()
        sorts = [noise.randbytes(noise.randrange(1, 1500)) for _ in range(300)]
        sorts += [bytes((first,)) + client.LANES[0] + noise.randbytes(60) for first in (0x43, 0x5A, 0x7F)]
        sorts += [b"\x43control!" + noise.randbytes(100), bind, bind[:-1], bind + b"\0"]
        for data in sorts:
            client.send(data, stranger)
        relay.mark(client)
        assert drained(stranger) == []


def test_what_goes_through_a_channel_reaches_its_other_end_only() -> None:
    """Whoever knows the id of a channel can send into it, and gets nothing back."""
    with relay_and_client() as (relay, client), udp_socket() as stranger:
        relay.forwarder.install_channel(b"channel1", 4, 4, b"arriving")
        client.send(b"\x43channel1" + bytes(1000), stranger)
        assert len(client.home.recv(2000)) == 1009
        relay.mark(client)
        assert drained(stranger) == []


def test_a_bind_from_elsewhere_gets_as_many_bytes_as_it_has() -> None:
    """An attacker on the way who is faster than the client: one BOUND of the same size, for each."""
    with relay_and_client() as (relay, client), udp_socket() as stranger:
        binds = [client.packet(client.bind_payload()) for _ in range(20)]
        for bind in binds:
            for _ in range(3):
                client.send(bind, stranger)
        client.answers = len(binds)
        relay.mark(client)
        assert drained(stranger) == [len(bind) for bind in binds]
