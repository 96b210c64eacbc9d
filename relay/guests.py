"""Guests: nodes without any right here that a client expects, by the id of an invitation that both know.

A client registers the ids; whoever shows one in its HELLO is let in, for a short time, to call that client
and nobody else.  What the two have to say to each other is their own affair.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from shadowmesh.errors import NotMember
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import MAX_INVITATIONS, Invite, Invited

from .clients import Client, Visit

MAX_IDS = 4096
"""Invitations of all clients."""
MAX_GUESTS = 64
MAX_GUESTS_PER_INVITATION = 4
MAX_GUESTS_PER_HOST = 8
"""As many as its inviter answers at once: no client takes all places of the others."""
STAY = 60.0
"""Seconds that a guest may stay; it may come again."""


@dataclass(frozen=True)
class _Known:
    host: NodeId
    ends_at: float


class Guests:
    """The ids that are registered, and who has come by one.

    :param clients: all that are here.
    """

    def __init__(self, clients: dict[NodeId, Client]) -> None:
        self._clients = clients
        self._known: dict[bytes, _Known] = {}
        self._held: Counter[NodeId] = Counter()
        """Ids of each client among them."""

    def handle_invite(self, client: Client, message: Invite, now: float) -> Invited | None:
        """Take ids and forget others; returns what was refused, if anything was."""
        self.expire(now)
        for invitation in message.remove:
            if invitation in self._known and self._known[invitation].host == client.node:
                self._remove(invitation)
        refused, reason = [], ""
        for one in message.add:
            problem = self._problem(client, one.id)
            if problem:
                refused.append(one.id)
                reason = problem
            else:
                self._held[client.node] += one.id not in self._known
                self._known[one.id] = _Known(client.node, now + one.seconds)
        return Invited(refused, reason) if refused else None

    def visit(self, invitation: bytes, now: float) -> Visit:
        """The stay of a node that shows this id. Raises NotMember, with words for it."""
        known = self._known.get(invitation)
        if known is None or known.ends_at <= now:
            text = "this relay knows no such invitation: it ended, or its inviter is not connected here"
            raise NotMember("unknown_invitation", text)
        visits = [client.visit for client in self._clients.values() if client.visit is not None]
        same = sum(visit.invitation == invitation for visit in visits)
        of_host = sum(visit.host == known.host for visit in visits)
        if len(visits) >= MAX_GUESTS or same >= MAX_GUESTS_PER_INVITATION or of_host >= MAX_GUESTS_PER_HOST:
            raise NotMember("too_many_guests", "too many guests are at this relay just now; try again")
        return Visit(invitation, known.host, now + STAY)

    def forget(self, client: Client) -> None:
        """A client is gone, and its invitations with it."""
        if self._held[client.node]:
            for invitation in [id_ for id_, known in self._known.items() if known.host == client.node]:
                self._remove(invitation)
        del self._held[client.node]

    def expire(self, now: float) -> None:
        """Forget what has ended."""
        for invitation in [id_ for id_, known in self._known.items() if known.ends_at <= now]:
            self._remove(invitation)

    def _remove(self, invitation: bytes) -> None:
        host = self._known.pop(invitation).host
        self._held[host] -= 1
        if not self._held[host]:
            del self._held[host]

    def _problem(self, client: Client, invitation: bytes) -> str:
        known = self._known.get(invitation)
        if known is not None:  # the same client extends it
            return "" if known.host == client.node else "another client has registered it"
        if self._held[client.node] >= MAX_INVITATIONS:
            return f"a client has {MAX_INVITATIONS} invitations here at most"
        return "" if len(self._known) < MAX_IDS else "this relay knows too many invitations"
