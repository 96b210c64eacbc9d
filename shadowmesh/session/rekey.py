"""Rekey: a fresh key exchange inside an established session, for the keys of its next epoch.

    initiator                                             responder
                                                       <- REKEY_ASK     epoch            (if it wants one)
    REKEY_OFFER   epoch, share, lanes, signatures      ->
                                                       <- REKEY_ANSWER  epoch, share, lanes, signatures

The initiator is the client of the session's QUIC connection.  Both messages are signed by both keys of
their sender's identity, over the session, the epoch, the role and both messages as far as sent; the new
root comes from the old one and a fresh X25519+ML-KEM-1024 secret.  docs/protocol.md, section 5.

This machine sees messages, never the network or a clock: when to rekey, and when which keys are used, is
the caller's.  Error contract: `RemoteProtocolError` leaves it FAILED and without its root; the session
must be closed.  `LocalProtocolError` is a caller's bug and changes nothing.
"""

from __future__ import annotations

import enum
import hashlib

from shadowmesh.crypto import hybrid
from shadowmesh.crypto.identity import Identity, composite_verifies
from shadowmesh.crypto.keys import Direction, frame_keys, next_root, wipe
from shadowmesh.errors import BadPacket, LocalProtocolError, RemoteProtocolError
from shadowmesh.session.epoch import EpochKeys
from shadowmesh.session.machine import Agreement
from shadowmesh.wire import messages
from shadowmesh.wire.messages import COMPOSITE_SIGNATURE_SIZE, RekeyAnswer, RekeyAsk, RekeyOffer

GROUP = hybrid.X25519MLKEM1024
_SIGNED = b"shadowmesh/1 rekey "


class State(enum.Enum):
    """Where a rekey stands."""

    IDLE = "idle"
    OFFERED = "offered"
    FAILED = "failed"


class Event(enum.Enum):
    """What can happen to it."""

    BEGIN = "begin"
    OFFER = "offer"
    ANSWER = "answer"
    FAULT = "fault"


TRANSITIONS: dict[tuple[Direction, State, Event], State] = {
    (Direction.INITIATOR, State.IDLE, Event.BEGIN): State.OFFERED,
    (Direction.INITIATOR, State.OFFERED, Event.ANSWER): State.IDLE,
    (Direction.RESPONDER, State.IDLE, Event.OFFER): State.IDLE,
} | {(role, state, Event.FAULT): State.FAILED for role in Direction for state in State}
"""Every triple that is not here is refused as out of order."""


class Rekey:
    """All rekeys of one session at one end; holds the root of the newest epoch.

    :param agreement: of the session's handshake; its root is copied.
    """

    def __init__(self, identity: Identity, agreement: Agreement) -> None:
        self.role = agreement.role
        self.state = State.IDLE
        self.epoch = agreement.epoch
        """The newest one that is agreed."""
        self._identity = identity
        self._agreement = agreement
        self._root = bytearray(agreement.root)
        self._exchange: hybrid.Initiator | None = None
        self._offer = b""
        self._lanes: list[bytes] = []

    # Getters.

    @property
    def under_way(self) -> bool:
        """Whether an OFFER of ours is unanswered."""
        return self.state is State.OFFERED

    # Commands.

    def ask(self) -> bytes:
        """The REKEY_ASK of a responder."""
        if self.role is not Direction.RESPONDER:
            raise LocalProtocolError("an initiator offers, and does not ask")
        return messages.encode(RekeyAsk(self.epoch + 1))

    def offer(self, lanes: list[bytes]) -> bytes:
        """The REKEY_OFFER of an initiator, who will receive under `lanes`: 8 random ids of 8 bytes."""
        if (self.role, self.state, Event.BEGIN) not in TRANSITIONS:
            raise LocalProtocolError(f"no rekey can begin when {self.state.value}")
        self._exchange, self._lanes = hybrid.Initiator(GROUP), lanes
        self._offer = _content(RekeyOffer(self.epoch + 1, self._exchange.share, lanes))
        self.state = State.OFFERED
        return self._offer + self._signature(self._offer)

    def wipe(self) -> None:
        """Forget the root; no rekey is possible any more."""
        self.state = State.FAILED
        self._exchange = None
        wipe(self._root)

    # Input.

    def handle_ask(self, ask: RekeyAsk) -> bool:
        """Whether the peer wants keys that are neither agreed nor under way. Raises RemoteProtocolError."""
        if self.role is not Direction.INITIATOR:
            raise self._fault("REKEY_ASK came to a responder")
        return ask.epoch == self.epoch + 1 and not self.under_way

    def handle_offer(self, offer: RekeyOffer, raw: bytes, lanes: list[bytes]) -> tuple[bytes, EpochKeys]:
        """The REKEY_ANSWER to an offer, and the keys, which must be installed before it is sent.

        :param raw: the whole message as it came.
        :param lanes: 8 random ids of 8 bytes, under which we shall receive.

        Raises RemoteProtocolError.
        """
        self._check(Event.OFFER, offer.epoch)
        theirs = raw[:-COMPOSITE_SIGNATURE_SIZE]
        self._check_signature(raw, theirs)
        try:
            share, secret = hybrid.respond(GROUP, offer.share)
        except BadPacket:
            raise self._fault("the key share in REKEY_OFFER is bad") from None
        content = _content(RekeyAnswer(offer.epoch, share, lanes))
        answer = content + self._signature(theirs + content)
        return answer, self._advance(Event.OFFER, secret, theirs + content, offer.lanes, lanes)

    def handle_answer(self, answer: RekeyAnswer, raw: bytes) -> EpochKeys:
        """The keys that the answer completes; they may be used at once. Raises RemoteProtocolError.

        :param raw: the whole message as it came.
        """
        self._check(Event.ANSWER, answer.epoch)
        assert self._exchange is not None
        both = self._offer + raw[:-COMPOSITE_SIGNATURE_SIZE]
        self._check_signature(raw, both)
        try:
            secret = self._exchange.finish(answer.share)
        except BadPacket:
            raise self._fault("the key share in REKEY_ANSWER is bad") from None
        self._exchange = None
        return self._advance(Event.ANSWER, secret, both, answer.lanes, self._lanes)

    # Inside.

    def _check(self, event: Event, epoch: int) -> None:
        if (self.role, self.state, event) not in TRANSITIONS:
            raise self._fault(
                f"a rekey's {event.value} came to the {self.role.value.decode()} when {self.state.value}"
            )
        if epoch != self.epoch + 1:
            raise self._fault(f"a rekey's {event.value} is for epoch {epoch}, after epoch {self.epoch}")

    def _fault(self, reason: str) -> RemoteProtocolError:
        self.wipe()
        return RemoteProtocolError(reason)

    def _signature(self, contents: bytes) -> bytes:
        return self._identity.sign_composite(self._to_sign(contents, self.role))

    def _check_signature(self, raw: bytes, contents: bytes) -> None:
        peer = self._agreement
        signed = self._to_sign(contents, self.role.other)
        proof = raw[-COMPOSITE_SIGNATURE_SIZE:]
        if not composite_verifies(peer.peer_ed25519, peer.peer_mldsa, proof, signed):
            raise self._fault("the signatures of a rekey do not hold")

    def _to_sign(self, contents: bytes, signer: Direction) -> bytes:
        """Label || role || session binding (32) || be32(epoch) || hash (32) || both NodeIDs (64)."""
        ids = (self._identity.node_id, self._agreement.peer)
        initiator, responder = ids if self.role is Direction.INITIATOR else ids[::-1]
        number = (self.epoch + 1).to_bytes(4, "big")
        digest = hashlib.sha256(contents).digest()
        return _SIGNED + signer.value + self._agreement.binding + number + digest + initiator + responder

    def _advance(
        self,
        event: Event,
        secret: bytes,
        contents: bytes,
        send_lanes: list[bytes],
        receive_lanes: list[bytes],
    ) -> EpochKeys:
        self.state = TRANSITIONS[self.role, self.state, event]
        old, self._root = self._root, next_root(self._root, secret, hashlib.sha256(contents).digest())
        wipe(old)
        self.epoch += 1
        return EpochKeys(
            epoch=self.epoch,
            send_keys=frame_keys(self._root, self.epoch, self.role),
            receive_keys=frame_keys(self._root, self.epoch, self.role.other),
            send_lanes=send_lanes,
            receive_lanes=receive_lanes,
        )


def _content(message: RekeyOffer | RekeyAnswer) -> bytes:
    """Header and map of a message whose proof is still to come; the header counts the proof."""
    return messages.encode(message, bytes(COMPOSITE_SIGNATURE_SIZE))[:-COMPOSITE_SIGNATURE_SIZE]
