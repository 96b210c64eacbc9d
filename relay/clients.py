"""Clients of the relay, and the watch for two machines with one identity."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.membership.asking import AskBudget
from shadowmesh.membership.guard import ShowLimit
from shadowmesh.session.link import CloseCode, Ended, Ready
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Agreement
from shadowmesh.session.phases import name_of
from shadowmesh.stages import QUIET, Stage, Stages
from shadowmesh.units import Address, NodeId
from shadowmesh.wire.messages import Message

from .admission import Belonging, Ground
from .hook import Question
from .remotes import Remote

MAX_EARLY = 64
"""Messages of a client that is not let in yet: its list of peers takes four, and eight calls."""
FLIP_WINDOW = 60.0
"""Seconds within which the return of a displaced instance shows that two machines hold one identity."""


@dataclass(frozen=True)
class Visit:
    """The stay of a guest: a node that showed an invitation of one of our clients."""

    invitation: bytes
    host: NodeId
    """Who invited it, and all that it may see."""
    leaves_at: float


def network_of(host: str) -> str:
    """What one party holds at most, for limits: an IPv4 address, or an IPv6 /64. ValueError if it is none."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


@dataclass(eq=False)
class Knock:
    """A handshake under way.

    `source` is where its datagrams come from, `origin` who that is: the same but for a leg over TCP.
    """

    source: Address
    origin: Address
    greeting: int = 0
    refused: bool = False
    belonging: Belonging | None = None
    visit: Visit | None = None
    question: Question | None = None
    """What somebody has to answer before it is let in."""
    token: bytes | None = None
    """Of ours, that it holds."""
    asked: bool = False
    """The answer was yes."""
    ready: Ready | None = None
    """The handshake is complete, and the question open."""
    early: list[Message] = field(default_factory=list)
    """What came meanwhile."""
    stage: Stage = QUIET
    """All of it."""
    admission: Stage = QUIET
    """The part in which the question waits for its answer."""
    thread: int = 0
    """Of the forwarder, which its ids lead to."""
    network: str = field(init=False)
    """Whom limits count it for; computed once, each stranger is compared with all of them."""

    def __post_init__(self) -> None:
        self.network = network_of(self.origin.host)

    # For traces.

    def begin(self, stages: Stages, now: float) -> Stage:
        """The handshake begins; returns its stage."""
        if not stages.on:
            return QUIET
        transport = "udp" if self.source == self.origin else "tcp"
        self.stage = stages.begin("client.join", now, transport=transport)
        self.stage.confide(client_address=self.origin.host, client_port=self.origin.port)
        return self.stage.part("session.handshake", now, role="responder")

    def greet(self, node: NodeId) -> None:
        """It has proved this NodeID, and is to be judged."""
        if self.stage.under_way:
            self.stage.confide(client_id=node_id_text(node))

    def end(self, now: float, ended: Ended | None = None) -> None:
        """It is a client now, or its link has ended before that."""
        error, reason = (name_of(ended.code), ended.reason) if ended is not None else ("", "")
        if ended is None and not self.admission.under_way:
            self.admission = self.stage.part("relay.admission", now, by=self._admitted_by)
        self.admission.end(now, error, reason)
        self.stage.end(now, error, reason)

    @property
    def _admitted_by(self) -> str:
        if self.visit is not None:
            return "invitation"
        return "configuration" if self.belonging is None else "network"

    # A question.

    def wait(self, ready: Ready, now: float) -> None:
        """The handshake is complete, and somebody asked whether it may in."""
        self.ready = ready
        self.admission = self.stage.part("relay.admission", now, by="hook")

    def keep(self, message: Message) -> bool:
        """Keep a message for when it is let in; False if that is too much."""
        self.early.append(message)
        return len(self.early) <= MAX_EARLY


@dataclass(eq=False)
class Client:
    """An admitted client with an established session."""

    handle: int
    node: NodeId
    instance: bytes
    driver: Driver
    address: Address
    """Where its datagrams come from, and go to."""
    origin: Address
    """Who that is: the same but for a leg over TCP."""
    heard_at: float
    joined_at: float
    greeting: int
    """Number of its HELLO among all; the newest handshake of a NodeID wins."""
    belonging: Belonging | None = None
    """Its network, if the relay serves it."""
    visit: Visit | None = None
    """Of a guest; None of everybody else."""
    token: bytes | None = None
    """Of the relay, that it holds."""
    asked: bool = False
    """The operator's program let it in."""
    thread: int = 0
    """Of the forwarder: the one that handles what it sends."""
    shows: ShowLimit = field(default_factory=ShowLimit)
    interests: set[NodeId] = field(default_factory=set)
    opened: list[float] = field(default_factory=list)
    """When it opened channels, within the last second."""

    asks: AskBudget = field(default_factory=AskBudget)

    @classmethod
    def of(
        cls, knock: Knock, agreement: Agreement, driver: Driver, handle: int, visit: Visit | None, now: float
    ) -> Client:
        """Whose handshake is complete."""
        return cls(
            handle=handle,
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
            token=knock.token,
            asked=knock.asked,
            thread=knock.thread,
        )

    @property
    def network(self) -> bytes:
        """The id of its network, if the relay serves it; else empty."""
        return self.belonging.guard.network.id if self.belonging is not None else b""

    @property
    def mark(self) -> bytes:
        """How the fingerprint of its certificate begins: for members of the same network only."""
        return self.belonging.standing.certificate.fingerprint[:8] if self.belonging is not None else b""

    @property
    def ground(self) -> Ground:
        """By what it was let in, besides its NodeID."""
        return Ground(self.belonging, self.visit is not None, self.token, self.asked)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.origin} over TCP" if self.origin != self.address else str(self.origin)

    def shares_network_with(self, other: Client | Remote) -> bool:
        """Whether both are members of one network that the relay serves."""
        return self.belonging is not None and self.network == other.network

    def __str__(self) -> str:
        return f"{node_id_text(self.node)[:10]}…"


class VisitorTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of the strangers that come by HTTP/3."""

    connections: int
    handshakes: dict[str, int]
    """Completed ones, by the kind of key exchange."""
    requests: dict[str, int]
    """By the HTTP status that they got."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of the control part: what there is now, and what has been since the start."""

    clients: int
    clients_limit: int
    channels: int
    handshakes_under_way: int
    handshakes: dict[str, int]
    channels_opened: int
    openings_refused: dict[str, int]
    load: int
    """Percent of what limits the relay first: its busiest thread, or its places for clients."""
    http3: VisitorTotals | None = None
    """None where the port speaks no HTTP/3."""


class Duplicates:
    """Remembers which instance of a NodeID was displaced by another, and when.

    A restarted node comes as a new instance and stays; of two live holders, the displaced one comes back
    as the same instance.

    :param close: ends a session, with what its client is told.
    :param tell: takes a line for the operator's log.
    """

    def __init__(
        self, close: Callable[[Driver, CloseCode, str, float], None], tell: Callable[[str], None]
    ) -> None:
        self._close = close
        self._tell = tell
        self._displaced: dict[tuple[NodeId, bytes], float] = {}

    def displace(
        self, holder: Client, driver: Driver, agreement: Agreement, knock: Knock, now: float
    ) -> bool:
        """Make room for a new session of a NodeID that has one; False if it is not to be had."""
        if holder.greeting > knock.greeting:
            self._close(driver, CloseCode.REPLACED, "your identity has connected since", now)
            return False
        if self.returns(agreement.peer, agreement.instance, now):
            reason = f"two machines use the identity {node_id_text(agreement.peer)}: "
            reason += f"at {holder.origin} and at {knock.origin}"
            self._tell(reason)
            for one in (holder.driver, driver):
                self._close(one, CloseCode.DUPLICATE, reason, now)
            return False
        if holder.instance != agreement.instance:
            self.displaced(agreement.peer, holder.instance, now)
        self._close(holder.driver, CloseCode.REPLACED, f"your identity connected from {knock.origin}", now)
        return True

    def displaced(self, node: NodeId, instance: bytes, now: float) -> None:
        """A newer handshake took the place of this instance."""
        self._displaced = {key: at for key, at in self._displaced.items() if now - at < FLIP_WINDOW}
        self._displaced[node, instance] = now

    def returns(self, node: NodeId, instance: bytes, now: float) -> bool:
        """Whether this instance was displaced within `FLIP_WINDOW`, and is now back."""
        at = self._displaced.get((node, instance))
        return at is not None and now - at < FLIP_WINDOW
