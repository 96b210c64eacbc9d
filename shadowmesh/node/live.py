"""What the daemon tells while somebody looks: samples, changes of the status, lines of the log.

Nothing here wakes the daemon unless somebody has asked for samples within the last minutes, or reads events.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable

from shadowmesh.api.events import Stream, Streams, event
from shadowmesh.api.live import LogLine, LogQuery, LogReply, Samples, SamplesQuery
from shadowmesh.api.schema import Status
from shadowmesh.io.shield import survives
from shadowmesh.node.recent import RecentLog
from shadowmesh.node.samples import History, Reading

INTERVAL = 1.0
"""Seconds between samples."""
LINGER = 300.0
"""Seconds that sampling goes on after the last question: who looks again soon finds no gap."""
REFRESH = 10.0
"""Seconds after which a status is told though nothing in its outline has changed: its counters have."""


class Live:
    """Serves samples, events and the log. `start` comes before, `stop` after everything else.

    :param read: the totals now.
    :param outline: what has to change in a status to be told at once.
    :param status: the whole status.
    """

    def __init__(
        self,
        read: Callable[[], Reading],
        outline: Callable[[], Hashable],
        status: Callable[[], Status],
        recent: RecentLog,
    ) -> None:
        self.streams = Streams()
        self._read = read
        self._outline = outline
        self._status = status
        self._recent = recent
        self._history = History()
        self._asked_at = -LINGER
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._told: Hashable = None
        self._told_at = 0.0

    @property
    def drops(self) -> Counter[str]:
        """Readers of events that were cut off."""
        drops: Counter[str] = Counter()
        drops["event_reader_slow"] = self.streams.cut
        return drops

    def start(self) -> None:
        """Begin to pass the log on. Inside the event loop."""
        loop = asyncio.get_running_loop()

        def listen(line: LogLine) -> None:
            """From any thread, and never while something else is being published."""
            loop.call_soon_threadsafe(self.streams.publish, "log", line, line.number)

        self._recent.listener = listen

    def stop(self) -> None:
        """Tell nothing more."""
        self._recent.listener = None
        if self._timer is not None:
            self._timer.cancel()

    def samples(self, wanted: SamplesQuery) -> Samples:
        """The latest samples; sampling begins now if it did not go on."""
        self._asked_at = time.monotonic()
        self._begin()
        return self._history.show(wanted.seconds)

    def log(self, wanted: LogQuery) -> LogReply:
        """The latest lines of the log."""
        return self._recent.show(wanted)

    def greet(self, stream: Stream, last: int | None) -> None:
        """What a stream begins with: the lines that its reader missed, and the status."""
        if "log" in stream.kinds and last is not None:
            stream.put(b"".join(event("log", line, line.number) for line in self._recent.after(last)))
        if "status" in stream.kinds:
            stream.put(event("status", self._status()))
        if not stream.kinds.isdisjoint(("status", "sample")):
            self._begin()

    def _begin(self) -> None:
        if self._timer is None:
            self._due = time.monotonic()
            self._history = History()
            self._told, self._told_at = self._outline(), self._due
            self._tick()

    def _tick(self) -> None:
        self._timer = None
        now = time.monotonic()
        if not self.streams.wanted("status", "sample") and now - self._asked_at > LINGER:
            self._history = History()
            return
        self._due += INTERVAL
        if self._due <= now:  # late by a second and more: it does not catch up
            self._due = now + INTERVAL
        self._timer = asyncio.get_running_loop().call_later(self._due - now, self._tick)
        survives(self._sample)
        if self.streams.wanted("status"):
            survives(self._tell_changes, now)

    def _sample(self) -> None:
        sample = self._history.add(self._read())
        if sample is not None:
            self.streams.publish("sample", sample)

    def _tell_changes(self, now: float) -> None:
        outline = self._outline()
        if outline != self._told or now - self._told_at >= REFRESH:
            self._told, self._told_at = outline, now
            self.streams.publish("status", self._status())
