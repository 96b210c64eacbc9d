"""Interoperability at X25519MLKEM768 with qh3, another QUIC and TLS stack, both directions."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from shadowmesh.crypto import hybrid
from shadowmesh.crypto.quic import HybridConnection
from shadowmesh.crypto.tls import FOREIGN_POLICY
from tests.unit.quic_pair import Pair, certify, session_server

qh3 = pytest.importorskip("qh3", reason="qh3 is not installed: pip install 'shadowmesh[dev]'")

KEY = ec.generate_private_key(ec.SECP256R1())
CERTIFICATE = certify(KEY, "localhost")


@pytest.fixture
def pem(tmp_path: Any) -> tuple[str, str]:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_bytes(CERTIFICATE.public_bytes(Encoding.PEM))
    key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(certificate), str(key)


def qh3_client(**options: Any) -> Any:
    options.setdefault("alpn_protocols", ["h3"])
    configuration = qh3.QuicConfiguration(is_client=True, server_name="localhost", verify_mode=0, **options)
    return qh3.QuicConnection(configuration=configuration)


def qh3_server(odcid: bytes, pem: tuple[str, str]) -> Any:
    configuration = qh3.QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    configuration.load_cert_chain(*pem)
    return qh3.QuicConnection(configuration=configuration, original_destination_connection_id=odcid)


def our_server(odcid: bytes) -> HybridConnection:
    configuration = QuicConfiguration(is_client=False, certificate=CERTIFICATE, private_key=KEY)
    return HybridConnection(
        configuration=configuration, policy=FOREIGN_POLICY, original_destination_connection_id=odcid
    )


def our_client() -> HybridConnection:
    configuration = QuicConfiguration(is_client=True, server_name="localhost", verify_mode=0)
    policy = dataclasses.replace(FOREIGN_POLICY, groups=(hybrid.X25519MLKEM768.code,))
    return HybridConnection(configuration=configuration, policy=policy)


def both_complete(pair: Pair) -> bool:
    return pair.client.completed_at() is not None and pair.server.completed_at() is not None


def test_qh3_client_with_our_server() -> None:
    client = qh3_client()
    pair = Pair(client, our_server(client.original_destination_connection_id))
    pair.connect()
    assert pair.run(lambda: both_complete(pair))
    server = pair.server.connection
    assert server.hybrid.group == hybrid.X25519MLKEM768
    client.send_stream_data(0, b"from qh3", end_stream=True)
    assert pair.run(lambda: pair.server.stream_data() == b"from qh3")
    server.send_stream_data(0, b"from us", end_stream=True)
    assert pair.run(lambda: pair.client.stream_data() == b"from us")


def test_our_client_with_qh3_server(pem: tuple[str, str]) -> None:
    client = our_client()
    pair = Pair(client, qh3_server(client.original_destination_connection_id, pem))
    pair.connect()
    assert pair.run(lambda: both_complete(pair))
    assert client.hybrid is not None
    assert client.hybrid.group == hybrid.X25519MLKEM768
    client.send_stream_data(0, b"from us", end_stream=True)
    assert pair.run(lambda: pair.server.stream_data() == b"from us")


@pytest.mark.parametrize("protocol", ["h3", "shadowmesh/1"])
def test_a_node_refuses_qh3(protocol: str) -> None:
    """A hybrid group is not enough: no ML-DSA signature, and at the node's level not that group either."""
    client = qh3_client(alpn_protocols=[protocol])
    server = session_server(client.original_destination_connection_id, groups=(hybrid.X25519MLKEM768.code,))
    pair = Pair(client, server)
    pair.connect()
    assert not pair.run(lambda: pair.client.completed_at() is not None, seconds=10)
    assert pair.server.closed_with().error_code in (0x100 + 40, 0x100 + 120)


def test_stock_aioquic_is_untouched() -> None:
    """In the same process, a classical handshake of aioquic with itself works as ever."""
    client = QuicConnection(
        configuration=QuicConfiguration(
            is_client=True, server_name="localhost", verify_mode=0, alpn_protocols=["h3"]
        )
    )
    server = QuicConnection(
        configuration=QuicConfiguration(
            is_client=False, certificate=CERTIFICATE, private_key=KEY, alpn_protocols=["h3"]
        ),
        original_destination_connection_id=client.original_destination_connection_id,
    )
    pair = Pair(client, server)
    assert pair.handshake()
    assert type(client.tls).__module__ == "aioquic.tls"
