"""Mutates seeds blindly and runs a target on the results, for the tests; no target itself.

The generator is seeded, so that a run can be repeated.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

Target = Callable[[bytes], None]
"""Takes one input; any exception is a finding."""


class Module(Protocol):
    """A module of fuzz/targets.

    Where it has to, it has more: `close` lets go of what it holds open, BLIND_RUNS (300) says how many blind
    inputs the tests may take.
    """

    SEEDS: Sequence[bytes]
    """Inputs from real traffic."""

    COVERS: Sequence[str]
    """Python modules that the target is about; none, if it is about compiled code."""

    def target(self, data: bytes) -> None:
        """A `Target`."""


INTERESTING = (0, 1, 0x3F, 0x40, 0x43, 0x7F, 0x80, 0xC0, 0xFF)
MAX_SIZE = 70_000


def mutate(data: bytes, seeds: Sequence[bytes], generator: random.Random) -> bytes:
    """`data` after one to four changes: flips, sizes, cuts, repeats, splices with another seed."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        kind = generator.randrange(6)
        at = generator.randrange(len(changed) + 1)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << generator.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = generator.choice(INTERESTING)
        elif kind == 2:
            del changed[at : at + generator.randint(1, 64)]
        elif kind == 3:
            changed[at:at] = generator.randbytes(generator.randint(1, 64))
        elif kind == 4:
            changed[at:at] = changed[at : at + generator.randint(1, 256)]
        elif kind == 5:
            other = generator.choice(seeds)
            changed[at:] = other[generator.randrange(len(other) + 1) :]
    return bytes(changed[:MAX_SIZE])


def fuzz(target: Target, seeds: Sequence[bytes], runs: int | None, seconds: float, seed: int) -> int:
    """Run `target` until `runs` or `seconds` are over; returns the number of runs."""
    generator = random.Random(seed)
    end, done = time.monotonic() + seconds, 0
    while done != runs and time.monotonic() < end:
        data = mutate(generator.choice(seeds), seeds, generator)
        try:
            target(data)
        except Exception:
            print(f"run {done} of seed {seed} found: {data.hex()}", file=sys.stderr)
            raise
        done += 1
    return done
