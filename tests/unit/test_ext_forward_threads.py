"""Several forwarder threads: each client has one owner, wherever what it sends comes in.

Here the threads have different ports, so that a test decides which one gets a datagram.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shadowmesh._ext import forward
from shadowmesh._ext.forward import EVENT_CONTROL, EVENT_ENDPOINT, EVENT_LONG_HEADER, Forwarder
from shadowmesh_relay.steering import MOST_THREADS
from tests.unit.ext_harness import DEADLINE, raw_sockaddr, udp_socket, wait_until, workers
from tests.unit.test_ext_forward import Client, Relay

SOL_UDP, UDP_SEGMENT = 17, 103
"""linux/udp.h."""


@contextmanager
def relay_of_three(owner: int = 0) -> Iterator[tuple[Relay, Client, list[socket.socket]]]:
    """A relay of three threads and its client 4, which `owner` owns; the sockets of the threads."""
    with udp_socket() as second, udp_socket() as third, Relay(more=(second, third)) as relay:
        client = Client(relay, owner)
        with client.home, client.away:
            yield relay, client, [relay.udp, second, third]


def handed_over(relay: Relay) -> list[int]:
    return [counters["handed_over"] for counters in relay.forwarder.thread_counters()]


def arrive(client: Client, thread: socket.socket, datagram: bytes) -> None:
    client.home.sendto(datagram, thread.getsockname())


@pytest.mark.parametrize("owner", [0, 1, 2])
def test_a_channel_works_through_each_thread(owner: int) -> None:
    with relay_of_three(owner) as (relay, client, sockets), udp_socket() as two:
        two.settimeout(DEADLINE)
        relay.forwarder.add_client(5, raw_sockaddr(two), thread=1)
        relay.forwarder.install_channel(b"incoming", 4, 5, b"outgoing")
        for number in range(30):
            arrive(client, sockets[number % 3], b"\x43incoming%02d" % number)
            assert two.recv(100) == b"\x43outgoing%02d" % number
        wait_until(lambda: relay.forwarder.client_counters(5)["tx_packets"] == 30)
        assert relay.forwarder.client_counters(4)["rx_packets"] == 30
        assert handed_over(relay) == [0 if thread == owner else 10 for thread in range(3)]
        assert relay.forwarder.counters()["udp_rx_datagrams"] == 30
        assert relay.drops() == {}


def test_a_replay_is_seen_whichever_thread_it_comes_to() -> None:
    with relay_of_three(1) as (relay, client, sockets):
        for first in sockets:
            packet = client.packet(client.bind_payload())
            arrive(client, first, packet)
            client.bound()
            for again in sockets:
                arrive(client, again, packet)
        wait_until(lambda: relay.drops() == {"duplicate": 9})


def test_a_client_moves_through_any_thread() -> None:
    """Its challenge, its number and its sealing lane are those of one thread."""
    with relay_of_three(2) as (relay, client, sockets), udp_socket() as two:
        relay.forwarder.add_client(5, raw_sockaddr(two), thread=1)
        relay.forwarder.install_channel(b"incoming", 5, 4, b"outgoing")
        client.send(client.packet(client.bind_payload()), client.away)  # to the first thread
        challenge = client.bound(client.away).challenge
        assert challenge != bytes(8)
        client.away.sendto(client.packet(client.bind_payload(challenge)), sockets[1].getsockname())
        assert client.bound(client.away).challenge == bytes(8)
        assert relay.forwarder.endpoint(4) == raw_sockaddr(client.away)
        assert relay.event().kind == EVENT_ENDPOINT
        for thread in sockets:
            two.sendto(b"\x43incoming", thread.getsockname())
            assert client.away.recv(100) == b"\x43outgoing"
        assert relay.drops() == {}


def test_a_limit_holds_for_a_client_and_not_for_each_of_its_ways() -> None:
    with relay_of_three() as (relay, client, sockets), udp_socket() as two:
        relay.forwarder.add_client(5, raw_sockaddr(two), thread=2)
        relay.forwarder.install_channel(b"incoming", 4, 5, b"outgoing")
        relay.forwarder.set_limits(packet_rate=10)
        for number in range(300):
            arrive(client, sockets[number % 3], b"\x43incoming")
        wait_until(
            lambda: sum(relay.drops().values()) + relay.forwarder.client_counters(4)["rx_packets"] == 300
        )
        assert set(relay.drops()) == {"client_packets"}
        assert relay.forwarder.client_counters(4)["rx_packets"] < 128, "64 at once and 10 a second"


def test_a_train_of_mixed_channels_arrives_whole() -> None:
    with relay_of_three() as (relay, client, sockets), udp_socket() as two:
        two.settimeout(DEADLINE)
        relay.forwarder.add_client(5, raw_sockaddr(two), thread=2)
        relay.forwarder.install_channel(b"incoming", 4, 5, b"outgoing")
        relay.forwarder.install_channel(b"backward", 5, 5, b"outgoing")
        train = b"".join(b"\x43" + (b"incoming", b"backward")[i % 2] + b"%02d" % i for i in range(60))
        control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", 11))]
        client.home.sendmsg([train], control, 0, sockets[2].getsockname())
        arrived = sorted(two.recv(100) for _ in range(60))
        assert arrived == [b"\x43outgoing%02d" % i for i in range(60)]
        assert handed_over(relay) == [0, 0, 30]


def test_everything_for_asyncio_comes_out_of_one_poll() -> None:
    with relay_of_three() as (relay, client, sockets):
        relay.forwarder.install_control(b"control1")
        for number, thread in enumerate(sockets):
            arrive(client, thread, b"\x43control1%d" % number)
            arrive(client, thread, b"\xc3\0\0\0\1initial%d" % number)
        found = [relay.event() for _ in range(6)]
        assert sorted(event.data for event in found if event.kind == EVENT_CONTROL) == [
            b"\x43control1%d" % number for number in range(3)
        ]
        assert sorted(event.data[-1:] for event in found if event.kind == EVENT_LONG_HEADER) == [
            b"0",
            b"1",
            b"2",
        ]
        assert handed_over(relay) == [0, 0, 0], "control is no one thread's"


def test_more_long_headers_than_one_poll_takes_come_with_the_next() -> None:
    with relay_of_three() as (relay, client, sockets):
        for number in range(100):
            arrive(client, sockets[2], b"\xc3\0\0\0\1initial%02d" % number)
        assert [relay.event().data[-2:] for _ in range(100)] == [b"%02d" % number for number in range(100)]


def test_threads_and_their_clients_are_counted() -> None:
    with relay_of_three(1) as (relay, client, _):
        relay.forwarder.add_client(5, raw_sockaddr(client.away), thread=1)
        relay.forwarder.add_client(6, raw_sockaddr(client.away), thread=2)
        relay.forwarder.remove_client(4)
        assert [one["clients"] for one in relay.forwarder.thread_counters()] == [0, 1, 1]
        assert workers() == 3
        with pytest.raises(ValueError, match="thread"):
            relay.forwarder.add_client(7, raw_sockaddr(client.away), thread=3)
    wait_until(lambda: workers() == 0)


def test_sockets_are_few_and_of_one_family() -> None:
    assert forward.MOST_THREADS == MOST_THREADS
    with Relay() as relay, udp_socket(socket.AF_INET) as other:
        with pytest.raises(ValueError, match=r"1\.\.8 sockets"):
            Forwarder(relay.udp.fileno(), relay.event_fd, *[relay.udp.fileno()] * 8)
        with pytest.raises(ValueError, match="of one family"):
            Forwarder(relay.udp.fileno(), relay.event_fd, other.fileno())
        with pytest.raises(ValueError, match="udp_fd"):
            Forwarder(relay.udp.fileno(), relay.event_fd, -1)
