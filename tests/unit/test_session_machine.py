"""The session handshake by itself: what it proves, what it refuses, and what every state does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from shadowmesh.crypto.identity import Identity
from shadowmesh.crypto.keys import Direction
from shadowmesh.errors import BadPacket, LocalProtocolError, RemoteProtocolError
from shadowmesh.session.machine import TRANSITIONS, Event, Machine, Opening, Refused, Secrets, State
from shadowmesh.units import Address, NodeId
from shadowmesh.wire import messages
from shadowmesh.wire.messages import Challenge, Hello, Introduction, MessageType

ALICE, BOB, MALLORY = (Identity.generate(name) for name in ("alice", "bob", "mallory"))


def mldsa_of(identity: Identity) -> bytes:
    return identity.mldsa.public_key().public_bytes_raw()


def secrets_of(peer: Identity, connection: bytes = b"\x01") -> Secrets:
    """What TLS gives to one end of `connection`, whose other end showed the certificate of `peer`."""
    proof, confirm, root = (bytearray(connection * 31 + bytes((number,))) for number in range(3))
    return Secrets(proof, confirm, root, mldsa_of(peer))


def opening(salt: int) -> Opening:
    lanes = [bytes((salt, lane)) * 4 for lane in range(8)]
    return Opening(
        bytes((salt,)) * 32, bytes((salt,)) * 8, lanes, bytes((salt,)) * 16, Address("192.0.2.7", 7)
    )


def split(message: bytes) -> tuple[MessageType, bytes]:
    """Type and body of one encoded message."""
    assert int.from_bytes(message[1:4], "big") == len(message) - 4
    return MessageType(message[0]), message[4:]


def pair() -> tuple[Machine, Machine]:
    return (
        Machine(Direction.INITIATOR, ALICE, BOB.node_id, opening(1)),
        Machine(Direction.RESPONDER, BOB, ALICE.node_id, opening(2)),
    )


def run(alice: Machine, bob: Machine) -> None:
    to_alice, to_bob = secrets_of(BOB), secrets_of(ALICE)
    challenge = bob.handle(*split(alice.begin(to_alice)), to_bob)
    response = alice.handle(*split(challenge), to_alice)
    established = bob.handle(*split(response), to_bob)
    assert alice.handle(*split(established), to_alice) == b""


def test_both_sides_agree() -> None:
    alice, bob = pair()
    run(alice, bob)
    assert alice.state is bob.state is State.ESTABLISHED
    ours, theirs = alice.agreement, bob.agreement
    assert ours is not None
    assert theirs is not None
    assert (ours.peer, theirs.peer) == (BOB.node_id, ALICE.node_id)
    assert ours.send_keys == theirs.receive_keys != ours.receive_keys == theirs.send_keys
    assert ours.send_lanes == theirs.receive_lanes == opening(2).lanes
    assert ours.receive_lanes == theirs.send_lanes == opening(1).lanes
    assert alice.confirmation is not None
    assert alice.confirmation.session == opening(2).session
    assert (alice.confirmation.observed_host, alice.confirmation.observed_port) == ("192.0.2.7", 7)


def test_secrets_are_wiped_when_it_is_over() -> None:
    alice, bob = pair()
    to_alice, to_bob = secrets_of(BOB), secrets_of(ALICE)
    challenge = bob.handle(*split(alice.begin(to_alice)), to_bob)
    response = alice.handle(*split(challenge), to_alice)
    assert not any(to_alice.root)
    established = bob.handle(*split(response), to_bob)
    alice.handle(*split(established), to_alice)
    for secrets in (to_alice, to_bob):
        assert not any(secrets.proof + secrets.confirm + secrets.root)


def test_every_pair_of_state_and_event_is_decided() -> None:
    """Rendered: eight steps forward, a fault from everywhere, and every other pair is refused."""
    forward = {pair: state for pair, state in TRANSITIONS.items() if pair[1] is not Event.FAULT}
    assert len(forward) == 8
    for state, event in itertools.product(State, Event):
        if event is Event.FAULT:
            assert TRANSITIONS[state, event] is State.FAILED
        elif state in (State.ESTABLISHED, State.FAILED):
            assert (state, event) not in TRANSITIONS


@pytest.mark.parametrize("message_type", messages.PROOF_SIZE)
@pytest.mark.parametrize("role", Direction)
def test_messages_out_of_order_fail_for_ever(role: Direction, message_type: MessageType) -> None:
    machine = pair()[0 if role is Direction.INITIATOR else 1]
    if (role, message_type) == (Direction.RESPONDER, MessageType.HELLO):
        pytest.skip("this is the one message that a fresh responder waits for")
    with pytest.raises(RemoteProtocolError):
        machine.handle(message_type, bytes(200), secrets_of(ALICE))
    assert machine.state is State.FAILED
    with pytest.raises(RemoteProtocolError):
        machine.handle(MessageType.HELLO, bytes(200), secrets_of(ALICE))


def test_hello_with_another_mldsa_key_than_the_certificate_is_refused() -> None:
    """A valid Ed25519 proof does not help who has not the other half of the identity."""
    alice, bob = pair()
    hello = alice.begin(secrets_of(BOB))
    with pytest.raises(RemoteProtocolError, match="not the node that is pinned"):
        bob.handle(*split(hello), secrets_of(MALLORY))
    assert bob.state is State.FAILED


def test_hello_with_another_mldsa_key_is_refused_where_nobody_is_pinned() -> None:
    """At a relay the NodeID is computed from both keys, so that it is nobody's: the signature fails."""
    alice = Machine(Direction.INITIATOR, ALICE, BOB.node_id, opening(1))
    relay = Machine(Direction.RESPONDER, BOB, None, opening(2))
    with pytest.raises(RemoteProtocolError, match="proof"):
        relay.handle(*split(alice.begin(secrets_of(BOB))), secrets_of(MALLORY))


def test_challenge_of_another_node_is_refused() -> None:
    alice = Machine(Direction.INITIATOR, ALICE, BOB.node_id, opening(1))
    mallory = Machine(Direction.RESPONDER, MALLORY, None, opening(2))
    hello = alice.begin(secrets_of(MALLORY))
    # Mallory can't check the proof, which names Bob; let it answer all the same.
    mallory._transcript.update(hello)
    mallory.peer = ALICE.node_id
    challenge = messages.encode_body(Challenge(version=1, node=mallory._introduction()))
    answer = mallory._signed(MessageType.CHALLENGE, challenge, secrets_of(ALICE))
    with pytest.raises(RemoteProtocolError, match="not the node that is pinned"):
        alice.handle(*split(answer), secrets_of(MALLORY))


def test_proofs_do_not_hold_in_another_connection() -> None:
    """A man in the middle who forwards HELLO into a connection of its own fails: the exporter differs."""
    alice, bob = pair()
    hello = alice.begin(secrets_of(BOB, b"\x01"))
    with pytest.raises(RemoteProtocolError, match="proof"):
        bob.handle(*split(hello), secrets_of(ALICE, b"\x02"))


@pytest.mark.parametrize("position", [4, 20, 60, 150, -100, -65, -64, -1])
def test_altered_hello_is_refused(position: int) -> None:
    alice, bob = pair()
    hello = bytearray(alice.begin(secrets_of(BOB)))
    hello[position] ^= 1
    with pytest.raises((RemoteProtocolError, BadPacket)):
        bob.handle(*split(bytes(hello)), secrets_of(ALICE))
    assert bob.state is State.FAILED


def test_altered_response_and_established_are_refused() -> None:
    alice, bob = pair()
    to_alice, to_bob = secrets_of(BOB), secrets_of(ALICE)
    challenge = bob.handle(*split(alice.begin(to_alice)), to_bob)
    response = alice.handle(*split(challenge), to_alice)
    altered = split(response)[1]
    with pytest.raises(RemoteProtocolError, match="transcript"):
        bob.handle(MessageType.RESPONSE, altered[:-1] + bytes((altered[-1] ^ 1,)), to_bob)
    assert bob.agreement is None


def test_established_is_bound_to_the_transcript() -> None:
    alice, bob = pair()
    to_alice, to_bob = secrets_of(BOB), secrets_of(ALICE)
    challenge = bob.handle(*split(alice.begin(to_alice)), to_bob)
    response = alice.handle(*split(challenge), to_alice)
    established = bytearray(bob.handle(*split(response), to_bob))
    established[-40] ^= 1
    with pytest.raises((RemoteProtocolError, BadPacket)):
        alice.handle(*split(bytes(established)), to_alice)
    assert alice.state is State.FAILED


def test_unknown_version_and_unknown_critical_extension_are_refused() -> None:
    for change, text in (({"versions": [77]}, "no common"), ({"critical": ["teleport"]}, "teleport")):
        alice, bob = pair()
        shown = alice._introduction()
        node = Introduction(
            key=shown.key,
            nonce=shown.nonce,
            instance=shown.instance,
            lanes=shown.lanes,
            critical=change.get("critical", []),  # type: ignore[arg-type]
        )
        hello = Hello(versions=change.get("versions", [1]), node=node)  # type: ignore[arg-type]
        message = alice._signed(MessageType.HELLO, messages.encode_body(hello), secrets_of(BOB))
        with pytest.raises(RemoteProtocolError, match=text):
            bob.handle(*split(message), secrets_of(ALICE))


def test_version_that_was_not_offered_is_refused() -> None:
    alice, bob = pair()
    to_alice, to_bob = secrets_of(BOB), secrets_of(ALICE)
    bob.peer = ALICE.node_id
    bob._transcript.update(alice.begin(to_alice))
    challenge = messages.encode_body(Challenge(version=2, node=bob._introduction()))
    with pytest.raises(RemoteProtocolError, match="not offered"):
        alice.handle(*split(bob._signed(MessageType.CHALLENGE, challenge, to_bob)), to_alice)


def test_refusal_of_admission_closes_with_its_code() -> None:
    def admit(node: NodeId, shown: Introduction) -> None:
        assert (node, shown.instance) == (ALICE.node_id, opening(1).instance)
        raise Refused(42, "not today")

    alice = Machine(Direction.INITIATOR, ALICE, BOB.node_id, opening(1))
    relay = Machine(Direction.RESPONDER, BOB, None, opening(2), admit)
    with pytest.raises(Refused, match="not today"):
        relay.handle(*split(alice.begin(secrets_of(BOB))), secrets_of(ALICE))
    assert relay.state is State.FAILED


def test_an_initiator_may_refuse_as_well_and_both_show_their_membership() -> None:
    def admit(node: NodeId, shown: Introduction) -> None:
        assert (node, shown.membership) == (BOB.node_id, b"bob's")
        raise Refused(42, "not today")

    alice = Machine(
        Direction.INITIATOR, ALICE, BOB.node_id, replace(opening(1), membership=b"alice's"), admit
    )
    bob = Machine(Direction.RESPONDER, BOB, ALICE.node_id, replace(opening(2), membership=b"bob's"))
    to_alice = secrets_of(BOB)
    challenge = bob.handle(*split(alice.begin(to_alice)), secrets_of(ALICE))
    with pytest.raises(Refused, match="not today"):
        alice.handle(*split(challenge), to_alice)
    assert alice.state is State.FAILED
    assert alice.agreement is None


def test_misuse_is_told_from_attack() -> None:
    with pytest.raises(LocalProtocolError):
        Machine(Direction.INITIATOR, ALICE, None, opening(1))
    alice, bob = pair()
    with pytest.raises(LocalProtocolError):
        bob.begin(secrets_of(ALICE))
    alice.begin(secrets_of(BOB))
    with pytest.raises(LocalProtocolError, match="can't begin when hello sent"):
        alice.begin(secrets_of(BOB))
    assert alice.state is State.HELLO_SENT


# --- on a resumed connection ---


def resumed_by(peer: Identity, connection: bytes = b"\x01") -> Secrets:
    """What TLS gives to one end of a connection that resumes a session with `peer`."""
    proof, confirm, root = (bytearray(connection * 31 + bytes((number,))) for number in range(3))
    return Secrets(proof, confirm, root, mldsa_of(peer), resumed=True)


def split_two(messages_: bytes) -> tuple[tuple[MessageType, bytes], tuple[MessageType, bytes]]:
    end = 4 + int.from_bytes(messages_[1:4], "big")
    return split(messages_[:end]), split(messages_[end:])


def test_resumed_session_needs_no_response() -> None:
    alice, bob = pair()
    to_alice, to_bob = resumed_by(BOB), resumed_by(ALICE)
    states = []
    challenge, established = split_two(bob.handle(*split(alice.begin(to_alice)), to_bob))
    assert bob.state is State.ESTABLISHED
    for message in (challenge, established):
        assert alice.handle(*message, to_alice) == b""
        states.append(alice.state)
    assert states == [State.CHALLENGED, State.ESTABLISHED]
    ours, theirs = alice.agreement, bob.agreement
    assert ours is not None
    assert theirs is not None
    assert ours.binding == theirs.binding
    assert ours.send_keys == theirs.receive_keys != ours.receive_keys == theirs.send_keys
    for secrets in (to_alice, to_bob):
        assert not any(secrets.proof + secrets.confirm + secrets.root)


def test_resumed_hello_needs_the_ed25519_key_of_the_ticket() -> None:
    """The secret of a ticket is not enough: TLS says Alice, and Mallory signs."""
    mallory = Machine(Direction.INITIATOR, MALLORY, BOB.node_id, opening(1))
    relay = Machine(Direction.RESPONDER, BOB, None, opening(2))
    with pytest.raises(RemoteProtocolError, match="proof"):
        relay.handle(*split(mallory.begin(resumed_by(BOB))), resumed_by(ALICE))
    assert relay.agreement is None
    assert relay.state is State.FAILED


def test_resumed_challenge_needs_the_ed25519_key_of_the_relay() -> None:
    alice = Machine(Direction.INITIATOR, ALICE, BOB.node_id, opening(1))
    to_alice = resumed_by(BOB)
    mallory = Machine(Direction.RESPONDER, MALLORY, None, opening(2))
    mallory._transcript.update(alice.begin(to_alice))
    mallory.peer = ALICE.node_id
    challenge = messages.encode_body(Challenge(version=1, node=mallory._introduction()))
    answer = mallory._signed(MessageType.CHALLENGE, challenge, resumed_by(ALICE))
    with pytest.raises(RemoteProtocolError, match="not the node that is pinned"):
        alice.handle(*split(answer), to_alice)
    assert alice.agreement is None


def test_resumed_proofs_do_not_hold_in_another_connection() -> None:
    alice, bob = pair()
    hello = alice.begin(resumed_by(BOB, b"\x01"))
    with pytest.raises(RemoteProtocolError, match="proof"):
        bob.handle(*split(hello), resumed_by(ALICE, b"\x02"))


def test_resumed_responder_asks_whether_the_node_is_admitted() -> None:
    def admit(_node: NodeId, _shown: Introduction) -> None:
        raise Refused(1, "revoked")

    alice = Machine(Direction.INITIATOR, ALICE, BOB.node_id, opening(1))
    relay = Machine(Direction.RESPONDER, BOB, None, opening(2), admit)
    with pytest.raises(Refused, match="revoked"):
        relay.handle(*split(alice.begin(resumed_by(BOB))), resumed_by(ALICE))
    assert relay.agreement is None


def test_neither_side_takes_the_other_handshake() -> None:
    """RESPONSE where a session is resumed, ESTABLISHED without RESPONSE where none is."""
    alice, bob = pair()
    to_alice, to_bob = resumed_by(BOB), resumed_by(ALICE)
    _, established = split_two(bob.handle(*split(alice.begin(to_alice)), to_bob))
    with pytest.raises(RemoteProtocolError, match="out of order"):
        bob.handle(MessageType.RESPONSE, bytes(33), to_bob)
    alice, bob = pair()
    to_alice, to_bob = secrets_of(BOB), secrets_of(ALICE)
    bob.handle(*split(alice.begin(to_alice)), to_bob)
    with pytest.raises(RemoteProtocolError, match="out of order"):
        alice.handle(*established, to_alice)


def test_resumed_established_is_bound_to_the_transcript() -> None:
    alice, bob = pair()
    to_alice, to_bob = resumed_by(BOB), resumed_by(ALICE)
    challenge, (message_type, body) = split_two(bob.handle(*split(alice.begin(to_alice)), to_bob))
    alice.handle(*challenge, to_alice)
    with pytest.raises(RemoteProtocolError, match="transcript"):
        alice.handle(message_type, body[:-1] + bytes((body[-1] ^ 1,)), to_alice)
