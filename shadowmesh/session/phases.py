"""The phases of one handshake as stages for traces: TLS, the proofs of both sides, the last confirmation.

It watches the events of a link and has no say in anything.
"""

from __future__ import annotations

from shadowmesh.session.link import CloseCode, Confirmed, Ended, LinkEvent, Ready, Secured
from shadowmesh.session.port import HandedOver
from shadowmesh.stages import Stage


class Phases:
    """Ends `stage` when both sides have the keys, as far as this one can tell, or the link is over.

    :param responder: who sends the confirmation, and waits for none.
    """

    def __init__(self, stage: Stage, responder: bool, now: float) -> None:
        self._stage = stage
        self._responder = responder
        self._part = stage.part("quic.handshake", now)

    def handle(self, event: LinkEvent, now: float) -> Phases | None:
        """Every event of the link, as it comes; returns who is to be told of the next, if anybody."""
        if isinstance(event, Secured):
            self._part.end(now)
            self._stage.note(resumed=event.resumed)
            self._part = self._stage.part("session.proofs", now)
        elif isinstance(event, Ready):
            self._part.end(now)
            if self._responder:
                self._stage.end(now)
            else:
                self._part = self._stage.part("session.confirmation", now)
        elif isinstance(event, Confirmed | HandedOver):
            self._part.end(now)
            self._stage.end(now)
        elif isinstance(event, Ended):
            error = name_of(event.code)
            self._part.end(now, error)
            self._stage.end(now, error, event.reason)
        return self if self._stage.under_way else None


def name_of(code: int) -> str:
    """A word for why a link ended: the name of its close code."""
    return CloseCode(code).name.lower() if code in CloseCode.__members__.values() else "unknown"
