"""The session handshake: HELLO, CHALLENGE, RESPONSE, ESTABLISHED.

    initiator                                  responder
    HELLO      versions, key, lanes, proof  ->
                                            <- CHALLENGE   version, key, lanes, proof
    RESPONSE   MAC over all before          ->
                                            <- ESTABLISHED session id, observed address, MAC

It runs inside a QUIC connection whose TLS handshake proved the ML-DSA-87 keys of both certificates.
Proofs of HELLO and CHALLENGE are Ed25519 signatures that bind the other half of each identity to this
very connection by a TLS exporter secret; RESPONSE and ESTABLISHED are MACs over the whole transcript
under a second one.  docs/protocol.md, section 4, has every byte.

On a TLS connection that resumes a session of the same two nodes, RESPONSE is left out: the responder sends
CHALLENGE and ESTABLISHED together, and both sides are as sure of each other (section 4.5).

This machine sees messages, never the network or a clock.  Error contract: `RemoteProtocolError`
or `BadPacket` from `handle` leaves it FAILED, and nothing is ever accepted again; `LocalProtocolError`
is a caller's bug and changes nothing.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from shadowmesh.crypto.identity import Identity, node_id_of
from shadowmesh.crypto.keys import Direction, frame_keys, wipe
from shadowmesh.crypto.provider import DEFAULT_PROVIDER
from shadowmesh.errors import LocalProtocolError, RemoteProtocolError
from shadowmesh.session.epoch import EpochKeys
from shadowmesh.units import PROTOCOL_VERSIONS, Address, NodeId
from shadowmesh.wire import messages
from shadowmesh.wire.messages import Challenge, Established, Hello, Introduction, MessageType, Response

_SIGNED = b"shadowmesh/1 "
SESSION_ID_SIZE = 16
SUPPORTED_CRITICAL: frozenset[str] = frozenset()
"""Critical extensions that this release understands: none are defined yet."""


class Refused(RemoteProtocolError):
    """`admit` says no: to be closed with this application error code, and this reason for people.

    :param clock: the time of who refuses, in seconds since 1970, where that is why.
    """

    def __init__(self, code: int, reason: str, clock: float | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.clock = clock


Admit = Callable[[NodeId, Introduction], None]
"""Called with the NodeID of an authenticated HELLO or CHALLENGE, and what it says; may raise Refused."""


def admit_all(node: NodeId, shown: Introduction) -> None:
    """The `admit` of a side that takes whomever it expects."""


class State(enum.Enum):
    """Where a handshake stands; the same names serve both roles."""

    START = "start"
    HELLO_SENT = "hello sent"
    CHALLENGE_SENT = "challenge sent"
    RESPONSE_SENT = "response sent"
    CHALLENGED = "challenge received"
    """Only where a session is resumed: ESTABLISHED comes without RESPONSE."""
    ESTABLISHED = "established"
    FAILED = "failed"


class Event(enum.Enum):
    """What can happen to a handshake."""

    BEGIN = "begin"
    HELLO = "hello"
    CHALLENGE = "challenge"
    RESUMED_HELLO = "hello of a resumed session"
    RESUMED_CHALLENGE = "challenge of a resumed session"
    RESPONSE = "response"
    CONFIRMATION = "established"
    FAULT = "fault"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.START, Event.BEGIN): State.HELLO_SENT,
    (State.START, Event.HELLO): State.CHALLENGE_SENT,
    (State.HELLO_SENT, Event.CHALLENGE): State.RESPONSE_SENT,
    (State.CHALLENGE_SENT, Event.RESPONSE): State.ESTABLISHED,
    (State.RESPONSE_SENT, Event.CONFIRMATION): State.ESTABLISHED,
    (State.START, Event.RESUMED_HELLO): State.ESTABLISHED,
    (State.HELLO_SENT, Event.RESUMED_CHALLENGE): State.CHALLENGED,
    (State.CHALLENGED, Event.CONFIRMATION): State.ESTABLISHED,
} | {(state, Event.FAULT): State.FAILED for state in State}
"""Every pair that is not here is refused as out of order."""

_EVENT_OF = {
    MessageType.HELLO: Event.HELLO,
    MessageType.CHALLENGE: Event.CHALLENGE,
    MessageType.RESPONSE: Event.RESPONSE,
    MessageType.ESTABLISHED: Event.CONFIRMATION,
}
_RESUMED_EVENT_OF = _EVENT_OF | {
    MessageType.HELLO: Event.RESUMED_HELLO,
    MessageType.CHALLENGE: Event.RESUMED_CHALLENGE,
}


@dataclass(frozen=True, repr=False)
class Secrets:
    """The three exporter secrets of a connection (32 bytes each) and the peer's key in its certificate.

    Of a resumed connection: in the certificate of the session that the ticket comes from.
    """

    proof: bytearray
    confirm: bytearray
    root: bytearray
    peer_mldsa: bytes
    resumed: bool = False
    """Whether a ticket took the place of both certificates."""

    def wipe(self) -> None:
        """Overwrite the secrets; called as soon as the keys are derived."""
        for secret in (self.proof, self.confirm, self.root):
            wipe(secret)


@dataclass(frozen=True)
class Opening:
    """What our side brings to a handshake; what is random is chosen by the caller."""

    nonce: bytes
    instance: bytes
    lanes: list[bytes]
    session: bytes = b""
    """16 bytes, responder only."""
    observed: Address | None = None
    """Where the responder sees the initiator."""
    membership: bytes = b""
    """What we show of our membership of a network; empty without one."""
    token: bytes | None = None
    """Proof of the token that the other side, a relay, admits by."""
    wall: Callable[[], float] | None = None
    """The clock that a responder tells of, in seconds since 1970; None tells nothing."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Agreement(EpochKeys):
    """What both sides hold after the handshake: the keys of epoch 0, and what a rekey builds on."""

    peer: NodeId
    peer_ed25519: bytes
    peer_mldsa: bytes
    instance: bytes
    version: int
    role: Direction
    """Ours."""
    root: bytearray
    """Of epoch 0."""
    membership: bytes
    """What the peer showed of its membership."""
    binding: bytes
    """SHA-256 over all messages before ESTABLISHED: names this session, and is bound to its connection."""

    def wipe(self) -> None:
        """Overwrite the key material and the root; called once they are installed."""
        super().wipe()
        wipe(self.root)


class Machine:
    """One handshake in one role.

    Commands: `begin` (initiator, once TLS is done), `handle` (each message).  Both return the bytes to
    send.  Then look at `agreement` (keys may be used from then on) and `state`.

    :param expected: the pinned NodeID; None at a relay, where `admit` decides.
    :param admit: has the last word on whoever has proved its NodeID.
    """

    def __init__(
        self,
        role: Direction,
        identity: Identity,
        expected: NodeId | None,
        opening: Opening,
        admit: Admit = admit_all,
    ) -> None:
        if role is Direction.INITIATOR and expected is None:
            raise LocalProtocolError("an initiator must know whom it expects")
        self.role = role
        self.state = State.START
        self.peer = expected
        self.agreement: Agreement | None = None
        self.confirmation: Established | None = None
        self._identity = identity
        self._opening = opening
        self._admit = admit
        self._transcript = hashlib.sha256()
        self._handlers = {
            MessageType.HELLO: self._handle_hello,
            MessageType.CHALLENGE: self._handle_challenge,
            MessageType.RESPONSE: self._handle_response,
            MessageType.ESTABLISHED: self._handle_established,
        }
        self._version = 0
        self._shown: Introduction | None = None

    def begin(self, secrets: Secrets) -> bytes:
        """The HELLO of an initiator. Raises LocalProtocolError anywhere but at its start."""
        if self.role is not Direction.INITIATOR:
            raise LocalProtocolError("only an initiator begins")
        if (self.state, Event.BEGIN) not in TRANSITIONS:
            raise LocalProtocolError(f"a handshake can't begin when {self.state.value}")
        self._advance(Event.BEGIN)
        hello = Hello(versions=list(PROTOCOL_VERSIONS), node=self._introduction())
        return self._signed(MessageType.HELLO, messages.encode_body(hello), secrets)

    def handle(self, message_type: MessageType, body: bytes, secrets: Secrets) -> bytes:
        """Take one handshake message; returns the answer, empty where none is due.

        Raises BadPacket("malformed_message"), RemoteProtocolError.
        """
        try:
            handler = self._handlers.get(message_type)
            if handler is None or (self.state, self._event(message_type, secrets)) not in TRANSITIONS:
                raise RemoteProtocolError(f"{message_type.name} is out of order when {self.state.value}")
            answer = handler(body, secrets)
        except Exception:
            self._advance(Event.FAULT)
            raise
        return answer

    def _event(self, message_type: MessageType, secrets: Secrets) -> Event:
        return (_RESUMED_EVENT_OF if secrets.resumed else _EVENT_OF)[message_type]

    def _handle_hello(self, body: bytes, secrets: Secrets) -> bytes:
        if self.role is not Direction.RESPONDER:
            raise RemoteProtocolError("HELLO came to the initiator")
        hello, proof = messages.decode(MessageType.HELLO, body)
        assert isinstance(hello, Hello)
        self._authenticate(MessageType.HELLO, hello.node, body, proof, secrets)
        shared = [version for version in PROTOCOL_VERSIONS if version in hello.versions]
        if not shared:
            raise RemoteProtocolError(
                f"no common protocol version: {hello.versions} against {PROTOCOL_VERSIONS}"
            )
        self._version = shared[0]
        assert self.peer is not None
        self._admit(self.peer, hello.node)
        self._advance(self._event(MessageType.HELLO, secrets))
        self._shown = hello.node
        body = messages.encode_body(Challenge(version=self._version, node=self._introduction()))
        challenge = self._signed(MessageType.CHALLENGE, body, secrets)
        return challenge + self._establish(secrets) if secrets.resumed else challenge

    def _handle_challenge(self, body: bytes, secrets: Secrets) -> bytes:
        challenge, proof = messages.decode(MessageType.CHALLENGE, body)
        assert isinstance(challenge, Challenge)
        self._authenticate(MessageType.CHALLENGE, challenge.node, body, proof, secrets)
        if challenge.version not in PROTOCOL_VERSIONS:
            raise RemoteProtocolError(
                f"the responder chose version {challenge.version}, which was not offered"
            )
        self._version = challenge.version
        assert self.peer is not None
        self._admit(self.peer, challenge.node)
        self._advance(self._event(MessageType.CHALLENGE, secrets))
        self._shown = challenge.node
        if secrets.resumed:
            self._agree(secrets)
            return b""
        response = self._confirmed(MessageType.RESPONSE, messages.encode_body(Response()), secrets)
        self._agree(secrets)
        return response

    def _handle_response(self, body: bytes, secrets: Secrets) -> bytes:
        _, mac = messages.decode(MessageType.RESPONSE, body)
        self._check_confirmation(MessageType.RESPONSE, body, mac, secrets)
        self._advance(Event.RESPONSE)
        return self._establish(secrets)

    def _establish(self, secrets: Secrets) -> bytes:
        """The responder has its proofs: its last message."""
        self._agree(secrets)
        observed = self._opening.observed or Address("", 0)
        self.confirmation = Established(
            session=self._opening.session,
            observed_host=observed.host,
            observed_port=observed.port,
            clock_ms=msgspec.UNSET if self._opening.wall is None else int(self._opening.wall() * 1000),
        )
        answer = self._confirmed(MessageType.ESTABLISHED, messages.encode_body(self.confirmation), secrets)
        secrets.wipe()
        return answer

    def _handle_established(self, body: bytes, secrets: Secrets) -> bytes:
        established, mac = messages.decode(MessageType.ESTABLISHED, body)
        assert isinstance(established, Established)
        self._check_confirmation(MessageType.ESTABLISHED, body, mac, secrets)
        self._advance(Event.CONFIRMATION)
        self.confirmation = established
        secrets.wipe()
        return b""

    def _advance(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]

    def _introduction(self) -> Introduction:
        opening = self._opening
        return Introduction(
            key=self._identity.ed25519_public,
            nonce=opening.nonce,
            instance=opening.instance,
            lanes=opening.lanes,
            membership=opening.membership,
            token=msgspec.UNSET if opening.token is None else opening.token,
        )

    def _authenticate(
        self, message_type: MessageType, shown: Introduction, body: bytes, proof: bytes, secrets: Secrets
    ) -> None:
        """Both halves of the identity must be of one node, of the right one, and in this connection."""
        peer = node_id_of(shown.key, secrets.peer_mldsa)
        if self.peer is not None and not hmac.compare_digest(peer, self.peer):
            raise RemoteProtocolError("the peer is not the node that is pinned: its NodeID differs")
        unknown = set(shown.critical) - SUPPORTED_CRITICAL
        if unknown:
            raise RemoteProtocolError(f"the peer demands what this release does not know: {sorted(unknown)}")
        signed = self._to_sign(message_type, body[: -len(proof)], len(body), peer, secrets, mine=False)
        if not DEFAULT_PROVIDER.ed25519_verify(shown.key, proof, signed):
            # The signature covers both NodeIDs: a peer that pins another NodeID for us fails here.
            raise RemoteProtocolError(
                f"the proof in {message_type.name} does not hold; is my NodeID the one that you pinned?"
            )
        self.peer = peer
        self._transcript.update(messages.frame(message_type, body))

    def _to_sign(
        self,
        message_type: MessageType,
        content: bytes,
        size: int,
        peer: NodeId,
        secrets: Secrets,
        mine: bool,
    ) -> bytes:
        """ "shadowmesh/1 " || role || exporter (32) || hash (32) || initiator NodeID || responder NodeID."""
        signer = self.role if mine else self.role.other
        ids = (self._identity.node_id, peer)
        initiator, responder = ids if self.role is Direction.INITIATOR else ids[::-1]
        digest = self._digest_with(message_type, content, size)
        return _SIGNED + signer.value + bytes(secrets.proof) + digest + initiator + responder

    def _digest_with(self, message_type: MessageType, content: bytes, size: int) -> bytes:
        """SHA-256 over all whole messages so far and this one as far as its proof."""
        transcript = self._transcript.copy()
        transcript.update(messages.frame(message_type, bytes(size))[: messages.HEADER_SIZE] + content)
        return transcript.digest()

    def _signed(self, message_type: MessageType, content: bytes, secrets: Secrets) -> bytes:
        size = len(content) + messages.PROOF_SIZE[message_type]
        assert self.peer is not None
        signed = self._to_sign(message_type, content, size, self.peer, secrets, mine=True)
        return self._sent(message_type, content + self._identity.sign(signed))

    def _confirmed(self, message_type: MessageType, content: bytes, secrets: Secrets) -> bytes:
        return self._sent(message_type, content + self._mac(message_type, content, secrets, mine=True))

    def _check_confirmation(
        self, message_type: MessageType, body: bytes, mac: bytes, secrets: Secrets
    ) -> None:
        expected = self._mac(message_type, body[: -len(mac)], secrets, mine=False)
        if not hmac.compare_digest(mac, expected):
            raise RemoteProtocolError(f"the transcript in {message_type.name} does not match")
        self._transcript.update(messages.frame(message_type, body))

    def _mac(self, message_type: MessageType, content: bytes, secrets: Secrets, mine: bool) -> bytes:
        """HMAC-SHA256 (RFC 2104) under the second exporter secret over role || hash."""
        role = self.role if mine else self.role.other
        digest = self._digest_with(message_type, content, len(content) + messages.PROOF_SIZE[message_type])
        return hmac.digest(bytes(secrets.confirm), role.value + digest, "sha256")

    def _sent(self, message_type: MessageType, body: bytes) -> bytes:
        message = messages.frame(message_type, body)
        self._transcript.update(message)
        return message

    def _agree(self, secrets: Secrets) -> None:
        """Called when the transcript ends with RESPONSE, or CHALLENGE of a resumed session, at both sides."""
        peer = self._shown
        assert self.peer is not None
        assert peer is not None
        self.agreement = Agreement(
            epoch=0,
            peer=self.peer,
            peer_ed25519=peer.key,
            peer_mldsa=secrets.peer_mldsa,
            instance=peer.instance,
            version=self._version,
            role=self.role,
            root=bytearray(secrets.root),
            membership=peer.membership,
            binding=self._transcript.digest(),
            send_keys=frame_keys(secrets.root, 0, self.role),
            receive_keys=frame_keys(secrets.root, 0, self.role.other),
            send_lanes=peer.lanes,
            receive_lanes=self._opening.lanes,
        )
        wipe(secrets.root)
