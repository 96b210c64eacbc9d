# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""The arithmetic by which a relay's forwarder shares itself out; the forwarder uses it without Python."""

WINDOW: int
"""Nanoseconds between two looks at the socket's queue."""

class Shares:
    """The clients of one forwarder on a clock of the caller's, for tests and figures.

    `clients`: how many. Rates are per second and client, 0 = no limit.
    """

    def __init__(self, clients: int, *, packet_rate: int = 0, byte_rate: int = 0) -> None: ...
    def offer(self, client: int, size: int, now: int) -> str:
        """A datagram of `size` bytes: "passes", "packet_rate", "byte_rate" or "over_share"."""

    def look(self, short_of: bool, now: int) -> None:
        """End the window if it is over. `short_of`: the queue of the socket fills up."""

    def share(self) -> float | None:
        """Cost (bytes, and 512 for each packet) per second that each client has; None: no limit."""
