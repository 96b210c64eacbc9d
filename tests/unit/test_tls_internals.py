"""What shadowmesh.crypto assumes about the inside of aioquic 1.7.2; fails loudly when any of it changes.

When a test here fails after an update of aioquic: read what changed in the named function, see whether
`shadowmesh/crypto/tls.py` or `quic.py` still does what its docstrings promise with it, run all
tests/unit/test_tls_*.py, and only then write the new version and hashes here and in pyproject.toml.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import types
from typing import Any

import pytest
from aioquic import tls
from aioquic.h3.connection import H3Connection
from aioquic.quic import connection, crypto, packet, stream

from shadowmesh.crypto import port, rebound
from shadowmesh.crypto import quic as our_quic
from shadowmesh.crypto import tls as ours
from shadowmesh_relay import h3

VERSION = "1.7.2"

CONTEXT = {
    "__init__": "bb8bb2f67ef5fab5",
    "handle_message": "6a388255ca3f2fca",
    "_handle_reassembled_message": "e9d918ca727a9a5f",
    "_client_send_hello": "8d01ef343e2125ac",
    "_client_handle_hello": "28192ab27a22624a",
    "_client_handle_encrypted_extensions": "c91f9f8227520c38",
    "_client_handle_certificate": "01c4c79fe49cc12c",
    "_client_handle_finished": "4b7a3ac83d777857",
    "_client_handle_new_session_ticket": "af226f5dd1bd2e5a",
    "_server_handle_hello": "ce53cc7baafe259b",
    "_server_handle_certificate": "8300245453e1b8ee",
    "_server_handle_finished": "6333c1d300ad9c6a",
    "_server_expect_finished": "1e4b06ad90fb8da6",
    "_check_certificate_verify_signature": "68c355898f7e639f",
    "_setup_traffic_protection": "d3b37a2c51f2d3ff",
    "_set_peer_certificate": "beec9ba2af2e1e68",
    "_signature_algorithms_for_private_key": "b324636662812ee4",
}

CONNECTION = {
    "__init__": "81aea715e34447e1",
    "_initialize": "6a41681e541c05d7",
    "connect": "dff4f9cef8a474c1",
    "_connect": "5cabbbe581ae9eb0",
    "receive_datagram": "3c7f29826050cbfe",
    "datagrams_to_send": "f4eb22c8add260fe",
    "get_timer": "07184a05f894e968",
    "handle_timer": "8ebd76a179bf5e25",
    "_idle_timeout": "8549f45b09415b1a",
    "_payload_received": "612b67759a96c701",
    "_get_or_create_stream": "aee09c84cd0da114",
    "_handle_crypto_frame": "e77f8695d9acaf8e",
    "_find_network_path": "202fbdfdd5ed046b",
    "_find_preferred_address": "10231e42950a437b",
    "_receive_version_negotiation_packet": "41aa580d293b1d17",
    "_write_connection_limits": "02c42c5455ae1a31",
    "_write_stream_limits": "398d4a898f7c580f",
    "_close_end": "7e32d95840a68634",
    "_confirm_handshake": "ffec907008d18273",
    "_discard_epoch": "124889133f0c2ef0",
    "_push_crypto_data": "9e47f41010324bf6",
    "_alpn_handler": "11a969d2855d2446",
    "_serialize_transport_parameters": "be651f3ddfcd3f39",
}

HTTP = {
    "__init__": "dd6af01c0d7519db",
    "handle_event": "244473969c5276f5",
    "_init_connection": "5dbdb7d87fbc17f3",
    "_get_local_settings": "6d1ff1ffc25833d2",
    "_validate_settings": "18a774bb469834d0",
    "_handle_control_frame": "2a362270311d8d7d",
    "_decode_headers": "d2818e3da6cdd950",
}

OTHERS = {
    "tls.KeySchedule": "8d7e0b20cdc357a6",
    "tls.KeyScheduleProxy": "858faeedb9ad6c2a",
    "tls.SessionTicket": "c2095b11207d6655",
    "tls.pull_client_hello": "cbc3140d2e259976",
    "tls.pull_certificate": "e4f912204d91d4fe",
    "connection.QuicNetworkPath": "e099644f9dd5c21a",
    "connection.Limit": "ee53b257287777bb",
    "crypto.CryptoPair": "b15d4150ed1808c1",
    "stream.QuicStreamReceiver.handle_frame": "c54bce9f11e6f2de",
    "stream.QuicStreamReceiver.starting_offset": "5499cbac72736571",
    "packet.encode_quic_retry": "1e48dc7c50497982",
}

_OTHERS: dict[str, Any] = {
    "tls.KeySchedule": tls.KeySchedule,
    "tls.KeyScheduleProxy": tls.KeyScheduleProxy,
    "tls.SessionTicket": tls.SessionTicket,
    "tls.pull_client_hello": tls.pull_client_hello,
    "tls.pull_certificate": tls.pull_certificate,
    "connection.QuicNetworkPath": connection.QuicNetworkPath,
    "connection.Limit": connection.Limit,
    "crypto.CryptoPair": crypto.CryptoPair,
    "stream.QuicStreamReceiver.handle_frame": stream.QuicStreamReceiver.handle_frame,
    "stream.QuicStreamReceiver.starting_offset": stream.QuicStreamReceiver.starting_offset,
    "packet.encode_quic_retry": packet.encode_quic_retry,
}


def fingerprint(thing: Any) -> str:
    return hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()[:16]


def check(name: str, thing: Any, expected: str) -> None:
    found = fingerprint(thing)
    assert found == expected, (
        f"{name} of aioquic {importlib.metadata.version('aioquic')} is not the one of {VERSION} "
        f"(source {found}, expected {expected}). " + (__doc__ or "")
    )


def test_version() -> None:
    assert importlib.metadata.version("aioquic") == VERSION


@pytest.mark.parametrize("name", CONTEXT)
def test_tls_context(name: str) -> None:
    check(f"tls.Context.{name}", getattr(tls.Context, name), CONTEXT[name])


@pytest.mark.parametrize("name", CONNECTION)
def test_quic_connection(name: str) -> None:
    check(f"QuicConnection.{name}", getattr(connection.QuicConnection, name), CONNECTION[name])


@pytest.mark.parametrize("name", HTTP)
def test_http3_connection(name: str) -> None:
    check(f"H3Connection.{name}", getattr(H3Connection, name), HTTP[name])


@pytest.mark.parametrize("name", OTHERS)
def test_others(name: str) -> None:
    check(name, _OTHERS[name], OTHERS[name])


def test_everything_that_we_override_is_listed() -> None:
    def overridden(cls: type, base: type) -> set[str]:
        return {name for name, value in vars(cls).items() if callable(value) and hasattr(base, name)}

    skip = {"__init_subclass__", "__class__"}
    for context in (ours.HybridContext, port.PortContext):
        assert overridden(context, tls.Context) - skip <= CONTEXT.keys()
    assert overridden(h3._Http, H3Connection) - skip <= HTTP.keys()
    for cls in (our_quic.HybridConnection, our_quic.SessionConnection, port.PortConnection):
        assert overridden(cls, connection.QuicConnection) - skip <= CONNECTION.keys()


def test_a_changed_method_is_noticed_at_import() -> None:
    def other(self: object) -> None: ...

    with pytest.raises(ImportError, match="does not use"):
        rebound.rebind(other, decode_public_key=None)


def test_rebinding_leaves_the_original_alone() -> None:
    bound = rebound.server_handle_hello
    original = tls.Context._server_handle_hello
    assert isinstance(bound, types.FunctionType)
    assert bound.__code__ is original.__code__
    assert bound.__globals__ is not original.__globals__
    assert original.__globals__ is vars(tls)
    for name in ("ec", "decode_public_key", "encode_public_key", "KeySchedule", "pull_client_hello"):
        assert vars(tls)[name] is not bound.__globals__[name]
        module = inspect.getmodule(vars(tls)[name])
        assert module is not None
        assert module.__name__.startswith(("aioquic", "cryptography"))
    assert not set(tls.GROUP_TO_CURVE) & {0xFE4D, 0x11EC}
    assert connection.MAX_PENDING_CRYPTO == 524288
    assert vars(connection)["tls"] is tls
