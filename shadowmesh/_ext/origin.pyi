# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""The guards of what peers send, by themselves, for tests."""

from collections.abc import Iterable

from typing_extensions import Buffer

class Origins:
    """The same code that the threads run, without threads, for ourselves (0) and peers 1 to 15."""

    def set_sources(
        self,
        peer: int,
        mac: Buffer,
        prefixes: Iterable[Buffer],
        *,
        others: bool = False,
        dhcp: bool = False,
        router: bool = False,
    ) -> None:
        """As of `Engine`."""

    def judge(self, peer: int, frame: Buffer) -> str:
        """The word pass, or the lower-case name of a DropReason. `frame`: 14 bytes at least, of its MAC."""

    def resolve(self, mac: Buffer, frame: Buffer) -> bytes | None:
        """The answer to a frame of ours to a group, if it asks for the MAC address of a peer. `mac`: ours."""
