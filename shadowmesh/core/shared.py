"""What every part of a node shares: its identity, the tables of the data plane, and where output goes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shadowmesh.core.acquaintances import Acquaintances
from shadowmesh.core.demand import Connect
from shadowmesh.core.members import Members
from shadowmesh.core.owners import Owners, OwnerTables
from shadowmesh.core.renewal import Renewals
from shadowmesh.crypto.identity import Identity
from shadowmesh.crypto.token import token_proof
from shadowmesh.session.links import LinkSet
from shadowmesh.session.machine import Opening
from shadowmesh.session.tickets import RelayTicket
from shadowmesh.stages import Stages
from shadowmesh.units import BUDGET, ID_SIZE, LANES, Address, NodeId
from shadowmesh.values import printable

LEG = 0
"""Handle in the data plane of everything that is no peer: lanes of relay legs carry no frames."""


class Tables(OwnerTables, Protocol):
    """The data plane as the core sees it: tables to fill (see `shadowmesh._ext.engine.Engine`)."""

    def add_peer(self, peer: int, mac: bytes) -> None: ...
    def new_send_keys(self, material: bytearray, expires_at: float) -> Any: ...
    def set_lane(self, peer: int, keys: Any, lane: int, receiver_id: bytes) -> None: ...
    def set_endpoint(self, peer: int, address: Address, channel: bytes, *, budget: int = BUDGET) -> None: ...
    def clear_route(self, peer: int) -> None: ...
    def install_receive(self, session: int, peer: int, ids: Sequence[bytes], material: bytearray) -> None: ...
    def retire_receive(self, session: int) -> None: ...
    def install_channel(self, channel: bytes) -> None: ...
    def install_control(self, connection_id: bytes) -> None: ...
    def remove(self, table_id: bytes) -> None: ...
    def allow_source(self, address: Address) -> None: ...
    def forbid_source(self, address: Address) -> None: ...
    def peer_counters(self, peer: int) -> dict[str, Any]: ...
    def peer_refusals(self, peer: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ResolveRelay:
    """Ask the system for the addresses of this relay and answer with `Core.handle_resolved`."""

    index: int
    host: str
    port: int


@dataclass(frozen=True)
class DialCarrier:
    """Connect to this relay over TCP and answer with `Core.handle_carrier`, also when that ends."""

    index: int


@dataclass(frozen=True)
class HangUpCarrier:
    """Close that connection, or stop trying; without an answer."""

    index: int


@dataclass(frozen=True)
class ProbeAnswered:
    """The probe with this nonce came back after `rtt` seconds."""

    nonce: bytes
    rtt: float


@dataclass(frozen=True)
class Changed:
    """Something for the log: `subject` (relay or peer) and what happened to it.

    `detail` is for who looks for a fault; the rest is for every operator.
    """

    subject: str
    what: str
    detail: bool = False


@dataclass(frozen=True)
class Fatal:
    """This node must stop, and the reason."""

    reason: str


@dataclass(frozen=True)
class TicketsChanged:
    """Keep exactly these tickets for the next start; one that was used is no longer among them."""

    tickets: tuple[RelayTicket, ...]


@dataclass(frozen=True)
class MembersChanged:
    """Keep exactly these for the next start: members, and what each has shown."""

    known: tuple[tuple[NodeId, bytes], ...]


CoreEvent = (
    ResolveRelay
    | DialCarrier
    | HangUpCarrier
    | ProbeAnswered
    | Changed
    | Fatal
    | TicketsChanged
    | MembersChanged
)


@dataclass
class Shared:
    """One per node.

    :param random: returns n random bytes.
    """

    identity: Identity
    tables: Tables
    random: Callable[[int], bytes]
    instance: bytes
    links: LinkSet
    rekey_after: float
    """Seconds after which a session takes fresh keys."""
    tickets: dict[NodeId, RelayTicket]
    """Of relays; a session is resumed with each once."""
    members: Members
    owners: Owners
    connect: Connect
    acquaintances: Acquaintances
    renewals: Renewals
    tokens: Mapping[NodeId, bytes] = field(default_factory=dict)
    """By which relays admit us."""
    stages: Stages = field(default_factory=Stages)
    """For traces."""
    outbox: list[tuple[bytes, Address]] = field(default_factory=list)
    events: deque[CoreEvent] = field(default_factory=deque)
    receivers: dict[int, int] = field(default_factory=dict)
    """Handles of what peers' sessions receive -> the peer's."""
    _handles: Any = field(default_factory=lambda: itertools.count(1))

    def new_handle(self) -> int:
        """A number that names a session in the data plane, never used twice."""
        return int(next(self._handles))

    def new_opening(self, observed: Address | None = None, relay: NodeId = b"") -> Opening:
        """Fresh random values for one handshake.

        :param relay: with whom, if that is a relay; it gets a proof of its token.
        """
        nonce = self.random(32)
        token = self.tokens.get(relay)
        return Opening(
            nonce=nonce,
            instance=self.instance,
            lanes=[self.random(ID_SIZE) for _ in range(LANES)],
            session=self.random(16),
            observed=observed,
            membership=self.members.show(),
            token=None if token is None else token_proof(token, nonce, self.identity.node_id, relay),
        )

    def take_ticket(self, relay: NodeId) -> RelayTicket | None:
        """The ticket of this relay, which is used up."""
        ticket = self.tickets.pop(relay, None)
        if ticket is not None:
            self.events.append(TicketsChanged(tuple(self.tickets.values())))
        return ticket

    def keep_ticket(self, ticket: RelayTicket) -> None:
        """In place of the one that we had of the same relay."""
        self.tickets[ticket.relay] = ticket
        self.events.append(TicketsChanged(tuple(self.tickets.values())))

    def tell(self, subject: str, what: str, detail: bool = False) -> None:
        """Put a line into the operator's log; a `detail` only where somebody looks for a fault."""
        self.events.append(Changed(printable(subject), printable(what), detail))
