"""The client as a running process: core, engine, socket and device in one event loop.

It moves datagrams between the core and the socket, wakes the core at its deadline, resolves names for
it, and answers the local API.  It decides nothing about the protocol.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from pathlib import Path

from msgspec import structs

from shadowmesh._ext.engine import EVENT_LANE_MESSAGE, EVENT_PROBE, EVENT_SOURCE, EVENT_WANTED, Engine
from shadowmesh.api.schema import (
    DelegateReply,
    InvitationReply,
    InvitationRequest,
    InvitationsReply,
    InvitationVerdict,
    Netcheck,
    PingReply,
    ReloadReply,
    RevocationsReply,
    Status,
    VerdictReply,
    WhyReply,
)
from shadowmesh.command import CommandFailed, ExitCode
from shadowmesh.config import ClientConfig
from shadowmesh.core.node import Core
from shadowmesh.core.shared import (
    Changed,
    CoreEvent,
    DialCarrier,
    Fatal,
    HangUpCarrier,
    MembersChanged,
    ProbeAnswered,
    ResolveRelay,
    TicketsChanged,
)
from shadowmesh.crypto.identity import Identity, node_id_text
from shadowmesh.errors import ConfigError, RemoteProtocolError, told
from shadowmesh.io import notify
from shadowmesh.io.documents import find_network, load_list
from shadowmesh.io.shield import PAUSE, survives
from shadowmesh.io.tap import Tap
from shadowmesh.io.tracing import Tracing
from shadowmesh.io.udp import from_sockaddr, local_address, send
from shadowmesh.membership.roster import Member
from shadowmesh.node import acquainted, tickets
from shadowmesh.node.bridge import BridgeService
from shadowmesh.node.carriers import Carriers
from shadowmesh.node.inviting import Inviting
from shadowmesh.node.lines import Lines
from shadowmesh.node.live import Live
from shadowmesh.node.names import Names
from shadowmesh.node.netcheck import check_network
from shadowmesh.node.papers import Papers
from shadowmesh.node.recent import RecentLog
from shadowmesh.node.report import ON_DEMAND, is_connected, is_idle, outline, problem_of, report, totals
from shadowmesh.node.standing import clock_warning
from shadowmesh.node.subnets import Subnets
from shadowmesh.node.surroundings import Surroundings
from shadowmesh.node.wall import Wall, read_again
from shadowmesh.node.why import explain
from shadowmesh.path.mtu import LARGEST
from shadowmesh.units import CHANNEL_OVERHEAD, FRAME_PACKET_OVERHEAD, Address

log = logging.getLogger("shadowmesh")

FRAME_OVERHEAD = 18 + 5 + FRAME_PACKET_OVERHEAD + CHANNEL_OVERHEAD
"""Bytes of the largest UDP payload beyond the MTU of the interface: Ethernet with VLAN tag, segment, packet
and channel header. More need not be searched for."""
PING_LOOK = 0.02
"""Seconds between looks whether the session that a ping asked for is there."""
DRAIN = 0.05
"""Seconds between the goodbyes and the end of the socket."""


class Daemon:
    """Runs inside one event loop, from `start` to `finish`.

    :param udp: the socket that the engine reads; control datagrams are sent on it too.
    :param bridge: what our interface is a port of.
    :param tracing: where the stages of the core go.
    :param device: what the engine reads; if somebody removes it, this ends.
    :param recent: the latest lines of the log.
    :param names: the resolver, which is started and stopped beside this.
    """

    def __init__(
        self,
        config: ClientConfig,
        core: Core,
        engine: Engine,
        firewall: Wall,
        udp: socket.socket,
        mtu: int,
        identity: Identity,
        bridge: BridgeService | None = None,
        tracing: Tracing | None = None,
        device: Tap | None = None,
        recent: RecentLog | None = None,
        names: Names | None = None,
    ) -> None:
        self.failure: CommandFailed | None = None
        """Why it stopped by itself."""
        self._config = config
        self._file = Path(config.file).absolute()
        self._core = core
        self._identity = identity
        self._engine = engine
        self._firewall = firewall
        self._udp = udp
        self._mtu = mtu
        self._bridge = bridge
        self._device = device
        self._tracing = tracing or Tracing()
        self._largest = max(LARGEST, mtu + FRAME_OVERHEAD)
        self._inviting = Inviting(core, identity)
        self._started_at = time.monotonic()
        self._connected_after: float | None = None
        self._stop = asyncio.Event()
        self._surroundings = Surroundings(
            config, local_address(udp), self._handle_network, self._handle_mapped, self._handle_wake
        )
        keep = (bridge.lent.note_routes,) if bridge is not None else ()
        self._subnets = Subnets(config, core, self._drive, *keep)
        self._names = names
        self._carriers = Carriers(config.relays, local_address(udp), self._handle_carrier)
        self._pings: dict[bytes, asyncio.Future[float]] = {}
        self._lookups: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._unsent: Counter[str] = Counter()
        self._lines = Lines()
        self.live = Live(
            lambda: totals(core, engine, self._all_unsent()),
            lambda: outline(core),
            self.status,
            recent or RecentLog(),
        )
        """What it tells of the time that passes."""

    # The local API.

    def status(self) -> Status:
        """A snapshot for people and scripts."""
        self._core.note_refusals(time.monotonic())
        self._drive()
        uptime = time.monotonic() - self._started_at
        ports = self._surroundings.mapper
        made = report(
            self._config,
            self._core,
            self._engine,
            self._udp,
            self._mtu,
            uptime,
            self._all_unsent(),
            ports,
            self._carriers,
        )
        bridge = self._bridge.status() if self._bridge is not None else None
        node = structs.replace(
            made.node,
            bridge=bridge,
            config=str(self._file),
            interface_up=self._device is None or self._device.up,
            connected_after=self._connected_after,
        )
        names = self._names.status() if self._names is not None else None
        return structs.replace(made, routes=self._subnets.status(), node=node, names=names)

    def _all_unsent(self) -> Counter[str]:
        unsent = self._unsent + self._surroundings.mapper.drops + self._carriers.drops + self.live.drops
        unsent["spans_lost"] += self._tracing.lost
        return unsent

    async def netcheck(self) -> Netcheck:
        """Ask every relay how it sees us, wait for what is under way, and tell."""
        self._core.hurry(time.monotonic())
        self._drive()
        return await check_network(self._core, self._surroundings)

    async def ping(self, peer: str, timeout: float) -> PingReply:  # noqa: ASYNC109
        """One probe to `peer` and back. Raises LookupError (no such peer), TimeoutError (no answer)."""
        member = self._core.roster.find(peer)
        if member is None:
            raise LookupError(peer)
        state = self._core.peers.get(member.node_id)
        if state is None:
            raise LookupError(peer)
        end = time.monotonic() + timeout
        nonce = await self._probe(member, end)
        if nonce is None:
            why = problem_of(state, self._core.relays) or "it is being set up"
            raise TimeoutError(f"there is no session with {member.name}: {why}")
        answer = self._pings[nonce] = asyncio.get_running_loop().create_future()
        path = state.path
        self._drive()
        try:
            rtt = await asyncio.wait_for(answer, max(0.0, end - time.monotonic()))
        except TimeoutError:
            raise TimeoutError(f"{member.name} did not answer within {timeout:g} s via {path}") from None
        finally:
            del self._pings[nonce]
        return PingReply(
            peer=member.name,
            node_id=node_id_text(member.node_id),
            path=path or "",
            rtt_ms=rtt * 1000,
            direct=state.routing.paths.direct is not None,
        )

    async def _probe(self, member: Member, end: float) -> bytes | None:
        """Send a probe, once there is a session if one is made on demand; None without."""
        state = self._core.peers[member.node_id]
        if is_idle(state, time.monotonic()):
            self._core.want(member, time.monotonic())
            self._drive()
            # The core tells of sessions in words for the log only; a person waits for this.
            while not state.is_confirmed and time.monotonic() < end:  # noqa: ASYNC110
                await asyncio.sleep(PING_LOOK)
        return self._core.probe(member, time.monotonic())

    def why(self, peer: str) -> WhyReply:
        """The story of the path to `peer`, from both sides. Raises LookupError."""
        member = self._core.roster.find(peer)
        if member is None:
            raise LookupError(peer)
        self._core.note_refusals(time.monotonic())
        self._drive()
        state = self._core.peers[member.node_id]
        idle = is_idle(state, time.monotonic())
        problem = ON_DEMAND if idle else told(problem_of(state, self._core.relays))
        clock = told(clock_warning(self._core, state))
        relay = state.channel.relay if state.channel is not None else None
        reply = explain(
            member,
            state.routing,
            self._config.paths.direct,
            self._core.network,
            problem,
            state.refusals,
            clock,
            over_tcp=relay.name if relay is not None and relay.leg.over_tcp else None,
        )
        refused = [
            f"route to {route.to}: {route.reason}"
            for route in self._subnets.status()
            if route.state == "refused" and self._core.roster.find(route.via) is member
        ]
        return structs.replace(reply, findings=reply.findings + refused)

    def take_revocations(self, file: str) -> RevocationsReply:
        """Read a revocation list and act on it. Raises ConfigError."""
        membership = self._core.members.membership
        if membership is None:
            text = "this client is in no network: its configuration has no `network:`"
            raise ConfigError(text, "network.none")
        network = find_network(Path(file))
        if network is not None and network.id == membership.network.id:
            self._take_network(network.document)
        made = load_list(Path(file), membership.network)
        newer = self._core.handle_revocations(made.document, time.monotonic())
        self._drive()
        return RevocationsReply(number=membership.revocations.number, newer=newer)

    def _take_network(self, document: bytes) -> None:
        try:
            self._core.handle_network_document(document, time.monotonic())
        except RemoteProtocolError as error:
            raise ConfigError(str(error), "network.not-valid") from None

    def reload(self) -> ReloadReply:
        """Read the files again: rules, groups, routes and what the authority signed change at once.

        Raises ConfigError, changing nothing.
        """
        found = read_again(self._config, self._file, self._core.node_id)
        papers = Papers.read(found.config, self._core, self._identity)
        # By the names and NodeIDs of the file: a peer may be called otherwise there than when we started.
        self._firewall.install(found.wanted)
        self._config = found.config
        self._subnets.set(found.config)
        reply = found.reply
        if papers is not None:
            restart = [*reply.restart, *papers.restart(self._config)]
            reply = structs.replace(
                reply, applied=[*reply.applied, *papers.install(self._core)], restart=restart
            )
            self._drive()
        log.info("%s was read again; changed: %s", self._file, ", ".join(reply.applied) or "nothing")
        if reply.restart:
            line = "%s: a restart is needed for what changed in %s [config.pending]"
            log.warning(line, self._file, ", ".join(reply.restart))
        return reply

    def invitations(self) -> InvitationsReply:
        """All invitations of this node. Raises ConfigError, as the next three do."""
        return self._inviting.show()

    def delegate(self) -> DelegateReply:
        """Who signs for joining nodes."""
        return self._inviting.delegate()

    def invite(self, wanted: InvitationRequest) -> InvitationReply:
        """Open an invitation."""
        made = self._inviting.invite(wanted)
        self._drive()
        return made

    def judge(self, wanted: InvitationVerdict) -> VerdictReply:
        """A person's word on a waiting node, or on an invitation."""
        judged = self._inviting.judge(wanted)
        self._drive()
        return judged

    def handle_hangup(self) -> None:
        """SIGHUP: as `reload`, told to the log."""
        try:
            self.reload()
        except ConfigError as error:
            for line in error.told.splitlines():
                log.error("nothing was changed: %s", line)

    def request_stop(self) -> None:
        """Begin to stop; returns at once."""
        self._stop.set()

    # Life.

    def start(self) -> None:
        """Begin to serve; the engine runs already."""
        self.live.start()
        asyncio.get_running_loop().add_reader(self._engine.fileno(), self._serve_engine)
        self._core.handle_timer(time.monotonic())
        self._drive()
        self._surroundings.start()
        self._subnets.start()
        if self._bridge is not None:
            self._bridge.start()

    async def wait_stopped(self) -> None:
        """Returns when somebody asked to stop, or the core says that it must."""
        await self._stop.wait()

    async def finish(self) -> None:
        """Say goodbye to everybody and serve no more."""
        self.live.stop()
        await self._subnets.stop()
        if self._bridge is not None:
            self._bridge.stop()
        await self._surroundings.stop()
        self._core.close(time.monotonic())
        self._transmit()
        for event in self._core.poll_events():
            if isinstance(event, MembersChanged):
                self._keep_members(event)
        await asyncio.sleep(DRAIN)
        await self._carriers.stop()
        asyncio.get_running_loop().remove_reader(self._engine.fileno())
        if self._timer is not None:
            self._timer.cancel()
        for lookup in self._lookups:
            lookup.cancel()

    # Between core and world.

    def _handle_network(self, addresses: list[Address]) -> None:
        survives(self._core.handle_network, addresses, time.monotonic(), self._largest)
        self._drive()

    def _handle_mapped(self, external: Address | None) -> None:
        survives(self._core.handle_mapped, external, time.monotonic())
        self._drive()

    def _handle_carrier(
        self, index: int, address: Address | None, problem: str, remote: Address | None
    ) -> None:
        survives(self._core.handle_carrier, index, address, problem, time.monotonic(), remote)
        self._drive()

    def _serve_engine(self) -> None:
        now = time.monotonic()
        for kind, handle, via, source, data in self._engine.poll():
            if kind == EVENT_LANE_MESSAGE:
                survives(self._core.handle_payload, handle, data, via, from_sockaddr(source), now)
            elif kind == EVENT_WANTED:
                survives(self._core.handle_wanted, handle, data, now)
            elif kind == EVENT_PROBE:
                survives(self._handle_loop_probe, handle, data)
            elif kind == EVENT_SOURCE:
                survives(self._core.handle_source, handle, via, from_sockaddr(source), now)
            else:
                survives(self._core.handle_datagram, data, via, from_sockaddr(source), now)
        self._drive()

    def _handle_loop_probe(self, handle: int, frame: bytes) -> None:
        for peer in self._core.peers.values():
            if self._bridge is not None and peer.handle == handle:
                self._bridge.handle_probe(peer.mac, peer.member.name, frame)

    def _serve_timer(self) -> None:
        self._timer = None
        healthy = survives(self._core.handle_timer, time.monotonic())
        self._drive(0.0 if healthy else PAUSE)

    def _drive(self, at_least: float = 0.0) -> None:
        """After every touch of the core: its datagrams, its events, its next deadline."""
        survives(self._transmit)
        for event in self._core.poll_events():
            survives(self._serve_event, event)
        if self._connected_after is None and is_connected(self._core):
            self._connected_after = time.monotonic() - self._started_at
        self._tracing.flush()
        if self._timer is not None:
            self._timer.cancel()
        delay = max(at_least, self._core.deadline - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._serve_timer)

    def _serve_event(self, event: CoreEvent) -> None:
        if isinstance(event, ResolveRelay):
            self._look_up(event)
        elif isinstance(event, DialCarrier | HangUpCarrier):
            self._carriers.serve(event)
        elif isinstance(event, ProbeAnswered):
            self._answer_ping(event)
        elif isinstance(event, Fatal):
            self._fail(event.reason, ExitCode.CLONED, "identity.two-holders")
        elif isinstance(event, TicketsChanged):
            tickets.save(self._config.node.state_dir, self._core.node_id, event.tickets)
        elif isinstance(event, MembersChanged):
            self._keep_members(event)
        elif isinstance(event, Changed):
            self._tell(event)

    def _fail(self, reason: str, code: ExitCode, error_id: str) -> None:
        self.failure = CommandFailed(reason, code, error_id)
        log.error("stopping: %s", self.failure.told)
        self._stop.set()

    def _handle_wake(self) -> None:
        """Links, addresses or routes have changed, perhaps ours.

        With a device that is gone went its addresses and its place in a bridge: a new start makes all anew.
        """
        self._subnets.handle_network()
        if self._device is not None and self._device.gone and self.failure is None:
            name = self._device.name
            self._fail(
                f"the interface {name} was removed; start the client again", ExitCode.FAILED, "device.removed"
            )

    def _tell(self, event: Changed) -> None:
        if event.detail:
            log.debug("%s: %s", event.subject, event.what)
            return
        left_out = self._lines.take(event.subject, time.monotonic())
        if left_out is not None:
            more = f" ({left_out} lines about it were left out)" if left_out else ""
            log.info("%s: %s%s", event.subject, event.what, more)
        notify.status(f"{event.subject}: {event.what}")

    def _keep_members(self, event: MembersChanged) -> None:
        membership = self._core.members.membership
        if membership is not None:
            path = acquainted.path_of(self._config.node.state_dir, membership.network.id)
            acquainted.save(path, event.known)

    def _transmit(self) -> None:
        for data, address in self._core.poll_transmit():
            if not send(self._udp, data, address):
                self._unsent["control_send_failed"] += 1

    def _answer_ping(self, event: ProbeAnswered) -> None:
        waiting = self._pings.get(event.nonce)
        if waiting is not None and not waiting.done():
            waiting.set_result(event.rtt)

    def _look_up(self, event: ResolveRelay) -> None:
        lookup = asyncio.create_task(self._resolve(event))
        self._lookups.add(lookup)
        lookup.add_done_callback(self._lookups.discard)

    async def _resolve(self, event: ResolveRelay) -> None:
        addresses: list[Address] = []
        problem = ""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                event.host, event.port, type=socket.SOCK_DGRAM, flags=socket.AI_ADDRCONFIG
            )
            usable = (
                (socket.AF_INET, socket.AF_INET6)
                if self._udp.family == socket.AF_INET6
                else (socket.AF_INET,)
            )
            addresses = [Address(*where[:2]) for family, _, _, _, where in found if family in usable]
            problem = "" if addresses else f"{event.host} has no address of a usable family"
        except OSError as error:
            problem = f"can't resolve {event.host}: {error.strerror or error}"
        survives(self._core.handle_resolved, event.index, addresses, problem, time.monotonic())
        self._drive()
