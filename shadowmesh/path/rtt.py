"""Round-trip time and its variation, smoothed as in RFC 6298 section 2; and what is typical of it."""

from __future__ import annotations

from collections import deque
from statistics import median_low

RECENT = 8
"""Samples that say what is typical."""


class RoundTrip:
    """Seconds; None before the first sample."""

    def __init__(self) -> None:
        self.smoothed: float | None = None
        self.variation: float | None = None
        """Mean deviation of the samples: what is shown as jitter."""
        self.typical: float | None = None
        """Median of the recent samples, and twice their median deviation from it: one bad moment counts for
        nothing from the next sample on, where a mean would remember it for many."""
        self._recent: deque[float] = deque(maxlen=RECENT)

    def measure(self, sample: float) -> None:
        """Take one sample, in seconds."""
        self._recent.append(sample)
        middle = median_low(self._recent)
        self.typical = middle + 2 * median_low(abs(middle - one) for one in self._recent)
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
