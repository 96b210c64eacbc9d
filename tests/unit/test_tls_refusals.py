"""What the hybrid TLS refuses: classical peers, mixed ALPN, wrong certificates, malformed and huge input."""

from __future__ import annotations

import functools
import random
import time
from typing import Any

import pytest
from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding

from shadowmesh.crypto import hybrid, rebound
from shadowmesh.crypto import tls as ours
from shadowmesh.crypto.quic import HybridConnection, SessionConnection
from tests.unit.quic_pair import (
    Pair,
    certify,
    identity,
    session_client,
    session_pair,
    session_server,
    stock_client,
    stock_server,
)

ALERT = 0x100
HANDSHAKE_FAILURE = ALERT + tls.AlertDescription.handshake_failure
ILLEGAL_PARAMETER = ALERT + tls.AlertDescription.illegal_parameter
NO_ALPN = ALERT + tls.AlertDescription.no_application_protocol
BAD_CERTIFICATE = ALERT + tls.AlertDescription.bad_certificate
UNSUPPORTED_CERTIFICATE = ALERT + tls.AlertDescription.unsupported_certificate
CERTIFICATE_REQUIRED = ALERT + tls.AlertDescription.certificate_required
DECRYPT_ERROR = ALERT + tls.AlertDescription.decrypt_error
DECODE_ERROR = ALERT + tls.AlertDescription.decode_error


def refused(pair: Pair) -> int:
    """Run a pair that must not get through; return the error code that both sides end with."""
    pair.connect()
    assert not pair.run(pair.confirmed, seconds=20)
    server_end, client_end = pair.server.closed_with(), pair.client.closed_with()
    assert server_end is not None
    assert client_end is not None
    assert server_end.error_code == client_end.error_code
    return int(server_end.error_code)


def against_our_server(client: Any, **options: Any) -> Pair:
    return Pair(client, session_server(client.original_destination_connection_id, **options))


def against_our_client(make_server: Any, **options: Any) -> Pair:
    client = session_client(**options)
    return Pair(client, make_server(client.original_destination_connection_id))


# --- groups and signatures ---


def test_a_classical_client_is_refused() -> None:
    assert refused(against_our_server(stock_client())) == HANDSHAKE_FAILURE


def test_a_client_with_classical_groups_but_our_signatures_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key exchange alone is enough to refuse, whatever else is post-quantum."""
    client = session_client()
    original = type(client)._initialize

    def initialize(self: SessionConnection, peer_cid: bytes) -> None:
        original(self, peer_cid)
        context = self.tls
        if self is client:
            context._supported_groups = [tls.Group.X25519]
            send = functools.partial(tls.Context._client_send_hello, context)
            monkeypatch.setattr(context, "_client_send_hello", send)

    monkeypatch.setattr(SessionConnection, "_initialize", initialize)
    assert refused(against_our_server(client)) == HANDSHAKE_FAILURE


def test_our_client_refuses_a_classical_server() -> None:
    assert refused(against_our_client(stock_server)) == HANDSHAKE_FAILURE


def test_our_client_refuses_a_server_hello_with_a_classical_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers with X25519 though only the hybrid was offered (an active downgrade)."""

    def exchange(self: rebound.HybridKey, _algorithm: None, peer: rebound.Share) -> bytes:
        self.used = True
        return x25519.X25519PrivateKey.generate().exchange(x25519.X25519PrivateKey.generate().public_key())

    def encode(key: rebound.HybridKey) -> tuple[int, bytes]:
        if key._initiator is not None or not key.used:
            return key.curve.group.code, key.share()
        return tls.Group.X25519, x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()

    monkeypatch.setattr(rebound.HybridKey, "exchange", exchange)
    monkeypatch.setitem(rebound.server_handle_hello.__globals__, "encode_public_key", encode)
    assert refused(session_pair()) == ILLEGAL_PARAMETER


def test_768_only_client_against_1024_only_server() -> None:
    pair = session_pair(client_groups=(hybrid.X25519MLKEM768.code,))
    assert refused(pair) == HANDSHAKE_FAILURE


FAULTS = ["short", "long", "empty", "zero x25519", "bad ml-kem"]


# Any ciphertext of the right size is valid (implicit rejection), so a server has no "bad ml-kem".
@pytest.mark.parametrize(
    ("side", "fault"), [("client", fault) for fault in FAULTS] + [("server", fault) for fault in FAULTS[:-1]]
)
def test_bad_key_shares(side: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(share: bytes) -> bytes:
        return {
            "short": share[:-1],
            "long": share + b"\0",
            "empty": b"",
            "zero x25519": share[:-32] + bytes(32),
            "bad ml-kem": b"\xff" * 1568 + share[-32:],
        }[fault]

    original = rebound.encode_public_key
    method = rebound.client_send_hello if side == "client" else rebound.server_handle_hello

    def encode(key: rebound.HybridKey) -> tuple[int, bytes]:
        code, share = original(key)
        return code, spoil(share)

    monkeypatch.setitem(method.__globals__, "encode_public_key", encode)
    assert refused(session_pair()) == ILLEGAL_PARAMETER


def test_a_changed_ciphertext_leads_to_different_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(key: rebound.HybridKey) -> tuple[int, bytes]:
        code, share = rebound.encode_public_key(key)
        return code, bytes([share[0] ^ 1]) + share[1:]

    monkeypatch.setitem(rebound.server_handle_hello.__globals__, "encode_public_key", encode)
    pair = session_pair()
    pair.connect()
    assert not pair.run(lambda: pair.client.completed_at() is not None, seconds=20)


# --- ALPN ---


@pytest.mark.parametrize(
    "offered",
    [["shadowmesh/1", "h3"], ["h3", "shadowmesh/1"], ["h3"], None, ["shadowmesh/2"], ["shadowmesh/1"] * 2],
)
def test_alpn_must_be_ours_alone(offered: list[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with the same alert whatever the rest of the ClientHello offers, before any key share."""
    touched: list[object] = []
    decode = rebound.server_handle_hello.__globals__["decode_public_key"]

    def note(share: tls.KeyShareEntry) -> Any:
        touched.append(share)
        return decode(share)

    monkeypatch.setitem(rebound.server_handle_hello.__globals__, "decode_public_key", note)
    assert refused(against_our_server(stock_client(alpn_protocols=offered))) == NO_ALPN
    hybrid_client = session_client()
    initialize = hybrid_client._initialize

    def with_alpn(peer_cid: bytes) -> None:
        initialize(peer_cid)
        hybrid_client.tls._alpn_protocols = offered

    monkeypatch.setattr(hybrid_client, "_initialize", with_alpn)
    assert refused(against_our_server(hybrid_client)) == NO_ALPN
    assert touched == []


def test_a_protocol_that_is_not_ascii_counts_as_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    client = session_client()
    monkeypatch.setattr(
        tls, "push_alpn_protocol", lambda buf, name: tls.push_opaque(buf, 1, name.encode("latin-1"))
    )
    initialize = client._initialize

    def with_alpn(peer_cid: bytes) -> None:
        initialize(peer_cid)
        client.tls._alpn_protocols = ["shadowmesh/1", "\xff\xfe"]

    monkeypatch.setattr(client, "_initialize", with_alpn)
    push = rebound.client_send_hello.__globals__["push_client_hello"]
    assert push is tls.push_client_hello, "the patched helper is the one that is used"
    assert refused(against_our_server(client)) == NO_ALPN


def test_the_foreign_policy_refuses_the_mixture_too() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    client = stock_client(alpn_protocols=["h3", "shadowmesh/1"])
    server = HybridConnection(
        configuration=QuicConfiguration(is_client=False, certificate=certify(key), private_key=key),
        policy=ours.FOREIGN_POLICY,
        original_destination_connection_id=client.original_destination_connection_id,
    )
    assert refused(Pair(client, server)) == NO_ALPN


def test_early_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    push = tls.push_client_hello

    def with_early_data(buf: Any, hello: tls.ClientHello) -> None:
        hello.early_data = True
        push(buf, hello)

    monkeypatch.setitem(rebound.client_send_hello.__globals__, "push_client_hello", with_early_data)
    assert refused(session_pair()) == ILLEGAL_PARAMETER


# --- certificates ---


def _with_certificate(key: Any, certificates: list[x509.Certificate], name: str = "mallory") -> Any:
    """A client of ours that shows these certificates and signs with that key."""
    client = session_client(name)
    client.configuration.private_key = key
    client.configuration.certificate = certificates[0] if certificates else None
    client.configuration.certificate_chain = certificates[1:]
    return client


def test_no_client_certificate() -> None:
    key, _ = identity("mallory")
    assert refused(against_our_server(_with_certificate(key, []))) == CERTIFICATE_REQUIRED


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "ml-dsa-65"])
def test_client_certificates_with_another_kind_of_key(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key: Any = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    }[kind]()
    client = _with_certificate(key, [certify(key)])
    assert refused(against_our_server(client)) == CERTIFICATE_REQUIRED, "it has nothing that was asked for"
    # Now a client that sends it anyway, under the scheme that was asked for.
    client = _with_certificate(key, [certify(key)])
    initialize = client._initialize

    def insist(peer_cid: bytes) -> None:
        initialize(peer_cid)
        client.tls._signature_algorithms_for_private_key = lambda: [rebound.ML_DSA_87]

    monkeypatch.setattr(client, "_initialize", insist)
    parameters = (ec.ECDSA(hashes.SHA256()),) if kind == "ecdsa" else ()
    monkeypatch.setitem(
        rebound.client_handle_finished.__globals__, "signature_algorithm_params", lambda _scheme: parameters
    )
    assert refused(against_our_server(client)) == UNSUPPORTED_CERTIFICATE


def test_a_certificate_without_its_private_key() -> None:
    """Mallory shows Alice's certificate and signs with her own key."""
    stolen = identity("alice")[1]
    key, _ = identity("mallory")
    assert refused(against_our_server(_with_certificate(key, [stolen]))) == DECRYPT_ERROR


def test_a_server_with_a_stolen_certificate() -> None:
    pair = session_pair()
    pair.server.connection.configuration.private_key = identity("mallory")[0]
    assert refused(pair) == DECRYPT_ERROR


def test_exactly_one_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = identity("mallory")
    small = certify(ed25519.Ed25519PrivateKey.generate())
    client = _with_certificate(key, [certificate, small])
    assert refused(against_our_server(client)) == BAD_CERTIFICATE


def test_names_dates_and_signer_of_a_certificate_do_not_matter() -> None:
    """The certificate is an envelope; the tests' certificates expired in 2021."""
    key, _ = identity("alice")
    other = ed25519.Ed25519PrivateKey.generate()
    client = _with_certificate(key, [certify(key, "anything", signer=other)])
    assert against_our_server(client).handshake()


def _invalid_version() -> bytes:
    """Alice's certificate with X.509 version 7, for which cryptography raises InvalidVersion."""
    der = bytearray(identity("alice")[1].public_bytes(Encoding.DER))
    at = der.index(bytes.fromhex("a003020102"))
    der[at + 4] = 6
    return bytes(der)


def test_the_crafted_certificate_is_the_one_that_escapes_aioquic() -> None:
    with pytest.raises(x509.InvalidVersion):
        x509.load_der_x509_certificate(_invalid_version())
    assert not issubclass(x509.InvalidVersion, ValueError)


@pytest.mark.parametrize("der", [_invalid_version(), b"", b"\x30\x03\x02\x01\x00", bytes(5000)])
@pytest.mark.parametrize("side", ["client", "server"])
def test_malformed_certificates(der: bytes, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = rebound.client_handle_finished if side == "client" else rebound.server_handle_hello
    push = tls.push_certificate

    def push_malformed(buf: Any, certificate: tls.Certificate) -> None:
        certificate.certificates = [(der, b"")]
        push(buf, certificate)

    monkeypatch.setitem(method.__globals__, "push_certificate", push_malformed)
    assert refused(session_pair()) == BAD_CERTIFICATE


def test_a_server_must_ask_for_our_certificate() -> None:
    pair = session_pair()
    server = pair.server.connection
    server.policy = ours.TlsPolicy(
        groups=ours.NODE_POLICY.groups,
        signature_schemes=ours.NODE_POLICY.signature_schemes,
        alpn=ours.NODE_POLICY.alpn,
        require_client_certificate=False,
    )
    assert refused(pair) == HANDSHAKE_FAILURE


# --- Finished and binders ---


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_wrong_finished(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = rebound.client_handle_finished if side == "client" else rebound.server_handle_hello
    push = tls.push_finished

    def push_wrong(buf: Any, finished: tls.Finished) -> None:
        push(buf, tls.Finished(verify_data=bytes([finished.verify_data[0] ^ 1]) + finished.verify_data[1:]))

    monkeypatch.setitem(method.__globals__, "push_finished", push_wrong)
    assert refused(session_pair()) == DECRYPT_ERROR


def test_finished_is_compared_in_constant_time() -> None:
    schedule = rebound.KeySchedule(tls.CipherSuite.CHACHA20_POLY1305_SHA256)
    value = schedule.finished_verify_data(bytes(32))
    assert type(value).__ne__ is rebound.ConstantTimeBytes.__ne__
    plain = bytes(value)
    assert plain == value
    assert not plain != value  # noqa: SIM202 - aioquic compares by !=, in either order
    assert plain[:-1] != value
    assert value != bytes(32)
    assert value.__ne__("text")


# --- sizes, garbage, errors inside ---


def _context(is_client: bool = False) -> ours.HybridContext:
    stock = tls.Context(is_client=is_client, cipher_suites=[tls.CipherSuite.CHACHA20_POLY1305_SHA256])
    return ours.HybridContext(stock, ours.NODE_POLICY)


def test_a_key_that_the_policy_does_not_name_signs_nothing() -> None:
    """A node that is configured with a classical key refuses every peer instead of using it."""
    context = _context()
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())):
        context.certificate_private_key = key
        assert context._signature_algorithms_for_private_key() == []


def test_a_message_that_claims_too_much_is_refused_at_its_header() -> None:
    with pytest.raises(tls.AlertDecodeError, match="too large"):
        _context().handle_message(b"\x01" + (16384 - 3).to_bytes(3, "big"), {})
    context = _context()
    context.handle_message(b"\x01" + (16384 - 4).to_bytes(3, "big"), {})
    assert context.state is tls.State.SERVER_EXPECT_CLIENT_HELLO, "16 KiB in all is still waited for"


def test_reassembly_is_not_quadratic() -> None:
    """16 KiB byte by byte: a copy of the rest per byte would be 134 MB."""
    context = _context()
    message = b"\x01" + (16380).to_bytes(3, "big") + bytes(16379)
    begin = time.process_time()
    for at in range(len(message)):
        context.handle_message(message[at : at + 1], {})
    assert time.process_time() - begin < 0.1


def test_oversized_messages_close_a_connection_without_being_kept() -> None:
    client = session_client()
    pair = against_our_server(client)
    pair.connect()
    client._crypto_streams[tls.Epoch.INITIAL].sender._buffer[:4] = b"\x01\xff\xff\xff"
    assert not pair.run(pair.confirmed, seconds=20)
    assert pair.server.closed_with().error_code == DECODE_ERROR
    assert len(pair.server.connection.tls._pending) < 2000


def test_handshake_data_out_of_order_is_bounded() -> None:
    client = session_client()
    pair = against_our_server(client)
    pair.connect()
    sender = client._crypto_streams[tls.Epoch.INITIAL].sender
    sender._buffer_start += 40_000
    sender._buffer_stop += 40_000
    sender._pending.shift()
    sender._pending.add(sender._buffer_start, sender._buffer_stop)
    assert not pair.run(pair.confirmed, seconds=20)
    assert pair.server.closed_with().reason_phrase == "too much crypto buffering"


def test_garbage_never_raises() -> None:
    rng = random.Random(7)
    pair = session_pair()
    recorded: list[bytes] = []

    def record(_sender: object, data: bytes) -> list[bytes]:
        recorded.append(data)
        return [data]

    pair.tamper = record
    assert pair.handshake()
    for _ in range(300):
        client, server = session_client(), session_server(rng.randbytes(8))
        client.start(1.0)
        client.transmit(1.0)
        for _ in range(rng.randrange(1, 6)):
            data = bytearray(
                rng.choice(recorded) if rng.random() < 0.7 else rng.randbytes(rng.randrange(1400))
            )
            for _ in range(rng.randrange(4)):
                if data:
                    data[rng.randrange(len(data))] = rng.randrange(256)
            for end in (client, server):
                end.receive(bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.3 else data), 1.0)
                end.transmit(1.0)
                end.get_timer()


def test_garbage_inside_protected_packets_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer with the right keys sends changed handshake messages: close or ignore, but never raise."""
    rng = random.Random(11)
    for _ in range(60):
        pair = session_pair(seed=rng.randrange(1000))
        pair.connect()
        victim = rng.choice((pair.client, pair.server))
        epoch = rng.choice((tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE))
        pair.run(lambda: False, seconds=rng.choice((0.0, 0.06)))
        stream = victim.connection._crypto_streams.get(epoch)
        if stream is not None and stream.sender._buffer:
            at = rng.randrange(len(stream.sender._buffer))
            stream.sender._buffer[at] ^= 1 << rng.randrange(8)
        pair.run(pair.confirmed, seconds=5)


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("x"), AssertionError(), IndexError()])
def test_whatever_escapes_aioquic_closes_the_connection(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ours.HybridContext, "_server_handle_certificate", fail)
    pair = session_pair()
    assert refused(pair) == 1
    assert pair.server.closed_with().reason_phrase == "internal error"
    assert "internal error while receiving" in caplog.text


def test_an_error_before_there_are_keys_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    client = session_client()
    client.start(1.0)
    server = session_server(client.original_destination_connection_id)
    monkeypatch.setattr(QuicConnection, "_initialize", lambda *_: 1 / 0)
    for data in client.transmit(1.0):
        server.receive(data, 1.0)
    assert server.transmit(1.0) == []
    assert server.get_timer() is None
    assert "internal error" in str(server.next_event())


# --- other ways to be led elsewhere ---


def test_version_negotiation_is_ignored() -> None:
    client = session_client()
    client.start(1.0)
    client.transmit(1.0)
    cid = next(iter(client.host_cids()))
    peer = client.original_destination_connection_id
    client.receive(b"\xc0" + bytes(4) + b"\x08" + cid + b"\x08" + peer + b"\x6b\x33\x43\xcf", 1.0)
    assert client.next_event() is None
    assert not client.closed


def test_quic_v2_is_not_spoken() -> None:
    client = stock_client(supported_versions=[0x6B3343CF])
    pair = against_our_server(client)
    pair.connect()
    pair.run(seconds=2)
    assert pair.server.sent == []


def test_a_preferred_address_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    from aioquic.quic import connection as stock
    from aioquic.quic.packet import QuicPreferredAddress

    push = vars(stock)["push_quic_transport_parameters"]

    def with_preferred(buf: Any, parameters: Any) -> None:
        if parameters.original_destination_connection_id is not None:  # the server's
            parameters.preferred_address = QuicPreferredAddress(("192.0.2.7", 99), None, bytes(8), bytes(16))
        push(buf, parameters)

    monkeypatch.setattr(stock, "push_quic_transport_parameters", with_preferred)
    pair = session_pair()
    assert pair.handshake()
    pair.run(seconds=5)
    client = pair.client.connection
    assert [path.addr for path in client._network_paths] == [("virtual", 0)]
    client.send_ping(1)
    assert all(address == ("virtual", 0) for _, address in client.datagrams_to_send(pair.now))
