"""PCP and NAT-PMP: bytes as the RFCs have them, and what is believed of a gateway, on virtual time."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import struct
from collections.abc import Callable

import pytest

from shadowmesh.errors import BadPacket
from shadowmesh.path import portmap
from shadowmesh.path.portmap import LIFETIME, TRY_AGAIN, WAITS, PortMapping, problem_of_outside
from shadowmesh.units import Address
from shadowmesh.wire.portmap import (
    MAX_REPLY,
    UNSUPPORTED_VERSION,
    MapReply,
    encode_pcp_map,
    encode_pmp_address,
    encode_pmp_map,
    parse_pcp_map_untrusted,
    parse_pmp_untrusted,
)

HOST, PORT = "192.168.1.7", 4400
NONCE = bytes(range(12))
OUTSIDE = Address("8.8.4.4", 40001)


def mapped(host: str) -> bytes:
    return ipaddress.IPv6Address(f"::ffff:{host}").packed


def pcp_reply(
    nonce: bytes = NONCE,
    result: int = 0,
    lifetime: int = LIFETIME,
    inside: int = PORT,
    outside: Address = OUTSIDE,
    version: int = 2,
    opcode: int = 0x81,
    protocol: int = 17,
) -> bytes:
    header = struct.pack(">BBBBII12x", version, opcode, 0, result, lifetime, 1234)
    body = struct.pack(">12sB3xHH16s", nonce, protocol, inside, outside.port, mapped(outside.host))
    return header + body


def pmp_address(host: str = OUTSIDE.host, result: int = 0) -> bytes:
    return struct.pack(">BBHI", 0, 0x80, result, 99) + ipaddress.IPv4Address(host).packed


def pmp_port(inside: int = PORT, outside: int = OUTSIDE.port, lifetime: int = LIFETIME) -> bytes:
    return struct.pack(">BBHIHHI", 0, 0x81, 0, 99, inside, outside, lifetime)


# Bytes.


def test_requests_have_the_layout_of_the_rfcs() -> None:
    request = encode_pcp_map(NONCE, HOST, PORT, 1200, "8.8.4.4", 40001)
    assert len(request) == 60
    assert request[:8] == b"\x02\x01\0\0" + (1200).to_bytes(4, "big")
    assert request[8:24] == mapped(HOST)
    assert request[24:36] == NONCE
    assert request[36:40] == b"\x11\0\0\0"
    assert request[40:44] == PORT.to_bytes(2, "big") + (40001).to_bytes(2, "big")
    assert request[44:] == mapped("8.8.4.4")
    assert encode_pcp_map(NONCE, HOST, PORT, 0)[44:] == mapped("0.0.0.0")
    assert encode_pcp_map(NONCE, "2001:db8::1", PORT, 0)[8:24] == ipaddress.ip_address("2001:db8::1").packed
    assert encode_pmp_address() == b"\0\0"
    assert encode_pmp_map(PORT, 1200, 7) == b"\0\1\0\0\x11\x30\0\x07\0\0\x04\xb0"


def test_replies_are_read() -> None:
    assert parse_pcp_map_untrusted(pcp_reply(), NONCE, PORT) == MapReply(0, LIFETIME, *OUTSIDE)
    assert parse_pcp_map_untrusted(pcp_reply(result=2), NONCE, PORT).result == 2
    assert parse_pmp_untrusted(pmp_address(), PORT) == MapReply(0, host=OUTSIDE.host)
    assert parse_pmp_untrusted(pmp_port(), PORT) == MapReply(0, LIFETIME, "", OUTSIDE.port)
    assert parse_pmp_untrusted(pmp_address(result=3), PORT) == MapReply(3)
    for only_the_other in (b"\0\x81\0\1" + bytes(4), b"\0\x80\0\1"):
        assert parse_pcp_map_untrusted(only_the_other, NONCE, PORT).result == UNSUPPORTED_VERSION
    assert parse_pcp_map_untrusted(pcp_reply(result=1)[:24], NONCE, PORT).result == UNSUPPORTED_VERSION
    assert parse_pmp_untrusted(pcp_reply(result=1)[:24], PORT).result == UNSUPPORTED_VERSION


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "portmap_malformed"),
        (pcp_reply()[:23], "portmap_malformed"),
        (pcp_reply()[:59], "portmap_malformed"),
        (pcp_reply() + bytes(MAX_REPLY), "portmap_malformed"),
        (pcp_reply(version=3), "portmap_malformed"),
        (encode_pcp_map(NONCE, HOST, PORT, 1200), "portmap_foreign"),  # our own, sent back
        (pcp_reply(opcode=0x82), "portmap_foreign"),
        (pcp_reply(nonce=bytes(12)), "portmap_foreign"),
        (pcp_reply(nonce=bytes(12), result=2), "portmap_foreign"),
        (pcp_reply(inside=PORT + 1), "portmap_foreign"),
        (pcp_reply(protocol=6), "portmap_foreign"),
    ],
)
def test_pcp_replies_that_are_none(data: bytes, reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        parse_pcp_map_untrusted(data, NONCE, PORT)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "portmap_malformed"),
        (encode_pmp_map(PORT, 1200), "portmap_malformed"),
        (pmp_address()[:11], "portmap_malformed"),
        (pmp_port()[:15], "portmap_malformed"),
        (pmp_port() + bytes(MAX_REPLY), "portmap_malformed"),
        (b"\0\x82" + pmp_port()[2:], "portmap_foreign"),
        (pmp_port(inside=PORT + 1), "portmap_foreign"),
    ],
)
def test_nat_pmp_replies_that_are_none(data: bytes, reason: str) -> None:
    with pytest.raises(BadPacket, match=reason):
        parse_pmp_untrusted(data, PORT)


def test_random_bytes_raise_nothing_else() -> None:
    source = random.Random(1)
    for _ in range(5000):
        data = bytearray(source.choice((pcp_reply(), pmp_port(), pmp_address())))
        for _ in range(source.randrange(4)):
            data[source.randrange(len(data))] = source.randrange(256)
        data = data[: source.randrange(len(data) + 1)]
        with contextlib.suppress(BadPacket):
            parse_pcp_map_untrusted(bytes(data), NONCE, PORT)
        with contextlib.suppress(BadPacket):
            parse_pmp_untrusted(bytes(data), PORT)


# What is believed.


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("8.8.4.4", ""),
        ("2001:db8::1", ""),
        ("10.0.0.1", "double NAT"),
        ("172.31.0.1", "double NAT"),
        ("192.168.0.1", "double NAT"),
        ("100.64.0.1", "double NAT"),
        ("fd00::1", "double NAT"),
        ("127.0.0.1", "can't be"),
        ("::1", "can't be"),
        ("224.0.0.1", "can't be"),
        ("ff02::1", "can't be"),
        ("0.0.0.0", "can't be"),
        ("::", "can't be"),
        ("169.254.1.1", "can't be"),
        ("255.255.255.255", "can't be"),
        ("240.0.0.1", "can't be"),
        ("", "no address"),
        ("router", "no address"),
    ],
)
def test_outside_addresses(host: str, problem: str) -> None:
    assert problem in problem_of_outside(host)
    assert bool(problem_of_outside(host)) is bool(problem)


class Gateway:
    """Answers by `answer(request)`; time passes by itself until nothing more is asked soon."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.now = 100.0
        self.answer = answer
        self.asked: list[tuple[float, bytes]] = []
        self.mapping = PortMapping(lambda size: NONCE[:size], HOST, PORT, self.now)

    def run_for(self, duration: float) -> None:
        end = self.now + duration
        while self.mapping.deadline is not None and self.mapping.deadline <= end:
            self.now = max(self.now, self.mapping.deadline)
            request = self.mapping.poll(self.now)
            if request is not None:
                self.asked.append((self.now, request))
                reply = self.answer(request)
                if reply is not None:
                    self.mapping.handle_reply_untrusted(reply, self.now)
        self.now = end


def both(request: bytes) -> bytes | None:
    return pcp_reply() if request[0] == 2 else pmp_address() if request[1] == 0 else pmp_port()


def only_pmp(request: bytes) -> bytes | None:
    return b"\0\x81\0\1" + bytes(4) if request[0] == 2 else both(request)


def test_pcp_maps_and_is_renewed_at_half_of_its_life() -> None:
    gateway = Gateway(both)
    gateway.run_for(1)
    assert gateway.mapping.external == OUTSIDE
    assert len(gateway.asked) == 1
    gateway.run_for(LIFETIME)
    times = [at - 100 for at, _ in gateway.asked]
    assert times == [0, LIFETIME / 2, LIFETIME]
    assert struct.unpack_from(">H", gateway.asked[1][1], 42) == (OUTSIDE.port,), "asks for the same port"
    assert gateway.mapping.report == {"pcp": f"maps {OUTSIDE}"}


def test_gateway_that_knows_nat_pmp_only() -> None:
    gateway = Gateway(only_pmp)
    gateway.run_for(1)
    assert gateway.mapping.external == OUTSIDE
    assert gateway.mapping.report == {"pcp": "not offered", "nat-pmp": f"maps {OUTSIDE}"}
    gateway.run_for(LIFETIME / 2)
    assert [request[:2] for _, request in gateway.asked[1:]] == [b"\0\0", b"\0\1", b"\0\0", b"\0\1"]
    assert gateway.mapping.external == OUTSIDE
    assert gateway.mapping.release() == encode_pmp_map(PORT, 0)


@pytest.mark.parametrize("answer", [both, only_pmp])
def test_outside_address_that_changes_is_followed(answer: Callable[[bytes], bytes | None]) -> None:
    gateway = Gateway(answer)
    gateway.run_for(1)
    moved = Address("9.9.9.9", 40002)

    def afterwards(request: bytes) -> bytes:
        if request[0] == 2:
            return pcp_reply(outside=moved)
        return pmp_address(moved.host) if request[1] == 0 else pmp_port(outside=moved.port)

    gateway.answer = afterwards
    gateway.run_for(LIFETIME / 2)
    assert gateway.mapping.external == moved


def test_silent_gateway_is_left_alone_for_a_while() -> None:
    gateway = Gateway(lambda _request: None)
    gateway.run_for(2 * sum(WAITS) + 1)
    assert gateway.mapping.exhausted
    assert gateway.mapping.report == {"pcp": "no answer", "nat-pmp": "no answer"}
    assert len(gateway.asked) == 2 * len(WAITS)
    assert gateway.mapping.release() is None
    gateway = Gateway(lambda _request: None)
    gateway.run_for(TRY_AGAIN * 3)
    assert len(gateway.asked) <= 4 * 2 * len(WAITS)


def test_lost_datagrams_are_sent_again() -> None:
    gateway = Gateway(both)
    lost = iter([True, True])
    gateway.answer = lambda request: None if next(lost, False) else both(request)
    gateway.run_for(sum(WAITS))
    assert gateway.mapping.external == OUTSIDE


def test_unreachable_port_ends_both_at_once() -> None:
    gateway = Gateway(lambda _request: None)
    gateway.mapping.poll(gateway.now)
    gateway.mapping.handle_unreachable(gateway.now)
    assert gateway.mapping.exhausted
    assert gateway.mapping.report == {"pcp": "not offered"}


def test_renewal_that_nobody_answers_ends_the_mapping_when_its_life_does() -> None:
    gateway = Gateway(both)
    gateway.run_for(1)
    gateway.answer = lambda _request: None
    gateway.run_for(LIFETIME - 10)
    assert str(gateway.mapping.external) == str(OUTSIDE)
    gateway.run_for(10)
    assert not gateway.mapping.external
    assert len(gateway.asked) < 60
    gateway.answer = both
    gateway.run_for(TRY_AGAIN + 10)
    assert str(gateway.mapping.external) == str(OUTSIDE)


def test_refusal_goes_on_to_the_next_protocol_and_is_told() -> None:
    gateway = Gateway(lambda request: pcp_reply(result=2) if request[0] == 2 else pmp_address(result=2))
    gateway.run_for(1)
    assert gateway.mapping.exhausted
    assert gateway.mapping.report == {"pcp": "refused: not authorized", "nat-pmp": "refused: not authorized"}


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (pcp_reply(outside=Address("192.168.178.2", 4000)), "double NAT"),
        (pcp_reply(outside=Address("127.0.0.1", 4000)), "can't be"),
        (pcp_reply(outside=Address("239.1.1.1", 4000)), "can't be"),
        (pcp_reply(outside=Address("8.8.4.4", 0)), "port or lifetime 0"),
        (pcp_reply(lifetime=0), "port or lifetime 0"),
    ],
)
def test_nonsense_is_refused_and_told(reply: bytes, problem: str) -> None:
    gateway = Gateway(lambda _request: reply)
    gateway.run_for(10)
    assert gateway.mapping.external is None
    assert problem in gateway.mapping.report["pcp"]
    assert len(gateway.asked) == 1
    assert not gateway.mapping.exhausted, "another protocol of the same gateway would say the same"


@pytest.mark.parametrize(("granted", "renewed"), [(1, 30), (2**32 - 1, portmap.LIFE_RANGE[1] / 2)])
def test_absurd_lifetimes_are_bounded(granted: int, renewed: float) -> None:
    gateway = Gateway(lambda _request: pcp_reply(lifetime=granted))
    gateway.run_for(renewed + 1)
    assert [at - 100 for at, _ in gateway.asked] == [0, renewed]


def test_change_of_the_network_asks_at_once_and_keeps_what_was_mapped() -> None:
    gateway = Gateway(both)
    gateway.run_for(1)
    gateway.mapping.refresh(gateway.now)
    assert gateway.mapping.external == OUTSIDE
    gateway.run_for(0)
    assert len(gateway.asked) == 2


def test_release_deletes_by_the_same_nonce() -> None:
    gateway = Gateway(both)
    gateway.run_for(1)
    assert gateway.mapping.release() == encode_pcp_map(NONCE, HOST, PORT, 0)
    assert gateway.mapping.external is None
    assert gateway.mapping.deadline is None
    assert gateway.mapping.poll(gateway.now + 1e6) is None
