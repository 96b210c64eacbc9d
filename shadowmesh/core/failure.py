"""Why a link with a relay or a peer has ended, as a `Failure` with its id in docs/errors.md.

The id comes from the close code and from who closed. The words choose none: they may be the other side's.
"""

from __future__ import annotations

from shadowmesh.errors import Failure
from shadowmesh.session.link import CloseCode, Ended

OVER_TCP = "over TCP: "
"""In our own words: what follows is what became of that."""

IDS: dict[int, tuple[str, str]] = {
    CloseCode.TRANSPORT: ("link.transport", "link.transport"),
    CloseCode.SHUTDOWN: ("link.ended", "link.ended"),
    CloseCode.REFUSED: ("link.refused-here", "link.refused"),
    CloseCode.PROTOCOL: ("link.protocol", "link.protocol"),
    CloseCode.TIMEOUT: ("link.no-answer", "link.no-answer"),
    CloseCode.REPLACED: ("link.ended", "link.ended"),
    CloseCode.COLLISION: ("link.ended", "link.ended"),
    CloseCode.DUPLICATE: ("link.two-holders", "link.two-holders"),
    CloseCode.IDLE: ("link.ended", "link.ended"),
}
"""By close code: where this side closed, and where the other did."""


def failure_of(ended: Ended, speaker: str = "") -> Failure:
    """What to tell of it; `speaker` goes before words of the other side."""
    here, there = IDS.get(ended.code, IDS[CloseCode.TRANSPORT])
    if not ended.reason:
        return Failure(there if ended.by_peer else here, "the connection was lost")
    if ended.by_peer:
        return Failure(there, speaker + ended.reason)
    tried_tcp = ended.code == CloseCode.TIMEOUT and OVER_TCP in ended.reason
    return Failure("link.tcp" if tried_tcp else here, ended.reason)
