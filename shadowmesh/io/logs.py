"""Where log lines go, and in which form: for the journal of systemd, or for people and files.

Both programs use it. It decides the form alone; what is logged, and how much, is each program's matter.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import logging
import os
import re

from shadowmesh.command import is_journal
from shadowmesh.observing import LogSection

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
"""From which level on which priority of syslog(3)."""


_ADDRESSES = re.compile(
    r"\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:%\w+)?\](?::\d+)?"  # [2001:db8::1]:4433
    r"|(?<![\w:.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?!\w|\.\w)"  # a full stop may follow
)
_IPV6 = re.compile(r"(?<![\w:.])([0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F.]*)(?:%\w+)?(?!\w)")
"""What may be one, with a colon or full stop of the sentence: a time of day looks the same at first."""
_NODE_IDS = re.compile(r"(?<!\w)(?:[a-z2-7]{52}(?!\w)|[a-z2-7]{10}…)")
"""As people copy them, and shortened as both programs show them."""


def _priority(record: logging.LogRecord) -> int:
    return next(number for level, number in _PRIORITIES if record.levelno >= level)


def log_to(fd: int, settings: LogSection | None = None) -> None:
    """Send the log to `fd`, our own lines from level INFO on. Call once in a process."""
    chosen = settings or LogSection()
    # Unlike open(2), dup(2) keeps the position of a file that others write to as well.
    handler = logging.StreamHandler(os.fdopen(os.dup(fd), "w", buffering=1))
    in_journal = is_journal(fd)
    plain = JournalFormatter() if in_journal else PlainFormatter()
    handler.setFormatter(JsonFormatter(in_journal) if chosen.format == "json" else plain)
    if not chosen.addresses:
        handler.addFilter(without_addresses)
    logging.getLogger().addHandler(handler)
    logging.getLogger("shadowmesh").setLevel(logging.INFO)
    # aioquic warns of every handshake that it refuses; who connects to whom is in our own log.
    logging.getLogger("quic").setLevel(logging.ERROR)


def hide(text: str) -> str:
    """The text without IP addresses and NodeIDs."""
    return _NODE_IDS.sub("[node]", _IPV6.sub(_hide_ipv6, _ADDRESSES.sub("[address]", text)))


def _hide_ipv6(match: re.Match[str]) -> str:
    text = match[1]
    for address in (text, text[:-1]):
        with contextlib.suppress(ValueError):
            ipaddress.IPv6Address(address)
            return f"[address]{text[len(address) :]}"
    return match[0]


def without_addresses(record: logging.LogRecord) -> bool:
    """Take addresses and NodeIDs out of what is logged at INFO and below, but for our own (`extra=OWN`).

    Warnings and errors keep them: whoever has to act on one must know where.
    """
    if record.levelno <= logging.INFO and not getattr(record, "own", False):
        record.msg, record.args = hide(record.getMessage()), ()
    return True


OWN = {"own": True}
"""For `extra`: the line is about this machine."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, perhaps `exception`.

    :param in_journal: the journal gets the priority as from `JournalFormatter`, and takes it off the line.
    """

    def __init__(self, in_journal: bool = False) -> None:
        super().__init__()
        self._in_journal = in_journal

    def format(self, record: logging.LogRecord) -> str:
        when = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        line = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        text = json.dumps(line, ensure_ascii=False)
        return f"<{_priority(record)}>{text}" if self._in_journal else text


class PlainFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.123+01:00 INFO message`: local time with its zone."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return dt.datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


class JournalFormatter(logging.Formatter):
    """`<6>message`: the journal takes the priority from it, and has its own clock. Source: sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        priority = _priority(record)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines() or [""])
