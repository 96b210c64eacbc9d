"""What clients tell a relay of their networks and guests, and parting with whoever is admitted no more.

Does not decide who is let in: `admission.py` and the guards do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from shadowmesh.errors import BadPacket, NotMember, RemoteProtocolError
from shadowmesh.membership.guard import Guard
from shadowmesh.session.link import CloseCode
from shadowmesh.session.links import Driver
from shadowmesh.units import NodeId
from shadowmesh.wire.messages import Invite, Invited, Message, NetworkNews, RevocationNews, ShownMembership

from .admission import Admission, Belonging
from .clients import Client
from .guests import Guests

NO_MORE = "this relay does not admit you any more"


class Members:
    """Of all clients.

    :param clients: all that are here.
    :param send: sends a control message.
    :param close: ends a connection, and says why.
    :param tell: takes a line for the operator's log.
    :param drops: counts what is dropped, by reason.
    """

    def __init__(
        self,
        clients: dict[NodeId, Client],
        admission: Admission,
        guests: Guests,
        send: Callable[[Client, Message, float], None],
        close: Callable[[Driver, CloseCode, str, float], None],
        tell: Callable[[str], None],
        drops: Counter[str],
    ) -> None:
        self._clients = clients
        self._admission = admission
        self._guests = guests
        self._send = send
        self._close = close
        self._tell = tell
        self._drops = drops

    def handle_message(
        self, client: Client, message: Invite | RevocationNews | ShownMembership | NetworkNews, now: float
    ) -> None:
        """A message about networks or guests."""
        if isinstance(message, Invite):
            self._serve_invite(client, message, now)
        elif client.belonging is None:
            self._drops["unexpected_message"] += 1
        elif isinstance(message, RevocationNews | NetworkNews):
            self._take_news(client.belonging.guard, message, now)
        else:
            self._take_shown(client, client.belonging, message, now)

    def _serve_invite(self, client: Client, message: Invite, now: float) -> None:
        if self._admission.may_invite(client.belonging):
            answer = self._guests.handle_invite(client, message, now)
        else:
            ids = [one.id for one in message.add]
            answer = Invited(ids, "this relay serves no network of yours") if ids else None
        if answer is not None:
            self._send(client, answer, now)

    def _take_news(self, guard: Guard, news: RevocationNews | NetworkNews, now: float) -> None:
        """A newer list, or a new key of the authority, counts at once, and goes to all members here."""
        listed = isinstance(news, RevocationNews)
        merge = guard.revocations.merge_untrusted if listed else guard.merge_network_untrusted
        try:
            newer = merge(news.document)
        except (BadPacket, NotMember):
            self._drops["bad_revocations" if listed else "bad_network"] += 1
            return
        if not newer:
            return
        what = f"revocation list {guard.revocations.number} of {guard.network.name} counts now"
        self._tell(what if listed else f"the authority of {guard.network.name} has a new key")
        for client in list(self._clients.values()):
            if client.belonging is not None and client.belonging.guard is guard:
                self._send(client, news, now)
                if listed:
                    self.enforce(client, now)

    def _take_shown(self, client: Client, belonging: Belonging, message: ShownMembership, now: float) -> None:
        """Its session stands on the new certificate, if that counts, else on the old one."""
        try:
            client.shows.take(now)
            standing = belonging.guard.check_untrusted(client.node, message.shown)
        except RemoteProtocolError as error:
            self._close(client.driver, CloseCode.PROTOCOL, str(error), now)
        except (BadPacket, NotMember):
            self._drops["not_member"] += 1
        else:
            client.belonging = Belonging(belonging.guard, standing, message.shown)

    def readmit(self, admission: Admission, now: float) -> int:
        """Another admission counts from now on; parts with whom it does not let in, returns how many."""
        self._admission = admission
        return sum(not self.check(client, now) for client in list(self._clients.values()))

    def check(self, client: Client, now: float) -> bool:
        """Whether a client would be let in now, by what it showed when it came; else parts with it."""
        if self._admission.holds(client.ground, client.node):
            return True
        self._close(client.driver, CloseCode.REFUSED, NO_MORE, now)
        return False

    def enforce(self, client: Client, now: float) -> None:
        """Part with a member whose certificate does not count any more."""
        if client.belonging is None:
            return
        try:
            client.belonging.guard.recheck(client.belonging.standing)
        except NotMember as error:
            self._close(client.driver, CloseCode.REFUSED, str(error), now)
