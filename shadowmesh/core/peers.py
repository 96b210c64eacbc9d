"""One peer: its session, the path that frames take, and what is done when either is missing.

`rendezvous.py` brings a channel, `handshakes.py` a session over it.  A session outlives its channel: when a
relay returns, a new channel carries on the old session.  A new session of the same peer replaces the old
one, whose receive lanes live `GRACE` longer, so that no frame under way is lost.
"""

from __future__ import annotations

from shadowmesh.core.handshakes import Handshakes
from shadowmesh.core.rendezvous import PATIENCE, Channel, Rendezvous
from shadowmesh.core.session import Session
from shadowmesh.core.shared import Shared
from shadowmesh.errors import BadPacket, RemoteProtocolError
from shadowmesh.membership.roster import Member
from shadowmesh.overlay.mac import mac_of
from shadowmesh.path.backoff import Backoff
from shadowmesh.path.prober import Prober
from shadowmesh.path.static import StaticPath
from shadowmesh.session.link import CloseCode, Confirmed, Ended, LinkEvent, Ready, Received
from shadowmesh.session.links import Driver
from shadowmesh.units import Address
from shadowmesh.wire.payload import Kind, encode_probe, parse_probe

GRACE = 10.0
"""Seconds that the receive lanes of a replaced session live on."""
FORGET_AFTER = 120.0
"""Seconds without any path after which a session is dropped."""


class PeerClient:
    """Everything about one configured peer.

    :param handle: its number in the data plane.
    """

    def __init__(self, member: Member, handle: int, shared: Shared) -> None:
        self.member = member
        self.handle = handle
        self.mac = mac_of(member.node_id)
        self.session: Session | None = None
        self.direct = StaticPath(member.endpoint, shared.random) if member.endpoint else None
        self.last_error: str | None = None
        self.deadline: float | None = None
        self._shared = shared
        self._caller = shared.identity.node_id < member.node_id
        self.rendezvous = Rendezvous(member.node_id, self._caller, self, shared)
        self.handshakes = Handshakes(member.node_id, self._caller, shared, self._transmit, self._handle_link)
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
        """`channel` has changed; this and the next five are what `rendezvous.Owner` asks for."""
        channel = self.channel
        relayed = self.direct is None or not self.direct.alive
        if self.session is not None and relayed and (old is None) != (channel is None):
            self._tell(f"unreachable: {why}" if channel is None else "reachable again")
        if channel is None:
            self.handle_restart(now)
        if self.session is not None:
            if channel is None:
                self.session.prober.suspend()
            else:
                self.session.driver.link.nudge()
                self._shared.links.pump(self.session.driver, now)
                self.session.prober.resume(now)
        if relayed:
            self._take_path(now)
        self._update_deadline()

    def handle_restart(self, now: float) -> None:
        self.handshakes.end_all(CloseCode.COLLISION, "the way to the peer changed", now)

    def handle_refusal(self, reason: str, now: float) -> None:
        self.last_error = reason
        self.schedule(now + self._backoff.next_delay(now))

    def path_works(self, now: float) -> bool:
        if self.session is None:
            return False
        works = self.session.prober.answers
        self.session.prober.hurry(now)
        self._update_deadline()
        return works

    def consider(self, now: float) -> None:
        """Do what is missing: a channel first, then a session over it."""
        self._act_at = None
        self.rendezvous.give_up_opening()
        if not self.present:
            return
        if self.channel is None:
            self.rendezvous.open(now)
        elif not self._session_is_current() and not self.handshakes.under_way:
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

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        self._retire_due(now)
        if self.session is not None and now >= self.session.deadline:
            self.session.handle_timer(now)
        if self.session is not None:
            self._probe_paths(self.session, now)
        pathless = self._pathless_since is not None and now >= self._pathless_since + FORGET_AFTER
        if self.session is not None and pathless:
            self.session.close(CloseCode.TIMEOUT, "no path to the peer", now)
        if self._act_at is not None and now >= self._act_at:
            self.consider(now)
        self._update_deadline()

    def handle_tick(self, next_number: int, failed_opens: int, now: float) -> None:
        """Once a second: the packet number that the sealing lane has come to, and forgeries seen."""
        if self.session is not None:
            self.session.handle_tick(next_number, failed_opens, now)
            self._update_deadline()

    def close(self, now: float) -> None:
        """Say goodbye to the peer."""
        self._act_at = None
        self.handshakes.end_all(CloseCode.SHUTDOWN, "the client is going down", now)
        if self.session is not None:
            self.session.close(CloseCode.SHUTDOWN, "the client is going down", now)

    # Sessions.

    def _handle_link(self, driver: Driver, event: LinkEvent, now: float) -> None:
        if isinstance(event, Ready):
            session = Session(self._shared, driver, self.handle, event.agreement, now)
            if not self.handshakes.must_wait(session, replaces=self.session is not None):
                self._switch(session, now)
        elif isinstance(event, Confirmed):
            waiting = self.handshakes.handle_confirmed(driver)
            if waiting is not None:
                self._switch(waiting, now)
            elif self.session is not None and self.session.driver is driver:
                self.session.prober.hurry(now)  # the first probe may have been there before the keys
        elif isinstance(event, Received):
            if self.session is not None and self.session.driver is driver:
                self._handle_message(self.session, event, now)
        elif isinstance(event, Ended):
            self._handle_ended(driver, event, now)
        self._update_deadline()

    def _handle_message(self, session: Session, received: Received, now: float) -> None:
        """What it refuses ends the session; a new one comes by itself."""
        epoch = session.epoch
        try:
            if session.handle_message(received, now):
                self.probe(now)
        except RemoteProtocolError as error:
            session.close(CloseCode.PROTOCOL, str(error), now)
        self._note_epoch(session, epoch)

    def handle_authentic(self, session: Session, handle: int, now: float) -> None:
        """A packet of one of our sessions, of the epoch with this handle, was opened."""
        if session is self.session:
            epoch = session.epoch
            session.handle_authentic(handle, now)
            self._note_epoch(session, epoch)

    def _note_epoch(self, session: Session, before: int) -> None:
        if session.epoch != before:
            self._tell(f"seals with the keys of epoch {session.epoch}", detail=True)

    def _switch(self, session: Session, now: float) -> None:
        old, self.session = self.session, session
        if self.direct is not None:
            self.direct.start(now)
        if self.channel is None:
            session.prober.suspend()
        self._take_path(now)
        self._backoff.reset()
        self.last_error = None
        self._act_at = None
        if old is not None:
            self._retired.append((now + GRACE, old))
            old.close(CloseCode.REPLACED, "replaced by a newer session", now)
        self._tell("connected" if old is None else "session renewed")

    def _handle_ended(self, driver: Driver, ended: Ended, now: float) -> None:
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
            self._shared.tables.clear_route(self.handle)
            session.retire()
            if self.direct is not None:
                self.direct.stop()
            self._tell(f"disconnected: {ended.reason}")
        if ended.code in (CloseCode.COLLISION, CloseCode.REPLACED) and not orphaned:
            if self.session is None:
                self.schedule(now + 2 * self.rendezvous.patience)
            return
        if failed or lost or self.session is None:
            self._note_failure(ended.reason or "the connection was lost", now)

    def _note_failure(self, reason: str, now: float) -> None:
        if reason != self.last_error and self.session is None:
            self._tell(f"not connected: {reason}")
        self.last_error = reason
        self.schedule(now + self._backoff.next_delay(now) + (0 if self._caller else PATIENCE))

    def _retire_due(self, now: float) -> None:
        for due, session in self._retired:
            if due <= now:
                session.retire()
        self._retired = [(due, session) for due, session in self._retired if due > now]

    # Paths: one through the channel, which the session's prober watches, and one to a configured address.

    @property
    def path(self) -> str | None:
        """The path that frames take now, for people; None without one, or without a session."""
        if self.session is None:
            return None
        if self.direct is not None and self.direct.alive:
            return f"direct {self.direct.address}"
        return None if self.channel is None else f"relay {self.channel.relay.name}"

    @property
    def prober(self) -> Prober | None:
        """Of the path that frames take now."""
        if self.direct is not None and self.direct.alive:
            return self.direct.prober
        return self.session.prober if self.session is not None else None

    def probe(self, now: float) -> bytes | None:
        """Send a probe beside the regular ones; returns its nonce, None without session or path."""
        prober = self.prober
        if self.session is None or prober is None or self.path is None:
            return None
        request = prober.create_probe(now)
        target = self.direct.address if self.direct is not None and self.direct.alive else None
        self._send(self.session, request, target, now)
        return parse_probe(request)

    def handle_payload_untrusted(
        self, session: Session, payload: bytes, source: Address | None, now: float
    ) -> float | None:
        """An authentic payload of one of our sessions; returns the RTT if it answers a probe.

        :param source: where it came from directly; None through a channel. A reply goes the same way.

        Raises BadPacket.
        """
        session.driver.link.renew(now)
        nonce = parse_probe(payload)
        if payload[0] == Kind.PROBE_REQUEST:
            self._send(session, encode_probe(Kind.PROBE_REPLY, nonce), source, now)
            return None
        if payload[0] != Kind.PROBE_REPLY:
            raise BadPacket("unexpected_kind")
        rtt = session.prober.handle_reply(nonce, now)
        if rtt is None and self.direct is not None and session is self.session:
            was_alive = self.direct.alive
            rtt = self.direct.handle_reply(nonce, now)
            if self.direct.alive and not was_alive:
                self._take_path(now)
        self._update_deadline()
        return rtt

    def _probe_paths(self, session: Session, now: float) -> None:
        direct = self.direct
        if direct is not None:
            was_alive = direct.alive
            probe = direct.poll(now)
            if probe is not None:
                self._send(session, probe, direct.address, now)
            if was_alive and not direct.alive:
                self._tell(f"direct {direct.address} stopped answering")
                self._take_path(now)
        probe = session.prober.poll(now)
        if session.prober.failed and direct is not None and direct.alive:
            session.prober.resume(now)
        elif session.prober.failed:
            session.close(CloseCode.TIMEOUT, "the peer stopped answering", now)
        elif probe is not None:
            self._send(session, probe, None, now)

    def _take_path(self, now: float) -> None:
        """Point the frames of the session, if there is one, at the best path, if there is one."""
        session, channel = self.session, self.channel
        direct = self.direct if self.direct is not None and self.direct.alive else None
        target = direct.address if direct else channel.relay.address if channel else None
        self._pathless_since = None if target else self._pathless_since or now
        if target is None or session is None:
            self._shared.tables.clear_route(self.handle)
            return
        session.take_lane()
        send = b"" if direct or channel is None else channel.send
        self._shared.tables.set_endpoint(self.handle, target, send)
        if direct is not None:
            self._tell(f"direct path to {target}")

    def _send(self, session: Session, payload: bytes, target: Address | None, now: float) -> None:
        """Seal a payload in lane 0 and send it to `target`, None: through the channel; expired keys don't."""
        packet = session.seal(payload, now)
        if packet is not None and target is not None:
            self._shared.outbox.append((packet, target))
        elif packet is not None:
            self.rendezvous.transmit(packet)

    def _transmit(self, datagram: bytes) -> None:
        """Send a datagram of a link: through the channel; without one directly, if the peer answers there."""
        if self.channel is None and self.direct is not None and self.direct.alive:
            self._shared.outbox.append((datagram, self.direct.address))
        else:
            self.rendezvous.transmit(datagram)

    # Inside.

    def _tell(self, what: str, detail: bool = False) -> None:
        self._shared.tell(f"peer {self.member.name}", what, detail)

    def _update_deadline(self) -> None:
        times = [self._act_at, *(due for due, _ in self._retired)]
        if self.session is not None:
            times += [self.session.deadline, self.session.prober.deadline]
            times.append(self.direct.deadline if self.direct is not None else None)
            if self._pathless_since is not None:
                times.append(self._pathless_since + FORGET_AFTER)
        self.deadline = min((time for time in times if time is not None), default=None)
