"""When a session with a peer is wanted: always (eagerly), or while there are frames for it (on demand).

Holds the first frames until the session is there, and says when one has served its time.  Nothing is dialled
or closed here, and frames of a session that stands never come by.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

from shadowmesh.wire.payload import Kind

EAGER_MEMBERS = 32
"""Members of a network up to which `connect: auto` is eager: a full mesh of them costs each node 32 sessions,
and as many handshakes at once when a relay returns (3 ms of CPU time at each end).  A quiet one is then about
80 kB, and a hundredth of a percent of a core (bench/members.py)."""
IDLE_AFTER = 300.0
"""Seconds without a frame from one to the other after which a session on demand ends: as long as connection
trackers keep an idle UDP flow, and far longer than a person pauses."""
WANTED_FOR = 60.0
"""Seconds after a frame that its peer is called again when a try fails: as long as ARP and TCP would hope."""
HOLD = 5.0
"""Seconds that a frame is held: a handshake takes three round trips, and what is later is of no use."""
HELD = 4
"""Frames held for one peer: an echo request, an opening of TCP, a question to DNS and one more."""

HEADERS: dict[int, int] = {Kind.FRAME: 1, Kind.SEGMENT: 5}
"""Bytes before the frame in the payloads that are held."""


@dataclass
class Connect:
    """How members that are met through the network are connected with; one per node."""

    mode: Literal["auto", "eager", "demand"] = "eager"
    met: int = 0
    """Members that the configuration does not list."""
    drops: Counter[str] = field(default_factory=Counter)

    @property
    def eager(self) -> bool:
        """Whether sessions are made before there is a frame."""
        return self.mode == "eager" or (self.mode == "auto" and self.met <= EAGER_MEMBERS)


class Demand:
    """The wish for a session with one peer.

    :param always: whether the configuration lists the peer.
    """

    def __init__(self, connect: Connect, always: bool) -> None:
        self._connect = connect
        self._always = always
        self._asleep = False
        """The peer ended the session because it was idle, so that being eager would only wake it."""
        self._until = 0.0
        self.sent_frames = self.sent_bytes = 0
        """Of the frames that were held, and then sent past the data plane, which counts all others."""
        self._held: deque[tuple[float, bytes]] = deque()

    def wanted(self, now: float) -> bool:
        """Whether a missing session is to be made."""
        return now < self._until or ((self._always or self._connect.eager) and not self._asleep)

    def want(self, payload: bytes, now: float) -> None:
        """There is a frame for the peer; `payload` around it is held, unless it is empty."""
        self._until = now + WANTED_FOR
        self._asleep = False
        if payload:
            self._held.append((now + HOLD, payload))
        self.expire(now)

    def keep(self) -> bool:
        """The peer is wanted always, from now on; whether that is news."""
        news, self._always = not self._always, True
        return news

    def sleep(self) -> None:
        """The session has ended because it was idle."""
        self._asleep, self._until = True, 0.0

    def take_held(self, now: float) -> list[bytes]:
        """The payloads to send now that there is a session, oldest first."""
        self.expire(now)
        held = [payload for _, payload in self._held]
        self._held.clear()
        return held

    def note_sent(self, payload: bytes) -> None:
        """One that was taken is on its way."""
        self.sent_frames += 1
        self.sent_bytes += len(payload) - HEADERS.get(payload[0], 0)

    def note_unsent(self) -> None:
        """One that was taken could not be sealed."""
        self._connect.drops["held_too_long"] += 1

    def is_idle(self, last_frame: float, now: float) -> bool:
        """Whether a session that carried a unicast frame at `last_frame` has served its time."""
        on_demand = not self._always and not self._connect.eager
        return on_demand and now >= max(last_frame + IDLE_AFTER, self._until)

    def expire(self, now: float) -> None:
        """Give up what has been held for too long."""
        while self._held and (len(self._held) > HELD or self._held[0][0] <= now):
            self._held.popleft()
            self._connect.drops["held_too_long"] += 1
