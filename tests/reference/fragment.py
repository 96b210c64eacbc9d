"""Slow twin of fragmentation and reassembly: lists and dictionaries, joined when everything is there.

Shares no code with ext/fragment.pyx and ext/outbound.pyx: it keeps every part as it came and looks at all
of them again for each new one.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field

HEADER = struct.Struct("!BIBB")
ROOM = 16368
PER_PEER = 8
IN_ALL = 256
AGE_NS = 1_000_000_000


def cut(payload: bytes, frame: int, room: int) -> list[bytes]:
    """The fragments of a payload that is larger than `room`, none of them larger than that."""
    room -= HEADER.size
    count = -(-len(payload) // room)
    step = -(-len(payload) // count)
    parts = [payload[i : i + step] for i in range(0, len(payload), step)]
    assert len(parts) == count > 1
    return [HEADER.pack(2, frame, index, count) + part for index, part in enumerate(parts)]


@dataclass
class Assembly:
    peer: int
    session: int
    frame: int
    count: int
    begun: int
    parts: dict[int, bytes] = field(default_factory=dict)


class Refused(Exception):
    """A fragment is dropped, and why."""


def consistent(count: int, parts: dict[int, bytes]) -> bool:
    """May these be the parts of one payload?"""
    sizes = {len(part) for index, part in parts.items() if index < count - 1}
    last = len(parts.get(count - 1, b""))
    if len(sizes) > 1 or any(last > size for size in sizes):
        return False
    return (count - 1) * max(sizes, default=1) + max(last, 1) <= ROOM


class Reassembler:
    """Who has what in the making, oldest first."""

    def __init__(self) -> None:
        self.assemblies: list[Assembly] = []
        self.buffers = 0
        self.drops: Counter[str] = Counter()

    def take(self, peer: int, session: int, payload: bytes, now: int) -> bytes | None:
        """What this fragment completes."""
        try:
            return self._take(peer, session, payload, now)
        except Refused as refused:
            self.drops[str(refused)] += 1
            return None

    def _take(self, peer: int, session: int, payload: bytes, now: int) -> bytes | None:
        if len(payload) <= HEADER.size:
            raise Refused("malformed_fragment")
        _, frame, index, count = HEADER.unpack(payload[: HEADER.size])
        part = payload[HEADER.size :]
        if count < 2 or index >= count or not consistent(count, {index: part}):
            raise Refused("malformed_fragment")
        if index == 0 and part[0] not in (1, 6):
            raise Refused("malformed_fragment")
        for old in [found for found in self.assemblies if found.peer == peer and now - found.begun > AGE_NS]:
            self._give_up(old)
        assembly = self._find(peer, session, frame) or self._begin(peer, session, frame, count, now)
        if count != assembly.count or not consistent(count, assembly.parts | {index: part}):
            raise Refused("malformed_fragment")
        if index in assembly.parts:
            same = len(part) == len(assembly.parts[index])
            raise Refused("repeated_fragment" if same else "malformed_fragment")
        assembly.parts[index] = part
        if len(assembly.parts) < count:
            return None
        self.assemblies.remove(assembly)
        return b"".join(assembly.parts[i] for i in range(count))

    def forget(self, peer: int) -> None:
        """What the peer had stays until it is the oldest, and belongs to nobody."""
        for assembly in self.assemblies:
            if assembly.peer == peer:
                assembly.peer = -1

    def _find(self, peer: int, session: int, frame: int) -> Assembly | None:
        wanted = (peer, session, frame)
        return next((one for one in self.assemblies if (one.peer, one.session, one.frame) == wanted), None)

    def _begin(self, peer: int, session: int, frame: int, count: int, now: int) -> Assembly:
        mine = [assembly for assembly in self.assemblies if assembly.peer == peer]
        if len(mine) == PER_PEER:
            self._give_up(mine[0])
        if len(self.assemblies) == self.buffers:
            for old in [found for found in self.assemblies if now - found.begun > AGE_NS]:
                self._give_up(old)
        if len(self.assemblies) == IN_ALL:
            self._give_up(self.assemblies[0])
        self.buffers = max(self.buffers, len(self.assemblies) + 1)
        self.assemblies.append(Assembly(peer, session, frame, count, now))
        return self.assemblies[-1]

    def _give_up(self, assembly: Assembly) -> None:
        self.drops["incomplete_frame"] += len(assembly.parts)
        self.assemblies.remove(assembly)
