"""The rekey by itself: what both sides get, and everything that is refused."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import msgspec
import pytest

from shadowmesh.crypto import hybrid
from shadowmesh.crypto.identity import Identity
from shadowmesh.crypto.keys import Direction, frame_keys, next_root
from shadowmesh.errors import BadPacket, LocalProtocolError, RemoteProtocolError
from shadowmesh.session.machine import Agreement
from shadowmesh.session.rekey import TRANSITIONS, Event, Rekey, State
from shadowmesh.wire import messages
from shadowmesh.wire.messages import (
    COMPOSITE_SIGNATURE_SIZE,
    MessageType,
    RekeyAnswer,
    RekeyAsk,
    RekeyOffer,
)

ALICE, BOB, MALLORY = (Identity.generate(name) for name in ("alice", "bob", "mallory"))
ROOT, BINDING = bytes(range(32)), bytes(range(100, 132))
INITIATOR, RESPONDER = Direction.INITIATOR, Direction.RESPONDER


def lanes(salt: int) -> list[bytes]:
    return [bytes((salt, lane)) * 4 for lane in range(8)]


def agreement(role: Direction, peer: Identity, binding: bytes = BINDING, epoch: int = 0) -> Agreement:
    return Agreement(
        epoch=epoch,
        send_keys=frame_keys(ROOT, epoch, role),
        receive_keys=frame_keys(ROOT, epoch, role.other),
        send_lanes=lanes(1),
        receive_lanes=lanes(2),
        peer=peer.node_id,
        peer_ed25519=peer.ed25519_public,
        peer_mldsa=peer.mldsa.public_key().public_bytes_raw(),
        instance=bytes(8),
        version=1,
        role=role,
        root=bytearray(ROOT),
        membership=b"",
        binding=binding,
    )


def pair(**changed: bytes | int) -> tuple[Rekey, Rekey]:
    """Alice, the initiator, and Bob; `changed` of both their agreements."""
    return (
        Rekey(ALICE, agreement(INITIATOR, BOB, **changed)),  # type: ignore[arg-type]
        Rekey(BOB, agreement(RESPONDER, ALICE, **changed)),  # type: ignore[arg-type]
    )


def offer_of(raw: bytes) -> RekeyOffer:
    message, _ = messages.decode(MessageType(raw[0]), raw[messages.HEADER_SIZE :])
    assert isinstance(message, RekeyOffer)
    return message


def answer_of(raw: bytes) -> RekeyAnswer:
    message, _ = messages.decode(MessageType(raw[0]), raw[messages.HEADER_SIZE :])
    assert isinstance(message, RekeyAnswer)
    return message


def take_offer(bob: Rekey, raw: bytes) -> bytes:
    answer, _ = bob.handle_offer(offer_of(raw), raw, lanes(4))
    return answer


def forged(
    signer: Rekey, message: RekeyOffer | RekeyAnswer, before: bytes = b"", change: int | None = None
) -> bytes:
    """`message` with signatures of `signer` that hold, but for the byte `change`."""
    content = messages.encode(message, bytes(COMPOSITE_SIGNATURE_SIZE))[:-COMPOSITE_SIGNATURE_SIZE]
    raw = bytearray(content + signer._signature(before + content))
    if change is not None:
        raw[change] ^= 1
    return bytes(raw)


def test_both_sides_get_the_same_new_keys_again_and_again() -> None:
    alice, bob = pair()
    seen = {bytes(frame_keys(ROOT, 0, role)) for role in Direction}
    for epoch in range(1, 4):
        raw = alice.offer(lanes(3))
        assert alice.state is State.OFFERED
        answer, theirs = bob.handle_offer(offer_of(raw), raw, lanes(4))
        ours = alice.handle_answer(answer_of(answer), answer)
        assert ours.epoch == theirs.epoch == alice.epoch == bob.epoch == epoch
        assert ours.send_keys == theirs.receive_keys
        assert ours.receive_keys == theirs.send_keys
        assert (ours.send_lanes, ours.receive_lanes) == (lanes(4), lanes(3))
        assert (theirs.send_lanes, theirs.receive_lanes) == (lanes(3), lanes(4))
        seen |= {bytes(ours.send_keys), bytes(ours.receive_keys)}
        assert len(seen) == 2 * epoch + 2, "material was used before"
        ours.wipe()
        assert not any(ours.send_keys + ours.receive_keys)


def test_old_root_fresh_secret_and_both_messages_count() -> None:
    secret, transcript = bytes(64), bytes(32)
    first = next_root(bytearray(ROOT), secret, transcript)
    for other in (
        next_root(bytearray(32), secret, transcript),
        next_root(bytearray(ROOT), b"\1" + secret[1:], transcript),
        next_root(bytearray(ROOT), secret, b"\1" + transcript[1:]),
    ):
        assert other != first


def test_old_roots_are_wiped() -> None:
    alice, bob = pair()
    old = alice._root, bob._root
    answer = take_offer(bob, raw := alice.offer(lanes(3)))
    assert raw[0] == MessageType.REKEY_OFFER
    alice.handle_answer(answer_of(answer), answer)
    assert not any(old[0] + old[1])
    assert alice._root == bob._root
    for one in (alice, bob):
        one.wipe()
        assert not any(one._root)


def test_every_triple_of_role_state_and_event_is_decided() -> None:
    forward = {triple for triple in TRANSITIONS if triple[2] is not Event.FAULT}
    assert len(forward) == 3
    for role, state in itertools.product(Direction, State):
        assert TRANSITIONS[role, state, Event.FAULT] is State.FAILED
    assert not any(state is State.FAILED for _, state, _ in forward)


def test_only_the_initiator_offers_and_only_the_responder_asks() -> None:
    alice, bob = pair()
    with pytest.raises(LocalProtocolError):
        bob.offer(lanes(3))
    with pytest.raises(LocalProtocolError):
        alice.ask()
    ask = bob.ask()
    assert messages.decode(MessageType(ask[0]), ask[4:]) == (RekeyAsk(1), b"")
    with pytest.raises(RemoteProtocolError, match="REKEY_ASK"):
        bob.handle_ask(RekeyAsk(1))


def test_asks_for_what_is_agreed_or_under_way_or_far_ahead_change_nothing() -> None:
    alice, bob = pair()
    assert alice.handle_ask(RekeyAsk(1))
    assert not alice.handle_ask(RekeyAsk(2))
    raw = alice.offer(lanes(3))
    assert not alice.handle_ask(RekeyAsk(1))
    answer = take_offer(bob, raw)
    alice.handle_answer(answer_of(answer), answer)
    assert not alice.handle_ask(RekeyAsk(1))
    assert alice.handle_ask(RekeyAsk(2))


def test_no_second_offer_while_one_is_under_way() -> None:
    alice, _ = pair()
    alice.offer(lanes(3))
    with pytest.raises(LocalProtocolError):
        alice.offer(lanes(5))


def test_offer_that_comes_to_the_initiator_is_refused() -> None:
    """A responder that offers, signatures and all: also while an offer of ours is under way."""
    for begun in (False, True):
        alice, bob = pair()
        if begun:
            alice.offer(lanes(3))
        raw = forged(bob, RekeyOffer(1, hybrid.Initiator(hybrid.X25519MLKEM1024).share, lanes(4)))
        with pytest.raises(RemoteProtocolError, match="offer came to the initiator"):
            alice.handle_offer(offer_of(raw), raw, lanes(5))
        assert alice.state is State.FAILED
        assert not any(alice._root)


def test_answer_that_nobody_waits_for_is_refused() -> None:
    alice, bob = pair()
    raw = alice.offer(lanes(3))
    answer = take_offer(bob, raw)
    alice.handle_answer(answer_of(answer), answer)
    with pytest.raises(RemoteProtocolError, match="answer came to the initiator when idle"):
        alice.handle_answer(answer_of(answer), answer)
    with pytest.raises(RemoteProtocolError, match="answer came to the responder"):
        bob.handle_answer(answer_of(answer), answer)


def test_replayed_offer_is_refused() -> None:
    alice, bob = pair()
    raw = alice.offer(lanes(3))
    take_offer(bob, raw)
    with pytest.raises(RemoteProtocolError, match="for epoch 1, after epoch 1"):
        take_offer(bob, raw)


@pytest.mark.parametrize("epoch", [1, 3, 0xFFFFFFFF])
def test_wrong_epoch_is_refused(epoch: int) -> None:
    alice, bob = pair(epoch=1)
    share = hybrid.Initiator(hybrid.X25519MLKEM1024).share
    with pytest.raises(RemoteProtocolError, match=f"for epoch {epoch}, after epoch 1"):
        take_offer(bob, forged(alice, RekeyOffer(epoch, share, lanes(3))))
    alice, bob = pair(epoch=1)
    raw = forged(bob, RekeyAnswer(epoch, share, lanes(4)), alice.offer(lanes(3))[:-COMPOSITE_SIGNATURE_SIZE])
    with pytest.raises(RemoteProtocolError, match=f"for epoch {epoch}, after epoch 1"):
        alice.handle_answer(answer_of(raw), raw)


@pytest.mark.parametrize("position", [-1, -4627, -4628, -4691, -4692, 10, 300])
def test_altered_messages_are_refused(position: int) -> None:
    """One bit of the ML-DSA signature, of the Ed25519 signature, of the lanes, or of the share."""
    alice, bob = pair()
    raw = bytearray(alice.offer(lanes(3)))
    good = take_offer(bob, bytes(raw))
    raw[position] ^= 1
    with pytest.raises((RemoteProtocolError, BadPacket)):
        take_offer(pair()[1], bytes(raw))
    answer = bytearray(good)
    answer[position] ^= 1
    with pytest.raises((RemoteProtocolError, BadPacket)):
        alice.handle_answer(answer_of(bytes(answer)), bytes(answer))


@pytest.mark.parametrize("half", ["ed25519", "mldsa"])
def test_one_good_signature_is_not_enough(half: str) -> None:
    """Mallory holds one of Alice's keys."""
    stolen = {
        "ed25519": dataclasses.replace(ALICE, mldsa=MALLORY.mldsa),
        "mldsa": dataclasses.replace(ALICE, ed25519=MALLORY.ed25519),
    }[half]
    mallory = Rekey(stolen, agreement(INITIATOR, BOB))
    with pytest.raises(RemoteProtocolError, match="signatures"):
        take_offer(pair()[1], mallory.offer(lanes(3)))


SPLICES: dict[str, Callable[[], Rekey]] = {
    "another session of the same two": lambda: pair(binding=bytes(32))[0],
    "a session of Alice with Mallory": lambda: Rekey(ALICE, agreement(INITIATOR, MALLORY)),
    "a session that Alice did not open": lambda: Rekey(ALICE, agreement(RESPONDER, BOB)),
}


@pytest.mark.parametrize("name", SPLICES)
def test_offers_can_not_be_spliced_into_another_session(name: str) -> None:
    other = SPLICES[name]()
    raw = forged(other, RekeyOffer(1, hybrid.Initiator(hybrid.X25519MLKEM1024).share, lanes(3)))
    with pytest.raises(RemoteProtocolError, match="signatures"):
        take_offer(pair()[1], raw)


def test_epoch_is_signed() -> None:
    """An offer for epoch 1 whose map says 2 is no offer for epoch 2."""
    alice = pair()[0]
    raw = alice.offer(lanes(3))
    relabelled = messages.encode(
        msgspec.structs.replace(offer_of(raw), epoch=2), raw[-COMPOSITE_SIGNATURE_SIZE:]
    )
    with pytest.raises(RemoteProtocolError, match="signatures"):
        take_offer(pair(epoch=1)[1], relabelled)


def test_answers_belong_to_their_offer() -> None:
    alice, bob = pair()
    other_alice, _ = pair()
    raw = other_alice.offer(lanes(3))
    alice.offer(lanes(3))
    answer = take_offer(bob, raw)
    with pytest.raises(RemoteProtocolError, match="signatures"):
        alice.handle_answer(answer_of(answer), answer)


def test_offer_that_comes_back_is_no_answer() -> None:
    alice, _ = pair()
    raw = alice.offer(lanes(3))
    reflected = bytes((MessageType.REKEY_ANSWER,)) + raw[1:]
    with pytest.raises(RemoteProtocolError, match="signatures"):
        alice.handle_answer(answer_of(reflected), reflected)


BAD_SHARES = {
    "X25519 of order 1": lambda share: share[:1568] + bytes(32),
    "X25519 of order 8": lambda share: (
        share[:1568] + bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
    ),
}


@pytest.mark.parametrize("name", [*BAD_SHARES, "ML-KEM key that is not reduced"])
def test_bad_share_of_an_initiator_is_refused(name: str) -> None:
    alice, bob = pair()
    share = hybrid.Initiator(hybrid.X25519MLKEM1024).share
    bad = BAD_SHARES.get(name, lambda good: b"\xff" * 1536 + good[1536:])(share)
    with pytest.raises(RemoteProtocolError, match="share in REKEY_OFFER"):
        take_offer(bob, forged(alice, RekeyOffer(1, bad, lanes(3))))
    assert bob.state is State.FAILED


@pytest.mark.parametrize("name", BAD_SHARES)
def test_bad_share_of_a_responder_is_refused(name: str) -> None:
    alice, bob = pair()
    content = alice.offer(lanes(3))[:-COMPOSITE_SIGNATURE_SIZE]
    raw = forged(bob, RekeyAnswer(1, BAD_SHARES[name](bytes(1600)), lanes(4)), content)
    with pytest.raises(RemoteProtocolError, match="share in REKEY_ANSWER"):
        alice.handle_answer(answer_of(raw), raw)


@pytest.mark.parametrize("size", [0, 32, 1599, 1601, 3200])
def test_share_of_another_size_is_malformed(size: int) -> None:
    alice, _ = pair()
    for message in (RekeyOffer(1, bytes(size), lanes(3)), RekeyAnswer(1, bytes(size), lanes(3))):
        raw = forged(alice, message)
        with pytest.raises(BadPacket, match="malformed_message"):
            messages.decode(MessageType(raw[0]), raw[4:])


@pytest.mark.parametrize("epoch", [0, -1, 1 << 32])
def test_epochs_outside_their_range_are_malformed(epoch: int) -> None:
    raw = messages.encode(RekeyAsk(epoch))
    with pytest.raises(BadPacket, match="malformed_message"):
        messages.decode(MessageType(raw[0]), raw[4:])


def test_nothing_is_accepted_after_a_fault() -> None:
    alice, bob = pair()
    raw = alice.offer(lanes(3))
    with pytest.raises(RemoteProtocolError):
        take_offer(bob, raw[:-1] + bytes((raw[-1] ^ 1,)))
    with pytest.raises(RemoteProtocolError, match="failed"):
        take_offer(bob, raw)
