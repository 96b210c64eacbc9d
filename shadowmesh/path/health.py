"""Whether the frames of a peer are answered: read from the counters of the data plane, ten times a second.

Only peers with traffic are looked at so often.  Two questions: have frames gone out, and nothing authentic
come back the same way, for too long?  And have frames come, and nothing gone back, so that the other side
must think the same of us?  Then an empty packet goes back on the way the frames came.
"""

from __future__ import annotations

from typing import NamedTuple

TICK = 0.1
"""Seconds between two looks at a peer with traffic: a sixth of the silence that ends a path."""
ANSWER_AFTER = 0.25
"""Seconds that received frames may stay without anything of ours: well below the 600 ms of silence."""
DOUBT_AFTER = 0.25
"""Seconds of silence after which the path is probed: the answer comes from the peer's event loop at once,
even if that has not noticed yet that frames arrive."""
ACTIVE_FOR = 3.0
"""Seconds after the last frame for which a peer counts as active."""


class Counters(NamedTuple):
    """Of one peer, since the start."""

    tx_frames: int
    rx_frames: int
    heard_at: float
    """Monotonic seconds of the last authentic packet from exactly where our frames go; 0.0 for none."""
    sealed: int = 0
    """Next packet number of the sealing lane: it also grows by frames that the system refuses to send."""


class Health:
    """One peer's traffic. Call `handle_counters` every `TICK` while `active`, else once a second."""

    def __init__(self) -> None:
        self._last = Counters(0, 0, 0.0)
        self._looked_at: float | None = None
        self._unanswered_since: float | None = None
        self._owing_since: float | None = None
        self._frames_at: float | None = None

    def active(self, now: float) -> bool:
        """Whether frames went or came lately."""
        return self.idle_for(now) < ACTIVE_FOR

    def idle_for(self, now: float) -> float:
        """Seconds since frames were last seen to go or come."""
        return float("inf") if self._frames_at is None else now - self._frames_at

    def silence(self, now: float) -> float:
        """Seconds for which frames have gone out on the present path without an answer."""
        return 0.0 if self._unanswered_since is None else now - self._unanswered_since

    def owes(self, now: float) -> bool:
        """Whether frames came that nothing has answered for `ANSWER_AFTER`."""
        return self._owing_since is not None and now - self._owing_since >= ANSWER_AFTER - 1e-3

    def handle_counters(self, counters: Counters, answers: bool, now: float) -> None:
        """What the data plane has counted.

        :param answers: whether our frames go back the way the peer's come: then they are answers.
        """
        sent = counters.tx_frames > self._last.tx_frames or counters.sealed > self._last.sealed
        received = counters.rx_frames > self._last.rx_frames
        self.handle_heard(counters.heard_at)
        if self._looked_at is not None and (sent or received):
            self._frames_at = now
        if sent and self._looked_at is not None and self._unanswered_since is None:
            self._unanswered_since = max(self._looked_at, counters.heard_at, now - TICK)
        if sent and answers:
            self._owing_since = None
        elif received and self._owing_since is None:
            self._owing_since = now if self._looked_at is None else max(self._looked_at, now - ANSWER_AFTER)
        self._last, self._looked_at = counters, now

    def handle_heard(self, heard_at: float) -> None:
        """Something authentic came at that time from where our frames go."""
        if self._unanswered_since is not None and heard_at > self._unanswered_since:
            self._unanswered_since = None

    def handle_answered(self) -> None:
        """An empty packet went back."""
        self._owing_since = None

    def handle_switch(self) -> None:
        """Frames take another path from now on."""
        self._unanswered_since = None
