"""The paths of one peer inside the node: between its `PathSet`, its session, and the data plane.

Seals what the path set wants sent in lane 0 of the session, installs the path that it chose (each on a
fresh lane, so that frames of the old one are not taken for late), and carries CANDIDATES and PATH_VIEW.
Which path is best, and when, is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from shadowmesh.core.local import LocalNetwork
from shadowmesh.core.rendezvous import Channel
from shadowmesh.core.session import Session
from shadowmesh.core.setup import SetUp
from shadowmesh.core.shared import Shared
from shadowmesh.membership.roster import Member
from shadowmesh.path.candidates import Candidate, CandidateKind, from_wire, merge, to_wire
from shadowmesh.path.health import Counters
from shadowmesh.path.paths import PathSet, Route
from shadowmesh.path.view import view
from shadowmesh.path.way import Way
from shadowmesh.stages import QUIET
from shadowmesh.units import Address, Whole
from shadowmesh.wire.messages import Candidates, Message, PathView

RENEW_INTERVAL = 60.0
"""Seconds between renewals of QUIC's idle timer while a silent path is believed to work; it runs 180 s."""
VIEW_DELAY = 1.0
"""Seconds that a PATH_VIEW waits for the next change, so that one message tells of several."""
VIEW_GAP = 5.0
"""Seconds at least between two of them: a flapping path must not cost the control plane more."""

ANNOUNCE_GAP = 1.0
"""Seconds between CANDIDATES in the long run: a relay that sees us elsewhere every time must not have us tell
all peers of it as fast as it talks. A peer begins no round sooner either."""
ANNOUNCE_AT_ONCE = 5
"""CANDIDATES that need not wait: what is learned in the first second, each piece at once."""

Mode = Literal["auto", "static", "never"]


class Owner(Protocol):
    """The peer that the paths lead to."""

    handle: int
    session: Session | None

    @property
    def channel(self) -> Channel | None:
        """The channel through a relay."""

    def take_lane(self, now: float) -> None:
        """Let frames go out on a fresh lane."""

    def tell(self, what: str) -> None:
        """A line for the log."""


class Routing:
    """Call order: after everything that may have changed the paths, `synchronise`; then see `deadline`.

    :param mode: `paths.direct` of the configuration.
    :param setup: what traces tell of the peer.
    """

    def __init__(
        self,
        owner: Owner,
        member: Member,
        mode: Mode,
        network: LocalNetwork,
        shared: Shared,
        setup: SetUp,
        now: float,
    ) -> None:
        self.paths = PathSet(shared.random, now, direct=mode != "never", strangers=mode == "auto")
        self.peer_view: PathView | None = None
        """How the peer last said that it sees its paths to us."""
        self._owner = owner
        self._mode = mode
        self._network = network
        self._shared = shared
        self._setup = setup
        self._search = QUIET
        static = member.endpoint if mode != "never" else None
        self._static = [Candidate(static, CandidateKind.STATIC)] if static is not None else []
        self._told: list[Candidate] = []
        self._heard_sequence = -1
        self._sent_sequence = 0
        self._announced = -1
        """Version of our candidates that the peer was told."""
        self._announces = False
        """CANDIDATES is to be sent."""
        self._announce_due = now
        """When the next would be due if they were all `ANNOUNCE_GAP` apart."""
        self._installed: Route | None = None
        self._renewed_at = now
        self._view_sent: PathView | None = None
        self._view_at: float | None = None
        self._next_view = now
        self._list(now)

    # Getters.

    @property
    def name(self) -> str | None:
        """The path that frames take, for people; None without one."""
        current = self.paths.current
        return current.name if self.paths.running and current is not None else None

    @property
    def deadline(self) -> float | None:
        """When `handle_timer` wants to be called."""
        times = [self.paths.deadline, self._view_at]
        times.append(self._announce_at if self._announces and self._hears else None)
        return min((time for time in times if time is not None), default=None)

    # Commands.

    def start(self, fresh: bool, now: float) -> None:
        """There is a (new) session.

        :param fresh: it is the first, or the peer is another process than before: nothing proved counts.
        """
        if fresh:
            self.stop(now)
        self._heard_sequence = -1
        self._installed = None
        self.paths.start(now)
        self._announced = -1
        self.synchronise(now)

    def stop(self, now: float) -> None:
        """There is no session."""
        self.paths.stop()
        self._told, self.peer_view, self._view_sent, self._view_at = [], None, None, None
        self._installed = None
        self._shared.tables.clear_route(self._owner.handle)
        self._search.end(now, "abandoned")

    def handle_channel(self, now: float) -> None:
        """The channel through a relay has changed."""
        channel = self._owner.channel
        address = channel.relay.address if channel is not None else None
        if channel is None or address is None:
            self.paths.set_relay(None, "", now)
        else:
            self.paths.set_relay(Way(address, channel.send), channel.relay.way, now)
        self.synchronise(now)

    def handle_confirmed(self, now: float) -> None:
        """The other end has its keys too: what was sent before may have come too early."""
        self.paths.hurry(now)
        self.synchronise(now)

    def handle_network(self, moved: bool, now: float) -> None:
        """Our candidates have changed; `moved`: so have our addresses or routes."""
        self.paths.finder.own_hosts = self._network.hosts
        self.paths.finder.own_nat = self._network.nat
        self.paths.set_largest(self._network.largest, now)
        if moved:
            self.paths.handle_network_change(now)
        self.synchronise(now)

    def handle_prefixes(self, now: float) -> None:
        """Other prefixes are our own: see which addresses of the peer are left."""
        self._list(now)
        self.synchronise(now)

    def check(self, now: float) -> None:
        """Show the peer a packet of a new epoch; if no answer comes, the path or the session is given up."""
        if self.paths.current is not None:
            self.paths.current.hurry(now)
        self.handle_timer(now)

    def probe(self, now: float) -> bytes | None:
        """Send a probe on the path in use and look for better; its nonce, None without a path."""
        nonce = self.paths.create_probe(now)
        if self.paths.direct is None:
            self.paths.hurry(now)
        self.synchronise(now)
        return nonce

    def transmit(self, datagram: bytes) -> None:
        """Send a datagram of the session's link the way that frames go."""
        current = self.paths.current
        if self.paths.running and current is not None and not current.relayed:
            self._shared.outbox.append((datagram, current.way.address))
        else:
            self.transmit_relayed(datagram)

    def transmit_relayed(self, datagram: bytes) -> None:
        """Send a datagram through the channel; lost while there is none."""
        channel = self._owner.channel
        if channel is not None:
            channel.relay.transmit_through(channel.send, datagram)

    # Input.

    def handle_payload_untrusted(
        self, payload: bytes, via: bytes, source: Address, now: float
    ) -> float | None:
        """An authentic payload of lane 0; the RTT if it answers a probe of ours. Raises BadPacket."""
        way = self._way_back(via, source)
        rtt = self.paths.handle_payload_untrusted(payload, way, now) if way is not None else None
        self._note_observed()
        self.synchronise(now)
        return rtt

    def handle_source(self, via: bytes, source: Address, now: float) -> None:
        """The peer's frames come from there from now on."""
        way = self._way_back(via, source)
        if way is not None:
            self.paths.handle_source(way, now)
            self.synchronise(now)

    def handle_counters(self, counters: Mapping[str, Any], now: float) -> None:
        """What the data plane has counted for this peer."""
        session, current = self._owner.session, self.paths.current
        if session is None:
            return
        heard_at = counters["path_received"]
        self.paths.handle_counters(
            Counters(counters["tx_frames"], counters["rx_frames"], float(heard_at), counters["next_number"]),
            now,
        )
        if current is not None and current.usable and now - self._renewed_at >= RENEW_INTERVAL:
            self._renewed_at = now
            session.driver.link.renew(now)
        self.synchronise(now)

    def handle_message(self, message: Message, now: float) -> bool:
        """Take CANDIDATES or PATH_VIEW; returns whether it was one of them."""
        if isinstance(message, PathView):
            self.peer_view = message
        elif isinstance(message, Candidates):
            if self._mode == "auto" and message.sequence > self._heard_sequence:
                self._heard_sequence = message.sequence
                self._told = from_wire(message.addresses)
                self.paths.finder.peer_nat = message.nat
                self._list(now)
                self.synchronise(now)
        else:
            return False
        return True

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        self.paths.handle_timer(now)
        if self._view_at is not None and now >= self._view_at:
            self._send_view(now)
        self.synchronise(now)

    # Output.

    def synchronise(self, now: float) -> None:
        """Send, say and install what the path set wants."""
        session = self._owner.session
        for payload, way in self.paths.poll_transmit():
            packet = session.seal(payload, now) if session is not None else None
            if packet is not None and way.relayed:
                self.transmit_relayed(Whole(packet))
            elif packet is not None:
                self._shared.outbox.append((Whole(packet), way.address))
        for change in self.paths.poll_changes():
            self._owner.tell(change)
        if self.paths.poll_announcement() or self._announced != self._network.version:
            self._announces = True
        if self._announces and now >= self._announce_at:
            self._announce(now)
        self._install(now)
        self._plan_view(now)
        self._note_search(now)

    # Inside.

    def _note_search(self, now: float) -> None:
        """For traces: a round begins, brings a direct path into use, or was in vain."""
        direct, searching = self.paths.direct, self.paths.searching
        if searching and not self._search.under_way:
            self._search = self._setup.search(now)
        elif direct is not None and self._search.under_way:
            self._search.note(kind=direct.kind.name.lower() if direct.kind is not None else "unknown")
            self._search.confide(path=direct.name)
            self._search.end(now)
        elif not searching:
            self._search.end(now, "no_answer")

    def _way_back(self, via: bytes, source: Address) -> Way | None:
        """The way on which an answer to what came through `via` (empty: directly) from `source` goes.

        None if there is none, or if the answer would go through the tunnel that it is to be sealed for.
        """
        if not via:
            return None if self._network.owns(source) else Way(source)
        relay = self.paths.relay
        return relay.way if relay is not None else None

    def _list(self, now: float) -> None:
        self.paths.set_candidates(merge([self._static, self._told], self._network.own_prefixes), now)

    def _install(self, now: float) -> None:
        route, installed = self.paths.route, self._installed
        if route == installed:
            return
        self._installed = route
        handle, tables = self._owner.handle, self._shared.tables
        if route is None:
            tables.clear_route(handle)
            return
        moved = installed is None or route.way != installed.way
        if moved:
            self._owner.take_lane(now)
        tables.set_endpoint(handle, route.way.address, route.way.channel, budget=route.budget)
        channel = self._owner.channel
        if moved and route.way.relayed and channel is not None and self.paths.active(now):
            channel.relay.handle_traffic(now)  # whatever ended a direct path may have ended the leg too
        if moved:
            self._nudge(now)  # the last step: it may end the session, and with it the route

    def _nudge(self, now: float) -> None:
        """QUIC's own timers may have grown long while nothing came through: repeat what is unanswered."""
        session = self._owner.session
        if session is not None:
            session.driver.link.nudge()
            self._shared.links.pump(session.driver, now)

    @property
    def _hears(self) -> bool:
        """Whether the peer is to be told our addresses, and can be."""
        session = self._owner.session
        return self._mode == "auto" and session is not None and session.driver.link.established

    @property
    def _announce_at(self) -> float:
        return self._announce_due - (ANNOUNCE_AT_ONCE - 1) * ANNOUNCE_GAP

    def _announce(self, now: float) -> None:
        """Tell the peer where we might be reached, as soon as it can hear it."""
        session = self._owner.session
        self._announces = False
        if session is None or not self._hears:
            self._announced = self._network.version if self._mode != "auto" else -1
            return
        self._announce_due = max(self._announce_due, now) + ANNOUNCE_GAP
        self._announced = self._network.version
        self._sent_sequence += 1
        session.driver.link.send(
            Candidates(
                sequence=self._sent_sequence,
                addresses=to_wire(self._network.candidates),
                nat=self._network.nat,
            )
        )
        self._shared.links.pump(session.driver, now)

    def _note_observed(self) -> None:
        path = self.paths.direct
        if path is not None and path.observed is not None:
            self._network.note_seen_by_peer(path.observed)

    def _plan_view(self, now: float) -> None:
        if self._view_at is None and self._owner.session is not None and self._view() != self._view_sent:
            self._view_at = max(now + VIEW_DELAY, self._next_view)

    def _view(self) -> PathView:
        return view(self.paths, self._network.nat)

    def _send_view(self, now: float) -> None:
        self._view_at = None
        session = self._owner.session
        if session is None or not session.driver.link.established:
            return
        self._view_sent = self._view()
        self._next_view = now + VIEW_GAP
        session.driver.link.send(self._view_sent)
        self._shared.links.pump(session.driver, now)
