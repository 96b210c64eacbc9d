# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""Python face of the lock-free table, for tests of the structure that the threads read."""

from typing_extensions import Buffer

class IdTable:
    """8-byte id -> integer, by the same code that maps ids to lanes, channels and control connections."""

    def install(self, wire_id: Buffer, value: int) -> None:
        """ValueError if `wire_id` isn't 8 bytes or is installed already."""

    def find(self, wire_id: Buffer) -> int | None:
        """The value, or None."""

    def remove(self, wire_id: Buffer) -> None:
        """KeyError if `wire_id` isn't installed."""

    def waiting(self) -> int:
        """Records and indexes that are retired but not yet freed."""

    def hold(self, busy: bool) -> None:
        """Pose as a reader thread that holds (True) or no longer holds (False) records."""

    def __len__(self) -> int: ...
