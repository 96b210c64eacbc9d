# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""Replay window of a lane (RFC 6479)."""

from enum import IntEnum

class Verdict(IntEnum):
    """What a window says about a packet number."""

    FRESH = 0
    DUPLICATE = 1
    TOO_OLD = 2

class WindowLayout(IntEnum):
    """Bits of the bitmap, and how many numbers up to the newest are judged (the rest is too old)."""

    WINDOW_BITS = 8192
    WINDOW_SIZE = 8128

class ReplayWindow:
    """8192-bit window: the same code as in the inbound thread, for asyncio's own lanes and tests."""

    def check(self, number: int) -> Verdict:
        """Judge `number` (0..2^64-1) and change nothing.  ValueError outside that range."""

    def accept(self, number: int) -> Verdict:
        """Judge and, if FRESH, remember.  Call only after the packet was opened successfully."""
