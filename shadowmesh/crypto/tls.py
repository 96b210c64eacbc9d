"""TLS 1.3 with hybrid key exchange and ML-DSA-87 certificates, as a subclass of aioquic's `tls.Context`.

Role: what a ClientHello offers and what a peer may answer (`TlsPolicy`), mutual authentication by the bare
key in one certificate, tickets that remember that key, and the TLS exporter.  It does not decide *whose*
key is right: the session handshake checks the NodeID over both identity keys.  It validates no chain, no
name and no date of a node's certificate: the certificate is an envelope for a key.

How it extends aioquic (pinned to 1.7.2; tests/unit/test_tls_internals.py fails when an internal changes):
methods with a hook are overridden here as usual; five have none and run with private globals (`rebound.py`).

Order on a server, as RFC 8446 has it: ClientHello -> ALPN decides (`_check_client_hello`) -> parameters ->
key exchange -> client's certificate, signature, Finished.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from aioquic import tls
from aioquic._buffer import Buffer, BufferReadError
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mldsa

from shadowmesh import units
from shadowmesh.crypto import hybrid, rebound
from shadowmesh.crypto.rebound import ML_DSA_87
from shadowmesh.errors import LocalProtocolError

SERVER_NAME = "shadowmesh"
"""SNI: a constant, so that it tells nobody which node is called."""

MAX_MESSAGE_SIZE = 16384
"""Largest TLS message, header included.  Our largest is a Certificate of about 7.4 KB (one ML-DSA-87
certificate); 16 KiB is twice that, leaves room for foreign chains, and is aioquic's own send buffer."""


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What one kind of endpoint offers and accepts; nothing else is negotiable."""

    groups: tuple[int, ...]
    signature_schemes: tuple[int, ...]
    alpn: tuple[str, ...]
    require_client_certificate: bool
    cipher_suites: tuple[tls.CipherSuite, ...] = (tls.CipherSuite.CHACHA20_POLY1305_SHA256,)

    @property
    def pins_keys(self) -> bool:
        """Certificates are envelopes of ML-DSA-87 keys: exactly one, and nothing but the key counts."""
        return self.signature_schemes == (ML_DSA_87,)

    @property
    def hybrid_only(self) -> bool:
        """Whether no classical key exchange is accepted."""
        return all(group in hybrid.GROUPS for group in self.groups)


NODE_POLICY = TlsPolicy(
    groups=(hybrid.X25519MLKEM1024.code,),
    signature_schemes=(ML_DSA_87,),
    alpn=(units.ALPN,),
    require_client_certificate=True,
)
"""Between nodes, and between a node and its relay."""

FOREIGN_POLICY = TlsPolicy(
    groups=(hybrid.X25519MLKEM768.code, tls.Group.X25519, tls.Group.SECP256R1),
    signature_schemes=(
        tls.SignatureAlgorithm.ECDSA_SECP256R1_SHA256,
        tls.SignatureAlgorithm.ECDSA_SECP384R1_SHA384,
        tls.SignatureAlgorithm.RSA_PSS_RSAE_SHA256,
    ),
    alpn=("h3",),
    require_client_certificate=False,
    cipher_suites=(
        tls.CipherSuite.CHACHA20_POLY1305_SHA256,
        tls.CipherSuite.AES_256_GCM_SHA384,
        tls.CipherSuite.AES_128_GCM_SHA256,
    ),
)
"""HTTP/3 with browsers and other stacks: a classical certificate, and post-quantum key exchange where they
have it; nothing that has to stay secret goes over it."""


class AlertCertificateRequired(tls.Alert):
    """The client sent no certificate (RFC 8446, 4.4.2.4)."""

    description = tls.AlertDescription.certificate_required


@dataclass(repr=False)
class PeerTicket(tls.SessionTicket):
    """A pre-shared key, and the ML-DSA-87 key (2592 bytes) that the peer proved in the session it comes from.

    It is no TLS ticket of RFC 8446, 4.6.1: both sides derive it from an established session, and the
    server alone decides how long it is good.
    """

    peer_mldsa_public: bytes = b""

    @classmethod
    def of(cls, identity: bytes, secret: bytes, peer_mldsa_public: bytes) -> PeerTicket:
        """A key of 32 bytes that goes by the name `identity`."""
        return cls(
            age_add=0,
            cipher_suite=NODE_POLICY.cipher_suites[0],
            not_valid_after=dt.datetime.max.replace(tzinfo=dt.UTC),
            not_valid_before=dt.datetime.min.replace(tzinfo=dt.UTC),
            resumption_secret=secret,
            server_name=SERVER_NAME,
            ticket=identity,
            peer_mldsa_public=peer_mldsa_public,
        )

    @property
    def obfuscated_age(self) -> int:
        """Source: RFC 8446, 4.2.11: 0 for keys that were not established by TLS."""
        return 0

    def __repr__(self) -> str:
        return "PeerTicket()"  # the inherited one shows the secret


class HybridContext(tls.Context):
    """The TLS state of one connection under a policy.

    Error contract: bytes from the peer raise `tls.Alert` (the connection closes with that alert); the
    object is of no use afterwards.  Asking for results too early raises `LocalProtocolError`.
    """

    def __init__(self, stock: tls.Context, policy: TlsPolicy) -> None:
        """Take over the settings and callbacks of a fresh context that aioquic made."""
        self.__dict__.update(stock.__dict__)
        self._follow(policy)
        # No 0-RTT: what it carries can be replayed, and our first flight is the session handshake.
        self._max_early_data = None
        self._pending = bytearray()
        self._peer_mldsa_public = b""
        self._group: hybrid.HybridGroup | None = None
        self._cipher: tls.CipherSuite | None = None
        self._exporter: bytearray | None = None
        self._exporter_hash: hashes.HashAlgorithm | None = None
        self._resumed_ticket: PeerTicket | None = None
        self._fetch_ticket = self.get_session_ticket_cb
        if self._fetch_ticket is not None:
            self.get_session_ticket_cb = self._fetch_peer_ticket
        if not isinstance(self.session_ticket, PeerTicket):
            self.session_ticket = None

    def _follow(self, policy: TlsPolicy) -> None:
        self.policy = policy
        self._alpn_protocols = list(policy.alpn)
        self._cipher_suites = list(policy.cipher_suites)
        self._signature_algorithms = list(policy.signature_schemes)
        self._supported_groups: list[Any] = list(policy.groups)
        self._request_client_certificate = policy.require_client_certificate

    # --- results ---

    @property
    def peer_mldsa_public(self) -> bytes:
        """The raw ML-DSA-87 key (2592 bytes) that the peer proved, now or when the ticket was issued."""
        if not self._peer_mldsa_public:
            raise LocalProtocolError("the peer has proved no ML-DSA-87 key yet")
        return self._peer_mldsa_public

    @property
    def group(self) -> hybrid.HybridGroup | None:
        return self._group

    @property
    def cipher_name(self) -> str | None:
        return None if self._cipher is None else f"TLS_{self._cipher.name}"

    def export(self, label: bytes, context: bytes, length: int) -> bytes:
        """Keying material for other protocols. Source: RFC 8446, 7.5.

        It covers the transcript up to the server's Finished, so not the client's certificate.
        """
        if self._exporter is None or self._exporter_hash is None:
            raise LocalProtocolError("no exporter secret: the handshake is not that far, or it was wiped")
        algorithm = self._exporter_hash
        derived = tls.hkdf_expand_label(
            algorithm, bytes(self._exporter), label, _digest(algorithm, b""), algorithm.digest_size
        )
        return tls.hkdf_expand_label(algorithm, derived, b"exporter", _digest(algorithm, context), length)

    def wipe_exporter(self) -> None:
        """Forget the exporter secret; `export` fails from now on."""
        if self._exporter is not None:
            self._exporter[:] = bytes(len(self._exporter))
            self._exporter = None

    def release(self) -> None:
        """Drop what only the handshake needs; call it once, when the handshake is confirmed."""
        self._pending = bytearray()
        self._peer_certificate = None
        self._certificate_request = None
        self._enc_key = self._dec_key = None
        self.handshake_extensions = []
        self.key_schedule = None
        self.received_extensions = None
        self.session_ticket = self._resumed_ticket = None

    # --- messages ---

    def handle_message(self, input_data: bytes, output_buf: dict[tls.Epoch, Buffer]) -> None:
        """Reassemble and handle TLS messages, none larger than `MAX_MESSAGE_SIZE`.

        A length is refused as soon as it is read; bytes are moved once per message, not once per packet.
        """
        if self.state is tls.State.CLIENT_HANDSHAKE_START:
            self._client_send_hello(output_buf[tls.Epoch.INITIAL])
            return
        pending = self._pending
        pending += input_data
        while len(pending) >= 4:
            size = 4 + int.from_bytes(pending[1:4], "big")
            if size > MAX_MESSAGE_SIZE:
                raise tls.AlertDecodeError("TLS message is too large")
            if len(pending) < size:
                break
            message = bytes(pending[:size])
            del pending[:size]
            try:
                self._handle_reassembled_message(message[0], Buffer(data=message), output_buf)
            except BufferReadError:
                raise tls.AlertDecodeError("Could not parse TLS message") from None

    def _client_send_hello(self, output_buf: Buffer) -> None:
        rebound.client_send_hello(self, output_buf)

    def _client_handle_hello(self, input_buf: Buffer, output_buf: Buffer) -> None:
        rebound.client_handle_hello(self, input_buf, output_buf)
        if self._session_resumed and isinstance(self.session_ticket, PeerTicket):
            self._peer_mldsa_public = self.session_ticket.peer_mldsa_public
        self._finish_key_exchange()

    def _client_handle_certificate(self, input_buf: Buffer) -> None:
        if self.policy.require_client_certificate and self._certificate_request is None:
            raise tls.AlertHandshakeFailure("the server asks for no certificate")
        super()._client_handle_certificate(input_buf)

    def _client_handle_finished(self, input_buf: Buffer, output_buf: Buffer) -> None:
        rebound.client_handle_finished(self, input_buf, output_buf)

    def _server_handle_hello(self, input_buf: Buffer, initial_buf: Buffer, handshake_buf: Buffer) -> None:
        self._check_client_hello(rebound.pull_client_hello(input_buf))
        input_buf.seek(0)
        answer = rebound.server_handle_hello if self.policy.hybrid_only else rebound.server_handle_any_hello
        answer(self, input_buf, initial_buf, handshake_buf)
        if self._session_resumed:
            assert self._resumed_ticket is not None
            self._peer_mldsa_public = self._resumed_ticket.peer_mldsa_public
            if self.state is tls.State.SERVER_EXPECT_CERTIFICATE:
                # aioquic waits for a certificate that it did not ask for on resumption.
                self._server_expect_finished()
        self._finish_key_exchange()

    def _check_client_hello(self, hello: tls.ClientHello) -> None:
        """ALPN decides first, before a key share is looked at or an expensive operation is done.

        A node offers shadowmesh/1 and nothing else; beside another protocol it could be steered to a
        context with weaker groups or without client certificates, so both contexts refuse the mixture.
        """
        offered = hello.alpn_protocols or []
        if not set(offered) & set(self.policy.alpn):
            raise tls.AlertNoApplicationProtocol("No common ALPN protocols")
        if units.ALPN in offered and len(offered) > 1:
            raise tls.AlertNoApplicationProtocol(f"{units.ALPN} is offered beside another protocol")
        if hello.early_data:
            raise tls.AlertIllegalParameter("no ticket of ours permits early data")

    def _server_handle_certificate(self, input_buf: Buffer) -> None:
        super()._server_handle_certificate(input_buf)
        if self._peer_certificate is None:  # aioquic lets an empty Certificate pass
            raise AlertCertificateRequired("the client sent no certificate")

    def _setup_traffic_protection(self, direction: tls.Direction, epoch: tls.Epoch, label: bytes) -> None:
        super()._setup_traffic_protection(direction, epoch, label)
        if epoch is tls.Epoch.ONE_RTT:
            # On both sides aioquic does this once, with the transcript ending at the server's Finished.
            assert self.key_schedule is not None
            self._exporter = bytearray(self.key_schedule.derive_secret(b"exp master"))
            self._exporter_hash = self.key_schedule.algorithm
            self._cipher = self.key_schedule.cipher_suite

    def _finish_key_exchange(self) -> None:
        """Note the group that was used and drop all private keys, the unused ones too."""
        keys: list[Any] = self._ec_private_keys
        hybrid_keys = (key for key in keys if isinstance(key, rebound.HybridKey))
        self._group = next((key.curve.group for key in hybrid_keys if key.used), None)
        self._ec_private_keys = []
        self._x25519_private_key = None

    # --- certificates ---

    def _set_peer_certificate(self, certificate: tls.Certificate) -> None:
        if self.policy.pins_keys and len(certificate.certificates) != 1:
            raise tls.AlertBadCertificate("exactly one certificate is accepted")
        try:
            super()._set_peer_certificate(certificate)
        except x509.InvalidVersion as error:  # aioquic 1.7.2 lets this one escape
            raise tls.AlertBadCertificate("Certificate has an invalid version") from error
        if self.policy.pins_keys:
            assert self._peer_certificate is not None
            _mldsa_key(self._peer_certificate)

    def _check_certificate_verify_signature(self, verify: tls.CertificateVerify) -> None:
        rebound.check_certificate_verify_signature(self, verify)
        if self.policy.pins_keys:
            assert self._peer_certificate is not None
            self._peer_mldsa_public = _mldsa_key(self._peer_certificate).public_bytes_raw()

    def _signature_algorithms_for_private_key(self) -> list[Any]:
        key: object = self.certificate_private_key
        if isinstance(key, mldsa.MLDSA87PrivateKey):
            schemes: list[Any] = [ML_DSA_87]
        else:
            schemes = list(super()._signature_algorithms_for_private_key())
        return [scheme for scheme in schemes if scheme in self.policy.signature_schemes]

    # --- resumption ---

    def _fetch_peer_ticket(self, identity: bytes) -> PeerTicket | None:
        assert self._fetch_ticket is not None
        ticket = self._fetch_ticket(identity)
        self._resumed_ticket = ticket if isinstance(ticket, PeerTicket) else None
        return self._resumed_ticket


def _mldsa_key(certificate: x509.Certificate) -> mldsa.MLDSA87PublicKey:
    try:
        key: object = certificate.public_key()
    except UnsupportedAlgorithm as error:
        raise tls.AlertUnsupportedCertificate("Certificate has an unsupported key type") from error
    except ValueError as error:
        raise tls.AlertBadCertificate("Certificate has an invalid key") from error
    if not isinstance(key, mldsa.MLDSA87PublicKey):
        raise tls.AlertUnsupportedCertificate("only ML-DSA-87 certificates are accepted")
    return key


def _digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()
