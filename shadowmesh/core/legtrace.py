"""What a try to reach a relay looks like in a trace.

    relay.connect
      +- relay.resolve         the look-up of its name
      +- relay.tunnel          TCP, TLS and WebSocket, where UDP brings no answer
      +- relay.attempt         one by UDP, perhaps another one over TCP
           +- quic.handshake, session.proofs, session.confirmation: the last is the relay's admission

Nothing is decided here, and nothing is kept while nobody wants traces.
"""

from __future__ import annotations

from shadowmesh.config import RelayPeer
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.stages import QUIET, Stage, Stages
from shadowmesh.units import Address


class LegTrace:
    """Of one relay of the configuration."""

    __slots__ = ("_config", "_index", "_resolve", "_stages", "_tunnel", "_whole")

    def __init__(self, stages: Stages, index: int, config: RelayPeer) -> None:
        self._stages = stages
        self._index = index
        self._config = config
        self._whole = self._resolve = self._tunnel = QUIET

    def begin(self, now: float) -> None:
        """The relay's name is looked up."""
        if not self._stages.on:
            return
        self._whole = self._stages.begin("relay.connect", now, relay=self._index)
        self._whole.confide(
            relay_id=node_id_text(self._config.id),
            server_address=self._config.host,
            server_port=self._config.port,
        )
        self._resolve = self._whole.part("relay.resolve", now)

    def handle_resolved(self, found: bool, problem: str, now: float) -> None:
        """The answer to that."""
        self._resolve.end(now, "" if found else "not_found", problem)

    def note_dialling(self, dialling: bool, now: float) -> None:
        """Whether a tunnel is being made just now."""
        if dialling and self._whole.under_way and not self._tunnel.under_way:
            self._tunnel = self._whole.part("relay.tunnel", now)
        elif not dialling:
            self._tunnel.end(now, "abandoned")

    def handle_tunnel(self, stands: bool, problem: str, now: float) -> None:
        """It stands, or can't be had."""
        self._tunnel.end(now, "" if stands else "failed", problem)

    def attempt(self, over_tcp: bool, address: Address | None, now: float) -> Stage:
        """A session is about to be set up; ends with its handshake."""
        stage = self._whole.part("relay.attempt", now, transport="tcp" if over_tcp else "udp")
        if address is not None and not over_tcp:
            stage.confide(peer_address=address.host, peer_port=address.port)
        return stage

    def end(self, now: float, error: str = "", reason: str = "") -> None:
        """Connected, or not; nothing happens if that was known before."""
        for one in (self._resolve, self._tunnel):
            one.end(now, error or "abandoned")
        self._whole.end(now, error, reason)
