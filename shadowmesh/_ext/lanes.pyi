# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""Keys of one sending direction and epoch."""

from typing_extensions import Buffer

class SendKeys:
    """Sealing keys of one direction and epoch, for `Engine.set_lane` and `Forwarder.set_lane`.

    Remembers which lanes were used: the same (keys, lane) twice raises ValueError there, because the
    numbers would start at 0 again.  Two objects from the same material do not know of each other: make one.
    """

    def __init__(self, material: Buffer, *, expires_at: float | None = None) -> None:
        """`material`: 76 bytes, key(32) iv(12) header key(32).  ValueError for any other size.

        `expires_at`: CLOCK_MONOTONIC in seconds (0 < x <= 4e9) from which on no lane of these keys seals
        anything; what should go with one then is dropped as expired_keys.  None: never.
        """

    def wipe(self) -> None:
        """Forget the material: no more lanes can be made of it.  Lanes that are installed go on."""
