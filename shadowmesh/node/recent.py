"""The latest lines of the log, kept in memory for who asks on the local API; the log itself goes elsewhere.

What it holds is what the log says, so that what may not be logged can't be here; `log.addresses: off` counts.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator

from shadowmesh.api.live import LOG_LINES, Level, LogLine, LogQuery, LogReply
from shadowmesh.io.logs import without_addresses
from shadowmesh.observing import LogSection

MAX_TEXT = 4000
"""Characters of one entry: more than a traceback has that is worth reading. All take 4 MB at most."""

LEVELS: tuple[tuple[int, Level], ...] = (
    (logging.CRITICAL, "critical"),
    (logging.ERROR, "error"),
    (logging.WARNING, "warning"),
    (logging.INFO, "info"),
    (logging.NOTSET, "debug"),
)
"""From which number on each is meant."""


class RecentLog(logging.Handler):
    """Keeps the lines; any thread may log."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter())
        self.listener: Callable[[LogLine], None] | None = None
        """Told of each line, in the thread that logs it."""
        self._lines: deque[LogLine] = deque(maxlen=LOG_LINES)
        self._last = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._keep(record)
        except Exception:
            self.handleError(record)

    def _keep(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._last += 1
        line = LogLine(
            number=self._last,
            at=round(record.created, 3),
            level=next(name for number, name in LEVELS if record.levelno >= number),
            text=text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…",
        )
        self._lines.append(line)
        if self.listener is not None:
            self.listener(line)

    def show(self, wanted: LogQuery) -> LogReply:
        """The latest lines of the level wanted and above."""
        least = next(number for number, name in LEVELS if name == wanted.level)
        shown = {name for number, name in LEVELS if number >= least}
        lines = [line for line in list(self._lines) if line.level in shown]
        return LogReply(lines=lines[-wanted.lines :] if wanted.lines else [], last=self._last)

    def after(self, number: int) -> list[LogLine]:
        """The lines after that one; all if it is none of ours: it is of an earlier run of the client."""
        lines = list(self._lines)
        return lines if number > self._last else [line for line in lines if line.number > number]


@contextlib.contextmanager
def remember(settings: LogSection) -> Iterator[RecentLog]:
    """Keep what is logged while the body runs."""
    recent = RecentLog()
    if not settings.addresses:
        recent.addFilter(without_addresses)
    logging.getLogger().addHandler(recent)
    try:
        yield recent
    finally:
        logging.getLogger().removeHandler(recent)
