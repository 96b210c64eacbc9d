"""The compiled engine as the core's `Tables`: addresses become sockaddr, nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

from shadowmesh._ext.engine import Engine
from shadowmesh._ext.lanes import SendKeys
from shadowmesh.io.udp import to_sockaddr
from shadowmesh.units import BUDGET, Address


class EngineTables:
    """`shadowmesh.core.shared.Tables` over an `Engine`.

    :param family: address family of the engine's UDP socket.
    """

    def __init__(self, engine: Engine, family: int) -> None:
        self._engine = engine
        self._family = family
        self._sources: Counter[Address] = Counter()
        self.add_peer = engine.add_peer
        self.set_own_addresses = engine.set_own_addresses
        self.set_sources = engine.set_sources
        self.clear_route = engine.clear_route
        self.set_bridging = engine.set_bridging
        self.install_receive = engine.install_receive
        self.retire_receive = engine.retire_receive
        self.install_channel = engine.install_channel
        self.install_control = engine.install_control
        self.remove = engine.remove

    def new_send_keys(self, material: bytearray, expires_at: float) -> Any:
        return SendKeys(material, expires_at=expires_at)

    def set_lane(self, peer: int, keys: Any, lane: int, receiver_id: bytes) -> None:
        self._engine.set_lane(peer, keys, lane, receiver_id)

    def set_endpoint(self, peer: int, address: Address, channel: bytes, *, budget: int = BUDGET) -> None:
        self._engine.set_endpoint(peer, to_sockaddr(address, self._family), channel, budget=budget)

    def allow_source(self, address: Address) -> None:
        """Counted: the names of two relays may stand for one address."""
        self._sources[address] += 1
        if self._sources[address] == 1:
            self._engine.allow_source(to_sockaddr(address, self._family))

    def forbid_source(self, address: Address) -> None:
        self._sources[address] -= 1
        if not self._sources[address]:
            del self._sources[address]
            self._engine.forbid_source(to_sockaddr(address, self._family))

    def peer_counters(self, peer: int) -> dict[str, Any]:
        return self._engine.peer_counters(peer)

    def peer_refusals(self, peer: int) -> dict[str, Any]:
        return self._engine.peer_refusals(peer)
