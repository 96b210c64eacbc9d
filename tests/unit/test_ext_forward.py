"""The relay's data plane: channels between real engines, and BIND from slow Python."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from shadowmesh import units
from shadowmesh._ext.forward import (
    EVENT_CONTROL,
    EVENT_ENDPOINT,
    EVENT_LONG_HEADER,
    DropReason,
    Forwarder,
    SendKeys,
)
from shadowmesh._ext.packets import PayloadKind, WireSize
from tests.reference import frame_packet
from tests.unit.ext_harness import (
    BROADCAST,
    DEADLINE,
    Node,
    Plane,
    connect,
    frame,
    material,
    raw_sockaddr,
    udp_socket,
    wait_until,
    wire_id,
    workers,
)

FAMILIES = [socket.AF_INET, socket.AF_INET6]


class Relay(Plane):
    def __init__(
        self,
        family: socket.AddressFamily = socket.AF_INET6,
        features: Iterable[str] | None = None,
        more: Sequence[socket.socket] = (),
        udp: socket.socket | None = None,
    ) -> None:
        """`more`: sockets of further threads, which are not closed here; `udp`: that of the first."""
        super().__init__(family, udp)
        descriptors = [one.fileno() for one in more]
        self.forwarder = self.plane = Forwarder(
            self.udp.fileno(), self.event_fd, *descriptors, features=features
        )
        self.forwarder.start()

    def mark(self, client: Client) -> None:
        """A BIND that is answered: all that was sent before is dealt with."""
        assert client.bind().challenge == bytes(8)


class Bound(NamedTuple):
    nonce: bytes
    challenge: bytes
    address: bytes
    port: int


class Client:
    """Client 4 of a relay, in slow Python; may use several sockets, as if it moved."""

    NUMBER = 4
    LANES = (wire_id(0x400), wire_id(0x401))

    def __init__(self, relay: Relay, thread: int = 0) -> None:
        self.relay = relay
        self.home = udp_socket(relay.udp.family)
        self.away = udp_socket(relay.udp.family)
        self.number = 0
        self.packets = 0
        self.answers = 0
        for sock in (self.home, self.away):
            sock.settimeout(DEADLINE)
        relay.forwarder.add_client(self.NUMBER, raw_sockaddr(self.home), thread=thread)
        relay.forwarder.install_receive(self.NUMBER, self.LANES, material(40))
        relay.forwarder.set_lane(self.NUMBER, SendKeys(material(41)), 0, wire_id(0x44))

    def packet(self, payload: bytes) -> bytes:
        self.packets += 1
        return frame_packet.seal(material(40), 0, self.LANES[0], self.packets, payload)

    def bind_payload(self, challenge: bytes = bytes(8), number: int | None = None) -> bytes:
        if number is None:
            self.number += 1
            number = self.number
        return b"\x10" + number.to_bytes(8, "big") + b"nonce%03d" % (number % 1000) + challenge + bytes(10)

    def send(self, datagram: bytes, sock: socket.socket | None = None) -> None:
        (sock or self.home).sendto(datagram, self.relay.udp.getsockname())

    def bound(self, sock: socket.socket | None = None) -> Bound:
        datagram = (sock or self.home).recv(65536)
        assert datagram[1:9] == wire_id(0x44)
        number, payload = frame_packet.open_packet(material(41), 0, datagram)
        assert number == self.answers
        self.answers += 1
        assert payload[0] == 0x11
        assert len(payload) == 35
        port = int.from_bytes(payload[33:35], "big")
        return Bound(payload[1:9], payload[9:17], payload[17:33], port)

    def bind(self, sock: socket.socket | None = None, challenge: bytes = bytes(8)) -> Bound:
        payload = self.bind_payload(challenge)
        packet = self.packet(payload)
        self.send(packet, sock)
        bound = self.bound(sock)
        assert bound.nonce == payload[9:17]
        return bound


@contextmanager
def relay_and_client(family: socket.AddressFamily = socket.AF_INET6) -> Iterator[tuple[Relay, Client]]:
    with Relay(family) as relay:
        client = Client(relay)
        with client.home, client.away:
            yield relay, client


# ---- channels --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_engines_talk_through_a_channel(family: socket.AddressFamily) -> None:
    with Relay(family) as relay, Node(1, family) as one, Node(2, family) as two:
        connect(one, two, 5, channels=(b"one->rel", b"two->rel"))
        for node, number, own in ((one, 1, b"rel->one"), (two, 2, b"rel->two")):
            relay.forwarder.add_client(number, node.sockaddr)
            node.engine.install_channel(own)
        relay.forwarder.install_channel(b"one->rel", 1, 2, b"rel->two")
        relay.forwarder.install_channel(b"two->rel", 2, 1, b"rel->one")
        for node in (one, two):
            sockaddr = relay.sockaddr
            node.engine.set_endpoint(5, sockaddr, b"one->rel" if node is one else b"two->rel")
        for number in range(200):
            sent = frame(two.mac if number % 3 else BROADCAST, one.mac, b"%d" % number)
            one.tap.send(sent)
            assert two.receive() == sent
            back = frame(one.mac, two.mac, b"%d" % number)
            two.tap.send(back)
            assert one.receive() == back
        assert one.drops() == two.drops() == relay.drops() == {}
        wait_until(lambda: relay.forwarder.client_counters(1)["tx_packets"] == 200)
        wait_until(lambda: relay.forwarder.client_counters(2)["tx_packets"] == 200)
        counters = relay.forwarder.client_counters(1)
        assert counters["rx_packets"] == counters["tx_packets"] == 200
        assert counters["rx_bytes"] == relay.forwarder.client_counters(2)["tx_bytes"]


def test_a_forwarded_datagram_changes_in_its_id_only() -> None:
    with Relay() as relay, udp_socket() as one, udp_socket() as two:
        two.settimeout(DEADLINE)
        relay.forwarder.add_client(1, raw_sockaddr(one))
        relay.forwarder.add_client(2, raw_sockaddr(two))
        relay.forwarder.install_channel(b"incoming", 1, 2, b"outgoing")
        for size in (0, 1, 100, 1400, 16_000):
            body = random.Random(size).randbytes(size)
            one.sendto(b"\x5a" + b"incoming" + body, relay.udp.getsockname())
            assert two.recv(65536) == b"\x5a" + b"outgoing" + body


def test_channels_end_with_removal_of_id_or_client() -> None:
    with relay_and_client() as (relay, client), udp_socket() as other:
        relay.forwarder.add_client(5, raw_sockaddr(other))
        relay.forwarder.install_channel(b"channel1", 4, 5, b"outgoing")
        relay.forwarder.install_channel(b"channel2", 4, 5, b"outgoing")
        relay.forwarder.install_channel(b"channel3", 5, 4, b"outgoing")
        relay.forwarder.remove(b"channel1")
        client.send(b"\x43channel1")
        relay.mark(client)
        assert relay.drops() == {"unknown_id": 1}
        relay.forwarder.remove_client(5)
        for channel in (b"channel1", b"channel2", b"channel3"):
            client.send(b"\x43" + channel)
        relay.mark(client)
        assert relay.drops() == {"unknown_id": 4}
        with pytest.raises(KeyError, match="client 5"):
            relay.forwarder.client_counters(5)


def test_batch_of_many_clients_survives_one_that_can_not_be_reached() -> None:
    with relay_and_client(socket.AF_INET) as (relay, client):
        nowhere = relay.sockaddr[:2] + b"\0\x09" + socket.inet_aton("255.255.255.255") + bytes(8)
        relay.forwarder.add_client(9, nowhere)
        relay.forwarder.install_channel(b"to nirvn", 4, 9, b"whatever")
        relay.forwarder.install_channel(b"to  home", 9, 4, b"arriving")
        for number in range(200):
            client.send(b"\x43to nirvn" + b"%d" % number)
            client.send(b"\x43to  home" + b"%d" % number)
        assert [int(client.home.recv(100)[9:]) for _ in range(200)] == list(range(200))
        wait_until(lambda: relay.drops() == {"send_failed": 200})


# ---- BIND ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_bind_from_home_is_answered_with_the_observed_address(family: socket.AddressFamily) -> None:
    with relay_and_client(family) as (relay, client):
        assert relay.forwarder.client_counters(4)["last_bind"] == 0.0
        host, port = client.home.getsockname()[:2]
        expected = (
            socket.inet_pton(socket.AF_INET6, host)
            if family == socket.AF_INET6
            else bytes(10) + b"\xff\xff" + socket.inet_aton(host)
        )
        bound = client.bind()
        assert bound[1:] == (bytes(8), expected, port)
        assert 0 <= time.monotonic() - relay.forwarder.client_counters(4)["last_bind"] < 60
        assert relay.forwarder.poll() == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_client_moves_by_challenge(family: socket.AddressFamily) -> None:
    with relay_and_client(family) as (relay, client):
        client.bind()
        challenged = client.bind(client.away)
        assert challenged.challenge != bytes(8)
        assert relay.forwarder.endpoint(4) == raw_sockaddr(client.home)
        moved = client.bind(client.away, challenged.challenge)
        assert moved.challenge == bytes(8)
        assert moved.port == client.away.getsockname()[1]
        assert relay.forwarder.endpoint(4) == raw_sockaddr(client.away)
        assert relay.event() == (EVENT_ENDPOINT, 4, b"", raw_sockaddr(client.away), b"")
        # What others send it now goes to the new place.
        relay.forwarder.install_channel(b"to  away", 4, 4, b"arriving")
        client.send(b"\x43to  awayhello")
        assert client.away.recv(100) == b"\x43arrivinghello"
        assert relay.drops() == {}


def test_wrong_challenges_move_nobody() -> None:
    with relay_and_client() as (relay, client), udp_socket() as third:
        third.settimeout(DEADLINE)
        client.bind()
        right = client.bind(client.away).challenge
        assert client.bind(client.away, b"\0" * 7 + b"\1").challenge == right
        assert client.bind(client.away, bytes(a ^ 1 for a in right)).challenge == right
        # The challenge of one address does not count from another, which gets its own and replaces it.
        assert client.bind(third, right).challenge not in (right, bytes(8))
        assert client.bind(client.away, right).challenge not in (right, bytes(8))
        assert relay.forwarder.endpoint(4) == raw_sockaddr(client.home)
        assert relay.forwarder.poll() == []


def test_an_answered_challenge_needs_a_newer_bind() -> None:
    with relay_and_client() as (relay, client):
        client.bind()
        challenge = client.bind(client.away).challenge
        client.send(client.packet(client.bind_payload(challenge, number=client.number)), client.away)
        client.send(client.packet(client.bind_payload(challenge, number=0)), client.away)
        relay.mark(client)
        assert relay.drops() == {"stale_bind": 2}
        assert relay.forwarder.endpoint(4) == raw_sockaddr(client.home)
        assert client.bind(client.away, challenge).challenge == bytes(8)
        assert relay.forwarder.endpoint(4) == raw_sockaddr(client.away)


def test_replayed_bind_is_neither_answered_nor_followed() -> None:
    with relay_and_client() as (relay, client):
        packet = client.packet(client.bind_payload())
        client.send(packet)
        client.bound()
        client.send(packet)
        client.send(packet, client.away)
        relay.mark(client)
        assert relay.drops() == {"duplicate": 2}
        assert relay.forwarder.endpoint(4) == raw_sockaddr(client.home)


def test_a_challenge_in_flight_stays_good_when_the_client_asks_again() -> None:
    with relay_and_client() as (_relay, client):
        first = client.bind(client.away).challenge
        assert client.bind(client.away).challenge == first
        assert client.bind(client.away, first).challenge == bytes(8)


def test_answers_are_never_larger_than_questions() -> None:
    with relay_and_client() as (_relay, client):
        packet = client.packet(client.bind_payload())
        client.send(packet, client.away)
        assert len(client.away.recv(1000)) == len(packet) == 64


def test_lanes_of_clients_carry_only_binds() -> None:
    with relay_and_client() as (relay, client):
        good = client.bind_payload()
        for payload in (b"\x01" + bytes(60), b"\x00", b"\x03", b"\x04nonce..", b"\x11" + bytes(34)):
            client.send(client.packet(payload))
        for payload in (good[:-1], good + b"\0", b"\x10"):
            client.send(client.packet(payload))
        tampered = bytearray(client.packet(good))
        tampered[-1] ^= 1
        client.send(bytes(tampered))
        relay.mark(client)
        assert relay.drops() == {"unexpected_kind": 5, "short": 3, "authentication": 1}
        assert relay.forwarder.client_counters(4)["failed_opens"] == 1


def test_bind_without_a_lane_to_answer_in() -> None:
    with relay_and_client() as (relay, client):
        relay.forwarder.add_client(6, raw_sockaddr(client.away))
        relay.forwarder.install_receive(6, [b"lane of6"], material(60))
        payload = client.bind_payload()
        client.send(frame_packet.seal(material(60), 0, b"lane of6", 0, payload), client.away)
        relay.mark(client)
        assert relay.drops() == {"no_route": 1}


def test_a_bind_is_not_answered_with_expired_keys() -> None:
    with relay_and_client() as (relay, client):
        expired = SendKeys(material(41), expires_at=time.monotonic())
        relay.forwarder.set_lane(Client.NUMBER, expired, 0, wire_id(0x44))
        client.send(client.packet(client.bind_payload()))
        wait_until(lambda: relay.drops() == {"expired_keys": 1})
        relay.forwarder.set_lane(Client.NUMBER, SendKeys(material(41)), 0, wire_id(0x44))
        client.bind()


def test_new_keys_replace_old_ones() -> None:
    with relay_and_client() as (relay, client):
        relay.forwarder.install_receive(4, [b"newlane0"], material(45))
        client.bind()  # the old ones work beside them
        relay.forwarder.retire_receive(4)
        client.send(client.packet(client.bind_payload()))
        client.send(frame_packet.seal(material(45), 0, b"newlane0", 0, client.bind_payload()))
        client.bound()
        assert relay.drops() == {"unknown_id": 1}


# ---- everything else -------------------------------------------------------------------------


def test_long_headers_and_control_go_to_asyncio() -> None:
    with relay_and_client() as (relay, client):
        relay.forwarder.install_control(b"control1")
        home = raw_sockaddr(client.home)
        client.send(b"\xc3\0\0\0\1initial")
        client.send(b"\x43control1quic")
        relay.mark(client)
        assert relay.event() == (EVENT_CONTROL, 0, b"", home, b"\x43control1quic")
        assert relay.event() == (EVENT_LONG_HEADER, 0, b"", home, b"\xc3\0\0\0\1initial")
        for known in (b"\xe3\0\0\0\1\x08control1", b"\xe3\0\0\0\1\x08control1 handshake"):
            client.send(known)
            relay.mark(client)
            assert relay.event() == (EVENT_CONTROL, 0, b"", home, known), "strangers don't crowd it out"
        for stranger in (
            b"\xe3\0\0\0\1\x08control",
            b"\xe3\0\0\0\1\x09control1+",
            b"\xe3\0\0\0\1\x08" + client.LANES[0],
        ):
            client.send(stranger)
            relay.mark(client)
            assert relay.event() == (EVENT_LONG_HEADER, 0, b"", home, stranger)
        for _ in range(500):
            client.send(b"\x43control1quic")
        relay.mark(client)
        assert relay.drops().keys() == {"control_rate"}
        relay.forwarder.remove(b"control1")
        client.send(b"\x43control1quic")
        relay.mark(client)
        assert relay.drops()["unknown_id"] == 1


def test_flood_of_garbage_keeps_the_counters_right() -> None:
    rng = random.Random(3)
    with relay_and_client() as (relay, client):
        starts = [b"", *Client.LANES, b"unknown!"]
        for number in range(3000):
            start = rng.choice(starts)
            first = bytes([rng.randrange(0x100)]) if start else b""
            client.send(first + start + rng.randbytes(rng.randrange(80)))
            if number % 100 == 99:
                relay.mark(client)
        counters = relay.forwarder.counters()
        events = 0
        while polled := relay.forwarder.poll():
            events += len(polled)
        assert counters["udp_rx_datagrams"] == 3000 + client.answers
        assert counters["events"] == events
        assert sum(relay.drops().values()) + events + client.answers == counters["udp_rx_datagrams"]


def test_life() -> None:
    with Relay() as relay:
        with pytest.raises(ValueError, match="once"):
            relay.forwarder.start()
        relay.forwarder.stop()
        relay.forwarder.stop()
        assert relay.forwarder.poll() == []
        assert set(relay.forwarder.drops()) == {reason.name.lower() for reason in DropReason}
    wait_until(lambda: workers() == 0)
    abandoned = Relay()
    wait_until(lambda: workers() == 1)
    del abandoned.forwarder, abandoned.plane
    wait_until(lambda: workers() == 0)
    abandoned.udp.close()
    os.close(abandoned.event_fd)


def test_kinds_and_sizes_are_those_of_the_wire() -> None:
    kinds = {kind.name.removeprefix("KIND_"): int(kind) for kind in PayloadKind}
    assert kinds == {
        "PADDING": 0x00,
        "FRAME": 0x01,
        "FRAGMENT": 0x02,
        "EMPTY": 0x03,
        "PROBE_REQUEST": 0x04,
        "PROBE_REPLY": 0x05,
        "SEGMENT": 0x06,
        "PATH_REQUEST": 0x07,
        "PATH_RESPONSE": 0x08,
        "PATH_COMPLETE": 0x09,
        "BIND": 0x10,
        "BOUND": 0x11,
        "OBSERVE": 0x12,
        "OBSERVED": 0x13,
    }
    assert int(WireSize.BIND_SIZE) == 35
    assert int(WireSize.CHANNEL_HEADER_SIZE) == units.CHANNEL_OVERHEAD
