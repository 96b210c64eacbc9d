"""Of whatever payload or header, each parser returns what its encoder makes the same bytes of, or
BadPacket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shadowmesh.errors import BadPacket
from shadowmesh.units import Address
from shadowmesh.wire import headers, observe, payload

COVERS = ("shadowmesh.wire.payload", "shadowmesh.wire.headers", "shadowmesh.wire.observe")
NONCE, ECHO, HERE = b"a nonce!", b"an echo!", Address("192.0.2.7", 4433)
THERE = Address("2001:db8::7", 1)

SEEDS = [
    payload.encode_probe(payload.Kind.PROBE_REQUEST, NONCE, 1200),
    payload.encode_probe(payload.Kind.PROBE_REPLY, NONCE),
    payload.encode_path_request(NONCE),
    payload.encode_path_response(ECHO, NONCE, HERE),
    payload.encode_path_complete(ECHO, THERE),
    payload.encode_bind(7, NONCE, ECHO),
    bytes([payload.Kind.BOUND]) + NONCE + ECHO + payload.encode_address(HERE),
    observe.encode_observe(NONCE),
    observe.encode_observed(NONCE, THERE),
    headers.through_channel(NONCE, b"\x43" + bytes(40)),
    b"\xc3\0\0\0\1\x08destinat\x08sourceid" + bytes(1200),
]


def _path_request(found: Any, data: bytes) -> bytes:
    return payload.encode_path_request(found)[:9] + data[9:]


def _path_complete(found: Any, data: bytes) -> bytes:
    return payload.encode_path_complete(*found)[:27] + data[27:]


def _bound(found: Any, _: bytes) -> bytes:
    assert isinstance(found, payload.Bound)
    return (
        bytes([payload.Kind.BOUND]) + found.nonce + found.challenge + payload.encode_address(found.observed)
    )


PARSERS: tuple[tuple[Callable[[bytes], Any], Callable[[Any, bytes], bytes]], ...] = (
    (payload.parse_probe, lambda found, data: data[:1] + found + data[9:]),
    (payload.parse_path_request, _path_request),
    (payload.parse_path_response, lambda found, _: payload.encode_path_response(*found)),
    (payload.parse_path_complete, _path_complete),
    (payload.parse_bound, _bound),
    (observe.parse_observe, lambda found, data: observe.encode_observe(found)[:9] + data[9:]),
    (observe.parse_observed, lambda found, _: observe.encode_observed(*found)),
    (headers.split_channel, lambda found, data: data[:1] + headers.through_channel(*found)[1:]),
)


def target(data: bytes) -> None:
    """To every parser; the kind is put right where another part of the program looks at it."""
    for parse, encode in PARSERS:
        try:
            found = parse(data)
        except BadPacket:
            continue
        made = encode(found, data)
        assert made[1:] == data[1:], (parse.__name__, made)
    try:
        wanted = headers.destination_id(data)
    except BadPacket:
        assert not headers.is_initial(data) or data[5] > len(data) - 6
        return
    assert wanted in data
