"""Engines end to end: frames between two and three of them, and every way in which a frame is not sent."""

from __future__ import annotations

import gc
import os
import random
import socket
import time
from contextlib import suppress

import pytest

from shadowmesh._ext.engine import EVENT_WANTED, DropReason, Engine, SendKeys
from tests.unit.ext_harness import (
    BROADCAST,
    Node,
    connect,
    frame,
    mac,
    material,
    node_and_peer,
    raw_sockaddr,
    udp_socket,
    wait_readable,
    wait_until,
    wire_id,
    workers,
)

FAMILIES = [socket.AF_INET, socket.AF_INET6]


@pytest.mark.parametrize("family", FAMILIES)
def test_two_engines_exchange_unicast(family: socket.AddressFamily) -> None:
    with Node(1, family) as one, Node(2, family) as two:
        connect(one, two, 5)
        for size in (0, 1, 46, 1486, 9216, 16000):
            sent = frame(two.mac, one.mac, random.Random(size).randbytes(size))
            one.tap.send(sent)
            assert two.receive() == sent
            back = frame(one.mac, two.mac, sent[14:])
            two.tap.send(back)
            assert one.receive() == back
        wait_until(lambda: one.engine.peer_counters(5)["tx_frames"] == 6)
        counters = two.engine.peer_counters(5)
        assert counters["rx_frames"] == 6
        assert counters["rx_bytes"] == one.engine.peer_counters(5)["tx_bytes"]
        assert one.engine.peer_counters(5)["next_number"] == 6
        assert 0 < time.monotonic() - counters["last_received"] < 60
        assert one.drops() == two.drops() == {}
        assert two.engine.counters()["tap_tx_frames"] == 6


def test_many_frames_arrive_in_order() -> None:
    with Node(1) as one, Node(2) as two:
        connect(one, two, 5)
        received = []
        for first in range(0, 2000, 50):
            for number in range(first, first + 50):
                one.tap.send(frame(two.mac, one.mac, b"%d" % number))
            received += [int(two.receive()[14:]) for _ in range(50)]
        assert received == list(range(2000))


def test_group_frames_reach_every_peer_and_are_never_sent_on() -> None:
    with Node(1) as one, Node(2) as two, Node(3) as three:
        connect(one, two, 1)
        connect(one, three, 2)
        connect(two, three, 3)
        one.engine.add_peer(9, mac(9))  # has no route, and holds nobody up
        for group in (BROADCAST, b"\x33\x33\0\0\0\1", b"\1\0\x5e\0\0\1"):
            sent = frame(group, one.mac)
            one.tap.send(sent)
            assert two.receive() == sent
            assert three.receive() == sent
        # Split horizon: had two or three sent it on, it would have come before this marker.
        for sender, receiver in ((two, three), (three, two), (two, one), (three, one)):
            marker = frame(receiver.mac, sender.mac, b"marker")
            sender.tap.send(marker)
            assert receiver.receive() == marker
        assert one.drops() == two.drops() == three.drops() == {}


def test_outbound_drops_by_reason() -> None:
    with node_and_peer() as (node, peer):
        node.engine.add_peer(8, mac(8))
        unwanted = {
            "foreign_source": frame(peer.mac, mac(99)),
            "unknown_destination": frame(mac(55), node.mac),
            "no_route": frame(mac(8), node.mac, bytes(1000)),
            "frame_size": frame(peer.mac, node.mac)[:13],
        }
        for sent in unwanted.values():
            node.tap.send(sent)
        good = frame(peer.mac, node.mac)
        node.tap.send(good)
        assert peer.open(peer.udp.recv(65536)) == (0, b"\x01" + good)
        assert node.drops() == dict.fromkeys(unwanted, 1)


def test_first_frames_to_a_peer_without_a_route_are_told_and_no_longer_the_engines() -> None:
    """Four a second; what asyncio has is no drop here. One too large to hold is told without its bytes."""
    with Node(1) as node:
        node.engine.add_peer(8, mac(8))
        node.engine.add_peer(9, mac(9))
        frames = [frame(mac(8), node.mac, b"%d" % number) for number in range(6)]
        for sent in frames:
            node.tap.send(sent)
        told = [node.event() for _ in range(4)]
        assert [(one.kind, one.handle, one.data) for one in told] == [
            (EVENT_WANTED, 8, b"\x01" + sent) for sent in frames[:4]
        ]
        node.tap.send(frame(mac(9), node.mac, bytes(1000)))
        large = node.event()
        assert (large.kind, large.handle, large.data, large.via) == (EVENT_WANTED, 9, b"", b"")
        assert node.drops() == {"no_route": 3}
        node.tap.send(frame(BROADCAST, node.mac))
        wait_until(lambda: node.drops() == {"no_route": 4})
        assert node.poll() == [], "a broadcast wants nobody"


def test_unicast_is_noted_both_ways_and_broadcast_is_not() -> None:
    with node_and_peer() as (node, peer):
        peer.send(peer.packet(b"\x01" + frame(BROADCAST, peer.mac)))
        assert node.receive()
        node.tap.send(frame(BROADCAST, node.mac))
        assert peer.udp.recv(65536)
        assert node.engine.peer_counters(7)["last_unicast"] == 0.0
        node.tap.send(frame(peer.mac, node.mac))
        assert peer.udp.recv(65536)
        first = node.engine.peer_counters(7)["last_unicast"]
        assert 0.0 <= time.monotonic() - first < 5.0
        peer.mark()
        assert node.engine.peer_counters(7)["last_unicast"] > first


def test_group_frame_without_any_route_is_one_drop() -> None:
    with Node(1) as node:
        node.engine.add_peer(3, mac(3))
        node.tap.send(frame(BROADCAST, node.mac))
        wait_until(lambda: node.drops() == {"no_route": 1})


def test_frame_larger_than_a_buffer() -> None:
    with node_and_peer() as (node, peer):
        node.tap.send(frame(peer.mac, node.mac, bytes(20000)))
        wait_until(lambda: node.drops() == {"too_big": 1})


def test_a_peer_that_can_not_be_reached_costs_the_others_nothing() -> None:
    with node_and_peer(socket.AF_INET) as (node, peer):
        # Neither without SO_BROADCAST nor to a reserved network does the kernel send anything.
        for number, host in ((20, "255.255.255.255"), (21, "240.0.0.1")):
            node.engine.add_peer(number, mac(number))
            node.engine.set_lane(number, SendKeys(material(number)), 0, wire_id(number))
            port = (9).to_bytes(2, "big")
            sockaddr = bytes(peer.sockaddr[:2]) + port + socket.inet_aton(host) + bytes(8)
            node.engine.set_endpoint(number, sockaddr, b"")
        for number in range(100):
            node.tap.send(frame(BROADCAST, node.mac, b"%d" % number))
        got = [int(peer.open(peer.udp.recv(65536))[1][15:]) for _ in range(100)]
        assert got == list(range(100))
        wait_until(lambda: node.drops().get("send_failed", 0) >= 100)
        assert set(node.drops()) == {"send_failed"}
        assert node.engine.peer_counters(20)["tx_frames"] == 0


def test_datagram_larger_than_the_path_takes() -> None:
    ipv6_mtu, ipv6_dontfrag = 24, 62  # linux/in6.h
    with node_and_peer(socket.AF_INET6) as (node, peer):
        node.udp.setsockopt(socket.IPPROTO_IPV6, ipv6_mtu, 1280)
        node.udp.setsockopt(socket.IPPROTO_IPV6, ipv6_dontfrag, 1)
        for content in (bytes(1400), b"one", bytes(1400), b"two"):
            node.tap.send(frame(peer.mac, node.mac, content))
        got = [peer.open(peer.udp.recv(65536))[1][15:] for _ in range(2)]
        assert got == [b"one", b"two"]
        assert node.drops() == {"too_big": 2}


def test_a_lane_ends_at_2_31() -> None:
    with node_and_peer() as (node, peer):
        node.engine.set_lane(7, SendKeys(material(71)), 2, wire_id(0x7777), first_number=2**31 - 2)
        for number in range(4):
            node.tap.send(frame(peer.mac, node.mac, b"%d" % number))
        numbers = [peer.open(peer.udp.recv(65536))[0] for _ in range(2)]
        assert numbers == [2**31 - 2, 2**31 - 1]
        wait_until(lambda: node.drops() == {"lane_exhausted": 2})
        assert node.engine.peer_counters(7)["next_number"] == 2**31


def test_expired_keys_seal_nothing() -> None:
    """Neither keys that were too old from the first, nor those that become so under way."""
    with node_and_peer() as (node, peer):
        now = time.monotonic()
        node.engine.set_lane(7, SendKeys(material(71), expires_at=now), 2, wire_id(0x7777))
        node.tap.send(frame(peer.mac, node.mac, bytes(3000)))
        wait_until(lambda: node.drops() == {"expired_keys": 1})
        expires_at = time.monotonic() + 0.05
        node.engine.set_lane(7, SendKeys(material(71), expires_at=expires_at), 2, wire_id(0x7777))
        node.tap.send(frame(peer.mac, node.mac, b"in time"))
        assert peer.open(peer.udp.recv(65536))[1].endswith(b"in time")
        while node.drops() == {"expired_keys": 1}:
            node.tap.send(frame(peer.mac, node.mac, b"until then"))
        assert time.monotonic() >= expires_at
        assert node.engine.peer_counters(7)["next_number"] > 0
        node.engine.set_lane(7, SendKeys(material(71), expires_at=now + 3600), 2, wire_id(0x7777))
        node.tap.send(frame(peer.mac, node.mac, b"new keys"))
        peer.udp.settimeout(5)
        while not peer.open(peer.udp.recv(65536))[1].endswith(b"new keys"):
            pass


def test_clear_route_and_removal_stop_sending() -> None:
    with node_and_peer() as (node, peer):
        keys = SendKeys(material(72))
        node.engine.clear_route(7)
        node.tap.send(frame(peer.mac, node.mac, bytes(1000)))
        wait_until(lambda: node.drops() == {"no_route": 1})
        node.engine.set_lane(7, keys, 0, wire_id(0x7777))
        node.tap.send(frame(peer.mac, node.mac, bytes(1000)))
        wait_until(lambda: node.drops() == {"no_route": 2})
        node.engine.set_endpoint(7, peer.sockaddr, b"")
        node.tap.send(frame(peer.mac, node.mac, b"3"))
        assert peer.udp.recv(65536)[1:9] == wire_id(0x7777)
        node.engine.remove_peer(7)
        node.tap.send(frame(peer.mac, node.mac, b"4"))
        wait_until(lambda: node.drops() == {"no_route": 2, "unknown_destination": 1})
        peer.send(peer.packet(b"\x03"))
        wait_until(lambda: node.drops().get("unknown_id") == 1)
        with pytest.raises(KeyError, match="peer 7"):
            node.engine.peer_counters(7)


def test_channel_header_hides_in_what_it_carries() -> None:
    with node_and_peer() as (node, peer):
        node.engine.set_endpoint(7, peer.sockaddr, b"channel!")
        firsts = set()
        for number in range(64):
            node.tap.send(frame(peer.mac, node.mac))
            datagram = peer.udp.recv(65536)
            assert datagram[1:9] == b"channel!"
            assert datagram[0] == datagram[9]
            assert peer.open(datagram[9:])[0] == number
            firsts.add(datagram[0])
        assert len(firsts) > 4
        assert all(first & 0xC0 == 0x40 for first in firsts)


def test_stop_is_quick_and_final_even_without_start() -> None:
    with Node(1) as node:
        started = time.monotonic()
        node.engine.stop()
        node.engine.stop()
        assert time.monotonic() - started < 2
        assert node.engine.poll() == []
        assert set(node.engine.drops()) == {reason.name.lower() for reason in DropReason}
        with pytest.raises(ValueError, match="once"):
            node.engine.start()
    with udp_socket() as udp, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as tap:
        event_fd = os.eventfd(0)
        engine = Engine(udp.fileno(), tap.fileno(), event_fd, mac(1))
        assert engine.fileno() == event_fd
        engine.stop()
        os.close(event_fd)


def test_dealloc_without_stop_ends_the_threads() -> None:
    wait_until(lambda: workers() == 0)
    node = Node(1)
    wait_until(lambda: workers() == 2)
    del node.engine, node.plane
    gc.collect()
    wait_until(lambda: workers() == 0)
    node.plane = Engine(node.udp.fileno(), node.tap_inside.fileno(), node.event_fd, mac(1))
    node.__exit__(None, None, None)


def test_closed_descriptors_and_a_broken_tap_cost_no_time() -> None:
    """A TAP that is gone is readable for ever and gives nothing: the thread must not spin on it."""
    tap, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    udp, event_fd = udp_socket(), os.eventfd(0)
    engine = Engine(udp.fileno(), inside.fileno(), event_fd, mac(1))
    engine.start()
    for sock in (udp, inside, tap):
        sock.close()
    used = time.process_time()
    assert not wait_readable(event_fd, 0.5)
    assert time.process_time() - used < 0.1
    started = time.monotonic()
    engine.stop()
    assert time.monotonic() - started < 2
    os.close(event_fd)


def test_icmp_errors_neither_stop_nor_spin_the_threads() -> None:
    """With IP_RECVERR every refused datagram waits in the error queue and keeps poll awake."""
    ip_recverr = 11  # linux/in.h
    with udp_socket(socket.AF_INET) as closed:
        nobody = raw_sockaddr(closed)
    with node_and_peer(socket.AF_INET) as (node, peer):
        node.udp.setsockopt(socket.IPPROTO_IP, ip_recverr, 1)
        node.engine.add_peer(20, mac(20))
        node.engine.set_lane(20, SendKeys(material(20)), 0, wire_id(20))
        node.engine.set_endpoint(20, nobody, b"")
        for number in range(300):
            node.tap.send(frame(mac(20), node.mac, b"%d" % number))
            if number % 30 == 0:
                peer.mark()
        peer.mark()
        assert node.poll() == []
        used = time.process_time()
        assert not wait_readable(node.event_fd, 0.3)
        assert time.process_time() - used < 0.1
        peer.mark()
        assert node.drops().keys() <= {"send_failed"}


class Load:
    """Frames into one engine's TAP and out of the other's, without ever waiting.

    A burst is handled by the threads while the caller goes on: so what the caller changes next, it
    changes under their hands.
    """

    def __init__(self, one: Node, two: Node) -> None:
        self.one, self.two = one, two
        self.frames = [frame(two.mac, one.mac, bytes(100)), frame(BROADCAST, one.mac, bytes(100))]
        self.received = 0
        one.tap.setblocking(False)
        two.tap.setblocking(False)

    def burst(self) -> None:
        with suppress(BlockingIOError):
            for _ in range(16):
                for sent in self.frames:
                    self.one.tap.send(sent)
        with suppress(BlockingIOError):
            while True:
                assert self.two.tap.recv(65536) in self.frames
                self.received += 1


def test_tables_change_under_load() -> None:
    """Sessions, peers, ids and routes come and go while both threads work."""
    rng = random.Random(1)
    with Node(1) as one, Node(2) as two:
        connect(one, two, 5)
        load = Load(one, two)
        end = time.monotonic() + 1.0
        rounds = 0
        while time.monotonic() < end or load.received < 100:
            rounds += 1
            change_tables(one, two, rng, 1000 + rounds, load)
        assert rounds > 50
        assert two.drops().keys() <= {"unknown_id", "tap_full"}
        assert one.drops().keys() <= {"no_route", "unknown_destination"}


def change_tables(one: Node, two: Node, rng: random.Random, serial: int, load: Load) -> None:
    """One full life of keys, ids, peers and routes."""
    sink = raw_sockaddr(two.udp)
    ids = [rng.randbytes(8) for _ in range(10)]
    material_now = rng.randbytes(76)
    keys = SendKeys(material_now)
    two.engine.install_receive(serial, 5, ids, material_now)
    one.engine.set_lane(5, keys, 3, ids[3])
    load.burst()
    others = rng.sample(range(10, 60), 5)
    for lane, other in enumerate(others, start=4):
        two.engine.install_control(wire_id(serial * 100 + other))
        one.engine.add_peer(other, mac(other))
        one.engine.set_lane(other, keys, lane, ids[lane])
        one.engine.set_endpoint(other, sink, rng.choice([b"", b"notfound"]))
    load.burst()
    if serial % 10 == 0:
        one.engine.clear_route(5)
        load.burst()
        one.engine.set_lane(5, keys, 9, ids[9])
        one.engine.set_endpoint(5, sink, b"")
    load.burst()
    for other in others:
        one.engine.remove_peer(other)
        two.engine.remove(wire_id(serial * 100 + other))
    load.burst()
    if serial > 1001:
        two.engine.retire_receive(serial - 1)
