"""Round-trip time, smoothed as in RFC 6298 section 2."""

from __future__ import annotations


class RoundTrip:
    """Smoothed round-trip time in seconds; None before the first sample."""

    def __init__(self) -> None:
        self.smoothed: float | None = None

    def measure(self, sample: float) -> None:
        """Take one sample, in seconds."""
        self.smoothed = sample if self.smoothed is None else 0.875 * self.smoothed + 0.125 * sample
