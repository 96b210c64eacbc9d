"""Forwarder threads of a relay: ids that lead to them, and a kernel that follows."""

from __future__ import annotations

import os
import random
import socket
from collections import Counter
from contextlib import ExitStack

import pytest

from shadowmesh.errors import DeviceError
from shadowmesh.io.udp import open_udp
from shadowmesh_relay.clients import Totals
from shadowmesh_relay.report import RelayNode, Report, ThreadReport
from shadowmesh_relay.steering import MOST_THREADS, Steering, open_steered, threads_for
from shadowmesh_relay.verbs import render


@pytest.mark.parametrize("threads", range(1, MOST_THREADS + 1))
def test_ids_lead_to_their_thread_and_are_random_otherwise(threads: int) -> None:
    steering = Steering(threads, random.Random(threads).randbytes)
    for thread in range(threads):
        ids = [steering.new_id(thread) for _ in range(2000)]
        assert {len(one) for one in ids} == {8}
        assert {one[0] % threads for one in ids} == {thread}
        assert len({one[0] for one in ids}) > 0.9 * len(range(thread, 256, threads))
        assert len({one[1:] for one in ids}) == 2000


def test_one_thread_takes_ids_as_they_come() -> None:
    drawn = random.Random(1)
    assert Steering(1, drawn.randbytes).new_id(0) == random.Random(1).randbytes(8)


def test_newcomers_come_to_the_threads_in_turns() -> None:
    steering = Steering(3, os.urandom)
    assert [steering.next_thread() for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_auto_is_one_for_each_processor() -> None:
    assert threads_for(0) == min(len(os.sched_getaffinity(0)), MOST_THREADS)
    assert threads_for(5) == 5


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_kernel_finds_the_thread_by_the_id(host: str, threads: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in open_steered(host, 0, threads)]
        sender = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        for first in range(256):
            rest = bytes([first]) + bytes(40)
            for datagram in (b"\x43" + rest, b"\xc3\0\0\0\1\x08" + rest):
                sender.sendto(datagram, sockets[0].getsockname())
                assert sockets[first % threads].recv(100) == datagram
        for short in (b"", b"\x43", b"\xc3\0\0\0\1\x08"):
            sender.sendto(short, sockets[0].getsockname())
            assert sockets[0].recv(100) == short
        for one in sockets:
            with pytest.raises(BlockingIOError):
                one.recv(100)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_port_that_somebody_has_is_refused(threads: int) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in open_steered("127.0.0.1", 0, threads)]
        port = sockets[0].getsockname()[1]
        for more in (1, 2):
            with pytest.raises(DeviceError, match="another program has that port"):
                open_steered("127.0.0.1", port, more)
        with pytest.raises(DeviceError, match="another program has that port"):
            open_udp("127.0.0.1", port)


def report(threads: int) -> Report:
    return Report(
        relay=RelayNode(name="r", node_id="a" * 52, version="1", listen="[::]:1", uptime=1.0, admits="all"),
        totals=Totals(
            clients=3,
            clients_limit=4,
            channels=0,
            handshakes_under_way=0,
            handshakes=Counter(),
            channels_opened=0,
            openings_refused={},
            load=0,
        ),
        clients=[],
        threads=[
            ThreadReport(clients=i, rx_datagrams=10 + i, tx_datagrams=20, handed_over=7 * i, socket_full=0)
            for i in range(threads)
        ],
        counters={},
        drops={},
    )


def test_status_shows_threads_where_there_are_several() -> None:
    assert not any("handed over" in line.lower() for line in render(report(1)))
    lines = render(report(3))
    head = next(i for i, line in enumerate(lines) if "handed over" in line.lower())
    assert [line.split() for line in lines[head + 1 : head + 4]] == [
        ["0", "0", "10", "20", "0", "0"],
        ["1", "1", "11", "20", "7", "0"],
        ["2", "2", "12", "20", "14", "0"],
    ]
