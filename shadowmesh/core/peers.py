"""One peer: its presence at relays, the channel to it, the handshakes under way, and the session.

Who comes to a relay calls whom it finds there: it opens the channel and dials, in three round trips
without waiting to be told.  Who was there only answers; if nothing happens for `PATIENCE`, the node with
the smaller NodeID calls, and later the other.

A session outlives its channel: when a relay returns, a new channel carries on the old session.  A new
session of the same peer replaces the old one, whose receive lanes live `GRACE` longer, so that no frame
under way is lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from shadowmesh.core.relays import RelayClient
from shadowmesh.core.session import Session
from shadowmesh.core.shared import Shared
from shadowmesh.errors import BadPacket
from shadowmesh.membership.roster import Member
from shadowmesh.overlay.mac import mac_of
from shadowmesh.path.backoff import Backoff
from shadowmesh.path.prober import Prober
from shadowmesh.path.static import StaticPath
from shadowmesh.session.link import CloseCode, Confirmed, Ended, Link, LinkEvent, Ready, accept
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Refused
from shadowmesh.units import ID_SIZE, NUMBER_LIMIT, Address, NodeId
from shadowmesh.wire.headers import destination_id, is_initial
from shadowmesh.wire.messages import Answer, Close, Open, Opened
from shadowmesh.wire.payload import Kind, encode_probe, parse_probe

PATIENCE = 1.5
"""Seconds that the node with the smaller NodeID waits to be called before it calls; the other waits twice."""
OPEN_TIMEOUT = 5.0
"""Seconds after which an unanswered Open is tried again."""
GRACE = 10.0
"""Seconds that the receive lanes of a replaced session live on."""
FORGET_AFTER = 120.0
"""Seconds without any path after which a session is dropped."""
RENEW_AFTER = 3600.0
"""Seconds after which the node with the smaller NodeID replaces a session, and with it its keys."""
RENEW_GRACE = 60.0
"""Seconds that the other side leaves the caller to do so."""
LANE_MARGIN = 1 << 26
"""Packets before the limit of a lane at which the next one is taken: 30 s at 2 million packets per second."""
FAILED_OPENS_LIMIT = 1 << 36
"""Packets that failed to open, at which a key is given up. Source: RFC 9001 section 6.6."""
MAX_HALF_OPEN = 4
"""Handshakes that one peer may have under way with us."""


@dataclass(frozen=True)
class Channel:
    """A way to the peer through a relay: we send on `send`, and receive under `receive`."""

    relay: RelayClient
    send: bytes
    receive: bytes


class PeerClient:
    """Everything about one configured peer.

    :param handle: its number in the data plane.
    """

    def __init__(self, member: Member, handle: int, shared: Shared) -> None:
        self.member = member
        self.handle = handle
        self.mac = mac_of(member.node_id)
        self.channel: Channel | None = None
        self.session: Session | None = None
        self.direct = StaticPath(member.endpoint, shared.random) if member.endpoint else None
        self.last_error: str | None = None
        self.deadline: float | None = None
        self._shared = shared
        self._caller = shared.identity.node_id < member.node_id
        self._patience = PATIENCE if self._caller else 2 * PATIENCE
        self._present: dict[RelayClient, bytes] = {}
        self._opening: Channel | None = None
        self._initiated: Driver | None = None
        self._accepted: list[Driver] = []
        self._first_ids: deque[bytes] = deque(maxlen=16)
        """Of the latest Initials, so that a late duplicate of one starts nothing."""
        self._unconfirmed: Session | None = None
        self._retired: list[tuple[float, Session]] = []
        self._pathless_since: float | None = None
        self._backoff = Backoff(shared.random)
        self._act_at: float | None = None
        shared.tables.add_peer(handle, self.mac)

    # Getters.

    @property
    def present(self) -> bool:
        """Whether a relay has told us that this peer is there."""
        return bool(self._present)

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

    def owns_channel(self, receive: bytes, source: Address) -> bool:
        """Whether datagrams of this channel id, sent by the relay at `source`, come from this peer."""
        return any(
            way is not None and way.receive == receive and way.relay.address == source
            for way in (self.channel, self._opening)
        )

    # What relays tell.

    def handle_relay_up(self, relay: RelayClient, now: float) -> None:
        """We came to this relay and told it of our interest: call the peer, it may be there already."""
        if self.channel is None and self._opening is None:
            self._open(relay, now)

    def handle_present(self, relay: RelayClient, instance: bytes, now: float) -> None:
        """The peer is at this relay, as this instance."""
        elsewhere = self.channel is not None and self.channel.relay is not relay
        if instance not in self._present.values() and not elsewhere:
            self._abandon_handshakes(now)
        self._present[relay] = instance
        if self._opening is None:
            self._schedule(now + self._patience)

    def handle_absent(self, relay: RelayClient, now: float) -> None:
        """The peer has left this relay, or the relay has left us."""
        self._present.pop(relay, None)
        if self._opening is not None and self._opening.relay is relay:
            self._drop_opening()
        if self.channel is not None and self.channel.relay is relay:
            self._set_channel(None, now, f"relay {relay.name} lost it, or is lost itself")
            if self._present:
                self._schedule(now + self._patience)

    def handle_call(self, relay: RelayClient, send: bytes, now: float) -> None:
        """The peer wants a channel; while we call it ourselves, the smaller NodeID keeps its own call."""
        if (self._opening is not None and self._caller) or self._path_works_without(relay, now):
            relay.send(Answer(send), now)
            return
        if self._opening is not None:
            self._drop_opening()
        receive = self._shared.random(ID_SIZE)
        self._shared.tables.install_channel(receive)
        relay.send(Answer(send, receive), now)
        self._set_channel(Channel(relay, send, receive), now)
        self._schedule(now + self._patience)

    def _path_works_without(self, relay: RelayClient, now: float) -> bool:
        """A relay must not take a peer away from another relay whose path works; probed on the spot."""
        if self.session is None or self.channel is None or self.channel.relay is relay:
            return False
        works = self.session.prober.answers
        self.session.prober.hurry(now)
        self._update_deadline()
        return works

    def awaits(self, relay: RelayClient, receive: bytes) -> bool:
        """Whether an Open with this id is unanswered."""
        opening = self._opening
        return opening is not None and opening.receive == receive and opening.relay is relay

    def handle_opened(self, relay: RelayClient, opened: Opened, now: float) -> None:
        """The answer to the Open that this peer `awaits`."""
        opening = self._opening
        assert opening is not None
        if not self._present:
            self._drop_opening()
            if opened.send:
                relay.send(Close(opened.send), now)
            return
        if opened.refused or len(opened.send) != ID_SIZE:
            self.last_error = f"no channel: {opened.refused or 'the relay gave no id'}"
            self._put_last(relay)
            self._drop_opening()
            self._schedule(now + self._backoff.next_delay(now))
            return
        self._opening = None
        self._set_channel(Channel(relay, opened.send, opening.receive), now)
        self._consider(now)

    def handle_close(self, relay: RelayClient, send: bytes, now: float) -> None:
        """The relay or the peer has taken a channel away."""
        if self.channel is not None and self.channel.relay is relay and self.channel.send == send:
            self._set_channel(None, now, f"its channel through relay {relay.name} is closed")
            self._schedule(now + self._patience)

    # What the peer sends.

    def handle_initial_untrusted(self, datagram: bytes, now: float) -> None:
        """A datagram of no known connection that came through our channel. Raises BadPacket."""
        if not is_initial(datagram):
            raise BadPacket("unknown_connection")
        if len(self._accepted) >= MAX_HALF_OPEN:
            raise BadPacket("too_many_handshakes")
        first_id = destination_id(datagram)
        if first_id in self._first_ids:
            raise BadPacket("late_initial")
        self._first_ids.append(first_id)
        link = accept(
            self._shared.identity,
            self.member.node_id,
            self._shared.new_opening(),
            now,
            first_id,
            admit=self._admit,
        )
        driver = self._shared.links.add(link, self._transmit, self._handle_link, now, first_id)
        self._accepted.append(driver)
        self._shared.links.handle_datagram(driver, datagram, now)

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
            reply = session.seal(encode_probe(Kind.PROBE_REPLY, nonce))
            if source is None:
                self._transmit(reply)
            else:
                self._shared.outbox.append((reply, source))
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

    def find_session(self, handle: int) -> Session | None:
        """The live or retired session with this handle in the data plane."""
        retired = [session for _, session in self._retired]
        for session in (self.session, self._unconfirmed, *retired):
            if session is not None and session.handle == handle:
                return session
        return None

    # Commands.

    def probe(self, now: float) -> bytes | None:
        """Send a probe beside the regular ones; returns its nonce, None without session or path."""
        prober = self.prober
        if self.session is None or prober is None or self.path is None:
            return None
        request = prober.create_probe(now)
        if self.direct is not None and prober is self.direct.prober:
            self._shared.outbox.append((self.session.seal(request), self.direct.address))
        else:
            self._transmit(self.session.seal(request))
        return parse_probe(request)

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        self._retire_due(now)
        if self.session is not None:
            self._probe_paths(self.session, now)
        pathless = self._pathless_since is not None and now >= self._pathless_since + FORGET_AFTER
        if self.session is not None and pathless:
            self.session.close(CloseCode.TIMEOUT, "no path to the peer", now)
        if self._act_at is not None and now >= self._act_at:
            self._consider(now)
        self._update_deadline()

    def _probe_paths(self, session: Session, now: float) -> None:
        direct = self.direct
        if direct is not None:
            was_alive = direct.alive
            probe = direct.poll(now)
            if probe is not None:
                self._shared.outbox.append((session.seal(probe), direct.address))
            if was_alive and not direct.alive:
                self._tell(f"direct {direct.address} stopped answering")
                self._take_path(now)
        probe = session.prober.poll(now)
        if session.prober.failed and direct is not None and direct.alive:
            session.prober.resume(now)
        elif session.prober.failed:
            session.close(CloseCode.TIMEOUT, "the peer stopped answering", now)
        elif probe is not None:
            self._transmit(session.seal(probe))

    def handle_tick(self, next_number: int, failed_opens: int, now: float) -> None:
        """Once a second: the packet number that the sealing lane has come to, and forgeries seen."""
        session = self.session
        if session is None:
            return
        if failed_opens >= FAILED_OPENS_LIMIT:
            session.close(CloseCode.TIMEOUT, "too many forged packets", now)
            return
        worn = next_number > NUMBER_LIMIT - LANE_MARGIN
        if worn and session.lanes_left:
            session.take_lane()
            worn = False
        aged = now - session.established_at > RENEW_AFTER + (0 if self._caller else RENEW_GRACE)
        if (worn or aged) and self._initiated is None and self.channel is not None:
            self._dial(now)

    def close(self, now: float) -> None:
        """Say goodbye to the peer."""
        self._act_at = None
        for driver in [self._initiated, *self._accepted]:
            if driver is not None:
                driver.link.close(CloseCode.SHUTDOWN, "the client is going down")
                self._shared.links.pump(driver, now)
        if self.session is not None:
            self.session.close(CloseCode.SHUTDOWN, "the client is going down", now)

    # The next step.

    def _consider(self, now: float) -> None:
        """Do what is missing: a channel first, then a session over it."""
        self._act_at = None
        if self._opening is not None:
            self._put_last(self._opening.relay)
            self._drop_opening()
        if not self._present:
            return
        if self.channel is None:
            self._open(next(iter(self._present)), now)
        elif not self._session_is_current() and self._initiated is None and not self._accepted:
            self._dial(now)
        self._update_deadline()

    def _put_last(self, relay: RelayClient) -> None:
        if relay in self._present:
            self._present[relay] = self._present.pop(relay)

    def _session_is_current(self) -> bool:
        return (
            self.session is not None
            and not self.session.spent
            and (not self._present or self.session.instance in self._present.values())
        )

    def _open(self, relay: RelayClient, now: float) -> None:
        receive = self._shared.random(ID_SIZE)
        self._shared.tables.install_channel(receive)
        self._opening = Channel(relay, b"", receive)
        relay.send(Open(self.member.node_id, receive), now)
        self._schedule(now + OPEN_TIMEOUT)

    def _dial(self, now: float) -> None:
        link = Link.initiate(self._shared.identity, self.member.node_id, self._shared.new_opening(), now)
        self._initiated = self._shared.links.add(link, self._transmit, self._handle_link, now)

    def _transmit(self, datagram: bytes) -> None:
        if self.channel is not None:
            self.channel.relay.transmit_through(self.channel.send, datagram)

    def _admit(self, node: NodeId, instance: bytes) -> None:
        """If both sides dialled, the connection of the smaller NodeID survives."""
        if self._initiated is not None:
            if self._caller:
                raise Refused(CloseCode.COLLISION, "my own connection to you is under way")
            self._initiated.link.close(CloseCode.COLLISION, "your connection to me is under way")
            self._shared.links.wake(self._initiated)

    def _abandon_handshakes(self, now: float) -> None:
        """The process at the other end is gone, and with it its half of what is under way."""
        for driver in [*self._accepted, self._initiated]:
            if driver is not None:
                driver.link.close(CloseCode.COLLISION, "the way to the peer changed")
                self._shared.links.pump(driver, now)

    # Channels.

    def _drop_opening(self) -> None:
        if self._opening is not None:
            self._shared.tables.remove(self._opening.receive)
            self._opening = None

    def _set_channel(self, channel: Channel | None, now: float, why: str = "") -> None:
        """Take a channel, or none for the reason `why`."""
        old, self.channel = self.channel, channel
        relayed = self.direct is None or not self.direct.alive
        if self.session is not None and relayed and (old is None) != (channel is None):
            self._tell(f"unreachable: {why}" if channel is None else "reachable again")
        if old is not None:
            self._shared.tables.remove(old.receive)
            old.relay.send(Close(old.send), now)
        if channel is None:
            self._abandon_handshakes(now)
        if self.session is not None:
            if channel is None:
                self.session.prober.suspend()
            else:
                self.session.prober.resume(now)
        if relayed:
            self._take_path(now)
        self._update_deadline()

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
        if session.spent:
            self._schedule(now)
        send = b"" if direct or channel is None else channel.send
        self._shared.tables.set_endpoint(self.handle, target, send)
        if direct is not None:
            self._tell(f"direct path to {target}")

    # Sessions.

    def _handle_link(self, driver: Driver, event: LinkEvent, now: float) -> None:
        if isinstance(event, Ready):
            self._handle_ready(driver, Session(self._shared, driver, self.handle, event.agreement, now), now)
        elif isinstance(event, Confirmed):
            if self._unconfirmed is not None and self._unconfirmed.driver is driver:
                session, self._unconfirmed = self._unconfirmed, None
                self._switch(session, now)
            elif self.session is not None and self.session.driver is driver:
                self.session.prober.hurry(now)  # the first probe may have been there before the keys
            if driver is self._initiated:
                self._initiated = None
        elif isinstance(event, Ended):
            self._handle_ended(driver, event, now)
        self._update_deadline()

    def _handle_ready(self, driver: Driver, session: Session, now: float) -> None:
        """The responder switches at once; so does an initiator that has nothing to lose, and another when
        the responder has confirmed that it can open the new packets."""
        if driver is self._initiated and self.session is not None:
            self._unconfirmed = session
        else:
            self._switch(session, now)
        if driver in self._accepted:
            self._accepted.remove(driver)

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
        if driver in self._accepted:
            self._accepted.remove(driver)
        orphaned = False
        if self._unconfirmed is not None and self._unconfirmed.driver is driver:
            self._unconfirmed.retire()
            self._unconfirmed = None
            orphaned = self.session is not None and self.session.driver.link.ended
        failed = driver is self._initiated
        if failed:
            self._initiated = None
        lost = orphaned or (self.session is not None and self.session.driver is driver)
        if lost and ended.code == CloseCode.REPLACED and self._unconfirmed is not None:
            return  # its successor is about to be confirmed; until then its lanes still receive
        if lost and self.session is not None:
            session, self.session = self.session, None
            session.retire()
            if self.direct is not None:
                self.direct.stop()
            self._shared.tables.clear_route(self.handle)
            self._tell(f"disconnected: {ended.reason}")
        if ended.code in (CloseCode.COLLISION, CloseCode.REPLACED) and not orphaned:
            if self.session is None:
                self._schedule(now + 2 * self._patience)
            return
        if failed or lost or self.session is None:
            self._note_failure(ended.reason or "the connection was lost", now)

    def _note_failure(self, reason: str, now: float) -> None:
        if reason != self.last_error and self.session is None:
            self._tell(f"not connected: {reason}")
        self.last_error = reason
        self._schedule(now + self._backoff.next_delay(now) + (0 if self._caller else PATIENCE))

    def _retire_due(self, now: float) -> None:
        for due, session in self._retired:
            if due <= now:
                session.retire()
        self._retired = [(due, session) for due, session in self._retired if due > now]

    def _tell(self, what: str) -> None:
        self._shared.tell(f"peer {self.member.name}", what)

    def _schedule(self, when: float) -> None:
        self._act_at = when if self._act_at is None else min(self._act_at, when)
        self._update_deadline()

    def _update_deadline(self) -> None:
        times = [self._act_at, *(due for due, _ in self._retired)]
        if self.session is not None:
            times.append(self.session.prober.deadline)
            times.append(self.direct.deadline if self.direct is not None else None)
            if self._pathless_since is not None:
                times.append(self._pathless_since + FORGET_AFTER)
        self.deadline = min((time for time in times if time is not None), default=None)
