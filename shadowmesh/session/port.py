"""The link of a port that speaks HTTP/3 too: it ends as soon as its connection turns out to be no session.

Role: to part the two for good.  The connection goes to whoever takes the last event; no session machine sees
anything of it, and no message of it is ever parsed here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aioquic.quic.events import ProtocolNegotiated, QuicEvent

from shadowmesh.crypto.port import PortConnection
from shadowmesh.crypto.quic import SessionConnection
from shadowmesh.session.link import CloseCode, Ended, Link
from shadowmesh.session.machine import Machine


@dataclass(frozen=True)
class HandedOver(Ended):
    """The link is over, its connection is not: it is foreign, and whoever takes this has to drive it."""

    connection: PortConnection = field(kw_only=True)


class PortLink(Link):
    """A link that may find out that its connection is foreign.

    :param connection: a `PortConnection`.
    """

    def __init__(self, connection: SessionConnection, machine: Machine, now: float) -> None:
        assert isinstance(connection, PortConnection)
        super().__init__(connection, machine, now)
        self._port = connection

    def _handle_event_untrusted(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated) and self._port.foreign:
            end = HandedOver(CloseCode.TRANSPORT, "it speaks HTTP/3", by_peer=False, connection=self._port)
            self._end(end)
        else:
            super()._handle_event_untrusted(event)
