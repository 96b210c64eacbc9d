"""What a peer is told of the network in a session: news when it begins, then members that it may not know.

Does not decide what is news (`members.py`) or whom we know (`acquaintances.py`).
"""

from __future__ import annotations

from shadowmesh.core.session import Session
from shadowmesh.core.shared import Shared
from shadowmesh.units import NodeId


def send_news(shared: Shared, session: Session, now: float) -> None:
    """What the peer does not know of the network, and our certificate, if that is newer."""
    members = shared.members
    number, links = (session.standing.revocations, session.standing.links) if session.standing else (0, 0)
    # The network first: a list may be signed with the new key.
    for news in (members.network_for(links), members.news_for(number), members.shown_since_handshake(now)):
        if news is not None:
            session.driver.link.send(news)
    shared.links.pump(session.driver, now)


def send_roster(shared: Shared, session: Session, node: NodeId, now: float) -> None:
    """Members of which the peer does not hear elsewhere, if there are more of them than it knows."""
    acquaintances, link = shared.acquaintances, session.driver.link
    if session.standing is None or not link.established or session.roster_told == acquaintances.version:
        return
    first, session.roster_told = session.roster_told is None, acquaintances.version
    roster = acquaintances.roster(node)
    if roster.members or not first:
        link.send(roster)
        shared.links.pump(session.driver, now)
