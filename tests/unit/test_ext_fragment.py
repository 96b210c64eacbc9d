"""Reassembly by itself, against the slow twin: what completes, what is dropped and why, what it may hold."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowmesh._ext.drops import DropReason
from shadowmesh._ext.fragment import FragmentLayout, Reassembler
from tests.reference import fragment as twin
from tests.reference.fragment import HEADER, cut

SECOND = 1_000_000_000
ROOM = 400
SESSION = 9


def payload_of(size: int, seed: int = 1, kind: int = 1) -> bytes:
    return bytes([kind]) + random.Random(seed).randbytes(size - 1)


def part(frame: int, index: int, count: int, content: bytes = b"\x01abc") -> bytes:
    return HEADER.pack(2, frame, index, count) + content


class Both:
    """Fast and slow, which must say the same of every step."""

    def __init__(self) -> None:
        self.fast, self.slow = Reassembler(), twin.Reassembler()

    def take(self, peer: int, session: int, payload: bytes, now: int) -> bytes | None:
        made = self.fast.take(peer, session, payload, now)
        assert made == self.slow.take(peer, session, payload, now)
        assert self.fast.drops() == {reason: count for reason, count in self.slow.drops.items() if count}
        assert self.fast.buffers() == self.slow.buffers
        return made

    def forget(self, peer: int) -> None:
        self.fast.forget(peer)
        self.slow.forget(peer)


def test_limits_are_those_of_the_twin() -> None:
    assert {limit.name: int(limit) for limit in FragmentLayout} == {
        "FRAGMENT_HEADER_SIZE": HEADER.size,
        "ASSEMBLY_ROOM": twin.ROOM,
        "ASSEMBLIES_PER_PEER": twin.PER_PEER,
        "ASSEMBLIES": twin.IN_ALL,
        "ASSEMBLY_AGE_NS": twin.AGE_NS,
    }


@pytest.mark.parametrize("kind", [1, 6])
@pytest.mark.parametrize("size", [401, 787, 788, 9000, 16_325, twin.ROOM])
def test_any_order_gives_the_payload(size: int, kind: int) -> None:
    both = Both()
    for seed in range(20):
        payload = payload_of(size, seed, kind)
        fragments = cut(payload, seed, ROOM)
        random.Random(seed).shuffle(fragments)
        made = [both.take(1, SESSION, fragment, 0) for fragment in fragments]
        assert made == [None] * (len(fragments) - 1) + [payload]
    assert both.fast.buffers() == 1


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[int, int, bytes, int]]:
    """(peer, session, fragment, time): frames of few ids, cut, lost, repeated, mixed up and damaged."""
    made: list[tuple[int, int, bytes]] = []
    for _ in range(draw(st.integers(1, 14))):
        payload = payload_of(
            draw(st.integers(401, 2000)), draw(st.integers(0, 3)), draw(st.sampled_from([1, 6]))
        )
        fragments = cut(payload, draw(st.integers(0, 3)), draw(st.sampled_from([200, 300, ROOM])))
        who = draw(st.integers(0, 2)), draw(st.integers(1, 2))
        made += [(*who, fragment) for fragment in fragments]
    for _ in range(draw(st.integers(0, 12))):
        place, other = (draw(st.integers(0, len(made) - 1)) for _ in range(2))
        what = draw(st.sampled_from(["lose", "swap", "repeat", "damage", "shorten"]))
        peer, session, content = made[place]
        if what == "lose" and len(made) > 1:
            del made[place]
        elif what == "swap":
            made[place], made[other] = made[other], made[place]
        elif what == "repeat":
            made.insert(other, made[place])
        elif what == "damage" and len(content) > 7:
            at = draw(st.integers(1, 7))
            changed = content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
            made[place] = peer, session, changed
        elif what == "shorten":
            made[place] = peer, session, content[: draw(st.integers(1, len(content)))]
    now, timed = 0, []
    for step in made:
        now += draw(st.sampled_from([0, 0, 0, 1, SECOND // 3]))
        timed.append((*step, now))
    return timed


@settings(max_examples=300, deadline=None)
@given(steps())
def test_does_what_the_twin_does(drawn: list[tuple[int, int, bytes, int]]) -> None:
    both = Both()
    for peer, session, fragment, now in drawn:
        both.take(peer, session, fragment, now)


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_loss_and_reordering_give_whole_frames_or_none(rng: random.Random) -> None:
    """Without the twin's word: each frame at most once, as it was, and if nothing of it was lost, then it."""
    sent = {number: payload_of(rng.randint(401, 3000), number) for number in range(30)}
    stream = [(number, piece) for number, payload in sent.items() for piece in cut(payload, number, ROOM)]
    lost = {i for i in range(len(stream)) if rng.random() < 0.05}
    # Nothing moves far: no more frames than a peer may have are in the making at once.
    order = sorted(range(len(stream)), key=lambda i: i + rng.uniform(0, 6))
    fast = Reassembler()
    made = [fast.take(1, SESSION, stream[i][1], 0) for i in order if i not in lost]
    frames = [payload for payload in made if payload is not None]
    broken = {stream[i][0] for i in lost}
    assert sorted(frames) == sorted(payload for number, payload in sent.items() if number not in broken)
    assert set(fast.drops()) <= {"incomplete_frame"}


BAD = {
    "header only": HEADER.pack(2, 1, 0, 2),
    "shorter than the header": b"\x02\0\0\0",
    "count 0": part(1, 0, 0),
    "count 1": part(1, 0, 1),
    "index is the count": part(1, 2, 2),
    "index above the count": part(1, 255, 2),
    "a fragment inside": part(1, 0, 2, b"\x02abc"),
    "a message inside": part(1, 0, 2, b"\x04abc"),
    "padding inside": part(1, 0, 2, b"\x00abc"),
    "first part alone too large": part(1, 0, 2, b"\x01" + bytes(twin.ROOM - 1)),
    "parts together too large": part(1, 3, 100, bytes(166)),
    "last part too large": part(1, 1, 2, bytes(twin.ROOM)),
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD.keys())
def test_fragments_that_can_be_part_of_nothing(payload: bytes) -> None:
    both = Both()
    assert both.take(1, SESSION, payload, 0) is None
    assert both.fast.drops() == {"malformed_fragment": 1}
    assert both.fast.buffers() == 0


CONTRADICTIONS = {
    "another count": (part(1, 0, 3), part(1, 1, 4)),
    "another size": (part(1, 0, 3), part(1, 1, 3, b"abcde")),
    "last larger than the others": (part(1, 0, 3), part(1, 2, 3, b"abcde")),
    "others smaller than the last": (part(1, 2, 3, b"abcde"), part(1, 0, 3)),
    "last of another size": (part(1, 2, 3, b"abc"), part(1, 2, 3, b"ab")),
    "first of another size again": (part(1, 0, 3), part(1, 0, 3, b"\x01ab")),
    "together too large, last late": (part(1, 0, 2, b"\x01" + bytes(9999)), part(1, 1, 2, bytes(6369))),
    "together too large, last first": (part(1, 1, 2, bytes(6369)), part(1, 0, 2, b"\x01" + bytes(9999))),
}


@pytest.mark.parametrize(("first", "second"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_fragments_that_contradict_the_ones_before(first: bytes, second: bytes) -> None:
    both = Both()
    assert both.take(1, SESSION, first, 0) is None
    assert both.take(1, SESSION, second, 0) is None
    assert both.fast.drops() == {"malformed_fragment": 1}


def test_a_contradiction_costs_the_frame_nothing() -> None:
    both, payload = Both(), payload_of(700)
    one, two = cut(payload, 5, ROOM)
    both.take(1, SESSION, one, 0)
    both.take(1, SESSION, two[:-1] + b"longer", 0)
    both.take(1, SESSION, one, 0)
    assert both.take(1, SESSION, two, 0) == payload
    assert both.fast.drops() == {"malformed_fragment": 1, "repeated_fragment": 1}


def test_parts_of_two_sessions_or_peers_never_meet() -> None:
    both = Both()
    one, two = cut(payload_of(700), 5, ROOM)
    assert both.take(1, SESSION, one, 0) is None
    assert both.take(1, SESSION + 1, two, 0) is None
    assert both.take(2, SESSION, two, 0) is None
    assert both.take(1, SESSION, two, 0) == payload_of(700)


def test_the_largest_number_of_parts() -> None:
    both, payload = Both(), payload_of(255)
    fragments = [part(1, i, 255, payload[i : i + 1]) for i in range(255)]
    made = [both.take(1, SESSION, fragment, 0) for fragment in reversed(fragments)]
    assert made == [None] * 254 + [payload]


def test_what_is_too_old_is_given_up() -> None:
    both = Both()
    one, two = cut(payload_of(700), 5, ROOM)
    both.take(1, SESSION, one, 0)
    assert both.take(1, SESSION, two, SECOND) == payload_of(700)
    both.take(1, SESSION, one, SECOND)
    assert both.take(1, SESSION, two, 2 * SECOND + 1) is None
    assert both.fast.drops() == {"incomplete_frame": 1}
    assert both.take(1, SESSION, one, 2 * SECOND + 2) == payload_of(700)


def test_the_ninth_frame_of_a_peer_replaces_the_oldest() -> None:
    both, payload = Both(), payload_of(700)
    frames = [cut(payload, number, ROOM) for number in range(9)]
    for one, _ in frames:
        both.take(1, SESSION, one, 0)
    assert both.fast.drops() == {"incomplete_frame": 1}
    assert [both.take(1, SESSION, two, 0) for _, two in frames[1:]] == [payload] * 8
    assert both.take(1, SESSION, frames[0][1], 0) is None


def test_all_peers_together_are_bounded_and_the_oldest_goes() -> None:
    """33 peers want 8 places each of 256: the first peer loses, whoever it is; memory stays the same."""
    both, payload = Both(), payload_of(700)
    frames = [cut(payload, number, ROOM) for number in range(8)]
    for peer in range(33):
        for one, _ in frames:
            both.take(peer, SESSION, one, 0)
    assert both.fast.drops() == {"incomplete_frame": 8}
    assert both.fast.buffers() == twin.IN_ALL
    for peer in range(1, 33):
        assert [both.take(peer, SESSION, two, 0) for _, two in frames] == [payload] * 8
    assert [both.take(0, SESSION, two, 0) for _, two in frames] == [None] * 8
    assert both.fast.buffers() == twin.IN_ALL


def test_removed_peers_leave_nothing_that_grows() -> None:
    """Their places are taken over as the oldest; who gets their number starts empty."""
    both = Both()
    one, two = cut(payload_of(700), 5, ROOM)
    for _ in range(100):
        for _ in range(8):
            both.take(3, SESSION, one, 0)
        both.forget(3)
        assert both.take(3, SESSION, two, 0) is None
        both.forget(3)
    assert both.fast.buffers() <= twin.IN_ALL
    assert both.fast.take(3, SESSION, one, 0) is None


def test_old_frames_of_others_give_their_buffers_back_first() -> None:
    both = Both()
    one, two = cut(payload_of(700), 5, ROOM)
    for round_ in range(20):
        for peer in range(3):
            both.take(3 * round_ + peer, SESSION, one, round_ * 2 * SECOND)
    assert both.fast.buffers() == 3
    assert both.take(57, SESSION, two, 38 * SECOND) == payload_of(700)


def test_arguments() -> None:
    fast = Reassembler()
    for wrong in ((64, 1, b"", 0), (-1, 1, b"", 0), (1, -1, b"", 0), (1, 1, b"", -1)):
        with pytest.raises(ValueError, match="must be"):
            fast.take(*wrong)
    with pytest.raises(TypeError):
        fast.take(1, 1, None, 0)  # type: ignore[arg-type]
    assert fast.take(1, 1, b"", 0) is None
    assert fast.drops() == {DropReason.MALFORMED_FRAGMENT.name.lower(): 1}
