"""Clients of the relay, and the watch for two machines with one identity."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

import msgspec

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.membership.asking import AskBudget
from shadowmesh.membership.guard import ShowLimit
from shadowmesh.session.link import Ready
from shadowmesh.session.links import Driver
from shadowmesh.units import Address, NodeId
from shadowmesh.wire.messages import Message

from .admission import Belonging
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
    ready: Ready | None = None
    """The handshake is complete, and the question open."""
    early: list[Message] = field(default_factory=list)
    """What came meanwhile."""
    network: str = field(init=False)
    """Whom limits count it for; computed once, each stranger is compared with all of them."""

    def __post_init__(self) -> None:
        self.network = network_of(self.origin.host)

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
    shows: ShowLimit = field(default_factory=ShowLimit)
    interests: set[NodeId] = field(default_factory=set)
    opened: list[float] = field(default_factory=list)
    """When it opened channels, within the last second."""

    asks: AskBudget = field(default_factory=AskBudget)

    @property
    def network(self) -> bytes:
        """The id of its network, if the relay serves it; else empty."""
        return self.belonging.guard.network.id if self.belonging is not None else b""

    @property
    def mark(self) -> bytes:
        """How the fingerprint of its certificate begins: for members of the same network only."""
        return self.belonging.standing.certificate.fingerprint[:8] if self.belonging is not None else b""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.origin} over TCP" if self.origin != self.address else str(self.origin)

    def shares_network_with(self, other: Client | Remote) -> bool:
        """Whether both are members of one network that the relay serves."""
        return self.belonging is not None and self.network == other.network

    def __str__(self) -> str:
        return f"{node_id_text(self.node)[:10]}…"


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of the control part: what there is now, and what has been since the start."""

    clients: int
    clients_limit: int
    channels: int
    handshakes_under_way: int
    handshakes: dict[str, int]
    channels_opened: int
    openings_refused: dict[str, int]


class Duplicates:
    """Remembers which instance of a NodeID was displaced by another, and when.

    A restarted node comes as a new instance and stays; of two live holders, the displaced one comes back
    as the same instance.
    """

    def __init__(self) -> None:
        self._displaced: dict[tuple[NodeId, bytes], float] = {}

    def displaced(self, node: NodeId, instance: bytes, now: float) -> None:
        """A newer handshake took the place of this instance."""
        self._displaced = {key: at for key, at in self._displaced.items() if now - at < FLIP_WINDOW}
        self._displaced[node, instance] = now

    def returns(self, node: NodeId, instance: bytes, now: float) -> bool:
        """Whether this instance was displaced within `FLIP_WINDOW`, and is now back."""
        at = self._displaced.get((node, instance))
        return at is not None and now - at < FLIP_WINDOW
