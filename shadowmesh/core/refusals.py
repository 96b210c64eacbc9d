"""What the guards refused of one peer: its counters, one example, and a line for the log now and then.

Does NOT decide what is refused (`ext/origin.pyx`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

INTERVAL = 60.0
"""Seconds between two lines about one peer: a flood of refused frames must not fill the log."""


class Refusals:
    """Call `handle_counts` once a second."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        """Frames by reason, since the start; reasons without any are left out."""
        self.example: str | None = None
        """What the last example was refused for, and what it claimed."""
        self._told: dict[str, int] = {}
        self._next_line = 0.0

    def handle_counts(self, found: Mapping[str, Any], now: float) -> str | None:
        """What the data plane has counted (`Engine.peer_refusals`); returns a line if one is due."""
        self.counts = {reason: count for reason, count in found.items() if reason != "example" and count}
        if found["example"] is not None:
            self.example = _words(*found["example"])
        if self.counts == self._told or now < self._next_line:
            return None
        news = {reason: count - self._told.get(reason, 0) for reason, count in self.counts.items()}
        self._told, self._next_line = dict(self.counts), now + INTERVAL
        counted = ", ".join(f"{reason} {count}" for reason, count in news.items() if count)
        return f"frames refused: {counted}; for example {self.example} [peer.frames-refused]"


def _words(reason: str, mac: bytes, address: bytes) -> str:
    ip = ipaddress.IPv6Address(address)
    claimed = f"the address {ip.ipv4_mapped or ip}, " if int(ip) else ""
    return f"{reason} of {claimed}MAC {mac.hex(':')}"
