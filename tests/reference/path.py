"""One path as the text of the policy has it: where it stands, and what is sent there. Times in seconds.

Measured round trips and the search for the largest size are given; the rest follows from what happened.
"""

from __future__ import annotations

from shadowmesh.path.keepalive import Keepalive
from shadowmesh.path.mtu import MtuSearch
from tests.reference.path_parts import ProbeLog, Sent, round_trip

INTERVALS = {"active": 1.0, "weighed": 1.0, "standby": 20.0}


class OnePath:
    """`relayed`: it is usable from the beginning, and is probed whatever happens."""

    def __init__(self, relayed: bool, now: float) -> None:
        self.relayed = relayed
        self.state = "usable" if relayed else "trying"
        self.pace = "rest"
        self.log = ProbeLog()
        self.mtu, self.keepalive = MtuSearch(), Keepalive()
        self.untranslated = False
        self.heard_at = self.answered_at = now
        self.left_at = now
        self.left: float | None = None
        """Until when it may answer, since the peer's frames come from elsewhere; 0: it did not."""
        self.unanswered: list[float] = []
        """When the rounds of probes went out that nothing has answered."""
        self.hurried = relayed
        self.quiet_since = now
        """The last probe or answer, or, of an idle one, sign of life."""
        self.ends_silence = False
        """Whether the round under way came after a silence of the keepalive's length."""
        self.big_lost = self.check_lost = 0

    @property
    def usable(self) -> bool:
        return self.state == "usable"

    @property
    def rtt(self) -> float:
        return round_trip(self.log.samples)[0] if self.log.samples else 0.0

    @property
    def patience(self) -> float:
        return max(0.6, 3 * self.rtt)

    @property
    def silent_since(self) -> float | None:
        return self.unanswered[0] if self.unanswered else None

    @property
    def searches(self) -> bool:
        if self.state == "checking":
            return True
        return self.usable and self.pace in ("active", "idle") and not self.unanswered

    def works(self, now: float) -> bool:
        return self.usable and (not self.unanswered or now - self.unanswered[0] < self.patience)

    def due(self) -> float | None:
        """When the next round of probes goes out."""
        if not (self.usable or self.relayed):
            return None
        if self.hurried:
            return 0.0
        if self.pace == "rest":
            return None
        if self.unanswered:
            return self.quiet_since + (0.2 if self.pace == "active" else 1.0)
        if self.pace == "idle":
            needs = not self.relayed and not self.untranslated
            return self.quiet_since + self.keepalive.interval if needs else None
        return self.quiet_since + INTERVALS[self.pace]

    # What happens.

    def hurry(self) -> None:
        self.hurried |= self.usable or self.relayed

    def hear(self, now: float) -> None:
        self.heard_at, self.left = now, None
        if self.pace == "idle" and not self.unanswered:
            self.quiet_since = now

    def carry(self, heard_at: float) -> None:
        self.heard_at = max(self.heard_at, heard_at)
        if heard_at > self.left_at:
            self.left = None

    def leave(self, now: float) -> None:
        if self.left is None:
            self.left_at, self.left = now, now + max(0.1, 2 * self.rtt)
        self.hurry()

    def prove(self, rtt: float, now: float) -> None:
        self.hear(now)
        self.log.samples.append(rtt)
        if self.state in ("trying", "failed"):
            self.state, self.mtu = "checking", MtuSearch()
            self.forget_probes()
            self.log.marks.clear()
            self.unanswered.clear()
            self.big_lost = self.check_lost = 0

    def answer(self, nonce: bytes, now: float) -> Sent | None:
        probe = self.log.answer(nonce, now)
        if probe is None:
            return None
        self.hear(now)
        if self.ends_silence:
            self.keepalive.handle_outlived()
        self.ends_silence = False
        self.unanswered.clear()
        self.answered_at = self.quiet_since = now
        if probe.size:
            self.big_lost = 0
            self.mtu.handle_answer(probe.size, now)
        if (probe.size and self.state == "checking") or (self.relayed and not self.usable):
            self.state = "usable"
        return probe

    def fail(self) -> None:
        if self.ends_silence:
            self.keepalive.handle_forgotten()
        self.ends_silence, self.state = False, "failed"
        if not self.relayed:
            self.forget_probes()
            self.hurried = False

    def poll(self, now: float) -> list[int]:
        """The sizes of the probes that go out."""
        if self.left is not None and now >= self.left:
            self.left = 0.0
        for probe in self.log.expire(now):
            if probe.size:
                self.lose(probe, now)
        sizes = []
        if self.searches and (size := self.mtu.due_size(now)) is not None:
            self.mtu.handle_sent()
            sizes.append(size)
        due = self.due()
        return sizes + (self.round(now) if due is not None and now >= due else [])

    def round(self, now: float) -> list[int]:
        self.hurried = False
        if not self.unanswered:
            longest = self.keepalive.interval - 1e-3
            self.ends_silence = self.pace == "idle" and now - self.quiet_since >= longest
        elif len(self.unanswered) >= 5 and now - self.unanswered[0] >= self.patience:
            self.fail()
            if not self.relayed:
                return []
        self.unanswered.append(now)
        self.quiet_since = now
        big = self.mtu.confirmed if self.pace == "active" else None
        # Where one was lost, two at once.
        return [0] if big is None else [0, big, *[big] * bool(self.big_lost)]

    def lose(self, probe: Sent, now: float) -> None:
        """One with a size."""
        self.mtu.handle_loss(probe.size, now)
        if self.state == "checking":
            self.check_lost += 1
            if self.check_lost >= 6:
                self.fail()
        elif self.mtu.confirmed is not None and probe.size <= self.mtu.confirmed:
            self.big_lost += 1
            if self.big_lost >= 5 and self.answered_at >= probe.at:
                self.big_lost = 0
                self.mtu.handle_black_hole(now)
            else:
                self.hurry()

    def forget_probes(self) -> None:
        for one in self.log.sent:
            one.fate = "forgotten"

    def deadline(self) -> float | None:
        """When something is to be done."""
        waiting = self.log.being("waits")
        times = [waiting[0].at + self.log.timeout if waiting else None, self.due(), self.left or None]
        if self.searches and self.mtu.due_size(0.0) is not None:
            times.append(0.0)
        elif self.searches and self.pace == "active":
            times.append(self.mtu.raise_at)
        return min((time for time in times if time is not None), default=None)
