"""The session handshake, many connections at once, with an adversary who has all messages and some keys.

It delivers, holds back, repeats, reorders, alters and mixes messages of all connections; it stands in the
middle of some with a certificate of its own, or with the stolen ML-DSA keys of both, and dials as itself. An
end gets keys with the other end of its own connection or with nobody, and what it does not take ends it for
ever.
"""

from __future__ import annotations

import copy
import itertools

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shadowmesh.crypto.identity import Identity
from shadowmesh.crypto.keys import Direction
from shadowmesh.errors import BadPacket, LocalProtocolError, RemoteProtocolError
from shadowmesh.session.machine import Admit, Machine, Opening, Refused, Secrets, State, admit_all
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import HEADER_SIZE, Introduction, MessageType
from tests.reference.handshake import INITIATOR, RESPONDER, Connection
from tests.stateful import case_of

ALICE, BOB, MALLORY = (Identity.generate(name) for name in ("alice", "bob", "mallory"))
ROLES = {INITIATOR: Direction.INITIATOR, RESPONDER: Direction.RESPONDER}
SOUND, OWN_CERTIFICATE, STOLEN_KEYS = "sound", "own certificate in the middle", "stolen keys in the middle"
OTHER_PINNED, MALLORY_DIALS = "another is pinned", "mallory dials"


def mldsa_of(identity: Identity) -> bytes:
    return identity.mldsa.public_key().public_bytes_raw()


def refuse(_node: NodeId, _shown: Introduction) -> None:
    raise Refused(1, "not today")


class End:
    """A machine, and what TLS gave it."""

    def __init__(self, machine: Machine, secrets: Secrets) -> None:
        self.machine = machine
        self.secrets = secrets

    def view(self) -> tuple[object, ...]:
        """All that another call could have changed."""
        machine = self.machine
        held = bytes(self.secrets.proof + self.secrets.confirm + self.secrets.root)
        transcript = machine._transcript.digest()
        return machine.state, machine.peer, machine.agreement, machine.confirmation, held, transcript


class Link:
    """One connection: both machines, and the model of it."""

    def __init__(self, number: int, kind: str, resumed: bool, anybody: bool, refusing: str) -> None:
        self.dialler = MALLORY if kind == MALLORY_DIALS else ALICE
        refused = {refusing} & {INITIATOR, RESPONDER}
        sound = kind == SOUND or (kind == MALLORY_DIALS and anybody)
        self.model = Connection(resumed, sound, refused)
        pinned = MALLORY if kind == OTHER_PINNED else BOB
        shown = (MALLORY, MALLORY) if kind == OWN_CERTIFICATE else (BOB, self.dialler)
        in_the_middle = kind in (OWN_CERTIFICATE, STOLEN_KEYS)
        doors: dict[str, Admit] = {end: refuse if end in refused else admit_all for end in ROLES}
        initiator = Machine(
            Direction.INITIATOR, self.dialler, pinned.node_id, opening(2 * number), doors[INITIATOR]
        )
        responder = Machine(
            Direction.RESPONDER,
            BOB,
            None if anybody else ALICE.node_id,
            opening(2 * number + 1),
            doors[RESPONDER],
        )
        other = number + 128 if in_the_middle else number
        self.ends = {
            INITIATOR: End(initiator, secrets_of(shown[0], number, resumed)),
            RESPONDER: End(responder, secrets_of(shown[1], other, resumed)),
        }


def opening(salt: int) -> Opening:
    lanes = [bytes((salt, lane)) * 4 for lane in range(8)]
    return Opening(bytes((salt,)) * 32, bytes((salt,)) * 8, lanes, bytes((salt,)) * 16)


def secrets_of(peer: Identity, connection: int, resumed: bool) -> Secrets:
    proof, confirm, root = (bytearray(bytes((connection, part)) * 16) for part in (1, 2, 3))
    return Secrets(proof, confirm, root, mldsa_of(peer), resumed)


class Handshakes(RuleBasedStateMachine):
    """`any_link` and the like are taken modulo what there is."""

    @initialize()
    def begin(self) -> None:
        self.links: list[Link] = []
        self.pool: list[bytes] = []

    @rule(
        kind=st.sampled_from([*[SOUND] * 4, OWN_CERTIFICATE, STOLEN_KEYS, OTHER_PINNED, MALLORY_DIALS]),
        resumed=st.booleans(),
        anybody=st.booleans(),
        refusing=st.sampled_from([*["nobody"] * 3, INITIATOR, RESPONDER]),
        messages=st.integers(0, 3),
    )
    @precondition(lambda self: len(self.links) < 12)
    def connect(self, kind: str, resumed: bool, anybody: bool, refusing: str, messages: int) -> None:
        """As after a restart, which nothing of a machine outlives; so many messages come through."""
        link = Link(len(self.links), kind, resumed, anybody, refusing)
        self.links.append(link)
        end = link.ends[INITIATOR]
        self.sent(link, INITIATOR, end.machine.begin(end.secrets))
        for _ in range(messages):
            self.pass_on(link)

    @precondition(lambda self: self.waiting())
    @rule(any_end=st.integers(0, 23))
    def go_on(self, any_end: int) -> None:
        """A message comes through at an end that waits for it."""
        waiting = self.waiting()
        self.deliver(*waiting[any_end % len(waiting)])

    def pass_on(self, link: Link) -> None:
        for name in ROLES:
            message = link.model.next_for(name)
            if message is not None:
                self.deliver(link, name, message)
                return

    @precondition(lambda self: self.links)
    @rule(any_link=st.integers(0, 11), name=st.sampled_from(list(ROLES)), any_message=st.integers(0, 47))
    def replay(self, any_link: int, name: str, any_message: int) -> None:
        """Some message, perhaps of another connection or direction, perhaps in its turn."""
        self.deliver(self.links[any_link % len(self.links)], name, self.pool[any_message % len(self.pool)])

    @precondition(lambda self: self.waiting())
    @rule(any_end=st.integers(0, 23), place=st.integers(-700, 700), bit=st.integers(0, 7))
    def alter(self, any_end: int, place: int, bit: int) -> None:
        """A message that would be taken, with one bit changed."""
        waiting = self.waiting()
        link, name, message = waiting[any_end % len(waiting)]
        content = len(message) - HEADER_SIZE
        altered = bytearray(message)
        altered[HEADER_SIZE + max(-content, min(place, content - 1)) % content] ^= 1 << bit
        self.deliver(link, name, bytes(altered))

    def waiting(self) -> list[tuple[Link, str, bytes]]:
        """The ends that a message is for."""
        found = [(link, name, link.model.next_for(name)) for link in self.links for name in ROLES]
        return [(link, name, message) for link, name, message in found if message is not None]

    @precondition(lambda self: self.links)
    @rule(
        any_link=st.integers(0, 11),
        name=st.sampled_from(list(ROLES)),
        any_message=st.integers(0, 47),
        label=st.sampled_from([*MessageType]),
    )
    def relabel(self, any_link: int, name: str, any_message: int, label: MessageType) -> None:
        """A message under another type."""
        message = self.pool[any_message % len(self.pool)]
        link = self.links[any_link % len(self.links)]
        self.deliver(link, name, bytes((label,)) + message[1:])

    @precondition(lambda self: self.links)
    @rule(any_link=st.integers(0, 11), name=st.sampled_from(list(ROLES)))
    def misuse(self, any_link: int, name: str) -> None:
        """A caller's mistake changes nothing."""
        end = self.links[any_link % len(self.links)].ends[name]
        before = end.view()
        with pytest.raises(LocalProtocolError):
            end.machine.begin(end.secrets)
        assert end.view() == before

    def deliver(self, link: Link, name: str, message: bytes) -> None:
        end = link.ends[name]
        agreement = copy.copy(end.machine.agreement)
        accepted = link.model.accepts(name, message)
        try:
            answer = end.machine.handle(MessageType(message[0]), message[HEADER_SIZE:], end.secrets)
        except (RemoteProtocolError, BadPacket):
            assert not accepted, "a genuine message in its turn was refused"
            assert end.machine.agreement == agreement, "a refused message made keys"
        else:
            assert accepted, "taken: forged, replayed, out of order, or of another connection"
            self.sent(link, name, answer)

    def sent(self, link: Link, name: str, answer: bytes) -> None:
        """One message, or two, or none."""
        while answer:
            size = HEADER_SIZE + int.from_bytes(answer[1:HEADER_SIZE], "big")
            message, answer = answer[:size], answer[size:]
            link.model.send(name, message)
            self.pool.append(message)

    @invariant()
    def machines_are_where_the_model_is(self) -> None:
        for link in self.links:
            for name, end in link.ends.items():
                machine, model = end.machine, link.model
                assert (machine.state is State.FAILED) == model.failed[name]
                assert (machine.state is State.ESTABLISHED) == model.established(name)
                assert (machine.agreement is not None) == model.has_keys(name)
                if model.has_keys(name):
                    assert not any(end.secrets.root)
                if model.established(name):
                    assert not any(end.secrets.proof + end.secrets.confirm)

    @invariant()
    def both_ends_agree_with_each_other_and_nobody_else(self) -> None:
        keys: set[bytes] = set()
        for link in self.links:
            held = [link.ends[name].machine.agreement for name in (INITIATOR, RESPONDER)]
            for ours, theirs in itertools.permutations(held):
                if ours is None:
                    continue
                assert bytes(ours.send_keys) not in keys, "keys of another connection"
                if theirs is None:
                    continue
                assert ours.send_keys == theirs.receive_keys != ours.receive_keys
                assert ours.send_lanes == theirs.receive_lanes != ours.receive_lanes
                assert (ours.root, ours.binding, ours.version) == (
                    theirs.root,
                    theirs.binding,
                    theirs.version,
                )
                assert ours.role is theirs.role.other
            if held[0] is not None:
                assert (held[0].peer, held[0].instance) == (
                    BOB.node_id,
                    link.ends[RESPONDER].machine._opening.instance,
                )
            if held[1] is not None:
                assert held[1].peer == link.dialler.node_id
            keys |= {bytes(one.send_keys) for one in held if one is not None}


TestHandshakes = case_of(Handshakes, 80, steps=30)
