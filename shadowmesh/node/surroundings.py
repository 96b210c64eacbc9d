"""The network around this node: its addresses, the way out, and a port of the router before it.

Joins the network monitor with the port mapper and tells the daemon what changed. Decides nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from shadowmesh.config import ClientConfig
from shadowmesh.io.network import NetworkMonitor
from shadowmesh.io.portmap import PortMapper
from shadowmesh.units import Address

log = logging.getLogger("shadowmesh")


class Surroundings:
    """Runs inside one event loop, from `start` to `stop`.

    :param bound: where the UDP socket is bound, with its real port.
    :param on_network: called with the local addresses whenever the network changed, and at the start.
    :param on_mapped: called with the router's outside address for us, or None, whenever it changed.
    :param on_wake: called soon after any change of links, addresses or routes of this machine.
    """

    def __init__(
        self,
        config: ClientConfig,
        bound: Address,
        on_network: Callable[[list[Address]], None],
        on_mapped: Callable[[Address | None], None],
        on_wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_network = on_network
        self._on_mapped = on_mapped
        self.monitor = NetworkMonitor(
            self._handle_network,
            bound,
            config.interface.name,
            config.interface.addresses,
            on_wake=on_wake,
        )
        self.mapper = PortMapper(self._handle_mapped, bound.port)
        self._maps = config.paths.port_mapping == "auto"

    def start(self) -> None:
        """Begin; without netlink a node works too, but learns of changes only by their consequences."""
        try:
            self.monitor.start()
        except OSError as error:
            log.warning("no news of the network's changes: %s [machine.netlink]", error)

    async def stop(self) -> None:
        """Give the router its port back, and listen no more."""
        await self.monitor.stop()
        await self.mapper.stop()

    def _handle_network(self, addresses: list[Address]) -> None:
        if self._maps:
            self.mapper.handle_network(self.monitor.snapshot.gateways)
        self._on_network(addresses)

    def _handle_mapped(self, external: Address | None) -> None:
        log.info("port mapping: %s", external or "none any more")
        self._on_mapped(external)
