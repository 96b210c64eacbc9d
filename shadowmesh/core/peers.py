"""One peer: its session, the path that frames take, and what is done when either is missing.

`rendezvous.py` brings a channel, `handshakes.py` a session over it.  A session outlives its channel: when a
relay returns, a new channel carries on the old session.  A new session of the same peer replaces the old
one, whose receive lanes live `GRACE` longer, so that no frame under way is lost.
"""

from __future__ import annotations

import math
from typing import Any

from shadowmesh.core.briefing import send_news, send_roster
from shadowmesh.core.demand import Demand
from shadowmesh.core.failure import failure_of
from shadowmesh.core.handshakes import Handshakes
from shadowmesh.core.local import LocalNetwork
from shadowmesh.core.refusals import Refusals
from shadowmesh.core.relays import RelayClient
from shadowmesh.core.rendezvous import PATIENCE, Channel, Rendezvous
from shadowmesh.core.routing import Mode, Routing
from shadowmesh.core.session import Session
from shadowmesh.core.setup import SetUp
from shadowmesh.core.shared import Shared
from shadowmesh.errors import Failure, NotMember, RemoteProtocolError
from shadowmesh.membership.certificate import date_text
from shadowmesh.membership.guard import Standing
from shadowmesh.membership.roster import Member
from shadowmesh.overlay.mac import mac_of
from shadowmesh.path.backoff import Backoff
from shadowmesh.session.link import CloseCode, Confirmed, Ended, Link, LinkEvent, Ready, Received
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Agreement
from shadowmesh.session.phases import name_of
from shadowmesh.units import Address, NodeId, Whole
from shadowmesh.wire.messages import (
    CertificateAsked,
    CertificateShown,
    Message,
    NetworkNews,
    Renewal,
    RenewAsk,
    RevocationNews,
    Roster,
    ShownMembership,
)
from shadowmesh.wire.payload import Kind, encode_probe, parse_probe

GRACE = 10.0
"""Seconds that the receive lanes of a replaced session live on."""
FORGET_AFTER = 120.0
"""Seconds without any path after which a session is dropped."""


class PeerClient:
    """Everything about one peer, of the configuration or of our network.

    :param handle: its number in the data plane.
    :param mode: `paths.direct` of the configuration.
    :param demand: when a session is wanted.
    """

    def __init__(
        self,
        member: Member,
        handle: int,
        mode: Mode,
        network: LocalNetwork,
        shared: Shared,
        demand: Demand,
        now: float,
    ) -> None:
        self.member = member
        self.handle = handle
        self.demand = demand
        self.mac = mac_of(member.node_id)
        self.session: Session | None = None
        self.last_error: Failure | None = None
        self.dated = False
        """Whether the last try failed because of a date in a certificate."""
        self.deadline: float | None = None
        self._shared = shared
        self._caller = shared.identity.node_id < member.node_id
        self._setup = setup = SetUp(shared.stages, member)
        self.rendezvous = Rendezvous(member.node_id, self._caller, self, shared, setup)
        self.routing = Routing(self, member, mode, network, shared, setup, now)
        self.handshakes = Handshakes(
            member.node_id, self._caller, shared, self.rendezvous, self._transmit, self._handle_link, setup
        )
        self.refusals = Refusals()
        self._retired: list[tuple[float, Session]] = []
        self._pathless_since: float | None = None
        self._backoff = Backoff(shared.random)
        self._act_at: float | None = None
        shared.tables.add_peer(handle, self.mac)

    # Getters.

    @property
    def present(self) -> bool:
        """Whether a relay has told us that this peer is there."""
        return self.rendezvous.present

    @property
    def name(self) -> str:
        """What people call it."""
        return self.member.name

    @property
    def node_id(self) -> NodeId:
        """Its pinned NodeID."""
        return self.member.node_id

    @property
    def standing(self) -> Standing | None:
        """What its session stands on; None without a session or a network."""
        session = self.session
        return session.standing if session is not None and session.driver.link.established else None

    @property
    def may_bridge(self) -> bool:
        """Whether it may have stations behind it."""
        return self._shared.owners.may_bridge(self.handle)

    @property
    def channel(self) -> Channel | None:
        """The channel to the peer through a relay, if there is one."""
        return self.rendezvous.channel

    def find_session(self, handle: int) -> Session | None:
        """The live or retired session with this handle, of one of its epochs, in the data plane."""
        retired = [session for _, session in self._retired]
        for session in (self.session, self.handshakes.unconfirmed, *retired):
            if session is not None and session.receives_as(handle):
                return session
        return None

    # What the rendezvous tells and asks.

    def handle_channel(self, old: Channel | None, why: str, now: float) -> None:
        """`channel` has changed; this and the next ones are what `rendezvous.Owner` asks for."""
        channel = self.channel
        relayed = self.session is not None and self.routing.paths.direct is None
        if relayed and (old is None) != (channel is None):
            self.tell(f"unreachable: {why} [peer.no-channel]" if channel is None else "reachable again")
        if channel is None:
            self.handshakes.end_all(CloseCode.COLLISION, "the way to the peer changed", now)
        elif self.session is None:
            self._setup.begin("call", now)
        self.routing.handle_channel(now)
        self._note_path(now)
        self._update_deadline()

    def handle_relay_moved(self, relay: RelayClient, now: float) -> None:
        """Datagrams for this relay go elsewhere; its channels stay what they are."""
        if self.channel is not None and self.channel.relay is relay:
            self.routing.handle_channel(now)
            self._note_path(now)
            self._update_deadline()

    def handle_restart(self, relay: RelayClient, now: float) -> None:
        in_vain = self.handshakes.restart(relay, now)
        if self.session is None:
            self.rendezvous.handle_failure(in_vain, now)

    @property
    def met(self) -> bool:
        return self.session is not None

    def handle_refusal(self, reason: str, now: float) -> None:
        self.last_error = Failure("peer.no-channel", reason)
        self._setup.end(now, "refused", reason)
        self.schedule(now + self._backoff.next_delay(now))

    def path_works(self, now: float) -> bool:
        """The answer is of the last probe; a new one is sent, for the next time that somebody asks."""
        relay = self.routing.paths.relay
        if self.session is None or relay is None:
            return False
        works = relay.works(now)
        relay.hurry(now)
        self._update_deadline()
        return works

    def probe_through(self, channel: Channel, nonce: bytes, now: float) -> None:
        payload = encode_probe(Kind.PROBE_REQUEST, nonce)
        packet = self.session.seal(payload, now) if self.session is not None else None
        if packet is not None:
            channel.relay.transmit_through(channel.send, packet)

    def consider(self, now: float) -> None:
        """Do what is missing: a channel first, then a session over it."""
        self._act_at = None
        self.rendezvous.give_up_opening(now)
        if not self.present or self._shared.members.is_revoked(self.member.node_id):
            self._setup.end(now, "revoked" if self.present else "absent")
            return
        if self.session is None and not self.demand.wanted(now):
            return
        if self.channel is None:
            self.rendezvous.open(now)
        elif not self._session_is_current() and not self.handshakes.under_way_at(self.channel.relay):
            self.handshakes.dial(now)
        self._update_deadline()

    def _session_is_current(self) -> bool:
        session = self.session
        if session is None:
            return False
        return not self.present or session.instance in self.rendezvous.instances

    def schedule(self, when: float) -> None:
        self._act_at = when if self._act_at is None else min(self._act_at, when)
        self._update_deadline()

    # Commands.

    def wake(self, now: float) -> None:
        """Somebody would like a session with this peer: try at once, if there is none."""
        if self.session is None:
            self.want(b"", now)

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        self._retire_due(now)
        if self.session is not None and now >= self.session.deadline:
            self.session.handle_timer(now)
        self.rendezvous.handle_timer(now)
        if self.session is not None:
            self.routing.handle_timer(now)
            self._note_path(now)
        pathless = self._pathless_since is not None and now >= self._pathless_since + FORGET_AFTER
        if self.session is not None and pathless:
            self.session.close(CloseCode.TIMEOUT, "no path to the peer", now)
        elif self.session is not None and self.routing.paths.lost(now):
            self.session.close(CloseCode.TIMEOUT, "the peer stopped answering", now)
        if self._act_at is not None and now >= self._act_at:
            self.consider(now)
        self._update_deadline()

    def want(self, payload: bytes, now: float) -> None:
        """There is a frame for the peer, and no route; `payload` around it may be sent when there is one."""
        tried = self.demand.wanted(now)
        self.demand.want(payload, now)
        if not tried:
            self._setup.begin("frame", now)
            self._backoff.reset()
            self.schedule(now)
        self._send_held(now)

    def keep(self, now: float) -> bool:
        """Stay connected, also without frames; whether that is news."""
        if not self.demand.keep():
            return False
        self.schedule(now)
        return True

    def _send_held(self, now: float) -> None:
        """Not right behind RESPONSE, as later frames go: the other end may still be installing its lanes."""
        session = self.session
        if session is None or not self.is_confirmed or self.routing.paths.route is None:
            return
        self._setup.handle_path(self.routing.paths.direct is not None, now)
        for payload in self.demand.take_held(now):
            packet = session.seal(payload, now)
            if packet is None:
                self.demand.note_unsent()
            else:
                self.routing.transmit(Whole(packet))
                self.demand.note_sent(payload)

    @property
    def is_confirmed(self) -> bool:
        """Whether there is a session, and both ends have its keys."""
        return self.session is not None and self.session.driver.link.established

    @property
    def is_awake(self) -> bool:
        """Whether there is anything that grows old: keys, handshakes."""
        return self.session is not None or bool(self._retired) or self.handshakes.under_way

    def handle_tick(self, counters: dict[str, Any], now: float) -> None:
        """Once a second: what the data plane has counted."""
        self.enforce(now)
        if self.session is not None:
            self.session.handle_tick(counters["next_number"], counters["failed_opens"], now)
        if self.session is not None:
            send_roster(self._shared, self.session, self.member.node_id, now)
        if self.session is not None:
            last_frame = max(counters["last_unicast"], self.session.established_at)
            if self.demand.is_idle(last_frame, now):
                self.session.close(CloseCode.IDLE, "it carried no frames for some minutes", now)
        self.handle_counters(counters, now)

    def handle_refusals(self, found: dict[str, Any], now: float) -> None:
        """What the guards have refused of the peer so far."""
        line = self.refusals.handle_counts(found, now)
        if line is not None:
            self.tell(line)

    def move(self, relay: RelayClient, now: float) -> bool:
        """Have relayed frames go through a better relay, unless it takes longer by more than that is better.

        Returns whether that began.
        """
        path, channel = self.routing.paths.relay, self.channel
        if channel is None or channel.relay is relay or not self.is_confirmed:
            return False
        if path is None or path.lowest is None or not path.answers:
            return False
        gain = max(0.0, channel.relay.cost - relay.cost)
        return self.rendezvous.move(relay, now, path.lowest + gain)

    def close(self, now: float) -> None:
        """Say goodbye to the peer."""
        self._act_at = None
        self.handshakes.end_all(CloseCode.SHUTDOWN, "the client is going down", now)
        if self.session is not None:
            self.session.close(CloseCode.SHUTDOWN, "the client is going down", now)

    # Sessions.

    def _handle_link(self, driver: Driver, event: LinkEvent, now: float) -> None:
        if isinstance(event, Ready):
            self._handle_ready(driver, event.agreement, now)
        elif isinstance(event, Confirmed):
            self._handle_confirmed(driver, now)
        elif isinstance(event, Received):
            if self.session is not None and self.session.driver is driver:
                self._handle_message(self.session, event, now)
        elif isinstance(event, Ended):
            self._handle_ended(driver, event, now)
        self._update_deadline()

    def _handle_ready(self, driver: Driver, agreement: Agreement, now: float) -> None:
        """Keys are agreed."""
        session = self._new_session(driver, agreement, now)
        if session is None:
            return
        if driver.link.established:
            send_news(self._shared, session, now)
        if not self.handshakes.must_wait(session, replaces=self.session is not None):
            self._switch(session, now)

    def _handle_confirmed(self, driver: Driver, now: float) -> None:
        """The responder has them too."""
        waiting = self.handshakes.handle_confirmed(driver)
        confirmed = waiting or self.session
        if confirmed is not None and confirmed.driver is driver:
            send_news(self._shared, confirmed, now)
        if waiting is not None:
            self._switch(waiting, now)
        elif self.session is not None and self.session.driver is driver:
            self.routing.handle_confirmed(now)  # what was sent before may have been there before the keys
        self._send_held(now)

    def _new_session(self, driver: Driver, agreement: Agreement, now: float) -> Session | None:
        """A session whose keys are agreed; None if its peer was revoked while they were."""
        try:
            standing = self._shared.members.standing(agreement.peer, agreement.membership)
        except NotMember as error:
            agreement.wipe()
            driver.link.close(CloseCode.REFUSED, str(error))
            return None
        if standing is not None:
            self._certify(standing)
            # Before its lanes are there: whoever judges its frames must know who sends them.
            self.member = self._shared.members.learn(self.member, standing)
        session = Session(self._shared, driver, self.handle, agreement, now)
        session.standing = standing
        return session

    def learn(self, standing: Standing) -> None:
        """What its certificate says counts, before it has shown that itself in a session."""
        self.member = self._shared.members.learn(self.member, standing)
        self._certify(standing)

    def _certify(self, standing: Standing) -> None:
        foreign = self._shared.owners.certify(self.handle, standing.certificate)
        if foreign:
            self.tell(f"{', '.join(foreign)} of its certificate belongs to somebody else now")

    def send(self, message: Message, now: float) -> None:
        """Send a control message; dropped while there is no session."""
        if self.session is not None and self.session.driver.link.established:
            self.session.driver.link.send(message)
            self._shared.links.pump(self.session.driver, now)

    def enforce(self, now: float) -> None:
        """End every session and handshake that this peer's certificate does not carry any more."""
        if self._shared.members.is_revoked(self.member.node_id):
            reason = f"{self.member.name} is {self._shared.members.revoked}"
            self.handshakes.end_all(CloseCode.REFUSED, reason, now)
            self._retire_due(math.inf)
            self._shared.owners.withdraw(self.handle)
        if self.session is None:
            return
        try:
            self._shared.members.recheck(self.session.standing)
        except NotMember as error:
            self.session.close(CloseCode.REFUSED, str(error), now)

    def _handle_message(self, session: Session, received: Received, now: float) -> None:
        """What it refuses ends the session; a new one comes by itself."""
        if self.routing.handle_message(received.message, now):
            return
        epoch = session.epoch
        try:
            if isinstance(received.message, RevocationNews):
                self._shared.members.handle_news(received.message, now)
            elif isinstance(received.message, Roster | CertificateAsked | CertificateShown):
                self._shared.acquaintances.handle_message(self, session.asks, received.message, now)
            elif isinstance(received.message, NetworkNews):
                self._shared.members.handle_network(received.message, now)
            elif isinstance(received.message, ShownMembership):
                self._handle_shown(session, received.message, now)
            elif isinstance(received.message, RenewAsk | Renewal):
                self._shared.renewals.handle_message(self, received.message, now)
            elif session.handle_message(received, now):
                self.routing.check(now)
        except RemoteProtocolError as error:
            session.close(CloseCode.PROTOCOL, str(error), now)
        self._note_epoch(session, epoch)

    def _handle_shown(self, session: Session, message: ShownMembership, now: float) -> None:
        """The peer has another certificate: its session stands on that, if it counts, else on the old one."""
        standing = self._shared.members.handle_shown(self.member.node_id, session.shows, message, now)
        if standing is not None:
            self.learn(standing)
            session.standing, session.shown = standing, message.shown
            self._shared.acquaintances.handle_session(self.member.node_id, session.shown, standing)
            self.tell(f"shows a certificate until {date_text(standing.certificate.body.not_after)}")

    def handle_authentic(self, session: Session, handle: int, now: float) -> None:
        """A packet of one of our sessions, of the epoch with this handle, was opened."""
        if session is self.session:
            epoch = session.epoch
            session.handle_authentic(handle, now)
            self._note_epoch(session, epoch)

    def _note_epoch(self, session: Session, before: int) -> None:
        if session.epoch != before:
            self.tell(f"seals with the keys of epoch {session.epoch}", detail=True)

    def _switch(self, session: Session, now: float) -> None:
        old, self.session = self.session, session
        self.member = self._shared.members.learn(self.member, session.standing)
        if session.standing is not None:
            self._shared.acquaintances.handle_session(self.member.node_id, session.shown, session.standing)
        self._setup.handle_keys(now)
        self.rendezvous.handle_session(self.handshakes.channel_of(session.driver), now)
        self.routing.start(old is None or old.instance != session.instance, now)
        self._note_path(now)
        self._backoff.reset()
        self.last_error, self.dated, self._act_at = None, False, None
        if old is not None:
            self._retired.append((now + GRACE, old))
            old.close(CloseCode.REPLACED, "replaced by a newer session", now)
        self.tell("connected" if old is None else "session renewed")

    def _handle_ended(self, driver: Driver, ended: Ended, now: float) -> None:
        channel = self.handshakes.channel_of(driver)
        failed, unconfirmed = self.handshakes.handle_ended(driver)
        orphaned = False
        if unconfirmed is not None:
            unconfirmed.retire()
            orphaned = self.session is not None and self.session.driver.link.ended
        lost = orphaned or (self.session is not None and self.session.driver is driver)
        if lost and ended.code == CloseCode.REPLACED and self.handshakes.unconfirmed is not None:
            return  # its successor is about to be confirmed; until then its lanes still receive
        if lost and self.session is not None:
            session, self.session = self.session, None
            self.routing.stop(now)
            session.retire()
            self.tell(f"disconnected: {failure_of(ended).told}")
        if lost and ended.code == CloseCode.IDLE:
            self.demand.sleep()
            self.rendezvous.hang_up(now)
            return
        if self.session is None and not lost and self.handshakes.in_vain(ended):
            self.rendezvous.handle_failure(channel, now)
        if ended.code in (CloseCode.COLLISION, CloseCode.REPLACED) and not orphaned:
            if self.session is None:
                self.schedule(now + 2 * self.rendezvous.patience)
            return
        if failed or lost or self.session is None:
            self.dated = ended.clock is not None
            self._setup.end(now, name_of(ended.code), ended.reason)
            self._note_failure(failure_of(ended), now)

    def _note_failure(self, failure: Failure, now: float) -> None:
        if failure != self.last_error and self.session is None:
            self.tell(f"not connected: {failure.told}")
        self.last_error = failure
        self.schedule(now + self._backoff.next_delay(now) + (0 if self._caller else PATIENCE))

    def _retire_due(self, now: float) -> None:
        for due, session in self._retired:
            if due <= now:
                session.retire()
        self._retired = [(due, session) for due, session in self._retired if due > now]

    # Paths: `routing` finds, measures and installs them.

    @property
    def path(self) -> str | None:
        """The path that frames take now, for people; None without one, or without a session."""
        return self.routing.name if self.session is not None else None

    @property
    def answers(self) -> bool:
        """Whether frames have a path that, as far as we know, works."""
        current = self.routing.paths.current
        return self.path is not None and current is not None and current.usable

    def probe(self, now: float) -> bytes | None:
        """Send a probe beside the regular ones; returns its nonce, None without session or path."""
        nonce = self.routing.probe(now) if self.session is not None else None
        self._update_deadline()
        return nonce

    def handle_payload_untrusted(
        self, session: Session, payload: bytes, via: bytes, source: Address, now: float
    ) -> float | None:
        """An authentic payload of one of our sessions; returns the RTT if it answers a probe.

        :param via: the channel that it came through, from the relay at `source`; empty: directly.

        Raises BadPacket.
        """
        session.driver.link.renew(now)
        if self.session is None:
            return None
        if payload[0] == Kind.PROBE_REPLY:
            self.rendezvous.handle_proof(parse_probe(payload), now)
        rtt = self.routing.handle_payload_untrusted(payload, via, source, now)
        self._note_path(now)
        self._update_deadline()
        return rtt

    def handle_source(self, via: bytes, source: Address, now: float) -> None:
        """The frames of our session come from another place than before."""
        if self.session is not None:
            self.routing.handle_source(via, source, now)
            self._update_deadline()

    def handle_counters(self, counters: dict[str, Any], now: float) -> None:
        """What the data plane has counted: ten times a second with traffic, else once."""
        self.routing.handle_counters(counters, now)
        self._note_path(now)
        self._update_deadline()

    def handle_network(self, moved: bool, now: float) -> None:
        """Our own candidates have changed; `moved`: so have our addresses or routes."""
        self.routing.handle_network(moved, now)
        self._note_path(now)
        self._update_deadline()

    def take_lane(self, now: float) -> None:
        """Let frames go out on a fresh lane."""
        if self.session is not None:
            self.session.take_lane()
            self._update_deadline()

    def _note_path(self, now: float) -> None:
        there = self.session is not None and self.routing.paths.route is not None
        self._pathless_since = None if there else self._pathless_since or now
        if there:
            self._send_held(now)
        self.rendezvous.handle_path(self.routing.paths.relay if self.session is not None else None, now)

    def _transmit(self, link: Link, channel: Channel | None, datagram: bytes) -> None:
        """Send a datagram of a link: the way that frames go, but a handshake where it began.

        Whoever restarted knows nothing of our direct paths.
        """
        established = self.session is not None and self.session.driver.link is link
        if not established and channel is not None and self.rendezvous.holds(channel):
            channel.relay.transmit_through(channel.send, datagram)
        elif established or self.channel is None:
            self.routing.transmit(datagram)
        else:
            self.routing.transmit_relayed(datagram)

    # Inside.

    def tell(self, what: str, detail: bool = False) -> None:
        """A line for the log; a `detail` only where somebody looks for a fault."""
        self._shared.tell(f"peer {self.member.name}", what, detail)

    def _update_deadline(self) -> None:
        times = [self._act_at, self.rendezvous.deadline, *(due for due, _ in self._retired)]
        if self.session is not None:
            times += [self.session.deadline, self.routing.deadline]
            if self._pathless_since is not None:
                times.append(self._pathless_since + FORGET_AFTER)
        self.deadline = min((time for time in times if time is not None), default=None)
