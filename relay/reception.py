"""Whoever has said HELLO to a relay: let in, asked about, or refused, and what that costs its address.

Does not decide by itself who may use the relay (`admission.py`, `guests.py`), and ends no connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import NotMember
from shadowmesh.membership.guard import invitation_untrusted
from shadowmesh.session.link import CloseCode, Ended
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Refused
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import Introduction

from .admission import Admission
from .clients import Client, Knock
from .guests import Guests
from .hook import Verdict
from .limits import Door
from .notes import Notes
from .questions import Questions


class Reception:
    """Of one relay.

    :param relay: the relay's NodeID.
    :param clients: all that are here.
    :param drops: counts what is refused, by reason.
    :param tell: takes a line for the operator's log.
    :param wall: the machine's clock, in seconds since 1970; who is refused for dates is told of it.
    """

    def __init__(
        self,
        relay: NodeId,
        admission: Admission,
        guests: Guests,
        questions: Questions,
        door: Door,
        clients: Mapping[NodeId, Client],
        drops: Counter[str],
        tell: Callable[[str], None],
        wall: Callable[[], float] | None,
    ) -> None:
        self.half_open: dict[Driver, Knock] = {}
        """Handshakes under way."""
        self.door = door
        self.admission = admission
        self.greetings = 0
        """Authenticated HELLOs so far: their order tells a newer handshake from a delayed one."""
        self._relay = relay
        self._guests = guests
        self._questions = questions
        self._clients = clients
        self._drops = drops
        self._tell = tell
        self._wall = wall
        self._strangers = Notes()

    def admit(self, node: NodeId, shown: Introduction, knock: Knock, now: float) -> None:
        """An authenticated HELLO. Raises Refused."""
        reason, clock = f"this relay does not admit your NodeID {node_id_text(node)}", None
        knock.greet(node)
        try:
            admitted = self._may_enter(node, shown, knock, now)
        except NotMember as error:
            admitted, reason = False, str(error)
            clock = self._wall() if error.of_dates and self._wall is not None else None
        if admitted and node not in self._clients and not self._has_room():
            self._drops["too_many_clients"] += 1
            admitted, reason = False, "this relay is full"
        if not admitted:
            self.door.refuse(knock.origin.host, now)
            knock.refused = True
            if self._strangers.due(node, now):
                self._tell(f"refused {node_id_text(node)} at {knock.origin}: {reason}")
            raise Refused(CloseCode.REFUSED, reason, clock)
        self.greetings += 1
        knock.greeting = self.greetings

    def _may_enter(self, node: NodeId, shown: Introduction, knock: Knock, now: float) -> bool:
        """By what it shows, or as it may be asked about when its handshake is complete. Raises NotMember."""
        invitation = invitation_untrusted(shown.membership)
        if invitation is None:
            knock.belonging = self.admission.belonging_untrusted(node, shown.membership)
        else:
            knock.visit = self._guests.visit(invitation, now)
        knock.token = self.admission.token_of(node, shown, self._relay)
        if any(one is not None for one in (knock.belonging, knock.visit, knock.token)):
            return True
        if self.admission.allows(node):
            return True
        if self.admission.asks:
            self._questions.prepare(node, knock, shown.membership)
        return self.admission.asks

    def _has_room(self) -> bool:
        coming = sum(other.greeting > 0 for other in self.half_open.values())
        return len(self._clients) + coming < self.door.limits.clients

    def refuse(self, knock: Knock, verdict: Verdict, node: NodeId, now: float) -> str:
        """The hook did not let it in; returns what the client is told."""
        self._drops["hook_failed"] += verdict.failed
        self._drops["hook_refused"] += not verdict.failed
        if not verdict.failed:  # else it is nothing of theirs
            self.door.refuse(knock.origin.host, now)
        knock.refused = True
        if self._strangers.due("hook" if verdict.failed else node, now):
            self._tell(f"the hook {'failed' if verdict.failed else 'refused'}: {verdict.reason}")
        # What is wrong with the operator's program is nobody else's matter.
        return ("" if verdict.failed else verdict.reason) or "this relay does not admit you"

    def forget(self, knock: Knock, event: Ended, now: float) -> None:
        """Its connection ended before it was let in."""
        knock.end(now, event)
        if knock.ready is not None and not knock.refused:  # left before the answer: that cost us no less
            self.door.refuse(knock.origin.host, now)
        if not self._questions.forget(knock) and self._strangers.due(knock.network, now):
            self._tell(f"handshake with {knock.origin} failed: {event.reason}")
