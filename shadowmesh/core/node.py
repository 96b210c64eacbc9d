"""A whole client, sans-I/O: relays, peers and the datagrams between them.

Call order: after any `handle_*` or command, take `poll_transmit()` and `poll_events()`, then sleep until
`deadline`.  Tables of the data plane are filled as a side effect, through `Tables`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from shadowmesh.config import ClientConfig, Peer
from shadowmesh.core.acquaintances import Acquaintances
from shadowmesh.core.calls import Calls
from shadowmesh.core.demand import Connect, Demand
from shadowmesh.core.directory import hosts
from shadowmesh.core.guests import Guests
from shadowmesh.core.home import Home
from shadowmesh.core.joiner import Joiner
from shadowmesh.core.local import LocalNetwork
from shadowmesh.core.news import News
from shadowmesh.core.owners import Owners
from shadowmesh.core.peers import PeerClient
from shadowmesh.core.relays import RelayClient, RelayState
from shadowmesh.core.shared import LEG, CoreEvent, Fatal, MembersChanged, ProbeAnswered, Shared, Tables
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.errors import BadPacket
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.guard import Membership, Standing
from shadowmesh.membership.invitations import Invitations
from shadowmesh.membership.roster import MIN_PREFIX, Member, Roster
from shadowmesh.membership.token import Token
from shadowmesh.overlay.mac import mac_of
from shadowmesh.path.candidates import Prefix
from shadowmesh.path.health import TICK as BUSY_TICK
from shadowmesh.path.mtu import LARGEST
from shadowmesh.path.nat import Filtering, Mapping, NatReport, classify_mapping
from shadowmesh.session.links import LinkSet
from shadowmesh.session.tickets import RelayTicket
from shadowmesh.stages import Stages
from shadowmesh.units import ID_SIZE, Address, NodeId
from shadowmesh.wire.headers import destination_id
from shadowmesh.wire.messages import (
    MAX_NODES,
    Absent,
    Call,
    CertificateShown,
    Close,
    Interest,
    Invited,
    Message,
    NetworkNews,
    Opened,
    Present,
    RevocationNews,
)

MAX_PEERS = 512
"""Peers that a node keeps sessions with: those of the configuration, and the first members that relays name.
A relay that names nodes in vain can fill it, and gains nothing else."""
MOVES_AT_ONCE = 4
"""Peers that change to the home relay within a second: a move is never urgent."""
TICK = 1.0
"""Seconds between looks at the counters of the data plane."""


class Core:
    """The protocol side of a client.

    :param tables: the data plane.
    :param random: returns n random bytes.
    :param tickets: those that were kept when the process before this one ended.
    :param membership: of the network that the configuration names.
    :param invitations: those that this node has open, in its network.
    :param token: by which this node is to join a network; it then does nothing else.
    :param tokens: by which relays admit us.
    :param stages: for traces; None: nobody wants any.
    :param most_peers: no more members are met than make this number with the peers of the configuration.
    :param known: members that were known when the process before this one ended, and what they had shown.
    """

    def __init__(
        self,
        config: ClientConfig,
        identity: Identity,
        tables: Tables,
        random: Callable[[int], bytes],
        now: float,
        tickets: Iterable[RelayTicket] = (),
        membership: Membership | None = None,
        most_peers: int = MAX_PEERS,
        known: Iterable[tuple[NodeId, bytes]] = (),
        invitations: Invitations | None = None,
        token: Token | None = None,
        clock: SteadyClock | None = None,
        tokens: dict[NodeId, bytes] | None = None,
        stages: Stages | None = None,
    ) -> None:
        self.node_id = identity.node_id
        self.roster = Roster(
            Member(peer.name, peer.id, peer.addresses, peer.endpoint) for peer in config.peers
        )
        self.drops: Counter[str] = Counter()
        self.peers: dict[NodeId, PeerClient] = {}
        self.relays: list[RelayClient] = []
        about = (membership, token.id if token is not None else b"", self.roster, self.peers, self.relays)
        self._news = News(*about, random, self.drops, self._tell)
        self.members, self.renewals = self._news.members, self._news.renewals
        self.acquaintances = Acquaintances(self.members, known, most_peers, self.drops, self._learn)
        self._overlay = _overlay_of(config, membership)
        self.network, self.homing, self._calls = LocalNetwork(self._overlay), Home(), Calls()
        self._direct, self._most_peers = config.paths.direct, most_peers
        self._shared = Shared(
            identity=identity,
            tables=tables,
            random=random,
            instance=random(ID_SIZE),
            links=LinkSet(tables.install_control, tables.remove),
            rekey_after=float(config.session.rekey_seconds),
            tickets={ticket.relay: ticket for ticket in tickets},
            members=self.members,
            owners=Owners(tables, config.interface.addresses, mac_of(identity.node_id)),
            acquaintances=self.acquaintances,
            connect=Connect(config.network.connect if config.network else "eager", drops=self.drops),
            tokens=tokens or {},
            renewals=self.renewals,
            stages=stages or Stages(),
        )
        self.guests = Guests(invitations, self._shared, self.drops)
        self.joiner = Joiner(token, self._shared, clock) if token is not None and clock is not None else None
        self._by_handle: dict[int, PeerClient] = {}
        self._add_listed(config.peers, now)
        handlers = (self._relay_up, self._relay_message, self._relay_down, self._relay_moved, self._duplicate)
        for index, relay in enumerate(config.relays):
            self.relays.append(RelayClient(index, relay, self._shared, *handlers, now))
        self.local: tuple[Address, ...] = ()  # where this machine is reached, as far as it knows itself
        self.mapped: Address | None = None
        self._tick_at = now + TICK
        self._frames: dict[NodeId, int] = {}
        self._busy: list[PeerClient] = []  # with traffic: their counters are read ten times a second
        self._busy_tick_at: float | None = None

    @property
    def deadline(self) -> float:
        """When `handle_timer` wants to be called."""
        times = [relay.deadline for relay in self.relays]
        times += [peer.deadline for peer in self.peers.values()]
        times += [self._shared.links.deadline, self._tick_at, self._busy_tick_at, self.guests.deadline]
        times += [self.joiner.deadline] if self.joiner is not None else []
        return min(time for time in times if time is not None)

    def hosts(self) -> dict[str, tuple[str, ...]]:
        """The other members' names and addresses, as the resolver may tell them."""
        return hosts(self.peers, self.members, self.acquaintances, self._shared.owners)

    # Input.

    def handle_datagram(self, data: bytes, channel: bytes, source: Address, now: float) -> None:
        """A control datagram, from a relay directly (`channel` empty) or through one of its channels."""
        try:
            driver = self._shared.links.find(destination_id(data))
            if driver is not None:
                self._shared.links.handle_datagram(driver, data, now)
            elif channel:
                self._handle_initial_untrusted(data, channel, source, now)
            else:
                raise BadPacket("unknown_connection")
        except BadPacket as error:
            self.drops[error.reason] += 1

    def handle_payload(
        self, session: int, payload: bytes, channel: bytes, source: Address, now: float
    ) -> None:
        """An authentic payload, not a frame, that the data plane opened for this session handle.

        It came through `channel`, or directly (empty), from `source`.
        """
        try:
            self._serve_payload_untrusted(session, payload, channel, source, now)
        except BadPacket as error:
            self.drops[error.reason] += 1

    def handle_source(self, session: int, channel: bytes, source: Address, now: float) -> None:
        """Frames of this session handle come from another place than before (EVENT_SOURCE)."""
        peer = self._owner_of(session)
        if peer is not None and peer.session is not None and peer.find_session(session) is peer.session:
            peer.handle_authentic(peer.session, session, now)
            peer.handle_source(channel, source, now)

    def handle_wanted(self, handle: int, payload: bytes, now: float) -> None:
        """There is a frame to the peer with this handle, and no route (EVENT_WANTED).

        :param payload: around the frame, held for a while; empty if it is lost.
        """
        self._by_handle[handle].want(payload, now)

    def handle_network(self, addresses: Sequence[Address], now: float, largest: int = LARGEST) -> None:
        """At the start, and when the machine's addresses, links or routes changed, or it has slept.

        :param addresses: of the interfaces, with the port of our socket.
        :param largest: bytes of UDP payload that the interfaces can send.
        """
        self.local = tuple(addresses)
        self.network.set_local(addresses)
        self.network.largest = largest
        self._tell_network(moved=True, now=now)
        for relay in self.relays:
            relay.handle_network_change(now)

    def handle_routed(self, prefixes: Sequence[Prefix], now: float) -> None:
        """Packets to these go through our own device: no address in them leads to a peer."""
        self.network.own_prefixes = (*self._overlay, *prefixes)
        for peer in self.peers.values():
            peer.routing.handle_prefixes(now)

    def handle_mapped(self, external: Address | None, now: float) -> None:
        """The router takes packets for us at `external`; None: no longer."""
        self.mapped = external
        if self.network.set_mapped([] if external is None else [external]):
            self._tell_network(moved=False, now=now)

    def handle_resolved(self, index: int, addresses: Sequence[Address], problem: str, now: float) -> None:
        """The answer to a ResolveRelay event."""
        self.relays[index].handle_resolved(addresses, problem, now)

    def handle_carrier(
        self, index: int, address: Address | None, problem: str, now: float, remote: Address | None = None
    ) -> None:
        """The answer to a DialCarrier event: a tunnel to the relay begins at `address`, on this machine.

        None: it is over, or could not be had, for the reason `problem`.

        :param remote: where its connection leads first, to the relay or a proxy.
        """
        self.relays[index].handle_carrier(address, problem, now, remote)

    def handle_timer(self, now: float) -> None:
        """Call at or after `deadline`."""
        self._shared.links.handle_timers(now)
        for relay in self.relays:
            if relay.deadline is not None and relay.deadline <= now:
                relay.handle_timer(now)
        for peer in list(self.peers.values()):  # a relay may name a new one meanwhile
            if peer.deadline is not None and peer.deadline <= now:
                peer.handle_timer(now)
        self.guests.handle_timer(now)
        if self.joiner is not None:
            self.joiner.handle_timer(now)
        if now >= self._tick_at:
            self._tick(now)
        elif self._busy_tick_at is not None and now >= self._busy_tick_at:
            self._busy_tick(now)

    # Commands.

    def probe(self, peer: Member, now: float) -> bytes | None:
        """Send one probe to `peer`; its nonce comes back in ProbeAnswered. None without session or path."""
        return self.peers[peer.node_id].probe(now)

    def handle_revocations(self, document: bytes, now: float) -> bool:
        """The operator hands a list in; returns whether it is newer. Raises RemoteProtocolError."""
        return self.members.handle_news(RevocationNews(document), now)

    def want(self, peer: Member, now: float) -> None:
        """Make a session with `peer`, as for a frame to it."""
        self.peers[peer.node_id].want(b"", now)

    def note_refusals(self, now: float) -> None:
        """See what the guards have refused; also done once a second."""
        for peer in self.peers.values():
            if peer.is_awake and self._shared.tables.peer_counters(peer.handle)["refused"]:
                peer.handle_refusals(self._shared.tables.peer_refusals(peer.handle), now)

    def handle_network_document(self, document: bytes, now: float) -> bool:
        """The operator hands a network in; returns whether its key is newer. Raises RemoteProtocolError."""
        return self.members.handle_network(NetworkNews(document), now)

    def hurry(self, now: float) -> None:
        """Ask every relay at once how it sees us."""
        for relay in self.relays:
            if relay.binding is not None:
                relay.binding.hurry(now)

    def close(self, now: float) -> None:
        """Say goodbye to everybody; take `poll_transmit` once more, then stop."""
        for peer in self.peers.values():
            peer.close(now)
        self.guests.close(now)
        for relay in self.relays:
            relay.close(now)
        known = self.acquaintances.take_changes()
        if known is not None:
            self._shared.events.append(MembersChanged(tuple(known)))

    # Getters.

    @property
    def home(self) -> RelayClient | None:
        """The best of the relays: where channels are opened first."""
        return self.homing.relay

    @property
    def nat(self) -> NatReport:
        """What is known of the NAT before us."""
        local = {address.host.partition("%")[0] for address in self.local}
        observations = [one for relay in self.relays for one in relay.observations()]
        tests = [relay.second_port for relay in self.relays if relay.second_port is not None]
        known = [test.filtering for test in tests if test.filtering is not Filtering.UNKNOWN]
        return NatReport(
            mapping=classify_mapping(observations, local),
            filtering=known[0] if known else Filtering.UNKNOWN,
            observed=tuple(dict.fromkeys(one.observed for one in observations)),
        )

    # Output.

    def poll_transmit(self) -> list[tuple[bytes, Address]]:
        """Datagrams to send now."""
        outbox, self._shared.outbox = self._shared.outbox, []
        return outbox

    def poll_events(self) -> list[CoreEvent]:
        """What happened since the last call."""
        events = list(self._shared.events)
        self._shared.events.clear()
        return events

    # Inside.

    def _serve_payload_untrusted(
        self, session: int, payload: bytes, channel: bytes, source: Address, now: float
    ) -> None:
        for relay in self.relays:
            if relay.handle == session and relay.state is RelayState.CONNECTED:
                self._serve_leg_untrusted(relay, payload, None if channel else source, now)
                self._note_observed(relay, now)
                return
        peer = self._owner_of(session)
        found = peer.find_session(session) if peer is not None else None
        if peer is None or found is None:
            raise BadPacket("unknown_session")
        peer.handle_authentic(found, session, now)
        rtt = peer.handle_payload_untrusted(found, payload, channel, source, now)
        if rtt is not None:
            self._shared.events.append(ProbeAnswered(payload[1:], rtt))

    def _owner_of(self, session: int) -> PeerClient | None:
        return self._by_handle.get(self._shared.receivers.get(session, LEG))

    def _serve_leg_untrusted(
        self, relay: RelayClient, payload: bytes, source: Address | None, now: float
    ) -> None:
        before = relay.observed
        relay.handle_payload_untrusted(payload, source, now)
        if before is not None and before != relay.observed:
            self.hurry(now)  # what the others saw may be as old, and would pass for another mapping

    def _handle_initial_untrusted(self, data: bytes, channel: bytes, source: Address, now: float) -> None:
        """A new connection in this channel, if it was the channel's relay that sent it. Raises BadPacket."""
        guest = self.guests.find(channel, source)
        if guest is not None:
            self.guests.handle_initial_untrusted(guest, data, now)
            return
        for peer in self.peers.values():
            found = peer.rendezvous.find_channel(channel, source)
            if found is not None:
                peer.handshakes.handle_initial_untrusted(data, found, now)
                return
        raise BadPacket("unknown_channel")

    def _tick(self, now: float) -> None:
        self._tick_at = now + TICK
        self.note_refusals(now)
        known = self.acquaintances.handle_tick(now)
        if known is not None:
            self._shared.events.append(MembersChanged(tuple(known)))
        for peer in self.peers.values():
            peer.demand.expire(now)
        awake = [(node_id, peer) for node_id, peer in self.peers.items() if peer.is_awake]
        for node_id, peer in awake:
            counters = self._shared.tables.peer_counters(peer.handle)
            peer.handle_tick(counters, now)
            frames = counters["tx_frames"] + counters["rx_frames"]
            relayed = peer.routing.paths.direct is None
            if frames != self._frames.get(node_id, 0) and peer.channel is not None and relayed:
                peer.channel.relay.handle_traffic(now)
            self._frames[node_id] = frames
        self._news.tick(now)
        self._plan_busy_tick((peer for _, peer in awake), now)
        self._calls.handle_tick(self.relays, self.peers.values(), now)
        self._go_home(now)

    def _go_home(self, now: float) -> None:
        """Peers that are met elsewhere are met at our home relay, few at a time."""
        before = self.homing.relay
        self.homing.look(self.relays, now)
        home, moves = self.homing.relay, 0
        if home is None:
            return
        if home is not before and before is not None:
            self._tell(f"relay {home.name}", f"is our home relay: {self.homing.reason}")
        for peer in self.peers.values():
            if moves < MOVES_AT_ONCE:
                moves += peer.move(home, now)

    def _busy_tick(self, now: float) -> None:
        for peer in self._busy:
            peer.handle_counters(self._shared.tables.peer_counters(peer.handle), now)
        self._plan_busy_tick(self._busy, now)

    def _plan_busy_tick(self, peers: Iterable[PeerClient], now: float) -> None:
        self._busy = [peer for peer in peers if peer.routing.paths.active(now)]
        self._busy_tick_at = now + BUSY_TICK if self._busy else None

    def _tell_network(self, moved: bool, now: float) -> None:
        for peer in self.peers.values():
            peer.handle_network(moved, now)

    def _note_observed(self, relay: RelayClient, now: float) -> None:
        news = self.network.set_seen_by_relay(relay.name, relay.observed)
        nat = self.nat
        if self.network.set_nat(str(nat) if nat.mapping is not Mapping.UNKNOWN else "") or news:
            self._tell_network(moved=False, now=now)

    def _relay_up(self, relay: RelayClient, now: float) -> None:
        if self.joiner is not None:
            self.joiner.handle_relay_up(relay, now)
            return
        nodes = list(self.peers)
        for start in range(0, len(nodes), MAX_NODES):
            relay.send(Interest(add=nodes[start : start + MAX_NODES]), now)
        self._calls.handle_relay_up(relay, self.peers.values(), now)
        self._news.handle_relay_up(relay, now)
        self.guests.handle_relay_up(relay, now)

    def _relay_down(self, relay: RelayClient, now: float) -> None:
        self.guests.handle_relay_down(relay, now)
        if self.joiner is not None:
            self.joiner.handle_relay_down(now)
        for peer in list(self.peers.values()):
            peer.rendezvous.handle_absent(relay, now)

    def _relay_moved(self, relay: RelayClient, now: float) -> None:
        for peer in self.peers.values():
            peer.handle_relay_moved(relay, now)

    def _duplicate(self, relay: RelayClient, reason: str) -> None:
        """One relay's word stops no node: if there are two machines, the other relays find that too."""
        if all(one.duplicate for one in self.relays):
            self._shared.events.append(Fatal(reason))
        else:
            line = "is left for an hour; if all relays say so, the node stops [link.two-holders]"
            self._tell(f"relay {relay.name}", line)

    def _relay_message(self, relay: RelayClient, message: Message, now: float) -> None:
        if isinstance(message, Opened):
            self._handle_opened(relay, message, now)
        elif isinstance(message, Invited):
            self.guests.handle_invited(relay, message)
        elif isinstance(message, Close):
            self._handle_close(relay, message.send, now)
        elif isinstance(message, CertificateShown):
            self.acquaintances.handle_shown(relay, message, now)
        elif isinstance(message, Present | Absent | Call):
            self._handle_presence(relay, message, now)
        elif isinstance(message, RevocationNews | NetworkNews):
            self._news.handle_relay_message(message, now)
        else:
            self.drops["unexpected_message"] += 1

    def _handle_presence(self, relay: RelayClient, message: Present | Absent | Call, now: float) -> None:
        if isinstance(message, Call) and message.invitation:
            self.guests.handle_call(relay, message, now)
            return
        known = message.node in self.peers
        subject = self._find_peer(message.node, now)
        if subject is None:
            self.drops["unknown_node"] += 1
        elif isinstance(message, Present):
            subject.rendezvous.handle_present(relay, message.instance, now)
            if not known:
                self._calls.handle_met(relay, subject, now)
            self.acquaintances.handle_present(relay, message.node, message.certificate, now)
        elif isinstance(message, Absent):
            subject.rendezvous.handle_absent(relay, now)
        else:
            subject.rendezvous.handle_call(relay, message.send, now)

    def _tell(self, subject: str, what: str) -> None:
        self._shared.tell(subject, what)

    def _find_peer(self, node: NodeId, now: float) -> PeerClient | None:
        """The peer that a relay names; in a network it may be a member that is met for the first time.

        The relay's word makes nobody a member: the session does, by the certificate that it brings.
        """
        peer = self.peers.get(node)
        if peer is not None or self.members.membership is None or node == self.node_id:
            return peer
        if self.members.is_revoked(node) or len(self.peers) >= self._most_peers or self._takes_a_mac(node):
            return None
        member = Member(node_id_text(node)[:MIN_PREFIX], node, ())
        self.roster.put(member)
        self._shared.connect.met += 1
        for relay in self.relays:
            relay.send(Interest(add=[node]), now)
        peer = self._add_peer(member, Demand(self._shared.connect, always=False), now)
        known = self.acquaintances.standing(node)
        if known is not None:
            peer.learn(known)
        return peer

    def _add_listed(self, peers: Iterable[Peer], now: float) -> None:
        for member, peer in zip(self.roster.members, peers, strict=True):
            self._add_peer(member, Demand(self._shared.connect, always=True), now, peer)

    def _add_peer(self, member: Member, demand: Demand, now: float, listed: Peer | None = None) -> PeerClient:
        handle = len(self.peers) + 1
        peer = PeerClient(member, handle, self._direct, self.network, self._shared, demand, now)
        # What a certificate does not bind to addresses, the configuration does, if it names any.
        unchecked = self.members.membership is None and not member.addresses
        rights, routes = (listed.rights, listed.routes) if listed is not None else ((), ())
        self._shared.owners.add(handle, peer.mac, member.addresses, rights, unchecked, routes)
        self.peers[member.node_id] = self._by_handle[handle] = peer
        return peer

    def _takes_a_mac(self, node: NodeId) -> bool:
        """With work enough, a NodeID is found that has the MAC of another one; who came first keeps it."""
        mac = mac_of(node)
        return mac == mac_of(self.node_id) or any(mac == peer.mac for peer in self.peers.values())

    def _learn(self, node: NodeId, standing: Standing, now: float) -> None:
        """A member is known by its certificate; what it has shown itself, in a session, goes before."""
        peer = self._find_peer(node, now)
        if peer is not None and peer.session is None:
            peer.learn(standing)

    def _handle_close(self, relay: RelayClient, send: bytes, now: float) -> None:
        self.guests.handle_close(relay, send, now)
        if self.joiner is not None:
            self.joiner.handle_close(send, now)
        for peer in self.peers.values():
            peer.rendezvous.handle_close(relay, send, now)

    def _handle_opened(self, relay: RelayClient, opened: Opened, now: float) -> None:
        if self.joiner is not None:
            self.joiner.handle_opened(opened, now)
            return
        for peer in self.peers.values():
            if peer.rendezvous.awaits(relay, opened.receive):
                peer.rendezvous.handle_opened(relay, opened, now)
                return
        if opened.send:
            relay.send(Close(opened.send), now)  # too late: we have given up and asked again


def _overlay_of(config: ClientConfig, membership: Membership | None) -> list[Prefix]:
    """Prefixes that lie in the overlay, so that no way to anybody leads through them."""
    found: list[Prefix] = [ipaddress.ip_interface(text).network for text in config.interface.addresses]
    found += [ipaddress.ip_network(text) for peer in config.peers for text in peer.addresses]
    found += membership.network.subnets if membership is not None else ()
    return found
