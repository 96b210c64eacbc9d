"""Identities and handshakes to start from; no target itself."""

from __future__ import annotations

import functools
import random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PrivateKey

from shadowmesh.crypto.identity import Identity
from shadowmesh.crypto.keys import Direction
from shadowmesh.session.machine import Machine, Opening, Secrets
from shadowmesh.wire.messages import MessageType


def identity(name: str) -> Identity:
    """The same in every process, so that a corpus means the same in all."""
    seed = name.encode().ljust(32, b".")
    ed25519, mldsa = Ed25519PrivateKey.from_private_bytes(seed), MLDSA87PrivateKey.from_seed_bytes(seed)
    return Identity._of(name, ed25519, mldsa, Identity.generate(name).certificate)


ALICE, BOB = identity("alice"), identity("bob")


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


def split(message: bytes) -> tuple[MessageType, bytes]:
    """Type and body of one message."""
    return MessageType(message[0]), message[4:]
