"""The whole relay, sans-I/O: admission, presence and channels of its clients.

Role: it introduces nodes that want each other and gives them channels; the forwarder (Cython) moves
what goes through.  It holds keys of client-to-relay sessions only; a session between two clients ends
in those clients.

Call order: after any `handle_*`, take `poll_transmit()` and `poll_events()`, then sleep until `deadline`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.crypto.keys import resumption_secret
from shadowmesh.crypto.retry import TICKET_SIZE, Admit, Drop, Reply, TokenGate
from shadowmesh.crypto.tls import PeerTicket
from shadowmesh.errors import BadPacket, NotMember, RemoteProtocolError
from shadowmesh.membership.guard import Guard, invitation_untrusted
from shadowmesh.session.link import CloseCode, Ended, LinkEvent, Ready, Received, accept
from shadowmesh.session.links import Driver, LinkSet
from shadowmesh.session.machine import Agreement, Opening, Refused
from shadowmesh.units import ID_SIZE, LANES, Address, NodeId
from shadowmesh.wire.headers import destination_id
from shadowmesh.wire.messages import (
    Answer,
    CertificateAsked,
    Close,
    Interest,
    Introduction,
    Invite,
    Invited,
    Leave,
    Message,
    NatTest,
    NetworkNews,
    Open,
    RevocationNews,
    SecondPort,
    ShownMembership,
    Ticket,
)

from .admission import Admission, Belonging
from .clients import Client, Duplicates, Knock, Totals
from .cluster import Cluster
from .guests import Guests
from .hook import Question, Verdict
from .limits import Door, Limits
from .notes import Notes
from .observer import Observer
from .questions import Questions
from .rendezvous import Rendezvous
from .tables import Tables
from .tickets import Tickets

SWEEP = 5.0
"""Seconds between looks at the clients' BINDs."""
CLIENT_SILENCE = 35.0
"""Seconds without a BIND after which a client is gone: 25 s of an idle client, three tries, and a margin."""


class RelayCore:
    """The protocol side of a relay.

    :param random: returns n random bytes.
    :param observer: the second port, if there is one.
    :param limits: those of the control part; the data plane has its own.
    :param wall: the machine's clock, in seconds since 1970; clients are told of it.
    :param origin: who is behind the source of a datagram: another address where a leg runs over TCP.
    """

    def __init__(
        self,
        identity: Identity,
        admission: Admission,
        tables: Tables,
        random: Callable[[int], bytes],
        now: float,
        observer: Observer | None = None,
        limits: Limits | None = None,
        wall: Callable[[], float] | None = None,
        origin: Callable[[Address], Address] = lambda source: source,
    ) -> None:
        self.drops: Counter[str] = Counter()
        self.limits = limits or Limits()
        self.handshakes: Counter[str] = Counter(completed=0, refused=0, failed=0)  # that ended
        self.draining = False
        """Whether the relay is being left."""
        self._drain_until = math.inf
        self.observer = observer
        self.clients: dict[NodeId, Client] = {}
        self._identity = identity
        self._admission = admission
        self._tables = tables
        self._random = random
        self._wall = wall
        self._origin = origin
        self._tickets = Tickets()
        self._gate = TokenGate(random(32), self._tickets.prove_address)
        self._links = LinkSet(tables.install_control, tables.remove)
        self._guests = Guests(self.clients)
        self._rendezvous = Rendezvous(self.clients, tables, random, self._send, self.limits)
        self._door = Door(self.limits)
        self._duplicates = Duplicates()
        self._half_open: dict[Driver, Knock] = {}
        self._by_handle: dict[int, Client] = {}
        self._handles = itertools.count(1)
        self._questions = Questions()
        self._instance = random(ID_SIZE)
        self._outbox: list[tuple[bytes, Address]] = []
        self._events: deque[str] = deque()
        self._greetings = 0
        """Authenticated HELLOs so far: their order tells a newer handshake from a delayed one."""
        self._strangers = Notes()
        self._pairs = Notes()
        self._sweep_at = now + SWEEP

    @property
    def deadline(self) -> float:
        """When `handle_timer` wants to be called."""
        links = self._links.deadline
        own = min(self._sweep_at, self._drain_until)
        return own if links is None else min(links, own)

    def join(self, cluster: Cluster) -> None:
        """Be one relay of several, before the first client comes."""
        cluster.serve(self.clients, self._rendezvous, self._tables)

    # Input.

    def handle_datagram(self, data: bytes, source: Address, now: float) -> None:
        """A control datagram: of a client's connection, or of somebody who knocks."""
        try:
            driver = self._links.find(destination_id(data))
            if driver is not None:
                self._links.handle_datagram(driver, data, now)
            else:
                self._knock_untrusted(data, source, now)
        except BadPacket as error:
            self.drops[error.reason] += 1

    def handle_second_datagram(self, data: bytes, source: Address, now: float) -> None:
        """A datagram on the second port; its answers are in `observer.poll_transmit()`."""
        assert self.observer is not None
        try:
            self.observer.handle_datagram_untrusted(data, source, now)
        except BadPacket as error:
            self.drops[error.reason] += 1

    def handle_endpoint(self, handle: int, source: Address) -> None:
        """The forwarder saw a client move: control follows."""
        client = self._by_handle.get(handle)
        if client is not None:
            client.address, client.origin = source, self._origin(source)
            self._tickets.move(client.node, client.origin.host)

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        self._links.handle_timers(now)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP
            self._sweep(now)
        if now >= self._drain_until:
            self._drain_until = math.inf
            self.close(now)

    def close(self, now: float) -> None:
        """Say goodbye to all clients; take `poll_transmit` once more, then stop."""
        for client in list(self.clients.values()):
            self._close(client.driver, CloseCode.SHUTDOWN, "the relay is going down", now)

    def drain(self, until: float, now: float) -> None:
        """Admit nobody any more and have all clients leave; whoever is there at `until` is sent away."""
        self.draining = True
        self._drain_until = until
        self._events.append(f"draining, {len(self.clients)} clients are to leave")
        for client in list(self.clients.values()):
            self._send(client, Leave(), now)

    @property
    def drained(self) -> bool:
        """Whether the relay may stop."""
        return self.draining and not self.clients

    # Output.

    def poll_transmit(self) -> list[tuple[bytes, Address]]:
        """Datagrams to send now."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def poll_events(self) -> list[str]:
        """Lines for the operator's log."""
        events = list(self._events)
        self._events.clear()
        return events

    def poll_questions(self) -> list[Question]:
        """What somebody has to answer by `handle_verdict`."""
        return self._questions.poll()

    # Getters.

    def totals(self) -> Totals:
        """What there is now, and what has been."""
        return Totals(
            clients=len(self.clients),
            clients_limit=self.limits.clients,
            channels=self._rendezvous.channels,
            handshakes_under_way=len(self._half_open),
            handshakes=dict(self.handshakes),
            channels_opened=self._rendezvous.opened,
            openings_refused=dict(self._rendezvous.refusals),
        )

    def channels_of(self, client: Client) -> int:
        """Channels of a client, those included that are being opened."""
        return self._rendezvous.channels_of(client)

    # Handshakes.

    def _knock_untrusted(self, data: bytes, source: Address, now: float) -> None:
        """Nothing is kept for an address before it has echoed a token."""
        origin = self._origin(source)
        verdict = self._gate.check(data, origin, now)
        if isinstance(verdict, Reply):
            self._outbox.append((verdict.data, source))
            return
        if isinstance(verdict, Drop):
            raise BadPacket(verdict.reason)
        knock = Knock(source, origin)
        ticket = verdict.retry_source_connection_id is None
        if self.draining:
            raise BadPacket("draining")
        self._door.crowd_untrusted(knock.network, [other.network for other in self._half_open.values()])
        if not ticket and len(self.clients) >= self.limits.clients:
            raise BadPacket("too_many_clients")
        self._door.enter_untrusted(origin.host, ticket, now)
        self._accept(verdict, data, knock, now)

    def _accept(self, admit: Admit, data: bytes, knock: Knock, now: float) -> None:
        opening = Opening(
            nonce=self._random(32),
            instance=self._instance,
            lanes=[self._random(ID_SIZE) for _ in range(LANES)],
            session=self._random(16),
            observed=knock.origin,
            wall=self._wall,
        )
        link = accept(
            self._identity,
            None,
            opening,
            now,
            admit.original_destination_connection_id,
            admit.retry_source_connection_id,
            admit=partial(self._admit, knock=knock, now=now),
            fetch_ticket=partial(self._tickets.take, now=now),
        )
        first_id = destination_id(data)
        driver = self._links.add(
            link, partial(self._transmit, knock.source), self._handle_link, now, first_id
        )
        self._half_open[driver] = knock
        self._links.handle_datagram(driver, data, now)
        if not driver.link.begun:
            self._close(driver, CloseCode.TIMEOUT, "its first packet does not open", now)

    def _admit(self, node: NodeId, shown: Introduction, knock: Knock, now: float) -> None:
        reason, clock = f"this relay does not admit your NodeID {node_id_text(node)}", None
        try:
            invitation = invitation_untrusted(shown.membership)
            if invitation is None:
                knock.belonging = self._admission.belonging_untrusted(node, shown.membership)
            else:
                knock.visit = self._guests.visit(invitation, now)
            guest_or_member = knock.belonging is not None or knock.visit is not None
            admitted = guest_or_member or self._admission.allows(node)
            admitted = admitted or self._admission.holds_token(node, shown, self._identity.node_id)
            if not admitted and self._admission.asks:
                self._questions.prepare(node, knock, shown.membership)
                admitted = True
        except NotMember as error:
            admitted, reason = False, str(error)
            clock = self._wall() if error.of_dates and self._wall is not None else None
        coming = sum(other.greeting > 0 for other in self._half_open.values())
        if admitted and node not in self.clients and len(self.clients) + coming >= self.limits.clients:
            self.drops["too_many_clients"] += 1
            admitted, reason = False, "this relay is full"
        if not admitted:
            self._door.refuse(knock.origin.host, now)
            knock.refused = True
            if self._strangers.due(node, now):
                self._events.append(f"refused {node_id_text(node)} at {knock.origin}: {reason}")
            raise Refused(CloseCode.REFUSED, reason, clock)
        self._greetings += 1
        knock.greeting = self._greetings

    def handle_verdict(self, number: int, verdict: Verdict, now: float) -> None:
        """The answer to a question; the client may have gone meanwhile."""
        driver = self._questions.answered(number)
        if driver is None:
            return
        knock = self._half_open[driver]
        assert knock.ready is not None
        if verdict.admitted:
            knock.question = None
            self._welcome(driver, knock.ready, now)
            for message in knock.early:
                self._handle_link(driver, Received(message, b""), now)
            return
        self.drops["hook_failed"] += verdict.failed
        self.drops["hook_refused"] += not verdict.failed
        if not verdict.failed:  # else it is nothing of theirs
            self._door.refuse(knock.origin.host, now)
        knock.refused = True
        if self._strangers.due("hook" if verdict.failed else knock.ready.agreement.peer, now):
            self._events.append(f"the hook {'failed' if verdict.failed else 'refused'}: {verdict.reason}")
        # What is wrong with the operator's program is nobody else's matter.
        reason = "" if verdict.failed else verdict.reason
        self._close(driver, CloseCode.REFUSED, reason or "this relay does not admit you", now)

    def _handle_link(self, driver: Driver, event: LinkEvent, now: float) -> None:
        client = self.clients.get(driver.link.peer or b"")
        if client is not None and client.driver is not driver:
            client = None
        knock = self._half_open.get(driver)
        if isinstance(event, Ready):
            if knock is not None and knock.question is not None:
                self._questions.ask(driver, knock, knock.question, event)
            else:
                self._welcome(driver, event, now)
        elif isinstance(event, Received):
            self._handle_received(driver, client, knock, event.message, now)
        elif isinstance(event, Ended):
            if knock is not None:
                self._forget_knock(driver, knock, event, now)
            if client is not None:
                self._events.append(f"{client} left: {event.reason or 'connection lost'}")
                self._forget(client, now)

    def _handle_received(
        self, driver: Driver, client: Client | None, knock: Knock | None, message: Message, now: float
    ) -> None:
        if knock is not None:
            if not knock.keep(message):
                self._close(driver, CloseCode.PROTOCOL, "too much before you are let in", now)
        elif client is not None and client.visit is not None and not isinstance(message, Open | Close):
            self.drops["unexpected_message"] += 1
        elif client is not None:
            self._handle_message(client, message, now)

    def _forget_knock(self, driver: Driver, knock: Knock, event: Ended, now: float) -> None:
        del self._half_open[driver]
        self.handshakes["refused" if knock.refused else "failed"] += 1
        if knock.ready is not None and not knock.refused:  # left before the answer: that cost us no less
            self._door.refuse(knock.origin.host, now)
        if not self._questions.forget(knock) and self._strangers.due(knock.network, now):
            self._events.append(f"handshake with {knock.origin} failed: {event.reason}")

    def _welcome(self, driver: Driver, ready: Ready, now: float) -> None:
        """A handshake is complete: the newest of a NodeID wins."""
        agreement = ready.agreement
        knock = self._half_open.pop(driver)
        self.handshakes["completed"] += 1
        holder = self.clients.get(agreement.peer)
        if holder is not None and not self._displace(holder, driver, agreement, knock, now):
            agreement.wipe()
            return
        try:
            # Many may have been admitted at once; they are counted when they are here.
            visit = self._guests.visit(knock.visit.invitation, now) if knock.visit is not None else None
        except NotMember as error:
            agreement.wipe()
            self._close(driver, CloseCode.REFUSED, str(error), now)
            return
        client = Client(
            handle=next(self._handles),
            node=agreement.peer,
            instance=agreement.instance,
            driver=driver,
            address=knock.source,
            origin=knock.origin,
            heard_at=now,
            joined_at=now,
            greeting=knock.greeting,
            belonging=knock.belonging,
            visit=visit,
        )
        self.clients[client.node] = self._by_handle[client.handle] = client
        driver.send = partial(self._transmit_to, client)
        self._tables.add_client(client.handle, client.address)
        # Lane 0 is the forwarder's, OBSERVE_LANE the observer's: each lane has one replay window.
        self._tables.install_receive(client.handle, agreement.receive_lanes[:1], agreement.receive_keys)
        keys = self._tables.new_send_keys(agreement.send_keys)
        self._tables.set_lane(client.handle, keys, 1, agreement.send_lanes[1])
        if client.visit is None:
            self._equip(client, agreement, now)
        agreement.wipe()
        guest = f" as a guest of {node_id_text(client.visit.host)[:10]}…" if client.visit else ""
        self._events.append(f"{client} joined from {client.place}{guest}")
        if client.belonging is not None:
            self._welcome_member(client, client.belonging, now)
        if not driver.link.ended:
            self._rendezvous.introduce(client, now)

    def _equip(self, client: Client, agreement: Agreement, now: float) -> None:
        """What everybody but a guest gets: the second port, and a ticket."""
        if self.observer is not None:
            self.observer.add(client.handle, agreement, now)
            self._send(client, SecondPort(self.observer.port), now)
        self._give_ticket(client, agreement, now)
        if self.draining:  # its handshake had begun before
            self._send(client, Leave(), now)

    def _welcome_member(self, client: Client, belonging: Belonging, now: float) -> None:
        """Tell it of the others, and of a revocation list that it has not seen."""
        network = belonging.guard.network
        if len(network.links) > belonging.standing.links:
            self._send(client, NetworkNews(network.document), now)
        current = belonging.guard.revocations.current
        if current is not None and current.number > belonging.standing.revocations:
            self._send(client, RevocationNews(current.document), now)
        self._enforce(client, now)  # a list may have come since HELLO

    def _give_ticket(self, client: Client, agreement: Agreement, now: float) -> None:
        """By it the client comes back in one round trip; it is admitted, or not, each time anew."""
        name = self._random(TICKET_SIZE)
        secret = resumption_secret(agreement.root, client.node, self._identity.node_id)
        ticket = PeerTicket.of(name, secret, agreement.peer_mldsa)
        self._tickets.give(client.node, ticket, client.origin.host)
        self._send(client, Ticket(name), now)

    def _displace(
        self, holder: Client, driver: Driver, agreement: Agreement, knock: Knock, now: float
    ) -> bool:
        """Make room for a new session of a NodeID that has one; False if it is not to be had."""
        if holder.greeting > knock.greeting:
            self._close(driver, CloseCode.REPLACED, "your identity has connected since", now)
            return False
        if self._duplicates.returns(agreement.peer, agreement.instance, now):
            reason = f"two machines use the identity {node_id_text(agreement.peer)}: "
            reason += f"at {holder.origin} and at {knock.origin}"
            self._events.append(reason)
            for one in (holder.driver, driver):
                self._close(one, CloseCode.DUPLICATE, reason, now)
            return False
        if holder.instance != agreement.instance:
            self._duplicates.displaced(agreement.peer, holder.instance, now)
        self._close(holder.driver, CloseCode.REPLACED, f"your identity connected from {knock.origin}", now)
        return True

    # Clients.

    def _handle_message(self, client: Client, message: Message, now: float) -> None:
        rendezvous = self._rendezvous
        if isinstance(message, Interest):
            rendezvous.handle_interest(client, message, now)
        elif isinstance(message, CertificateAsked):
            rendezvous.handle_asked(client, message, now)
        elif isinstance(message, Open):
            rendezvous.handle_open(client, message, now)
        elif isinstance(message, Answer):
            opened = rendezvous.handle_answer(client, message, now)
            if opened is not None:
                pair = (opened.caller.node, opened.callee.node)
                if self._pairs.due(pair, now):
                    self._events.append(f"{opened.caller} and {opened.callee} have a channel")
        elif isinstance(message, Close):
            rendezvous.handle_close(client, message, now)
        elif isinstance(message, Invite | RevocationNews | ShownMembership | NetworkNews):
            self._handle_member_message(client, message, now)
        elif isinstance(message, NatTest) and self.observer is not None:
            self._serve_test(self.observer, client, message, now)
        else:
            self.drops["unexpected_message"] += 1

    def _handle_member_message(
        self, client: Client, message: Invite | RevocationNews | ShownMembership | NetworkNews, now: float
    ) -> None:
        if isinstance(message, Invite):
            self._serve_invite(client, message, now)
        elif client.belonging is None:
            self.drops["unexpected_message"] += 1
        elif isinstance(message, RevocationNews):
            self._take_list(client.belonging.guard, message, now)
        elif isinstance(message, NetworkNews):
            self._take_network(client.belonging.guard, message, now)
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

    def _take_list(self, guard: Guard, news: RevocationNews, now: float) -> None:
        """A newer list of a network counts at once, and goes to all its members here."""
        try:
            newer = guard.revocations.merge_untrusted(news.document)
        except (BadPacket, NotMember):
            self.drops["bad_revocations"] += 1
            return
        if not newer:
            return
        self._events.append(f"revocation list {guard.revocations.number} of {guard.network.name} counts now")
        for client in list(self.clients.values()):
            if client.belonging is not None and client.belonging.guard is guard:
                self._send(client, news, now)
                self._enforce(client, now)

    def _take_network(self, guard: Guard, news: NetworkNews, now: float) -> None:
        """A new key of a network's authority counts at once, and goes to all its members here."""
        try:
            newer = guard.merge_network_untrusted(news.document)
        except (BadPacket, NotMember):
            self.drops["bad_network"] += 1
            return
        if not newer:
            return
        self._events.append(f"the authority of {guard.network.name} has a new key")
        for client in list(self.clients.values()):
            if client.belonging is not None and client.belonging.guard is guard:
                self._send(client, news, now)

    def _take_shown(self, client: Client, belonging: Belonging, message: ShownMembership, now: float) -> None:
        """Its session stands on the new certificate, if that counts, else on the old one."""
        try:
            client.shows.take(now)
            standing = belonging.guard.check_untrusted(client.node, message.shown)
        except RemoteProtocolError as error:
            self._close(client.driver, CloseCode.PROTOCOL, str(error), now)
        except (BadPacket, NotMember):
            self.drops["not_member"] += 1
        else:
            client.belonging = Belonging(belonging.guard, standing, message.shown)

    def _enforce(self, client: Client, now: float) -> None:
        """Part with a member whose certificate does not count any more."""
        if client.belonging is None:
            return
        try:
            client.belonging.guard.recheck(client.belonging.standing)
        except NotMember as error:
            self._close(client.driver, CloseCode.REFUSED, str(error), now)

    def _serve_test(self, observer: Observer, client: Client, message: NatTest, now: float) -> None:
        try:
            observer.handle_test_untrusted(client.handle, client.address, message.nonce, now)
        except BadPacket as error:
            self.drops[error.reason] += 1

    def _sweep(self, now: float) -> None:
        self._rendezvous.expire(now)
        self._tickets.expire(now)
        self._guests.expire(now)
        for client in list(self.clients.values()):
            bound_at = self._tables.last_bind(client.handle)
            if bound_at > client.heard_at:
                client.heard_at = bound_at
                client.driver.link.renew(now)
            elif now - client.heard_at > CLIENT_SILENCE:
                self._close(client.driver, CloseCode.TIMEOUT, "nothing was heard of you", now)
            if client.visit is not None and now >= client.visit.leaves_at:
                self._close(client.driver, CloseCode.TIMEOUT, "your time as a guest is over", now)
            self._enforce(client, now)

    def _forget(self, client: Client, now: float) -> None:
        del self.clients[client.node], self._by_handle[client.handle]
        self._rendezvous.forget(client, now)
        self._guests.forget(client)
        self._tickets.leave(client.node, now)
        self._tables.remove_client(client.handle)
        if self.observer is not None and client.visit is None:
            self.observer.remove(client.handle)

    def _close(self, driver: Driver, code: CloseCode, reason: str, now: float) -> None:
        driver.link.close(code, reason)
        self._links.pump(driver, now)

    def _send(self, client: Client, message: Message, now: float) -> None:
        if not client.driver.link.ended:
            client.driver.link.send(message)
            self._links.pump(client.driver, now)

    def _transmit(self, address: Address, datagram: bytes) -> None:
        self._outbox.append((datagram, address))

    def _transmit_to(self, client: Client, datagram: bytes) -> None:
        self._outbox.append((datagram, client.address))
