"""Where log lines go, and in which form: for the journal of systemd, or for people and files.

Both programs use it. It decides the form alone; what is logged, and how much, is each program's matter.
"""

from __future__ import annotations

import datetime as dt
import logging
import os

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
"""From which level on which priority of syslog(3)."""


def log_to(fd: int) -> None:
    """Send the log to `fd`, our own lines from level INFO on. Call once in a process."""
    # Unlike open(2), dup(2) keeps the position of a file that others write to as well.
    handler = logging.StreamHandler(os.fdopen(os.dup(fd), "w", buffering=1))
    handler.setFormatter(JournalFormatter() if is_journal(fd) else PlainFormatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger("shadowmesh").setLevel(logging.INFO)
    # aioquic warns of every handshake that it refuses; who connects to whom is in our own log.
    logging.getLogger("quic").setLevel(logging.ERROR)


def is_journal(fd: int) -> bool:
    """Whether `fd` leads to the journal. Source: systemd.exec(5), JOURNAL_STREAM.

    The variable alone says nothing: children inherit it, also those that write elsewhere.
    """
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class PlainFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123+01:00 INFO message`: local time with its zone."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return dt.datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


class JournalFormatter(logging.Formatter):
    """`<6>message`: the journal takes the priority from it, and has its own clock. Source: sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines() or [""])
