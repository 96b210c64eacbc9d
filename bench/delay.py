"""A UDP proxy that delays every datagram, in a host of the lab: a long way to the relay.

Stands in for netem, which not every kernel has.  Precise to about a millisecond; one thread.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from shadowmesh.testing.lab import Host

MAX_DATAGRAM = 65_536
IDLE = 0.05
"""Seconds between two looks at the stop flag."""


class DelayProxy:
    """Clients send to `port` of `host`; what arrives goes on to `target` `delay` seconds later, and back."""

    def __init__(self, host: Host, port: int, target: tuple[str, int], delay: float) -> None:
        self._host = host
        self._target = target
        self._delay = delay
        self._front = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("", port))
        self._backs: dict[tuple[str, int], socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._front, selectors.EVENT_READ, None)
        self._queue: list[tuple[float, int, socket.socket, bytes, tuple[str, int]]] = []
        self._order = itertools.count()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="delay proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()
        for link in (self._front, *self._backs.values()):
            link.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stopping:
            wait = self._queue[0][0] - time.monotonic() if self._queue else IDLE
            for key, _ in self._selector.select(max(0.0, min(wait, IDLE))):
                data, source = self._receive(key.fileobj)
                if data:
                    self._put(key.data, data, source)
            while self._queue and self._queue[0][0] <= time.monotonic():
                _, _, link, data, address = heapq.heappop(self._queue)
                link.sendto(data, address)

    @staticmethod
    def _receive(link: object) -> tuple[bytes, tuple[str, int]]:
        assert isinstance(link, socket.socket)
        try:
            return link.recvfrom(MAX_DATAGRAM)
        except OSError:  # an ICMP error of an earlier datagram: the target is not there yet
            return b"", ("", 0)

    def _put(self, client: tuple[str, int] | None, data: bytes, source: tuple[str, int]) -> None:
        due, order = time.monotonic() + self._delay, next(self._order)
        if client is not None:
            heapq.heappush(self._queue, (due, order, self._front, data, client))
            return
        if source not in self._backs:
            back = self._host.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._backs[source] = back
            self._selector.register(back, selectors.EVENT_READ, source)
        heapq.heappush(self._queue, (due, order, self._backs[source], data, self._target))
