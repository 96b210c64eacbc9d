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
from collections.abc import Callable, Sequence
from functools import partial

from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.crypto.keys import resumption_secret
from shadowmesh.crypto.retry import TICKET_SIZE, Drop, Reply, TokenGate
from shadowmesh.crypto.tls import PeerTicket
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.session.link import CloseCode, Ended, LinkEvent, Ready, Received, accept
from shadowmesh.session.links import Driver, LinkSet
from shadowmesh.session.machine import Agreement, Opening
from shadowmesh.session.port import HandedOver
from shadowmesh.stages import Stages
from shadowmesh.units import ID_SIZE, LANES, Address, NodeId
from shadowmesh.wire.headers import destination_id
from shadowmesh.wire.messages import (
    NO_TICKET,
    Answer,
    CertificateAsked,
    Close,
    Interest,
    Invite,
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
from .h3 import Http3, Visitors
from .hook import Question, Verdict
from .limits import Door, Limits
from .load import LoadNews
from .members import Members
from .notes import Notes
from .observer import Observer
from .questions import Questions
from .reception import Reception
from .rendezvous import Rendezvous
from .steering import Steering
from .tables import Tables
from .tickets import Tickets
from .waiting import MAX_FIRST, Turn, Waiting

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
    :param http3: what strangers may ask for; None: nothing.
    :param busy: percent of a core that the busiest thread takes.
    :param stages: for traces; None: nobody wants any.
    :param threads: those of the forwarder.
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
        http3: Http3 | None = None,
        busy: Callable[[], int] = lambda: 0,
        stages: Stages | None = None,
        threads: int = 1,
    ) -> None:
        self.drops: Counter[str] = Counter()
        self._events: deque[str] = deque()
        self.limits = limits or Limits()
        self.handshakes: Counter[str] = Counter(completed=0, refused=0, failed=0)  # that ended
        self.draining = False
        """Whether the relay is being left."""
        self._drain_until = math.inf
        self.observer = observer
        self.clients: dict[NodeId, Client] = {}
        self._identity = identity
        self._tables = tables
        self._random = random
        self._wall, self._origin, self._busy = wall, origin, busy
        self._loads = LoadNews()
        self._stages = stages or Stages()
        self._tickets = Tickets(self.limits.clients)
        self._gate = TokenGate(random(32), self._tickets.prove_address)
        self._links = LinkSet(tables.install_control, tables.remove)
        self._guests = Guests(self.clients)
        self._steering = Steering(threads, random)
        self._members = Members(
            self.clients, admission, self._guests, self._send, self._close, self._events.append, self.drops
        )
        self._rendezvous = Rendezvous(
            self.clients, tables, self._steering, self._send_all, self.limits, self._stages
        )
        self._duplicates = Duplicates(self._close, self._events.append)
        self._waiting = Waiting()
        self._by_handle: dict[int, Client] = {}
        self._handles = itertools.count(1)
        self._questions, door = Questions(), Door(self.limits)
        tell, drops = self._events.append, self.drops
        self._reception = Reception(
            identity.node_id, admission, self._guests, self._questions, door, self.clients, drops, tell, wall
        )
        self._half_open = self._reception.half_open
        self._instance = random(ID_SIZE)
        self._outbox: list[tuple[bytes, Address]] = []
        self._pairs = Notes()
        self._sweep_at = now + SWEEP
        self._visitors = Visitors(
            http3, tables, self._transmit, self.drops, lambda: (self.draining, len(self.clients)), now
        )

    @property
    def deadline(self) -> float:
        """When `handle_timer` wants to be called."""
        links = self._links.deadline
        own = min(self._sweep_at, self._drain_until, self._visitors.deadline)
        if self._waiting and len(self._half_open) < self.limits.handshakes:
            return -math.inf
        return own if links is None else min(links, own)

    def join(self, cluster: Cluster) -> None:
        """Be one relay of several, before the first client comes."""
        cluster.serve(self.clients, self._rendezvous, self._tables)

    # Input.

    def handle_datagram(self, data: bytes, source: Address, now: float) -> None:
        """A control datagram: of a client's connection, or of somebody who knocks."""
        try:
            destination = destination_id(data)
            driver = self._links.find(destination)
            visitor = self._visitors.find(destination) if driver is None else None
            if visitor is not None:
                self._visitors.handle_datagram(visitor, data, now)
            elif self._waiting.answered(destination, driver, now):
                raise BadPacket("late_initial")
            elif driver is not None:
                self._links.handle_datagram(driver, data, now)
            elif not self._waiting.keep(destination, source, data):
                self._knock_untrusted(data, source, now)
        except BadPacket as error:
            self.drops[error.reason] += 1

    def handle_datagrams(self, datagrams: Sequence[bytes], now: float) -> None:
        """Datagrams that came together for one connection id of ours: a flight of a handshake has eleven."""
        destination = destination_id(datagrams[0])
        driver = self._links.find(destination)
        if driver is not None:
            self._links.handle_datagrams(driver, datagrams, now)
            return
        for data in datagrams:
            visitor = self._visitors.find(destination)
            if visitor is not None:
                self._visitors.handle_datagram(visitor, data, now)
            else:  # it has just ended
                self.drops["late_initial"] += 1

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
        self._visitors.handle_timer(now)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP
            self._sweep(now)
        if now >= self._drain_until:
            self._drain_until = math.inf
            self.close(now)
        if len(self._half_open) < self.limits.handshakes:
            self._begin_next(now)

    def close(self, now: float) -> None:
        """Say goodbye to all clients; take `poll_transmit` once more, then stop."""
        for client in list(self.clients.values()):
            self._close(client.driver, CloseCode.SHUTDOWN, "the relay is going down", now)
        self._visitors.close(now)

    def drain(self, until: float, now: float) -> None:
        """Admit nobody any more and have all clients leave; whoever is there at `until` is sent away."""
        self.draining = True
        self._drain_until = until
        self._events.append(f"draining, {len(self.clients)} clients are to leave")
        for client in list(self.clients.values()):
            self._send(client, Leave(), now)

    def readmit(self, admission: Admission, now: float) -> int:
        """Others are admitted from now on; ends the sessions of those that are no more, returns how many."""
        self._reception.admission = admission
        return self._members.readmit(admission, now)

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

    @property
    def sources(self) -> set[Address]:
        """Where datagrams of clients, and of those who would like to be, go to now."""
        knocking = {knock.source for knock in self._half_open.values()} | self._waiting.sources()
        return knocking | self._visitors.sources() | {client.address for client in self.clients.values()}

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
            load=self.load,
            http3=self._visitors.totals(),
        )

    @property
    def load(self) -> int:
        """Percent of what the relay can do; clients are told."""
        return max(self._busy(), min(100, 100 * len(self.clients) // self.limits.clients))

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
        if len(data) > MAX_FIRST:
            raise BadPacket("long_initial")
        knock = Knock(source, origin)
        ticket = verdict.retry_source_connection_id is None
        closed = self._closed(ticket)
        if closed is not None and self._visitors.http3 is None:
            raise closed
        under_way = sum(other.network == knock.network for other in self._half_open.values())
        self._reception.door.crowd_untrusted(
            under_way + self._waiting.of(knock.network), self._waiting.full(ticket)
        )
        self._reception.door.enter_untrusted(origin.host, ticket, now)
        self._waiting.put(Turn(verdict, knock, destination_id(data), [data]))

    def _closed(self, ticket: bool) -> BadPacket | None:
        """Why there are no new sessions now, if so."""
        if self.draining:
            return BadPacket("draining")
        full = not ticket and len(self.clients) >= self.limits.clients
        return BadPacket("too_many_clients") if full else None

    def _begin_next(self, now: float) -> None:
        """Begin one handshake; whoever drives us looks at the others' datagrams before the next."""
        turn, late = self._waiting.next(now)
        if late:
            self.drops["too_many_handshakes"] += late
        if turn is None:
            return
        closed = self._closed(turn.admit.retry_source_connection_id is None)
        if closed is not None and not self._visitors.listen(now):
            self.drops[closed.reason] += 1
        else:
            self._accept(turn, closed, now)

    def _accept(self, turn: Turn, closed: BadPacket | None, now: float) -> None:
        admit, knock = turn.admit, turn.knock
        knock.thread = self._steering.next_thread()
        opening = Opening(
            nonce=self._random(32),
            instance=self._instance,
            lanes=[self._steering.new_id(knock.thread) for _ in range(LANES)],
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
            admit=partial(self._reception.admit, knock=knock, now=now),
            fetch_ticket=partial(self._tickets.take, now=now),
            **self._visitors.classes(closed, knock, now),
        )
        transmit, first_id = partial(self._transmit, knock.source), turn.destination
        stage = knock.begin(self._stages, now)
        driver = self._links.add(link, transmit, self._handle_link, now, first_id, stage)
        self._waiting.begun(first_id, now)
        self._half_open[driver] = knock
        self._links.handle_datagrams(driver, turn.datagrams, now)
        if not driver.link.begun:
            self._close(driver, CloseCode.TIMEOUT, "its first packet does not open", now)

    def handle_verdict(self, number: int, verdict: Verdict, now: float) -> None:
        """The answer to a question; the client may have gone meanwhile."""
        driver = self._questions.answered(number)
        if driver is None:
            return
        knock = self._half_open[driver]
        assert knock.ready is not None
        if verdict.admitted:
            knock.question, knock.asked = None, True
            self._welcome(driver, knock.ready, now)
            for message in knock.early:
                self._handle_link(driver, Received(message, b""), now)
            return
        reason = self._reception.refuse(knock, verdict, knock.ready.agreement.peer, now)
        self._close(driver, CloseCode.REFUSED, reason, now)

    def _handle_link(self, driver: Driver, event: LinkEvent, now: float) -> None:
        client = self.clients.get(driver.link.peer or b"")
        if client is not None and client.driver is not driver:
            client = None
        knock = self._half_open.get(driver)
        if isinstance(event, Ready):
            if knock is not None and knock.question is not None:
                self._questions.ask(driver, knock, event, now)
            else:
                self._welcome(driver, event, now)
        elif isinstance(event, Received):
            self._handle_received(driver, client, knock, event.message, now)
        elif isinstance(event, HandedOver):
            knock = self._half_open.pop(driver)
            knock.stage.end(now)
            self._visitors.adopt(event.connection, knock, now)
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
        self._reception.forget(knock, event, now)

    def _welcome(self, driver: Driver, ready: Ready, now: float) -> None:
        """A handshake is complete: the newest of a NodeID wins."""
        agreement = ready.agreement
        knock = self._half_open.pop(driver)
        self.handshakes["completed"] += 1
        holder = self.clients.get(agreement.peer)
        if holder is not None and not self._duplicates.displace(holder, driver, agreement, knock, now):
            knock.stage.end(now, "replaced")
            agreement.wipe()
            return
        try:
            # Many may have been admitted at once; they are counted when they are here.
            visit = self._guests.visit(knock.visit.invitation, now) if knock.visit is not None else None
        except NotMember as error:
            knock.stage.end(now, "refused", str(error))
            agreement.wipe()
            self._close(driver, CloseCode.REFUSED, str(error), now)
            return
        knock.end(now)
        client = Client.of(knock, agreement, driver, next(self._handles), visit, now)
        self.clients[client.node] = self._by_handle[client.handle] = client
        driver.send = partial(self._transmit_to, client)
        self._tables.add_client(client.handle, client.address, client.thread)
        # Lane 0 is the forwarder's, OBSERVE_LANE the observer's: each lane has one replay window.
        self._tables.install_receive(client.handle, agreement.receive_lanes[:1], agreement.receive_keys)
        keys = self._tables.new_send_keys(agreement.send_keys)
        self._tables.set_lane(client.handle, keys, 1, agreement.send_lanes[1])
        if client.visit is None:
            self._equip(client, agreement, now)
        agreement.wipe()
        guest = f" as a guest of {node_id_text(client.visit.host)[:10]}…" if client.visit else ""
        self._events.append(f"{client} joined from {client.place}{guest}")
        # The answer may have changed since HELLO.
        if self._members.check(client, now) and client.belonging is not None:
            self._welcome_member(client, client.belonging, now)
        if not driver.link.ended:
            self._rendezvous.introduce(client, now)

    def _equip(self, client: Client, agreement: Agreement, now: float) -> None:
        """What everybody but a guest gets: the second port, and a ticket."""
        if self.observer is not None:
            self.observer.add(client.handle, agreement, now)
            self._send(client, SecondPort(self.observer.port), now)
        if not client.driver.link.ended:  # by what was sent, and everything of it is gone
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
        self._members.enforce(client, now)  # a list may have come since HELLO

    def _give_ticket(self, client: Client, agreement: Agreement, now: float) -> None:
        """By it the client comes back in one round trip; it is admitted, or not, each time anew."""
        name = self._random(TICKET_SIZE)
        secret = resumption_secret(agreement.root, client.node, self._identity.node_id)
        ticket = PeerTicket.of(name, secret, agreement.peer_mldsa)
        self._tickets.give(client.node, ticket, client.origin.host)
        load = self.load
        self._loads.first(client, load)
        self._send(client, Ticket(name, load), now)

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
            self._members.handle_message(client, message, now)
        elif isinstance(message, NatTest) and self.observer is not None:
            self._serve_test(self.observer, client, message, now)
        else:
            self.drops["unexpected_message"] += 1

    def _serve_test(self, observer: Observer, client: Client, message: NatTest, now: float) -> None:
        try:
            observer.handle_test_untrusted(client.handle, client.address, message.nonce, now)
        except BadPacket as error:
            self.drops[error.reason] += 1

    def _sweep(self, now: float) -> None:
        self._rendezvous.expire(now)
        self._tickets.expire(now)
        self._guests.expire(now)
        load = self.load
        for client in list(self._loads.due(self.clients.values(), load)):
            self._send(client, Ticket(NO_TICKET, load), now)
        for client in list(self.clients.values()):
            bound_at = self._tables.last_bind(client.handle)
            if bound_at > client.heard_at:
                client.heard_at = bound_at
                client.driver.link.renew(now)
            elif now - client.heard_at > CLIENT_SILENCE:
                self._close(client.driver, CloseCode.TIMEOUT, "nothing was heard of you", now)
            if client.visit is not None and now >= client.visit.leaves_at:
                self._close(client.driver, CloseCode.TIMEOUT, "your time as a guest is over", now)
            self._members.enforce(client, now)

    def _forget(self, client: Client, now: float) -> None:
        del self.clients[client.node], self._by_handle[client.handle]
        self._rendezvous.forget(client, now)
        self._guests.forget(client)
        self._loads.forget(client)
        self._tickets.leave(client.node, now)
        self._tables.remove_client(client.handle)
        if self.observer is not None and client.visit is None:
            self.observer.remove(client.handle)

    def _close(self, driver: Driver, code: CloseCode, reason: str, now: float) -> None:
        driver.link.close(code, reason)
        self._links.pump(driver, now)

    def _send(self, client: Client, message: Message, now: float) -> None:
        self._send_all(client, (message,), now)

    def _send_all(self, client: Client, messages: Sequence[Message], now: float) -> None:
        """Many messages share few packets."""
        if not client.driver.link.ended:
            for message in messages:
                client.driver.link.send(message)
            self._links.pump(client.driver, now)

    def _transmit(self, address: Address, datagram: bytes) -> None:
        self._outbox.append((datagram, address))

    def _transmit_to(self, client: Client, datagram: bytes) -> None:
        self._outbox.append((datagram, client.address))
