# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""Reassembly of fragmented payloads: sizes and limits, and a face for tests."""

from enum import IntEnum

from typing_extensions import Buffer

class FragmentLayout(IntEnum):
    """Sizes in bytes, numbers of frames in the making, and the age in nanoseconds that ends them."""

    FRAGMENT_HEADER_SIZE = 7
    ASSEMBLY_ROOM = 16368
    ASSEMBLIES_PER_PEER = 8
    ASSEMBLIES = 256
    ASSEMBLY_AGE_NS = 1000000000

class Reassembler:
    """The code of the inbound thread, without packets, for 64 peers."""

    def take(self, peer: int, session: int, payload: Buffer, now_ns: int) -> bytes | None:
        """A fragment payload, kind included; returns what it completes.  `now_ns` never goes back."""

    def forget(self, peer: int) -> None:
        """The peer was removed, and another got its number."""

    def buffers(self) -> int:
        """How many buffers were ever allocated: none is given back before the end."""

    def drops(self) -> dict[str, int]:
        """By lower-case name of `DropReason`, only what isn't zero."""
