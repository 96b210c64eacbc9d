"""The small parts of the path layer, slowly: everything that ever happened is kept, and each question looks
through all of it. Times in seconds.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


def round_trip(samples: list[float]) -> tuple[float, float]:
    """Smoothed, and its variation: RFC 6298 section 2."""
    smoothed, variation = samples[0], samples[0] / 2
    for sample in samples[1:]:
        variation += (abs(smoothed - sample) - variation) / 4
        smoothed += (sample - smoothed) / 8
    return smoothed, variation


@dataclass
class Sent:
    """A probe; `size` 0: one that tries no size."""

    nonce: bytes
    at: float
    size: int
    fate: str = "waits"
    """Or "late" (lost, as far as one knows), "answered", "forgotten"."""


class ProbeLog:
    """Every probe of one path."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.samples: list[float] = []
        self.marks: list[str] = []
        """What became of small ones: "answered", "lost", or "late" for a lost one whose answer came."""

    @property
    def timeout(self) -> float:
        if not self.samples:
            return 0.5
        smoothed, variation = round_trip(self.samples)
        return max(0.15, smoothed + 4 * variation)

    @property
    def loss(self) -> float:
        loss = 0.0
        for mark in self.marks:
            loss = max(0.0, loss - 1 / 16) if mark == "late" else loss + ((mark == "lost") - loss) / 16
        return loss

    @property
    def counted(self) -> int:
        return min(31, sum(mark != "late" for mark in self.marks))

    def being(self, fate: str) -> list[Sent]:
        return [one for one in self.sent if one.fate == fate]

    def send(self, nonce: bytes, now: float, size: int) -> None:
        for one in self.being("waits")[:-31]:
            one.fate = "forgotten"
        self.sent.append(Sent(nonce, now, size))

    def answer(self, nonce: bytes, now: float) -> Sent | None:
        one = next((one for one in self.sent if one.nonce == nonce and one.fate in ("waits", "late")), None)
        if one is not None:
            if not one.size:
                self.marks.append("late" if one.fate == "late" else "answered")
            one.fate = "answered"
            self.samples.append(now - one.at)
        return one

    def expire(self, now: float) -> list[Sent]:
        lost = [one for one in self.being("waits") if now - one.at >= self.timeout - 1e-6]
        for one in lost:
            self.sent.remove(one)  # the order among the late ones is that in which they became late
            self.sent.append(one)
            one.fate = "late"
            self.marks += ["lost"] * (not one.size)
        for one in self.being("late")[:-32]:
            one.fate = "forgotten"
        return lost


class Challenges:
    """Every packet of the re-handshake; `way`: where it went."""

    def __init__(self) -> None:
        self.last: dict[str, dict[Hashable, float]] = {"request": {}, "response": {}}
        """When the last one of each kind went to an address."""
        self.challenges: list[tuple[bytes, Hashable, float]] = []
        self.redeemed: set[bytes] = set()

    def may_send(self, kind: str, way: Hashable, now: float) -> bool:
        """Five a second to one address, and to 64 addresses."""
        last = self.last[kind]
        if way in last and now - last[way] < 0.2 - 1e-6:
            return False
        newest = sorted(last.values())[-64:]
        return (way in last and last[way] in newest) or len(newest) < 64 or now - newest[0] >= 0.2

    def send(self, kind: str, way: Hashable, challenge: bytes, now: float) -> None:
        self.last[kind][way] = now
        self.challenges.append((challenge, way, now))

    def redeem(self, echo: bytes, way: Hashable, now: float) -> float | None:
        """The round trip; None where the echo proves nothing."""
        waiting = [one for one in self.challenges if one[0] not in self.redeemed][-256:]
        for challenge, sent_on, at in waiting:
            if (challenge, sent_on) == (echo, way) and now - at <= 5:
                self.redeemed.add(echo)
                return now - at
        return None


@dataclass
class Look:
    """At the counters of one peer."""

    at: float
    sent: bool
    received: bool
    answers: bool
    heard_at: float


@dataclass
class Traffic:
    """Everything that was seen of the frames of one peer: looks, and other things with their time."""

    events: list[Look | tuple[str, float]] = field(default_factory=list)

    def looks(self) -> list[Look]:
        return [one for one in self.events if isinstance(one, Look)]

    def idle_for(self, now: float) -> float:
        """The first look sees nothing: what was counted before it may be old."""
        return min(
            (now - one.at for one in self.looks()[1:] if one.sent or one.received), default=float("inf")
        )

    def silent_since(self) -> float | None:
        """Since when frames go out on the present path without an answer."""
        since, before = None, None
        for one in self.events:
            heard = one.heard_at if isinstance(one, Look) else one[1] if one[0] == "heard" else -1.0
            if not isinstance(one, Look) and one[0] == "switch":
                since = None
            if since is not None and heard > since:
                since = None
            if isinstance(one, Look):
                if one.sent and before is not None and since is None:
                    since = max(before, one.heard_at, one.at - 0.1)
                before = one.at
        return since

    def owes_since(self) -> float | None:
        """Since when frames came in and nothing went back the same way."""
        since, before = None, None
        for one in self.events:
            if not isinstance(one, Look):
                since = None if one[0] == "answered" else since
                continue
            if one.sent and one.answers:
                since = None
            elif one.received and since is None:
                since = one.at if before is None else max(before, one.at - 0.25)
            before = one.at
        return since
