"""The relay legs of this node that run, or may soon run, over TCP. Does what the core's events ask for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shadowmesh._ext.bundle import Bundler
from shadowmesh.config import RelayPeer
from shadowmesh.core.shared import DialCarrier, HangUpCarrier
from shadowmesh.units import Address

if TYPE_CHECKING:
    from shadowmesh.io.carrier import Carrier


class Carriers:
    """Runs inside one event loop, until `stop`.

    :param bound: where the engine's UDP socket is bound.
    :param on_change: called with a relay's index and what `Core.handle_carrier` wants to know.
    """

    def __init__(
        self,
        relays: Sequence[RelayPeer],
        bound: Address,
        on_change: Callable[[int, Address | None, str, Address | None], None],
    ) -> None:
        self._relays = relays
        self._bound = bound
        self._on_change = on_change
        self._bundler: Bundler | None = None
        self._carriers: dict[int, Carrier] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._dropped = 0

    def serve(self, event: DialCarrier | HangUpCarrier) -> None:
        """Do what the core asks."""
        if isinstance(event, DialCarrier):
            self.dial(event.index)
        else:
            self.hang_up(event.index)

    def dial(self, index: int) -> None:
        """Connect to this relay over TCP."""
        from shadowmesh.io.carrier import Carrier  # few need TCP, and its libraries take 2 MB

        self.hang_up(index)
        self._bundler = self._bundler or Bundler()

        def changed(carrier: Carrier, address: Address | None, problem: str) -> None:
            if self._carriers.get(index) is not carrier:
                return
            if address is None:
                self._forget(index)
            self._on_change(index, address, problem, carrier.remote if address is not None else None)

        self._carriers[index] = Carrier(self._relays[index], self._bundler, self._bound, changed)

    def hang_up(self, index: int) -> None:
        """Close the connection, or give up the try."""
        if index in self._carriers:
            task = self._forget(index).close()
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        """Close all of them."""
        for index in list(self._carriers):
            self.hang_up(index)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def of(self, index: int) -> Carrier | None:
        """The connection to this relay, if there is one or one is tried."""
        return self._carriers.get(index)

    @property
    def drops(self) -> Counter[str]:
        """Datagrams that found the queue full, the connection being slower."""
        drops: Counter[str] = Counter()
        drops["carrier_queue_full"] = self._dropped + sum(map(_dropped, self._carriers.values()))
        return +drops

    def _forget(self, index: int) -> Carrier:
        carrier = self._carriers.pop(index)
        self._dropped += _dropped(carrier)
        return carrier


def _dropped(carrier: Carrier) -> int:
    return carrier.tunnel.dropped if carrier.tunnel is not None else 0
