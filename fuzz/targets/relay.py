"""Whatever authenticated clients say to a relay in whatever order, each learns only of whom it may know,
every channel joins two clients that are there, and nothing of a client is left when it has gone.

An input is a program for five nodes: they come, as guests too, leave, come twice, say what they like, and
time passes. Their links are posed: what a client says arrives decoded, what it is told is looked at on the
spot.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sized
from typing import cast

from fuzz.program import Program, string
from fuzz.traffic import identity
from shadowmesh.crypto.keys import Direction
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.session.link import Ended, Link, LinkEvent, Ready, Received
from shadowmesh.session.links import Driver
from shadowmesh.session.machine import Agreement
from shadowmesh.units import LANES, Address, NodeId
from shadowmesh.wire import messages
from shadowmesh.wire.messages import (
    Absent,
    Answer,
    Call,
    CertificateAsked,
    Close,
    Interest,
    Invite,
    Leave,
    Message,
    MessageType,
    NatTest,
    Open,
    Opened,
    Present,
    Registration,
)
from shadowmesh_relay.admission import Admission
from shadowmesh_relay.clients import Client, Knock
from shadowmesh_relay.limits import Limits
from shadowmesh_relay.protocol import RelayCore
from shadowmesh_relay.rendezvous import MAX_INTERESTS
from shadowmesh_relay.testing import MemoryForwarder

COVERS = (
    "shadowmesh_relay.protocol",
    "shadowmesh_relay.rendezvous",
    "shadowmesh_relay.guests",
    "shadowmesh_relay.clients",
)
RELAY = identity("relay")
NODES = [bytes([number]) * 32 for number in range(1, 6)]
IDS = [bytes([0x80 + number]) * 32 for number in range(3)]
LIMITS = Limits(channels_per_client=6, clients=6)
PAUSES = (0.0, 0.1, 1.1, 6.0, 40.0)
STEPS = 60
(
    JOIN, VISIT, GO, INTEREST, CALL, ANSWER, CLOSE, INVITE, ASK, OTHER, WAIT, DRAIN,
) = range(12)  # fmt: skip


class PosedLink:
    """What the relay uses of a link."""

    established, begun, deadline = True, True, None

    def __init__(self, peer: NodeId, wire_id: bytes) -> None:
        self.peer = peer
        self.connection_ids = {wire_id}
        self.events: deque[LinkEvent] = deque()
        self.told: list[Message] = []
        self.ended = False

    def send(self, message: Message) -> None:
        assert not self.ended, "something was said after the end"
        self.told.append(message)

    def close(self, code: int, reason: str, clock: float | None = None) -> None:
        if not self.ended:
            self.ended = True
            self.events.append(Ended(code, reason, by_peer=False, clock=clock))

    def next_event(self) -> LinkEvent | None:
        return self.events.popleft() if self.events else None

    def transmit(self, _now: float) -> list[bytes]:
        return []

    def handle_timer(self, now: float) -> None: ...

    def renew(self, now: float) -> None: ...


class World:
    """A relay, and what each node has heard."""

    def __init__(self) -> None:
        self.now = 0.0
        self.random = random.Random(1)
        self.tables = MemoryForwarder()
        admitted = Admission(True, frozenset())
        self.core = RelayCore(RELAY, admitted, self.tables, self.random.randbytes, 0.0, limits=LIMITS)
        self.links: list[PosedLink] = []
        self.guests: set[tuple[NodeId, NodeId]] = set()
        """Who came by an invitation of whom."""
        self.calls: dict[NodeId, list[bytes]] = {node: [] for node in NODES}
        self.channels: dict[NodeId, list[bytes]] = {node: [] for node in NODES}

    # What a node does.

    def come(self, node: NodeId, instance: int, invitation: bytes = b"") -> None:
        core = self.core
        number = len(self.links)
        knock = Knock(*(Address("192.0.2.1", 1024 + number),) * 2)
        if invitation:
            try:
                knock.visit = core._guests.visit(invitation, self.now)
            except NotMember:
                return
            self.guests.add((node, knock.visit.host))
        core._reception.greetings += 1
        knock.greeting = core._reception.greetings
        link = PosedLink(node, b"control" + bytes([number]))
        self.links.append(link)
        driver = core._links.add(cast("Link", link), self._ignore, core._handle_link, self.now)
        core._half_open[driver] = knock
        link.events.append(Ready(self._agreement(node, instance, number)))
        core._links.pump(driver, self.now)

    def _ignore(self, _datagram: bytes) -> None: ...

    def _agreement(self, node: NodeId, instance: int, number: int) -> Agreement:
        lanes = [bytes([number, lane]) * 4 for lane in range(LANES)]
        return Agreement(
            epoch=0,
            send_keys=bytearray(76),
            receive_keys=bytearray(76),
            send_lanes=lanes,
            receive_lanes=lanes,
            peer=node,
            peer_ed25519=bytes(32),
            peer_mldsa=bytes(2592),
            instance=bytes([instance]) * 8,
            version=1,
            role=Direction.RESPONDER,
            root=bytearray(32),
            membership=b"",
            binding=bytes(32),
        )

    def driver(self, node: NodeId) -> Driver | None:
        client = self.core.clients.get(node)
        return client.driver if client is not None else None

    def say(self, node: NodeId, message: Message) -> None:
        driver = self.driver(node)
        if driver is not None:
            cast("PosedLink", driver.link).events.append(Received(message, messages.encode(message)))
            self.core._links.pump(driver, self.now)

    def go(self, node: NodeId) -> None:
        driver = self.driver(node)
        if driver is not None:
            driver.link.close(0, "it leaves")
            self.core._links.pump(driver, self.now)

    # What must hold.

    def check(self) -> None:
        """Of everything that was said since the last time, and of what the relay holds."""
        for link in self.links:
            for message in link.told:
                messages.decode(MessageType(messages.encode(message)[0]), messages.encode(message)[4:])
                self._hear(link.peer, message)
            link.told.clear()
        core, tables = self.core, self.tables
        assert len(core.clients) <= LIMITS.clients
        assert {client.handle for client in core.clients.values()} == set(tables.legs)
        for source, other, _ in tables.channels.values():
            assert {source, other} <= set(tables.legs), "a channel of somebody who has gone"
            assert source != other
        assert len(tables.channels) == 2 * core._rendezvous.channels
        for client in core.clients.values():
            assert core.channels_of(client) <= LIMITS.channels_per_client
            assert len(client.interests) <= MAX_INTERESTS
        assert not core._half_open
        core.poll_events()
        assert not core.poll_transmit()

    def _hear(self, node: NodeId, message: Message) -> None:
        if isinstance(message, Call):
            self.calls[node] = [*self.calls[node], message.send][-8:]
            self.channels[node] = [*self.channels[node], message.send][-8:]
        elif isinstance(message, Opened) and message.send:
            self.channels[node] = [*self.channels[node], message.send][-8:]


class Watch:
    """Asks of every message, while it is sent, whether its client may know what it says."""

    def __init__(self, world: World) -> None:
        self.core = world.core
        send_all = world.core._send_all
        rendezvous = world.core._rendezvous

        def watched(client: Client, told: list[Message], now: float) -> None:
            for message in told:
                if isinstance(message, Present | Call):
                    other = self.core.clients.get(message.node)
                    assert other is not None, "it was told of somebody who is not here"
                    assert self.may_know(client, other), "it was told of somebody it does not know"
                elif isinstance(message, Absent):
                    pair = (message.node, client.node)
                    assert message.node in client.interests or {pair, pair[::-1]} & world.guests
            send_all(client, told, now)

        rendezvous._send_all = watched  # type: ignore[assignment]

    @staticmethod
    def may_know(client: Client, other: Client) -> bool:
        """Written anew, so that it can be wrong only together with the specification."""
        if client.visit is not None:
            return other.node == client.visit.host
        if other.visit is not None:
            return client.node == other.visit.host
        return other.node in client.interests and client.node in other.interests


def spoken(what: int, node: NodeId, world: World, program: Program) -> Message | None:
    """What a node says: sensible messages with ids that it has, others, and any other message."""
    if what == INTEREST:
        added, removed = program.number(), program.number()
        chosen = [[one for bit, one in enumerate(NODES) if mask >> bit & 1] for mask in (added, removed)]
        return Interest(add=chosen[0], remove=chosen[1])
    if what == CALL:
        return Open(program.choose(NODES), bytes([program.number()]) * 8)
    if what == ANSWER:
        known = world.calls[node] or [bytes(8)]
        return Answer(program.choose(known), bytes([program.number()]) * (8 if program.number() % 4 else 0))
    if what == CLOSE:
        known = world.channels[node if program.number() % 4 else program.choose(NODES)] or [bytes(8)]
        return Close(program.choose(known))
    if what == INVITE:
        add = [Registration(program.choose(IDS), 1 + program.number())]
        return Invite(add=add, remove=[program.choose(IDS)] if program.number() % 4 == 0 else [])
    if what == ASK:
        return CertificateAsked([program.choose(NODES)]) if program.number() % 2 else NatTest(bytes(8))
    try:
        return messages.decode(program.choose(list(MessageType)), program.string())[0]
    except BadPacket:
        return None


def step(world: World, program: Program) -> None:
    """One thing that happens."""
    what, node = program.number() % 12, program.choose(NODES)
    if what == JOIN:
        if len(world.links) < 200:
            world.come(node, program.number() % 3)
    elif what == VISIT:
        if len(world.links) < 200:
            world.come(node, program.number() % 3, program.choose(IDS))
    elif what == GO:
        world.go(node)
    elif what == WAIT:
        world.now += program.choose(PAUSES)
        world.core.handle_timer(world.now)
    elif what == DRAIN and program.number() == 0x77:
        world.core.drain(world.now + 5.0, world.now)
    elif (message := spoken(what, node, world, program)) is not None:
        world.say(node, message)


def target(data: bytes) -> None:
    """Step by step; then all leave."""
    program, world = Program(data), World()
    Watch(world)
    for _ in range(STEPS):
        if not program:
            break
        step(world, program)
        world.check()
    for node in NODES:
        world.go(node)
    world.check()
    world.core.handle_timer(world.now + 100_000.0)
    core, tables = world.core, world.tables
    held: list[Sized] = [core.clients, core._by_handle, core._links._by_id]
    held += [core._guests._known, core._guests._held]
    rendezvous = core._rendezvous
    held += [rendezvous._calls, rendezvous._channels, rendezvous._of_client, rendezvous._introducing]
    assert not any(held), "something is left of clients that have gone"
    assert not any((tables.legs, tables.channels, tables.lanes, tables.control))


def _seeds() -> Iterator[bytes]:
    both = bytes([JOIN, 0, 0, JOIN, 1, 0, INTEREST, 0, 2, 0, INTEREST, 1, 1, 0])
    called = both + bytes([CALL, 0, 1, 7, ANSWER, 1, 0, 9, 1])
    yield called + bytes([CLOSE, 0, 1, 0, CLOSE, 1, 1, 0])
    yield called + bytes([GO, 1, JOIN, 1, 0, CALL, 0, 1, 7, WAIT, 0, 3, WAIT, 0, 4])
    yield called + bytes([JOIN, 0, 1, JOIN, 0, 2, JOIN, 0, 1, INTEREST, 0, 0, 2])
    yield both + bytes(
        [INVITE, 0, 0, 60, 1, VISIT, 2, 0, 0, CALL, 2, 0, 1, ANSWER, 0, 0, 5, 1, WAIT, 0, 4, WAIT, 0, 4]
    )
    yield both + bytes([CALL, 0, 1, 1] * 8 + [ANSWER, 1, 0, 9, 0]) + bytes([DRAIN, 0, 0x77, WAIT, 0, 3])
    yield (
        both + bytes([ASK, 0, 1, 1, ASK, 1, 0]) + bytes([OTHER, 0, 0]) + string(messages.encode_body(Leave()))
    )


SEEDS = list(_seeds())
