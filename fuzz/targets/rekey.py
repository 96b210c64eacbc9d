"""A rekey that met an altered message ends FAILED with one error; keys come from genuine messages only."""

from __future__ import annotations

import copy

from fuzz.traffic import ALICE, BOB, machines, secrets_with, split
from shadowmesh.errors import BadPacket, RemoteProtocolError
from shadowmesh.session.machine import Agreement
from shadowmesh.session.rekey import Rekey, State
from shadowmesh.wire import messages
from shadowmesh.wire.messages import MessageType, RekeyAnswer, RekeyAsk, RekeyOffer
from shadowmesh.wire.reassembly import Reassembler

LANES = [bytes((lane,)) * 8 for lane in range(8)]


def agreements() -> tuple[Agreement, Agreement]:
    """What Alice and Bob hold after one handshake."""
    alice, bob = machines()
    to_alice, to_bob = secrets_with(BOB), secrets_with(ALICE)
    challenge = bob.handle(*split(alice.begin(to_alice)), to_bob)
    bob.handle(*split(alice.handle(*split(challenge), to_alice)), to_bob)
    assert alice.agreement is not None
    assert bob.agreement is not None
    return alice.agreement, bob.agreement


TO_BOB, TO_ALICE = agreements()
WAITING = Rekey(ALICE, TO_BOB)
OFFER = WAITING.offer(LANES)


def responder() -> Rekey:
    """Bob, who waits for an OFFER."""
    return Rekey(BOB, TO_ALICE)


def initiator() -> Rekey:
    """Alice, who waits for the ANSWER to hers."""
    waiting = copy.copy(WAITING)
    waiting._root = bytearray(TO_BOB.root)
    return waiting


def feed(rekey: Rekey, message_type: MessageType, body: bytes) -> bytes:
    """What a session does with a message that came; returns the answer to it."""
    message, _ = messages.decode(message_type, body)
    raw = messages.frame(message_type, body)
    if isinstance(message, RekeyOffer):
        return rekey.handle_offer(message, raw, LANES)[0]
    if isinstance(message, RekeyAnswer):
        rekey.handle_answer(message, raw)
    elif isinstance(message, RekeyAsk):
        rekey.handle_ask(message)
    return b""


ANSWER = feed(responder(), *split(OFFER))
SEEDS = [OFFER, ANSWER, responder().ask()]


def target(data: bytes) -> None:
    """The same bytes to both roles."""
    for rekey, genuine in ((initiator(), ANSWER), (responder(), OFFER)):
        try:
            for message_type, body in Reassembler().feed_untrusted(data):
                feed(rekey, message_type, body)
        except BadPacket:
            assert rekey.state is not State.FAILED
        except RemoteProtocolError:
            assert rekey.state is State.FAILED
        assert not rekey.epoch or genuine in data, "keys were agreed on with an altered message"
