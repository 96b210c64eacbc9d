"""A relay between engines that send and receive super-frames, and the grouping of what it sends."""

from __future__ import annotations

import random
import socket
from dataclasses import replace

import pytest

from tests.reference.offload import ACK, PSH, TCP, split
from tests.unit.ext_harness import (
    DEADLINE,
    Node,
    connect,
    raw_sockaddr,
    udp_socket,
    wait_until,
    wire_id,
)
from tests.unit.test_ext_forward import Relay
from tests.unit.test_ext_offload import ALL, collect, packet

UDP_SEGMENT = 103


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("features", [None, ["udp_gso"], ["udp_gro"], []])
def test_super_frames_through_a_relay(features: list[str] | None, family: socket.AddressFamily) -> None:
    with Relay(family, features) as relay, Node(1, family, ALL) as one, Node(2, family, ALL) as two:
        connect(one, two, 5, channels=(b"one->rel", b"two->rel"))
        relay.forwarder.add_client(1, one.sockaddr)
        relay.forwarder.add_client(2, two.sockaddr)
        relay.forwarder.install_channel(b"one->rel", 1, 2, b"rel->two")
        two.engine.install_channel(b"rel->two")
        one.engine.set_endpoint(5, relay.sockaddr, b"one->rel")
        for number in range(20):
            whole = replace(
                packet(two.mac, one.mac, TCP, random.Random(number).randbytes(60_000)),
                sequence=number * 60_000, flags=ACK | PSH,
            )  # fmt: skip
            one.tap.send(whole.vnet(1300) + whole.frame(partial=True))
            assert collect(two, 47)[0] == split(whole, 1300)
        wait_until(lambda: relay.forwarder.client_counters(2)["tx_packets"] == 20 * 47)
        counters = relay.forwarder.counters()
        used = relay.forwarder.features()
        assert used == {name: features is None or name in features for name in ("udp_gso", "udp_gro")}
        assert (counters["udp_gro_receives"] > 0) == used["udp_gro"]
        assert counters["udp_gso_sends"] > 0 or not all(used.values())
        assert counters["udp_gso_sends"] == 0 or used["udp_gso"]
        assert relay.drops() == one.drops() == two.drops() == {}


def test_interleaved_destinations_are_grouped_and_keep_their_order() -> None:
    """One GRO'd message, so one batch: datagrams to two clients in turns become two messages."""
    with Relay() as relay, udp_socket() as source, udp_socket() as left, udp_socket() as right:
        for number, sock in enumerate((source, left, right)):
            sock.settimeout(DEADLINE)
            relay.forwarder.add_client(number, raw_sockaddr(sock))
            relay.forwarder.install_channel(wire_id(number), 0, number, wire_id(100 + number))
        sent = [b"\x40" + wire_id(1 + number % 2) + b"content%04d" % number for number in range(40)]
        sent.append(b"\x40" + wire_id(1) + b"short")
        size = len(sent[0]).to_bytes(2, "little")
        source.sendmsg(
            [b"".join(sent)], [(socket.IPPROTO_UDP, UDP_SEGMENT, size)], 0, relay.udp.getsockname()
        )
        expected = [b"\x40" + wire_id(101 + number % 2) + sent[number][9:] for number in range(40)]
        assert [left.recv(2000) for _ in range(21)] == [*expected[::2], b"\x40" + wire_id(101) + b"short"]
        assert [right.recv(2000) for _ in range(20)] == expected[1::2]
        wait_until(lambda: relay.forwarder.counters()["udp_gso_sends"] == 2)
        assert relay.drops() == {}
