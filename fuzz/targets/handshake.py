"""A handshake that met an altered message ends FAILED with one of two errors, and agrees on no keys."""

from __future__ import annotations

import dataclasses

from fuzz.traffic import ALICE, BOB, handshake_messages, machines, resumed_answer, secrets_with
from shadowmesh.errors import BadPacket, RemoteProtocolError
from shadowmesh.session.machine import State
from shadowmesh.wire.reassembly import Reassembler

SEEDS = [*handshake_messages(), resumed_answer()]


def target(data: bytes) -> None:
    """The same bytes to both roles, each where it waits for its first message, resumed or not."""
    for resumed in (False, True):
        attempt(data, resumed)


def attempt(data: bytes, resumed: bool) -> None:
    """One handshake of each role."""
    initiator, responder = machines()
    to_initiator, to_responder = (
        dataclasses.replace(secrets_with(peer), resumed=resumed) for peer in (BOB, ALICE)
    )
    initiator.begin(to_initiator)
    for machine, secrets in ((initiator, to_initiator), (responder, to_responder)):
        try:
            for message_type, body in Reassembler().feed_untrusted(data):
                machine.handle(message_type, body, secrets)
        except (BadPacket, RemoteProtocolError):
            assert machine.state is not State.ESTABLISHED
        if machine.agreement is not None:
            genuine = SEEDS[0] if machine is responder else SEEDS[1]
            assert data.startswith(genuine), "keys were agreed on with an altered message"
