"""A slow, obvious twin of the forwarding database: one list of entries, without hashing or threads.

With `room` it is one bucket of the table, to the letter.  Without, it knows no collisions and so can't tell
what a full bucket puts out.
"""

from __future__ import annotations

from dataclasses import dataclass

LIFE = 300 * 10**9
FRESH = 10**9
STEP = 10**8


@dataclass
class Entry:
    """One station; `heard` in nanoseconds."""

    vlan: int
    mac: bytes
    place: int
    heard: int


class Stations:
    """Where each station was heard last. Times in nanoseconds.

    :param room: entries at most, over or not; None for no limit.
    :param share: entries of one place at most.
    """

    def __init__(self, room: int | None = None, share: int = 1 << 30) -> None:
        self.entries: list[Entry] = []
        self._room = room
        self._share = share

    def learn(self, vlan: int, mac: bytes, place: int, now: int) -> str:
        known = self._entry(vlan, mac)
        if known is None:
            return self._add(Entry(vlan, mac, place, now), now)
        silent = now - known.heard
        if known.place == place:
            if silent >= STEP:
                known.heard = now
            return "known"
        if silent < FRESH:
            return "claimed"
        self.entries.remove(known)
        return "full" if self._add(Entry(vlan, mac, place, now), now) == "full" else "moved"

    def find(self, vlan: int, mac: bytes, now: int) -> int | None:
        known = self._entry(vlan, mac)
        return None if known is None or now - known.heard >= LIFE else known.place

    def fresh(self, vlan: int, mac: bytes, now: int) -> bool:
        known = self._entry(vlan, mac)
        return known is not None and now - known.heard < FRESH

    def held(self, place: int) -> int:
        """Entries of this place, over or not."""
        return sum(entry.place == place for entry in self.entries)

    def _entry(self, vlan: int, mac: bytes) -> Entry | None:
        return next((one for one in self.entries if (one.vlan, one.mac) == (vlan, mac)), None)

    def _add(self, new: Entry, now: int) -> str:
        if self._room is not None:
            self.entries = [one for one in self.entries if now - one.heard < LIFE]
        own = [one for one in self.entries if one.place == new.place]
        no_room = self._room is not None and len(self.entries) >= self._room
        if no_room or len(own) >= self._share:
            if not own:
                return "full"
            self.entries.remove(min(own, key=lambda one: one.heard))
        self.entries.append(new)
        return "new"
