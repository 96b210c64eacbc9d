# ruff: noqa: PYI021  (the public text of an extension is in its stub)
"""The forwarding database as tests see it; the data plane uses the same table without Python."""

from typing import Literal

from typing_extensions import Buffer

class StationTable:
    """Behind which place (a member's number, 0 to 4095) a station was heard last.

    One writer (`learn`).  `vlan`: 0 (untagged) to 4095.  `mac`: 6 bytes.  `now`: nanoseconds.  ValueError
    for anything else.
    """

    def __init__(self, *, buckets: int = 1024, share: int = 2048) -> None:
        """Room for 8 stations a bucket (a power of two), of which one place gets `share` at most."""

    def learn(
        self, vlan: int, mac: Buffer, place: int, now: int
    ) -> Literal["known", "new", "moved", "claimed", "full"]:
        """It was heard there.

        "claimed": it was heard elsewhere less than a second ago, and stays there.  "full": there is no
        place for it, or this place has its share.
        """

    def find(self, vlan: int, mac: Buffer, now: int) -> int | None:
        """Where it was heard last; None if nowhere for 300 s."""

    def fresh(self, vlan: int, mac: Buffer, now: int) -> bool:
        """Whether it was heard within the last second."""

    def held(self, place: int) -> int:
        """How many entries are of this place; some may be over."""

    def __len__(self) -> int:
        """How many entries are used; some may be over."""
