"""A slow, obvious twin of the forwarding database: a dict of (VLAN, MAC), without buckets or threads.

It knows no collisions, so it can't tell what a full bucket puts out: compare tables that are large for what
is in them, and bounds apart.
"""

from __future__ import annotations

LIFE = 300 * 10**9
FRESH = 10**9
STEP = 10**8

Station = tuple[int, bytes]


class Stations:
    """Where each station was heard last. Times in nanoseconds."""

    def __init__(self) -> None:
        self._heard: dict[Station, tuple[int, int]] = {}

    def learn(self, vlan: int, mac: bytes, place: int, now: int) -> str:
        known = self._heard.get((vlan, mac))
        if known is None or (now - known[1] >= LIFE and known[0] != place):
            # What is over and was somewhere else is as good as new; either word is right for it.
            self._heard[vlan, mac] = (place, now)
            return "new" if known is None else "moved"
        where, when = known
        if where == place:
            if now - when >= STEP:
                self._heard[vlan, mac] = (place, now)
            return "known"
        if now - when < FRESH:
            return "claimed"
        self._heard[vlan, mac] = (place, now)
        return "moved"

    def find(self, vlan: int, mac: bytes, now: int) -> int | None:
        known = self._heard.get((vlan, mac))
        return None if known is None or now - known[1] >= LIFE else known[0]

    def fresh(self, vlan: int, mac: bytes, now: int) -> bool:
        known = self._heard.get((vlan, mac))
        return known is not None and now - known[1] < FRESH
