"""Our sessions with relays: find, dial, bind, and dial again, for ever.

WAITING -> RESOLVING -> CONNECTING -> CONNECTED -> WAITING ...

Whether that goes by UDP or over TCP is `leg.py`'s; a try that UDP leaves unanswered is begun anew over TCP.

With a ticket of the relay, INTEREST and OPEN leave one round trip after the first datagram, while still
CONNECTING; what the relay answers counts once it has proved itself.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from shadowmesh.config import RelayPeer
from shadowmesh.core.failure import OVER_TCP, failure_of
from shadowmesh.core.leg import Leg
from shadowmesh.core.legtrace import LegTrace
from shadowmesh.core.shared import LEG, ResolveRelay, Shared
from shadowmesh.crypto.keys import resumption_secret, wipe
from shadowmesh.errors import BadPacket, Failure
from shadowmesh.membership.clock import Reading
from shadowmesh.path.backoff import Backoff
from shadowmesh.path.binding import Binding
from shadowmesh.path.cost import cost
from shadowmesh.path.nat import Observation, SecondPortTest
from shadowmesh.session.lane import ControlLane
from shadowmesh.session.link import CloseCode, Confirmed, Ended, Link, LinkEvent, Ready, Received, Resumed
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Agreement
from shadowmesh.session.phases import name_of
from shadowmesh.session.tickets import RelayTicket
from shadowmesh.units import Address, Whole
from shadowmesh.wire.headers import through_channel
from shadowmesh.wire.messages import NO_TICKET, Leave, Message, NatTest, SecondPort, Ticket
from shadowmesh.wire.observe import OBSERVE_LANE
from shadowmesh.wire.payload import Kind

SILENCE_TIMEOUT = 3.0
"""Seconds after which a try that nothing answered is given up; QUIC's own retransmissions grow too rare."""
LEAVE_DELAY = 30.0
"""Seconds before a relay that had us leave is tried again: one that comes back takes that long to restart."""
DUPLICATE_DELAY = 3600.0
"""Seconds before a relay is asked again that found two holders of our identity, while others found none."""
REFUSED_DELAY = 5.0
"""Seconds at least before a relay that refused us is asked again."""
HOPE = 0.5
"""Seconds between looks whether a try over TCP has ended, before silence by UDP is called a failure."""
RESOLVE_TIMEOUT = 10.0
"""Seconds after which an unanswered name look-up counts as failed."""


class RelayState(enum.Enum):
    """Where a relay stands; the value is what `status` shows."""

    WAITING = "waiting"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    CONNECTED = "connected"


class _Lookup(NamedTuple):
    """What the relay's name stands for, or stood for when that was last told."""

    addresses: tuple[Address, ...] = ()
    problem: str = ""
    """Why it was not told again: where the relay was before is better than nothing then."""


class RelayClient:
    """One relay of the configuration.

    `handle` is that of its session in the data plane; `duplicate` says whether its last word was that two
    machines hold our identity.

    :param handle_up: called when messages can be sent to the relay.
    :param handle_message: called with each rendezvous message.
    :param handle_down: called when they no longer can.
    :param handle_moved: called when datagrams for the relay go elsewhere than before.
    :param handle_duplicate: called when the relay says that two machines hold our identity, with its reason.
    """

    def __init__(
        self,
        index: int,
        config: RelayPeer,
        shared: Shared,
        handle_up: Callable[[RelayClient, float], None],
        handle_message: Callable[[RelayClient, Message, float], None],
        handle_down: Callable[[RelayClient, float], None],
        handle_moved: Callable[[RelayClient, float], None],
        handle_duplicate: Callable[[RelayClient, str], None],
        now: float,
    ) -> None:
        self.handle, self.duplicate = 0, False
        self.index = index
        self.config = config
        self.state = RelayState.WAITING
        self.leg = Leg(index, config, shared)
        self.last_error: Failure | None = None
        self.reading: Reading | None = None
        """What the relay said that the time is, when it last did."""
        self.dated = False
        """Whether it refused us because of a date in our certificate."""
        self.leaving = False
        """It is about to go: peers are met elsewhere, and the session ends when none needs it any more."""
        self.load = 0
        """Percent, by its own word."""
        self._shared = shared
        self._handle_up = handle_up
        self._handle_message = handle_message
        self._handle_down = handle_down
        self._handle_moved = handle_moved
        self._handle_duplicate = handle_duplicate
        self._backoff = Backoff(shared.random)
        self._tries = 0
        self._lookup = _Lookup()
        self._act_at: float | None = now
        self._trace = LegTrace(shared.stages, index, config)
        self._driver: Driver | None = None
        self._asked_at = now
        """When we sent what the next word on the time answers."""
        self._usable = False
        """Whether messages can be sent."""
        self._shown: RelayTicket | None = None
        """By which this session is to be resumed; the relay takes it once, if it hears us."""
        self._resumption: bytearray | None = None
        """The key to the ticket that the relay is about to name."""
        self._mldsa = b""
        """The relay's ML-DSA-87 key in this session."""
        self._lane: ControlLane | None = None
        self._observe_lane: ControlLane | None = None
        self.second_port: SecondPortTest | None = None
        """Outlives the session: what was found of a NAT mapping holds as long as that."""

    @property
    def name(self) -> str:
        """`host:port` of the configuration."""
        return str(Address(self.config.host, self.config.port))

    @property
    def distance(self) -> float:
        """Seconds of a round trip to it, the lowest of late; infinite while unknown, or if it is leaving."""
        lowest = self.binding.round_trip.lowest if self.binding is not None else None
        return math.inf if lowest is None or self.leaving else lowest

    @property
    def loss(self) -> float | None:
        """Share of lost exchanges with it lately; None while it is not bound."""
        return self.binding.loss if self.binding is not None else None

    @property
    def cost(self) -> float:
        """Seconds that it counts for when relays are compared; infinite if it can't be used."""
        return cost(self.distance, self.loss or 0.0, self.load)

    @property
    def measured(self) -> str:
        """How it does, for people."""
        return f"{self.distance * 1000:.1f} ms, loss {(self.loss or 0.0):.0%}, load {self.load}%"

    @property
    def doubtful(self) -> bool:
        """Whether its answers stay away."""
        return self.binding is None or self.binding.doubtful

    @property
    def way(self) -> str:
        """The name of the path that leads through this relay, for people."""
        return f"relay {self.name}{' over TCP' if self.leg.over_tcp else ''}"

    @property
    def address(self) -> Address | None:
        """Where datagrams for the relay go just now."""
        return self.leg.address

    @property
    def binding(self) -> Binding | None:
        """Of the session, once that stands."""
        return self.leg.binding

    @property
    def observed(self) -> Address | None:
        """Where the relay sees us; over TCP it sees nothing of use."""
        binding = self.leg.binding
        return binding.observed if binding is not None and not self.leg.over_tcp else None

    @property
    def deadline(self) -> float | None:
        """When `handle_timer` wants to be called."""
        times = [self._act_at, self.leg.deadline]
        times.append(self.second_port.deadline if self.second_port else None)
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        if self._act_at is not None and now >= self._act_at:
            if self.state is RelayState.WAITING:
                self.state = RelayState.RESOLVING
                self._act_at = now + RESOLVE_TIMEOUT
                self._trace.begin(now)
                self.leg.prepare(now)
                self._shared.events.append(ResolveRelay(self.index, self.config.host, self.config.port))
            elif self.state is RelayState.RESOLVING:
                self.handle_resolved((), "name resolution did not answer", now)
            elif self.state is RelayState.CONNECTING:
                self._give_up_silence(now)
        self._bind(now)
        self._test_second_port(now)

    def handle_resolved(self, addresses: Sequence[Address], problem: str, now: float) -> None:
        """The answer to ResolveRelay; empty `addresses` mean failure for the reason `problem`."""
        self._trace.handle_resolved(bool(addresses), problem, now)
        self._lookup = _Lookup(tuple(addresses) or self._lookup.addresses, "" if addresses else problem)
        if self.state is not RelayState.RESOLVING:
            self.leg.handle_resolved(addresses, now)
        elif known := self._lookup.addresses:
            self.leg.connect(known[self._tries % len(known)], now)
            self._tries += 1
            self._begin(now)
        elif self.leg.hopeful:
            self.state, self._act_at = RelayState.CONNECTING, now + SILENCE_TIMEOUT
        else:
            self._fail_before(problem, now)

    def handle_carrier(
        self, address: Address | None, problem: str, now: float, remote: Address | None = None
    ) -> None:
        """The answer to DialCarrier: a tunnel begins at `address`; None: it ended, or there is none."""
        was_over_tcp = self.leg.over_tcp
        self.leg.handle_carrier(address, problem, now, remote)
        self._trace.handle_tunnel(address is not None, problem, now)
        if self.state in (RelayState.CONNECTING, RelayState.RESOLVING):
            silent = self._driver is None or not self._driver.link.heard
            if address is not None and silent:
                self._begin_over_tcp(now)
            elif address is None and was_over_tcp and self._driver is not None:
                self._driver.link.close(CloseCode.TIMEOUT, f"{OVER_TCP}{problem}")
                self._shared.links.pump(self._driver, now)
        self._bind(now)

    def handle_network_change(self, now: float) -> None:
        """Ask at once how the relay sees us, and whether UDP passes."""
        if self.binding is not None:
            self.binding.hurry(now)
        self.leg.handle_network_change(now)

    def _bind(self, now: float) -> None:
        """Send the BINDs that are due; part with a relay that answers none."""
        before = self.address
        binds = self.leg.poll(now)
        self._trace.note_dialling(self.leg.dialling, now)
        if self.leg.failed and self._driver is not None:
            self._driver.link.close(CloseCode.TIMEOUT, "the relay stopped answering")
            self._shared.links.pump(self._driver, now)
            return
        self._send_binds(binds, now)
        self._note_way(before, now)

    def _note_way(self, before: Address | None, now: float) -> None:
        if self.state is not RelayState.CONNECTED or before == self.address:
            return
        if self.leg.over_tcp and self.second_port is not None:
            self.second_port.suspend()
        what = "runs over TCP now: by UDP it stopped answering" if self.leg.over_tcp else "runs by UDP again"
        self._shared.tell(f"relay {self.name}", what)
        self._handle_moved(self, now)

    def _begin_over_tcp(self, now: float) -> None:
        """UDP brought no answer: the try is begun anew."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.link.close(CloseCode.TIMEOUT, "nothing answered")
            self._shared.links.pump(driver, now)
        if self._shown is not None:
            self._shared.keep_ticket(self._shown)
        self.leg.connect_over_tcp()
        self._begin(now)

    def _begin(self, now: float) -> None:
        """Set a session up, where `leg` leads."""
        self.state = RelayState.CONNECTING
        self._act_at = now + SILENCE_TIMEOUT
        self._asked_at = now
        self._shown = self._shared.take_ticket(self.config.id)
        ticket = self._shown.for_tls() if self._shown is not None else None
        opening = self._shared.new_opening(relay=self.config.id)
        link = Link.initiate(self._shared.identity, self.config.id, opening, now, ticket)
        stage = self._trace.attempt(self.leg.over_tcp, self.leg.udp, now)
        self._driver = self._shared.links.add(link, self.transmit, self._handle_link, now, stage=stage)

    def handle_payload_untrusted(self, payload: bytes, source: Address | None, now: float) -> None:
        """A payload that came, authentic, on our receive lanes of this leg. Raises BadPacket.

        :param source: where it came from; None through a channel.
        """
        if payload[0] == Kind.OBSERVED and self.second_port is not None and self.address is not None:
            if source != Address(self.address.host, self.second_port.port):
                raise BadPacket("foreign_observed")
            self.second_port.handle_observed_untrusted(payload, now)
            self._test_second_port(now)
            return
        if payload[0] != Kind.BOUND or self.binding is None or self._driver is None:
            raise BadPacket("unexpected_kind")
        before = self.address
        answers = self.leg.handle_bound_untrusted(payload, now)
        self._driver.link.renew(now)
        self._send_binds(answers, now)
        self._note_way(before, now)
        if not answers and self.second_port is not None and self.observed is not None:
            self.second_port.handle_bound(self.observed, now)
            self._test_second_port(now)

    def handle_traffic(self, now: float) -> None:
        """Frames crossed this relay since the last call."""
        if self.binding is not None:
            self.binding.handle_traffic(now)

    def observations(self) -> list[Observation]:
        """How the ports of this relay see us, as far as they told."""
        if self.address is None or self.observed is None:
            return []
        found = [Observation(self.address, self.observed)]
        if self.second_port is not None and self.second_port.observed is not None:
            second = Address(self.address.host, self.second_port.port)
            found.append(Observation(second, self.second_port.observed))
        return found

    def transmit(self, datagram: bytes) -> None:
        """Send a datagram to the relay itself; lost when it has no address just now."""
        if self.address is not None:
            self._shared.outbox.append((datagram, self.address))

    def transmit_through(self, channel: bytes, datagram: bytes) -> None:
        """Send a datagram through a channel of this relay; lost when the relay is."""
        if self.address is not None:
            packet = through_channel(channel, datagram)
            whole = isinstance(datagram, Whole)
            self._shared.outbox.append((Whole(packet) if whole else packet, self.address))

    def send(self, message: Message, now: float) -> None:
        """Send a rendezvous message; dropped when the relay can't be told anything just now."""
        if self._usable and self._driver is not None:
            self._driver.link.send(message)
            self._shared.links.pump(self._driver, now)

    def leave(self, now: float) -> None:
        """It had us leave, and no peer needs it any more: end the session; look later whether it is back."""
        if self._driver is not None and self.leaving:
            self._driver.link.close(CloseCode.SHUTDOWN, "leaving, as you asked")
            self._shared.links.pump(self._driver, now)

    def close(self, now: float) -> None:
        """Say goodbye and stay down."""
        self._act_at = None
        if self._driver is not None:
            self._driver.link.close(CloseCode.SHUTDOWN, "the client is going down")
            self._shared.links.pump(self._driver, now)
        self._act_at = None

    def _give_up_silence(self, now: float) -> None:
        if self.leg.hopeful:
            self._act_at = now + HOPE
            return
        self._act_at = None
        tcp = f"; {OVER_TCP}{self.leg.problem}" if self.leg.problem else ""
        if self._driver is None:
            self._fail_before(f"its name can't be resolved{tcp}", now)
        elif not self._driver.link.heard:
            before = f" where it was last; {self._lookup.problem}" if self._lookup.problem else ""
            self._driver.link.close(CloseCode.TIMEOUT, f"nothing answered{before}{tcp}")
            self._shared.links.pump(self._driver, now)

    def _fail_before(self, reason: str, now: float) -> None:
        """There is not even a link."""
        self.leg.end(now)
        self._trace.end(now, "no_answer", reason)
        self._fail(Failure("link.unresolved", reason), now)

    def _test_second_port(self, now: float) -> None:
        test, lane, address = self.second_port, self._observe_lane, self.address
        if self.leg.over_tcp:
            return
        step = test.poll(now) if test is not None else None
        if isinstance(step, bytes) and test is not None and lane is not None and address is not None:
            packet = lane.seal(step, now)
            if packet is not None:
                self._shared.outbox.append((packet, Address(address.host, test.port)))
        elif isinstance(step, NatTest):
            self.send(step, now)

    def _keep_ticket(self, name: bytes) -> None:
        if self._resumption is None:
            return  # one session gives one ticket
        ticket = RelayTicket(self.config.id, name, bytes(self._resumption), self._mldsa)
        self._forget_resumption()
        self._shared.keep_ticket(ticket)

    def _forget_resumption(self) -> None:
        if self._resumption is not None:
            wipe(self._resumption)
        self._resumption = None

    def _handle_received(self, message: Message, now: float) -> None:
        if isinstance(message, Ticket):
            self.load = message.load
            if message.ticket != NO_TICKET:
                self._keep_ticket(message.ticket)
        elif isinstance(message, Leave):
            self.leaving = True
            self._shared.tell(f"relay {self.name}", "is going down; peers are met elsewhere")
        elif not isinstance(message, SecondPort):
            self._handle_message(self, message, now)
        elif self.second_port is None or self.second_port.port != message.port:
            self.second_port = SecondPortTest(self._shared.random, message.port)
        if self.second_port is not None and self.observed is not None:
            self.second_port.handle_bound(self.observed, now)
            self._test_second_port(now)

    def _send_binds(self, binds: Sequence[tuple[bytes, Address]], now: float) -> None:
        for payload, address in binds:
            packet = self._lane.seal(payload, now) if self._lane is not None else None
            if packet is not None:
                self._shared.outbox.append((packet, address))

    def _handle_link(self, driver: Driver, event: LinkEvent, now: float) -> None:
        if driver is not self._driver:
            return
        if isinstance(event, Resumed):
            self._asked_at = now  # HELLO
            self._start_using(now)
        elif isinstance(event, Ready):
            if not self._usable:
                self._asked_at = now  # RESPONSE
            self._install(event.agreement)
        elif isinstance(event, Confirmed):
            if isinstance(event.established.clock_ms, int):
                told = event.established.clock_ms / 1000
                self.reading = Reading.between(told, self._asked_at, now)
            self.dated = self.duplicate = False
            self.state = RelayState.CONNECTED
            self._act_at = None
            self.leg.handle_connected(now)
            self._trace.end(now)
            self.last_error = None
            self._backoff.reset()
            self._tries = max(0, self._tries - 1)
            how = ", resumed" if self._usable else ""
            how += " over TCP" if self.leg.over_tcp else ""
            self._shared.tell(f"relay {self.name}", f"connected{how}")
            self._start_using(now)
        elif isinstance(event, Received):
            self._handle_received(event.message, now)
        elif isinstance(event, Ended):
            self._handle_ended(event, now)

    def _start_using(self, now: float) -> None:
        self._shown = None
        if not self._usable:
            self._usable = True
            self._handle_up(self, now)

    def _install(self, agreement: Agreement) -> None:
        self.handle = self._shared.new_handle()
        self._shared.tables.install_receive(self.handle, LEG, agreement.receive_lanes, agreement.receive_keys)
        self._lane = ControlLane(agreement.send_keys, agreement.send_lanes[0])
        observe_id = agreement.send_lanes[OBSERVE_LANE]
        self._observe_lane = ControlLane(agreement.send_keys, observe_id, lane=OBSERVE_LANE)
        secret = resumption_secret(agreement.root, self._shared.identity.node_id, self.config.id)
        self._resumption, self._mldsa = bytearray(secret), agreement.peer_mldsa
        agreement.wipe()

    def _handle_ended(self, ended: Ended, now: float) -> None:
        was_usable, self._usable = self._usable, False
        self._forget_resumption()
        self.load = 0
        self.dated = ended.clock is not None
        if ended.clock is not None and ended.by_peer:
            self.reading = Reading.between(ended.clock, self._asked_at, now)
        if self._shown is not None and self._driver is not None and not self._driver.link.heard:
            self._shared.keep_ticket(self._shown)  # there was no network yet, perhaps
        self._shown = None
        lane, observe_lane = self._lane, self._observe_lane
        self._driver = self._lane = self._observe_lane = None
        self.leg.end(now)
        if self.second_port is not None:
            self.second_port.suspend()
        if lane is not None and observe_lane is not None:
            lane.wipe()
            observe_lane.wipe()
            self._shared.tables.retire_receive(self.handle)
        duplicate = ended.by_peer and ended.code == CloseCode.DUPLICATE
        if duplicate:
            self.duplicate = True
            self._handle_duplicate(self, ended.reason)
        self._trace.end(now, name_of(ended.code), ended.reason)
        refused = ended.by_peer and ended.code == CloseCode.REFUSED
        left, self.leaving = self.leaving, False
        at_least = LEAVE_DELAY if left else REFUSED_DELAY if refused else 0.0
        at_least = self._duplicate_delay() if duplicate else at_least
        self._fail(failure_of(ended, "the relay says: "), now, at_least)
        if was_usable:
            self._handle_down(self, now)

    def _duplicate_delay(self) -> float:
        """Up to a quarter more: the other holder, if there is one, must not come back at the same moment."""
        return DUPLICATE_DELAY * (1 + self._shared.random(1)[0] / 1024)

    def _fail(self, failure: Failure, now: float, at_least: float = 0.0) -> None:
        if failure != self.last_error:
            self._shared.tell(f"relay {self.name}", f"not connected: {failure.told}")
        self.last_error = failure
        self.state = RelayState.WAITING
        self._act_at = now + max(at_least, self._backoff.next_delay(now))
