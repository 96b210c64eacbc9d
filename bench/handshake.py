"""One session handshake with both sides in memory, and the primitives that it consists of.

Used by `micro.py`.  No network, no loss, no waiting: CPU time and bytes only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from shadowmesh.crypto.identity import Identity
from shadowmesh.crypto.provider import DEFAULT_PROVIDER
from shadowmesh.session.link import Link, accept
from shadowmesh.session.machine import Opening
from shadowmesh.units import LANES
from shadowmesh.wire.headers import destination_id

T = TypeVar("T")

STEP = 0.001
"""Seconds of virtual time between two flights."""
MOST_FLIGHTS = 50


@dataclass
class Handshake:
    """Seconds of CPU time and bytes of UDP payload of one handshake."""

    initiator_cpu: float = 0.0
    responder_cpu: float = 0.0
    bytes_to_responder: int = 0
    bytes_to_initiator: int = 0
    datagrams: int = 0


def _opening() -> Opening:
    lanes = [os.urandom(8) for _ in range(LANES)]
    return Opening(nonce=os.urandom(32), instance=os.urandom(8), lanes=lanes, session=os.urandom(16))


def _timed(action: Callable[[], T]) -> tuple[T, float]:
    begin = time.process_time()
    result = action()
    return result, time.process_time() - begin


def _exchange(link: Link, datagrams: list[bytes], now: float) -> tuple[list[bytes], float]:
    """Hand over what came; returns what goes out, and the CPU time."""

    def act() -> list[bytes]:
        for datagram in datagrams:
            link.handle_datagram(datagram, now)
        return link.transmit(now)

    return _timed(act)


def handshake(initiator: Identity, responder: Identity) -> Handshake:
    """TLS and the four messages, until both sides are established.  RuntimeError if they don't get there."""
    run = Handshake()
    now = 0.0
    near, run.initiator_cpu = _timed(lambda: Link.initiate(initiator, responder.node_id, _opening(), now))
    out, spent = _exchange(near, [], now)
    run.initiator_cpu += spent
    first = destination_id(out[0])
    far, run.responder_cpu = _timed(lambda: accept(responder, initiator.node_id, _opening(), now, first))
    for _ in range(MOST_FLIGHTS):
        run.bytes_to_responder += sum(map(len, out))
        run.datagrams += len(out)
        now += STEP
        back, spent = _exchange(far, out, now)
        run.responder_cpu += spent
        run.bytes_to_initiator += sum(map(len, back))
        run.datagrams += len(back)
        out, spent = _exchange(near, back, now)
        run.initiator_cpu += spent
        if near.established and far.established:
            return run
    raise RuntimeError("the handshake did not end")


def primitives() -> float:
    """CPU seconds of the primitives of one handshake, both sides together, by the same provider.

    Key exchange: ML-KEM-1024 and X25519.  Identity: each side makes and checks an ML-DSA-87 signature in TLS
    and an Ed25519 signature in HELLO or CHALLENGE.
    """
    provider = DEFAULT_PROVIDER
    mldsa, ed25519 = provider.mldsa_generate(), provider.ed25519_generate()
    mldsa_public, ed25519_public = mldsa.public, ed25519.public
    message = os.urandom(130)

    def act() -> None:
        kem, ours, theirs = (
            provider.kem_generate(1024),
            provider.x25519_generate(),
            provider.x25519_generate(),
        )
        ciphertext, secret = provider.kem_encapsulate(1024, kem.public)
        assert kem.decapsulate(ciphertext) == secret
        assert ours.exchange(theirs.public) == theirs.exchange(ours.public)
        for _ in range(2):
            assert provider.mldsa_verify(mldsa_public, mldsa.sign(message), message)
            assert provider.ed25519_verify(ed25519_public, ed25519.sign(message), message)

    return _timed(act)[1]
