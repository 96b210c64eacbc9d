"""An input as a program: numbers and byte strings, read one after the other; no target itself.

What is not there any more reads as zero or empty, so that every byte string is a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Program:
    """Reads one input; `Writer` writes what it reads."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there is more."""
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        """`size` bytes, big-endian."""
        return int.from_bytes(self.take(size).ljust(size, b"\0"), "big")

    def choose(self, among: Sequence[T]) -> T:
        """One byte."""
        return among[self.number() % len(among)]

    def take(self, size: int) -> bytes:
        """Up to `size` bytes."""
        found = self._data[self._at : self._at + size]
        self._at += len(found)
        return found

    def string(self) -> bytes:
        """Two bytes of size, and so many."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))


def string(content: bytes) -> bytes:
    """What `Program.string` reads."""
    return len(content).to_bytes(2, "big") + content
