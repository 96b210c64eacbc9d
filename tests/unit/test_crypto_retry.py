"""The stateless token gate: what it admits, what it answers, what it drops."""

from __future__ import annotations

import random

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from shadowmesh.crypto.retry import Admit, Drop, Reply, TokenGate
from shadowmesh.units import Address
from tests.unit.quic_pair import Pair, session_client, session_server, stock_client

SOURCE = Address("192.0.2.1", 4433)
SECRET = bytes(range(32))
NOW = 5000.0


def gate() -> TokenGate:
    return TokenGate(SECRET, lambda *_: False)


def first_initials() -> tuple[object, list[bytes]]:
    client = session_client()
    client.start(1.0)
    return client, client.transmit(1.0)


def initial(dcid: bytes = b"D" * 8, scid: bytes = b"S" * 8, token: bytes = b"", version: int = 1) -> bytes:
    head = b"\xc3" + version.to_bytes(4, "big") + bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid
    return (head + bytes([len(token)]) + token + b"\x44\x00").ljust(1200, b"\0")


def retry_of(datagram: bytes, source: Address = SOURCE, now: float = NOW) -> tuple[bytes, bytes]:
    """The token and connection id of the Retry that this datagram gets."""
    reply = gate().check(datagram, source, now)
    assert isinstance(reply, Reply)
    header = pull_quic_header(Buffer(data=reply.data), host_cid_length=8)
    assert header.packet_type is QuicPacketType.RETRY
    return header.token, header.source_cid


@pytest.mark.parametrize("make_client", [session_client, stock_client])
def test_a_client_follows_the_retry_and_the_handshake_completes(make_client: object) -> None:
    client = make_client()  # type: ignore[operator]
    pair = Pair(client, None)
    pair.connect()
    first = pair.client.transmit(NOW)
    reply = gate().check(first[0], SOURCE, NOW)
    assert isinstance(reply, Reply)
    pair.client.receive(reply.data, NOW)
    second = pair.client.transmit(NOW)
    admitted = {gate().check(data, SOURCE, NOW + 1) for data in second}
    assert len(admitted) == 1, "every Initial of the flight carries the token"
    admit = admitted.pop()
    assert isinstance(admit, Admit)
    assert admit.original_destination_connection_id == client.original_destination_connection_id
    if make_client is session_client:
        server = session_server(
            admit.original_destination_connection_id,
            retry_source_connection_id=admit.retry_source_connection_id,
        )
        pair.server.connection = server
        for data in second:
            pair.server.receive(data, NOW)
        pair.now = NOW
        assert pair.run(pair.confirmed)


def test_the_name_of_a_ticket_takes_the_place_of_a_retry() -> None:
    asked = []

    def known(name: bytes, source: Address, now: float) -> bool:
        asked.append((name, source, now))
        return name == b"good".ljust(32)

    tickets = TokenGate(SECRET, known)
    assert tickets.check(initial(token=b"good".ljust(32)), SOURCE, NOW) == Admit(b"D" * 8, None)
    assert isinstance(tickets.check(initial(token=b"bad".ljust(32)), SOURCE, NOW), Reply), (
        "as without a token"
    )
    assert asked == [(name.ljust(32), SOURCE, NOW) for name in (b"good", b"bad")]


def test_no_state_is_kept() -> None:
    one = gate()
    before = dict(vars(one))
    for number in range(50):
        one.check(initial(number.to_bytes(8, "big")), SOURCE, NOW)
    assert vars(one) == before


def test_a_token_binds_address_port_connection_ids_and_time() -> None:
    token, retry_id = retry_of(initial())
    accepted = initial(retry_id, token=token)
    assert gate().check(accepted, SOURCE, NOW) == Admit(b"D" * 8, retry_id)
    assert gate().check(accepted, SOURCE, NOW + 9.9) == Admit(b"D" * 8, retry_id)
    assert gate().check(accepted, SOURCE, NOW + 10.1) == Drop("token_expired")
    assert gate().check(accepted, SOURCE, NOW - 100) == Drop("token_expired")
    refused = Drop("token")
    assert gate().check(accepted, Address("192.0.2.2", 4433), NOW) == refused
    assert gate().check(accepted, Address("192.0.2.1", 4434), NOW) == refused
    assert gate().check(accepted, Address("2001:db8::1", 4433), NOW) == refused
    assert gate().check(initial(b"E" * 8, token=token), SOURCE, NOW) == refused
    assert TokenGate(bytes(32), lambda *_: False).check(accepted, SOURCE, NOW) == refused
    for at in range(len(token)):
        changed = token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]
        assert gate().check(initial(retry_id, token=changed), SOURCE, NOW) == refused
    for token_size in (1, 31, 33, 40, 41):
        assert gate().check(initial(retry_id, token=bytes(token_size)), SOURCE, NOW) == refused


def test_a_scope_id_is_no_part_of_the_address() -> None:
    token, retry_id = retry_of(initial(), Address("fe80::1%eth0", 1))
    assert isinstance(gate().check(initial(retry_id, token=token), Address("fe80::1%eth0", 1), NOW), Admit)


def test_retry_ids_are_not_guessable() -> None:
    assert len({retry_of(initial())[1] for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "short"),
        (initial()[:1199], "short"),
        (b"\x43" + bytes(1199), "not_initial"),
        (b"\xc0" + bytes(1199), "not_initial"),  # Version Negotiation is never answered
        (b"\x83" + initial()[1:], "not_initial"),  # fixed bit missing
        (b"\xd3" + initial()[1:], "not_initial"),  # 0-RTT
        (b"\xe3" + initial()[1:], "not_initial"),  # Handshake
        (b"\xf3" + initial()[1:], "not_initial"),  # Retry
        (initial(b"D" * 7), "connection_id"),
        (initial(b"D" * 21), "connection_id"),
        (initial(scid=b"S" * 21), "connection_id"),
        (b"\xc3\0\0\0\1\x08" + b"D" * 8 + b"\0" + b"\xff" * 1185, "malformed"),
    ],
)
def test_drops(datagram: bytes, reason: str) -> None:
    assert gate().check(datagram, SOURCE, NOW) == Drop(reason)


def test_other_versions_get_a_version_negotiation() -> None:
    reply = gate().check(initial(b"D" * 20, b"S" * 5, version=0x6B3343CF), SOURCE, NOW)
    assert isinstance(reply, Reply)
    header = pull_quic_header(Buffer(data=reply.data))
    assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
    assert (header.destination_cid, header.source_cid) == (b"S" * 5, b"D" * 20)
    assert header.supported_versions == [1]
    assert reply.data[0] & 0xC0 == 0xC0
    longest = gate().check(initial(b"D" * 255, b"S" * 255, version=0x1A2A3A4A), SOURCE, NOW)
    assert isinstance(longest, Reply)
    assert len(longest.data) < 600


def test_random_datagrams_never_raise_and_never_amplify() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        data = bytearray(initial(rng.randbytes(rng.randrange(30)), rng.randbytes(rng.randrange(30))))
        for _ in range(rng.randrange(6)):
            data[rng.randrange(60)] = rng.randrange(256)
        verdict = gate().check(bytes(data[: rng.choice((1200, 1200, rng.randrange(1200)))]), SOURCE, NOW)
        assert isinstance(verdict, (Admit, Reply, Drop))
        if isinstance(verdict, Reply):
            assert len(verdict.data) < 1200


def test_the_secret_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32"):
        TokenGate(b"short", lambda *_: False)
