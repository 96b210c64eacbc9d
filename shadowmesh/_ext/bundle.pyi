# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""Datagrams of a UDP socket as one message for a stream, and back."""

from typing_extensions import Buffer

MAX_BUNDLE: int
"""Bytes of the largest bundle that `collect` makes."""

class Bundler:
    """Buffers for the sockets of one thread; all of them must be of the same kernel, as `prepare` asks it."""

    def prepare(self, fd: int) -> None:
        """Turn on what the kernel offers for this UDP socket (GSO, GRO); once for each.  ValueError: none."""

    def collect(self, fd: int) -> bytes:
        """What waits in the socket now, as one bundle; b"" if nothing does."""

    def scatter(self, fd: int, sockaddr: Buffer, bundle: Buffer) -> None:
        """Send the datagrams of a bundle to a raw sockaddr.  ValueError, and nothing is sent, if it is none.

        A datagram that the kernel does not take is dropped and counted.
        """

    def drops(self) -> dict[str, int]:
        """By lower-case name of `DropReason`, zero too."""
