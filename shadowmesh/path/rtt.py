"""Round-trip time and its variation, smoothed as in RFC 6298 section 2; and the lowest."""

from __future__ import annotations

from collections import deque

RECENT = 8
"""Samples of which the lowest counts, as in NTP's clock filter (RFC 5905 section 10)."""


class RoundTrip:
    """Seconds; None before the first sample."""

    def __init__(self) -> None:
        self.smoothed: float | None = None
        self.variation: float | None = None
        """Mean deviation of the samples: what is shown as jitter."""
        self.lowest: float | None = None
        """Of the recent samples: how far it is, without the queues and busy machines that others met."""
        self._recent: deque[float] = deque(maxlen=RECENT)

    def measure(self, sample: float) -> None:
        """Take one sample, in seconds."""
        self._recent.append(sample)
        self.lowest = min(self._recent)
        if self.smoothed is None or self.variation is None:
            self.smoothed, self.variation = sample, sample / 2
            return
        self.variation = 0.75 * self.variation + 0.25 * abs(self.smoothed - sample)
        self.smoothed = 0.875 * self.smoothed + 0.125 * sample

    def timeout(self, at_least: float, unknown: float) -> float:
        """Seconds after which an answer counts as lost: RFC 6298's formula, or `unknown` without a sample."""
        if self.smoothed is None or self.variation is None:
            return unknown
        return max(at_least, self.smoothed + 4 * self.variation)
