"""The last minutes second by second: bytes, round trips and drops, of the node and of its busiest peers.

Takes readings of running totals and keeps what passed between them; it has no clock and reads nothing itself.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import NamedTuple

from shadowmesh.api.live import WINDOW, PeerSample, PeerSamples, Sample, Samples

MAX_SAMPLED = 64
"""Peers: more than a screen shows; with them the history takes half a MB."""
RESTING = 60
"""Seconds without traffic after which a peer leaves its place to one that has some."""
_UNKNOWN = math.nan


class PeerReading(NamedTuple):
    """Running totals of one peer, and its round trip now."""

    node_id: str
    name: str
    tx_bytes: int
    rx_bytes: int
    rtt_ms: float | None


class Reading(NamedTuple):
    """Running totals of the node at one moment, `at` seconds since 1970."""

    at: float
    drops: int
    peers: list[PeerReading]


class _Column:
    """The last `WINDOW` numbers; NaN is unknown."""

    def __init__(self, length: int) -> None:
        self._values = array("d", [_UNKNOWN]) * length

    def add(self, value: float | None) -> None:
        self._values.append(_UNKNOWN if value is None else value)
        if len(self._values) > WINDOW:
            del self._values[0]

    def counts(self, latest: int) -> list[int | None]:
        return [None if math.isnan(value) else int(value) for value in self._values[-latest:]]

    def known(self, latest: int) -> list[int]:
        return [int(value) for value in self._values[-latest:]]

    def times(self, latest: int) -> list[float]:
        return list(self._values[-latest:])

    def milliseconds(self, latest: int) -> list[float | None]:
        return [None if math.isnan(value) else value for value in self._values[-latest:]]


class _Track:
    """One peer's columns."""

    def __init__(self, reading: PeerReading, length: int) -> None:
        self.name = reading.name
        self.tx, self.rx, self.rtt = _Column(length), _Column(length), _Column(length)
        self.quiet = 0
        """Seconds since its last traffic."""

    def add(self, sample: PeerSample | None) -> None:
        self.tx.add(None if sample is None else sample.tx_bytes)
        self.rx.add(None if sample is None else sample.rx_bytes)
        self.rtt.add(None if sample is None else sample.rtt_ms)
        self.quiet = 0 if sample is not None and sample.tx_bytes + sample.rx_bytes else self.quiet + 1


class History:
    """Call `add` once a second."""

    def __init__(self) -> None:
        self._before: Reading | None = None
        self._totals: dict[str, PeerReading] = {}
        self._tracks: dict[str, _Track] = {}
        self._at, self._drops, self._tx, self._rx = (_Column(0) for _ in range(4))
        self._length = 0

    def add(self, reading: Reading) -> Sample | None:
        """What passed since the reading before; None for the first, which only says where to count from."""
        before, self._before = self._before, reading
        totals, self._totals = self._totals, {peer.node_id: peer for peer in reading.peers}
        if before is None:
            return None
        passed = {peer.node_id: _passed(peer, totals.get(peer.node_id)) for peer in reading.peers}
        tx, rx = sum(one.tx_bytes for one in passed.values()), sum(one.rx_bytes for one in passed.values())
        drops = max(0, reading.drops - before.drops)
        self._choose(reading.peers, passed)
        for node_id, track in self._tracks.items():
            track.add(passed.get(node_id))
        for column, value in ((self._at, reading.at), (self._drops, drops), (self._tx, tx), (self._rx, rx)):
            column.add(value)
        self._length = min(WINDOW, self._length + 1)
        shown = [passed[node_id] for node_id in self._tracks if node_id in passed]
        return Sample(at=reading.at, tx_bytes=tx, rx_bytes=rx, drops=drops, peers=shown)

    def show(self, seconds: int) -> Samples:
        """The latest; peers with the most traffic first."""
        latest = min(seconds, self._length)
        peers = [
            PeerSamples(
                node_id=node_id,
                name=track.name,
                tx_bytes=track.tx.counts(latest),
                rx_bytes=track.rx.counts(latest),
                rtt_ms=track.rtt.milliseconds(latest),
            )
            for node_id, track in self._tracks.items()
        ]
        peers.sort(key=lambda peer: (-_sum(peer.tx_bytes) - _sum(peer.rx_bytes), peer.name))
        return Samples(
            at=self._at.times(latest),
            tx_bytes=self._tx.known(latest),
            rx_bytes=self._rx.known(latest),
            drops=self._drops.known(latest),
            peers=peers,
        )

    def _choose(self, peers: list[PeerReading], passed: dict[str, PeerSample]) -> None:
        """Who is sampled: all if they fit, else those with traffic before those without."""
        gone = [one for one, track in self._tracks.items() if one not in passed and track.quiet >= WINDOW]
        for node_id in gone:
            del self._tracks[node_id]
        new = [peer for peer in peers if peer.node_id not in self._tracks]
        if not new:
            return
        # The busy ones of this second first, then those with the most traffic ever.
        new.sort(key=lambda peer: (-_bytes(passed[peer.node_id]), -peer.tx_bytes - peer.rx_bytes))
        for peer in new:
            if len(self._tracks) >= MAX_SAMPLED and not self._make_room(passed[peer.node_id]):
                return
            self._tracks[peer.node_id] = _Track(peer, self._length)

    def _make_room(self, wanting: PeerSample) -> bool:
        if not _bytes(wanting):
            return False
        quietest = max(self._tracks, key=lambda node_id: self._tracks[node_id].quiet)
        if self._tracks[quietest].quiet < RESTING:
            return False
        del self._tracks[quietest]
        return True


def _passed(now: PeerReading, before: PeerReading | None) -> PeerSample:
    """Nothing can be told of a peer that is new, or whose counters began anew."""
    sent = now.tx_bytes - before.tx_bytes if before is not None else 0
    received = now.rx_bytes - before.rx_bytes if before is not None else 0
    return PeerSample(
        node_id=now.node_id,
        name=now.name,
        tx_bytes=max(0, sent),
        rx_bytes=max(0, received),
        rtt_ms=now.rtt_ms,
    )


def _bytes(sample: PeerSample) -> int:
    return sample.tx_bytes + sample.rx_bytes


def _sum(column: Iterable[int | None]) -> int:
    return sum(value for value in column if value is not None)
