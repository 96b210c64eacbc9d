"""What `top` shows, computed from what the local API tells: rates, sparklines, order. Draws nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from shadowmesh.api.live import LogLine, Sample, Samples
from shadowmesh.api.schema import PeerStatus, RelayStatus, Status

SPAN = 60
"""Seconds of history behind a sparkline: what one remembers of what one just did."""
SMOOTH = 3
"""Seconds that a rate is the mean of: a number that jumps can't be read."""
LOG_KEPT = 200
"""Lines of the log: more than any terminal shows."""

_BLOCKS = "▁▂▃▄▅▆▇█"

Order = Literal["traffic", "sent", "received", "rtt", "name", "state"]
_STATES = ("connected", "connecting", "idle", "absent")


class Pulse:
    """The last minute of one node: bytes sent and received, second by second."""

    def __init__(self) -> None:
        self.tx: deque[int] = deque(maxlen=SPAN)
        self.rx: deque[int] = deque(maxlen=SPAN)
        self.rtt_ms: deque[float] = deque(maxlen=SPAN)

    def add(self, tx: int, rx: int, rtt_ms: float | None = None) -> None:
        """One more second."""
        self.tx.append(tx)
        self.rx.append(rx)
        if rtt_ms is not None:
            self.rtt_ms.append(rtt_ms)

    @property
    def tx_rate(self) -> float:
        """Bytes a second, just now."""
        return _mean(self.tx)

    @property
    def rx_rate(self) -> float:
        """Bytes a second, just now."""
        return _mean(self.rx)

    @property
    def both(self) -> list[int]:
        """Sent and received together, second by second."""
        return [sent + received for sent, received in zip(self.tx, self.rx, strict=True)]


class Row(msgspec.Struct, frozen=True):
    """One peer."""

    peer: PeerStatus
    pulse: Pulse
    rtt_ms: float | None


class Drop(msgspec.Struct, frozen=True):
    """One reason; `rate` is in packets a second since the status before, None with the first."""

    reason: str
    count: int
    rate: float | None


class Board:
    """What is known now. `take` everything that the API tells, in order."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.node = Pulse()
        self.drops_per_second: deque[int] = deque(maxlen=SPAN)
        self.log: deque[LogLine] = deque(maxlen=LOG_KEPT)
        self._peers: dict[str, Pulse] = {}
        self._before: Status | None = None

    def begin(self, history: Samples) -> None:
        """The samples of before; what was not sampled counts as nothing."""
        self.node, self._peers = Pulse(), {}
        self.drops_per_second.clear()
        for index in range(max(0, len(history.at) - SPAN), len(history.at)):
            self.node.add(history.tx_bytes[index], history.rx_bytes[index])
            self.drops_per_second.append(history.drops[index])
        for peer in history.peers:
            pulse = self._pulse(peer.node_id)
            columns = zip(peer.tx_bytes, peer.rx_bytes, peer.rtt_ms, strict=True)
            for sent, received, rtt_ms in list(columns)[-SPAN:]:
                pulse.add(sent or 0, received or 0, rtt_ms)

    def take(self, event: Status | Sample | LogLine) -> None:
        """The next event."""
        if isinstance(event, Status):
            self._before, self.status = self.status, event
        elif isinstance(event, LogLine):
            self.log.append(event)
        else:
            self._take_sample(event)

    def rows(self, order: Order, reverse: bool = False) -> list[Row]:
        """All peers, in that order: the largest first, names from A, the fastest round trip first."""
        peers = self.status.peers if self.status is not None else []
        rows = [Row(peer, self._pulse(peer.node_id), self._rtt(peer)) for peer in peers]
        return sorted(rows, key=lambda row: (_key(row, order), row.peer.name), reverse=reverse)

    def relays(self) -> list[RelayStatus]:
        """All relays, the home relay first."""
        relays = self.status.relays if self.status is not None else []
        return sorted(relays, key=lambda relay: not relay.home)

    def drops(self) -> list[Drop]:
        """What was dropped since `up`, what grows fastest first."""
        if self.status is None:
            return []
        found = [
            Drop(reason, count, self._drop_rate(reason, count))
            for reason, count in self.status.drops.items()
            if count
        ]
        return sorted(found, key=lambda drop: (-(drop.rate or 0.0), -drop.count))

    def _take_sample(self, sample: Sample) -> None:
        self.node.add(sample.tx_bytes, sample.rx_bytes)
        self.drops_per_second.append(sample.drops)
        told = {peer.node_id: peer for peer in sample.peers}
        for node_id in {*self._peers, *told}:
            peer = told.get(node_id)
            self._pulse(node_id).add(
                peer.tx_bytes if peer else 0, peer.rx_bytes if peer else 0, peer.rtt_ms if peer else None
            )

    def _pulse(self, node_id: str) -> Pulse:
        return self._peers.setdefault(node_id, Pulse())

    def _rtt(self, peer: PeerStatus) -> float | None:
        if peer.state != "connected":
            return None
        pulse = self._pulse(peer.node_id)
        return pulse.rtt_ms[-1] if pulse.rtt_ms else peer.rtt_ms

    def _drop_rate(self, reason: str, count: int) -> float | None:
        before, now = self._before, self.status
        if before is None or now is None:
            return None
        passed = now.node.uptime - before.node.uptime
        return max(0, count - before.drops.get(reason, 0)) / passed if passed > 0 else None


def _key(row: Row, order: Order) -> tuple[float, float]:
    """Smaller is further up."""
    state = float(_STATES.index(row.peer.state))
    if order == "name":
        return 0.0, 0.0
    if order == "state":
        return state, 0.0
    if order == "rtt":
        return (0.0, row.rtt_ms) if row.rtt_ms is not None else (1.0, state)
    sent, received = row.pulse.tx_rate, row.pulse.rx_rate
    return -{"sent": sent, "received": received, "traffic": sent + received}[order], state


def sparkline(values: Sequence[float], width: int) -> str:
    """The latest `width` values as bars, the newest at the right; the largest is full, nothing is a dot."""
    shown = list(values)[-width:]
    most = max(shown, default=0.0)
    bars = "".join(_bar(value, most) for value in shown)
    return bars.rjust(width)


def _bar(value: float, most: float) -> str:
    if value <= 0:
        return "·"
    return _BLOCKS[min(len(_BLOCKS) - 1, int(value / most * len(_BLOCKS)))]


def bit_rate(byte_rate: float) -> str:
    """Bits a second with three digits: 0, 950 bit/s, 1.25 kbit/s, 12.5 Mbit/s."""
    value, unit = byte_rate * 8, 0
    if value < 0.5:
        return "0"
    units = ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s")
    while value >= 999.5 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    digits = 0 if unit == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {units[unit]}"


def _mean(values: Iterable[int]) -> float:
    latest = list(values)[-SMOOTH:]
    return sum(latest) / len(latest) if latest else 0.0
