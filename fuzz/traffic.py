"""Real traffic to start from: what two clients and a relay in memory sent each other; no target itself."""

from __future__ import annotations

import dataclasses
import functools
import random

from shadowmesh.crypto.identity import Identity
from shadowmesh.crypto.keys import Direction
from shadowmesh.session.machine import Machine, Opening, Secrets
from shadowmesh.wire.messages import MessageType

ALICE, BOB = Identity.generate("alice"), Identity.generate("bob")


def secrets_with(peer: Identity) -> Secrets:
    """What TLS would give in a connection with `peer`."""
    proof, confirm, root = (bytearray(bytes((number,)) * 32) for number in range(3))
    return Secrets(proof, confirm, root, peer.mldsa.public_key().public_bytes_raw())


def opening(seed: int) -> Opening:
    """An opening that is the same in every call."""
    generator = random.Random(seed)
    lanes = [generator.randbytes(8) for _ in range(8)]
    return Opening(generator.randbytes(32), generator.randbytes(8), lanes, generator.randbytes(16))


def machines() -> tuple[Machine, Machine]:
    """Initiator and responder of one handshake."""
    initiator = Machine(Direction.INITIATOR, ALICE, BOB.node_id, opening(1))
    return initiator, Machine(Direction.RESPONDER, BOB, ALICE.node_id, opening(2))


@functools.cache
def handshake_messages() -> tuple[bytes, bytes, bytes, bytes]:
    """HELLO, CHALLENGE, RESPONSE and ESTABLISHED, with their headers."""
    alice, bob = machines()
    to_alice, to_bob = secrets_with(BOB), secrets_with(ALICE)
    hello = alice.begin(to_alice)
    challenge = bob.handle(*split(hello), to_bob)
    response = alice.handle(*split(challenge), to_alice)
    return hello, challenge, response, bob.handle(*split(response), to_bob)


@functools.cache
def resumed_answer() -> bytes:
    """CHALLENGE and ESTABLISHED of a resumed session."""
    alice, bob = machines()
    to_alice, to_bob = (dataclasses.replace(secrets_with(peer), resumed=True) for peer in (BOB, ALICE))
    return bob.handle(*split(alice.begin(to_alice)), to_bob)


def split(message: bytes) -> tuple[MessageType, bytes]:
    """Type and body of one message."""
    return MessageType(message[0]), message[4:]
