"""Slow twin of the replay window: remembers every number that it ever accepted."""

from __future__ import annotations

SIZE = 8128
"""How many numbers, counted back from the newest, are judged one by one."""


class ReplayWindow:
    def __init__(self) -> None:
        self.newest = 0
        self.accepted: set[int] = set()

    def accept(self, number: int) -> str:
        """FRESH, DUPLICATE or TOO_OLD, by the definition."""
        if number <= self.newest - SIZE:
            return "TOO_OLD"
        if number in self.accepted:
            return "DUPLICATE"
        self.accepted.add(number)
        self.newest = max(self.newest, number)
        return "FRESH"
