"""Of whatever stream of fragments, reassembly makes, drops and counts exactly what its slow twin does."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from shadowmesh._ext.fragment import Reassembler
from tests.reference import fragment as twin

COVERS: tuple[str, ...] = ()
STEP = struct.Struct("!HBB")
"""Size of the fragment behind it, from whom, and how long after the one before."""

TICK_NS = 10_000_000


def _seed(number: int) -> bytes:
    """The fragments of some frames of three peers, in an order of their own."""
    generator = random.Random(number)
    steps = []
    for frame in range(generator.randint(1, 12)):
        payload = bytes([generator.choice([1, 6])]) + generator.randbytes(generator.randint(60, 400))
        sender = generator.randrange(6)
        steps += [
            STEP.pack(len(fragment), sender, generator.choice([0, 0, 1, 40])) + fragment
            for fragment in twin.cut(payload, frame % 5, generator.randint(20, 50))
        ]
    generator.shuffle(steps)
    return b"".join(steps)


SEEDS = [_seed(number) for number in range(20)]


def _steps(data: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    """Peer, session, fragment and time."""
    now = 0
    while len(data) >= STEP.size:
        size, sender, ticks = STEP.unpack(data[: STEP.size])
        now += ticks * TICK_NS
        yield sender % 3, sender // 3 % 2, data[STEP.size : STEP.size + size], now
        data = data[STEP.size + size :]


def target(data: bytes) -> None:
    """Both from the beginning, step by step."""
    fast, slow = Reassembler(), twin.Reassembler()
    for peer, session, fragment, now in _steps(data):
        assert fast.take(peer, session, fragment, now) == slow.take(peer, session, fragment, now)
    assert fast.drops() == {reason: count for reason, count in slow.drops.items() if count}
