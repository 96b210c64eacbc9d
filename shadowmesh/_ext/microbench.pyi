# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""Loops around the data plane's own functions, without Python in between: what bench/micro.py measures."""

from enum import IntEnum

from typing_extensions import Buffer

from shadowmesh._ext.firewall import Compiled

class Task(IntEnum):
    """SEAL: as the outbound thread, with number, header and header masks.  OPEN: as the inbound thread,
    with the look-up of the lane, header masks and replay window.  MASK: the header masks of a batch, and
    their use.  ..._ALONE: what the library is called for in it, with all arguments ready.
    """

    SEAL = 0
    SEAL_ALONE = 1
    OPEN = 2
    OPEN_ALONE = 3
    MASK = 4
    MASK_ALONE = 5

class Packets:
    """A batch of frame packets of one size, under keys made with the library in use at that time."""

    def __init__(self, material: Buffer, size: int, count: int) -> None:
        """`material`: 76 bytes.  `size`: of a payload (1..65478).  `count`: packets of a batch (1..64)."""

    def run(self, task: int, batches: int) -> int:
        """Do `task` to so many batches; returns nanoseconds for all packets together."""

def window(numbers: Buffer) -> tuple[int, int]:
    """Nanoseconds in which a new replay window judged big-endian 8-byte numbers; how many were fresh."""

class Lookup:
    """The table of the data plane (ids of lanes and channels, MAC addresses)."""

    def __init__(self, ids: Buffer) -> None:
        """Install big-endian 8-byte ids, each once."""

    def run(self, ids: Buffer) -> tuple[int, int]:
        """Nanoseconds in which these were looked up, one after another; how many were found."""

class Judging:
    """A firewall with these rules, asked about frames from or to peer 1, always in the same second."""

    def __init__(self, compiled: Compiled) -> None: ...
    def run(self, outbound: bool, frames: Buffer, size: int, rounds: int) -> tuple[int, int]:
        """Nanoseconds in which these frames of `size` bytes were judged so often; how many passed."""
