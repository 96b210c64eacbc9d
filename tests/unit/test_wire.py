"""Codecs: what is encoded comes back, and bytes from the network raise BadPacket only."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowmesh.errors import BadPacket
from shadowmesh.units import Address
from shadowmesh.wire import headers, messages, payload
from shadowmesh.wire.messages import (
    Absent,
    Answer,
    Call,
    Close,
    Established,
    Interest,
    Message,
    MessageType,
    Open,
    Opened,
    Present,
    Response,
    RevocationNews,
)
from shadowmesh.wire.reassembly import Reassembler

NODE, ID = b"n" * 32, b"i" * 8
EXAMPLES: list[Message] = [
    Response(),
    Established(session=b"s" * 16, observed_host="192.0.2.1", observed_port=7),
    Interest(add=[NODE], remove=[NODE, NODE]),
    Present(NODE, ID),
    Absent(NODE),
    Open(NODE, ID),
    Call(NODE, ID),
    Answer(ID, ID),
    Answer(ID),
    Opened(ID, ID),
    Opened(ID, refused="no"),
    Close(ID),
    RevocationNews(b"d" * 300),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_messages_come_back(message: Message) -> None:
    message_type = MessageType(messages.encode(message)[0])
    proof = bytes(messages.PROOF_SIZE.get(message_type, 0))
    [(decoded_type, body)] = Reassembler().feed_untrusted(messages.encode(message, proof))
    assert messages.decode(decoded_type, body) == (message, proof)


def test_registry_is_whole() -> None:
    assert set(messages.REGISTRY) == set(MessageType)
    assert len(set(messages.REGISTRY.values())) == len(messages.REGISTRY)


@given(st.lists(st.sampled_from(EXAMPLES), max_size=6), st.integers(1, 50))
def test_reassembly_in_pieces_of_any_size(sent: list[Message], step: int) -> None:
    stream = b"".join(messages.encode(message) for message in sent)
    reassembler, got = Reassembler(), []
    for start in range(0, len(stream), step):
        got += reassembler.feed_untrusted(stream[start : start + step])
    assert [messages.frame(*one) for one in got] == [messages.encode(message) for message in sent]


@given(st.binary(max_size=300))
def test_any_bytes_give_messages_or_badpacket(data: bytes) -> None:
    with contextlib.suppress(BadPacket):
        for message_type, body in Reassembler().feed_untrusted(data):
            messages.decode(message_type, body)


@pytest.mark.parametrize("message_type", MessageType)
@given(body=st.binary(max_size=200))
def test_any_body_gives_a_message_or_badpacket(message_type: MessageType, body: bytes) -> None:
    with contextlib.suppress(BadPacket):
        messages.decode(message_type, body)


def test_oversized_message_is_refused_before_it_is_stored() -> None:
    reassembler = Reassembler()
    header = bytes((MessageType.INTEREST,)) + (messages.MAX_HANDSHAKE_MESSAGE + 1).to_bytes(3, "big")
    with pytest.raises(BadPacket, match="oversized"):
        reassembler.feed_untrusted(header)


def test_deeply_nested_body_is_refused() -> None:
    with pytest.raises(BadPacket, match="malformed"):
        messages.decode(MessageType.CLOSE, b"\x81\xa4more" + b"\x91" * 60_000 + b"\xc0")


def test_unknown_fields_are_ignored() -> None:
    import msgspec

    body = msgspec.msgpack.encode({"node": NODE, "instance": ID, "colour": "blue"})
    assert messages.decode(MessageType.PRESENT, body)[0] == Present(NODE, ID)


def test_wrong_sizes_are_refused() -> None:
    import msgspec

    for fields in ({"node": NODE[1:], "instance": ID}, {"node": NODE, "instance": ID + b"x"}):
        with pytest.raises(BadPacket):
            messages.decode(MessageType.PRESENT, msgspec.msgpack.encode(fields))


def test_destination_ids() -> None:
    long = b"\xc0\0\0\0\1\x08" + ID + b"\0"
    assert headers.destination_id(long) == ID
    assert headers.destination_id(b"\x43" + ID) == ID
    for bad in (b"", b"\x43" + ID[1:], long[:5], long[:9], b"\x23" + ID, b"\x83\0\0\0\1\x08" + ID):
        with pytest.raises(BadPacket):
            headers.destination_id(bad)


def test_initials_are_recognised() -> None:
    initial = (b"\xc3\0\0\0\1\x08" + ID).ljust(1200, b"\0")
    assert headers.is_initial(initial)
    assert not headers.is_initial(initial[:-1])
    assert not headers.is_initial(b"\xe3" + initial[1:])
    assert not headers.is_initial(initial[:4] + b"\2" + initial[5:])


def test_channel_headers() -> None:
    inner = b"\xc7 and more"
    datagram = headers.through_channel(ID, inner)
    assert datagram[0] == 0x47
    assert headers.split_channel(datagram) == (ID, inner)
    with pytest.raises(BadPacket):
        headers.split_channel(datagram[:9])


def test_probe_and_bind_sizes() -> None:
    """A relay must never answer with more than it received."""
    bind = payload.encode_bind(7, ID)
    assert len(bind) == 35
    probe = payload.encode_probe(payload.Kind.PROBE_REQUEST, ID)
    assert payload.parse_probe(probe) == ID
    padded = payload.encode_probe(payload.Kind.PROBE_REQUEST, ID, 1171)
    assert len(padded) == 1171
    assert payload.parse_probe(padded) == ID
    for bad in (probe[:-1], payload.encode_probe(payload.Kind.PROBE_REPLY, ID, 10), b""):
        with pytest.raises(BadPacket):
            payload.parse_probe(bad)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_path_payloads_are_equal_in_size(host: str) -> None:
    seen, other = Address(host, 4433), b"87654321"
    request = payload.encode_path_request(ID)
    response = payload.encode_path_response(ID, other, seen)
    complete = payload.encode_path_complete(ID, seen)
    assert {len(one) for one in (request, response, complete)} == {35}
    assert payload.parse_path_request(request) == ID
    assert payload.parse_path_response(response) == (ID, other, seen)
    assert payload.parse_path_complete(complete) == (ID, seen)


def test_candidates_are_bounded() -> None:
    """More than sixteen, a port of 0 or a host of 4 bytes: refused before anything is done with them."""
    one = {"host": bytes(16), "port": 1, "kind": "local"}
    bad = [[one] * 17, [one | {"port": 0}], [one | {"port": 65536}], [one | {"host": bytes(4)}]]
    kind = messages.MessageType.CANDIDATES
    messages.decode(kind, msgspec.msgpack.encode({"sequence": 1, "addresses": [one] * 16}))
    for addresses in bad:
        with pytest.raises(BadPacket):
            messages.decode(kind, msgspec.msgpack.encode({"sequence": 1, "addresses": addresses}))


@pytest.mark.parametrize(
    ("packed", "host"),
    [
        (bytes(10) + b"\xff\xff\xc0\x00\x02\x01", "192.0.2.1"),
        (b"\x20\x01\x0d\xb8" + bytes(11) + b"\1", "2001:db8::1"),
    ],
)
def test_bound(packed: bytes, host: str) -> None:
    body = b"\x11" + ID + bytes(8) + packed + b"\x11\x51"
    assert payload.parse_bound(body) == payload.Bound(ID, bytes(8), Address(host, 4433))
    for bad in (body[:-1], body + b"x", b"\x10" + body[1:]):
        with pytest.raises(BadPacket):
            payload.parse_bound(bad)


def test_presence_says_the_certificate_only_where_there_is_one() -> None:
    """So that a relay without the network sends what protocol 1 always had."""
    plain = messages.encode(messages.Present(bytes(32), b"instance"))
    assert plain == (b"\x21\x00\x00\x3b\x82\xa4node\xc4\x20" + bytes(32) + b"\xa8instance\xc4\x08instance")
    marked = messages.encode(messages.Present(bytes(32), b"instance", b"mark8888"))
    assert marked == (
        b"\x21\x00\x00\x51\x83\xa4node\xc4\x20" + bytes(32) + b"\xa8instance\xc4\x08instance"
        b"\xabcertificate\xc4\x08mark8888"
    )
    asked = messages.encode(messages.CertificateAsked([bytes(32)]))
    assert asked == b"\x5d\x00\x00\x2a\x81\xa5nodes\x91\xc4\x20" + bytes(32)
    shown = messages.encode(messages.CertificateShown(bytes(32), b"field"))
    assert shown[:4] == b"\x5e\x00\x00" + bytes([len(shown) - 4])
    assert shown[4:] == b"\x82\xa4node\xc4\x20" + bytes(32) + b"\xaamembership\xc4\x05field"


def test_more_than_eight_certificates_are_not_asked_for() -> None:
    wrong = messages.encode(messages.CertificateAsked([bytes(32)] * 9))
    with pytest.raises(BadPacket, match="malformed_message"):
        messages.decode(MessageType.CERTIFICATE_ASKED, wrong[4:])


def test_a_ticket_without_load_is_what_it_was_before_there_was_one() -> None:
    """Who knows no load reads both; who states one reads what is left out as none."""
    name = bytes(range(32))
    plain = msgspec.msgpack.encode({"ticket": name})
    assert messages.encode_body(messages.Ticket(name)) == plain
    assert messages.decode(messages.MessageType.TICKET, plain)[0] == messages.Ticket(name, 0)
    stated = messages.Ticket(messages.NO_TICKET, 87)
    assert messages.encode_body(stated) == msgspec.msgpack.encode({"ticket": bytes(32), "load": 87})
    for wrong in (-1, 101, 2.5, "87"):
        body = msgspec.msgpack.encode({"ticket": name, "load": wrong})
        with pytest.raises(BadPacket, match="malformed_message"):
            messages.decode(messages.MessageType.TICKET, body)
