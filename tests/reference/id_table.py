"""Slow twin of the id table: a dict, with the refusals of the real one."""

from __future__ import annotations


class IdTable:
    def __init__(self) -> None:
        self.values: dict[bytes, int] = {}

    def install(self, wire_id: bytes, value: int) -> None:
        if wire_id in self.values:
            raise ValueError
        self.values[wire_id] = value

    def find(self, wire_id: bytes) -> int | None:
        return self.values.get(wire_id)

    def remove(self, wire_id: bytes) -> None:
        del self.values[wire_id]
