"""How busy the relay is, and whom to tell: `CpuLoad` reads the machine, `LoadNews` is sans-I/O.

Load is percent of what limits the relay first: the busiest of its threads, or its places for clients.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .clients import Client

WINDOW = 4.0
"""Seconds at least over which a thread's use of its core is taken: less than a sweep."""
STEP = 10
"""Points by which the load must differ from what a client was told."""
MOST = 256
"""Clients that are told in one sweep (5 s): ten thousand take three minutes, and no burst of datagrams."""

_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME = 11
"""Fields behind the command's name, from its state on. Source: proc(5), /proc/PID/stat."""


class CpuLoad:
    """The share of a core, in percent, that the busiest thread of this process takes."""

    def __init__(self) -> None:
        self._threads = Path("/proc/self/task")
        self._used = self._read()
        self._read_at = time.monotonic()
        self._load = 0

    def __call__(self) -> int:
        """Over the time since it was last computed, `WINDOW` at least."""
        now = time.monotonic()
        if now - self._read_at >= WINDOW:
            try:
                used = self._read()
            except OSError:
                return self._load  # no descriptor is free: the next look covers this time too
            most = max((ticks - self._used.get(thread, 0) for thread, ticks in used.items()), default=0)
            self._load = min(100, round(100 * most / _TICKS / (now - self._read_at)))
            self._used, self._read_at = used, now
        return self._load

    def _read(self) -> dict[str, int]:
        """Ticks of each thread so far."""
        used = {}
        for thread in self._threads.iterdir():
            try:
                fields = (thread / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            used[thread.name] = int(fields[_UTIME]) + int(fields[_UTIME + 1])
        return used


class LoadNews:
    """What each client was told."""

    def __init__(self) -> None:
        self._told: dict[int, int] = {}

    def first(self, client: Client, load: int) -> None:
        """It is told with its ticket."""
        self._told[client.handle] = load

    def forget(self, client: Client) -> None:
        """It is gone."""
        self._told.pop(client.handle, None)

    def due(self, clients: Iterable[Client], load: int) -> Iterator[Client]:
        """Whom to tell now; they count as told. Guests are told nothing."""
        left = MOST
        for client in clients:
            told = self._told.get(client.handle)
            if told is not None and abs(load - told) >= STEP and left:
                left -= 1
                self._told[client.handle] = load
                yield client
