"""The relay as a running process: protocol, forwarder and socket in one event loop; start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop
from prometheus_client.core import Metric

from shadowmesh._ext.forward import EVENT_CONTROL, EVENT_ENDPOINT, Forwarder
from shadowmesh._ext.lanes import SendKeys
from shadowmesh.command import CommandFailed, ExitCode
from shadowmesh.crypto import identity as identities
from shadowmesh.errors import ConfigError, DeviceError
from shadowmesh.io import notify
from shadowmesh.io.documents import remove_drafts
from shadowmesh.io.logs import OWN, log_to
from shadowmesh.io.shield import PAUSE, survives
from shadowmesh.io.tracing import Tracing, trace_to
from shadowmesh.io.udp import from_sockaddr, local_address, open_udp, receive, send, to_sockaddr
from shadowmesh.io.watchdog import Pulse, watched
from shadowmesh.units import Address, NodeId
from shadowmesh.web.metrics import create_app as metrics_app
from shadowmesh.web.metrics import serve_metrics
from shadowmesh.web.server import SocketInUse, serve_unix
from shadowmesh.wire.headers import destination_id

from .admission import Admission
from .certificate import Certificate, credentials
from .cluster import Cluster
from .cluster_config import ClusterSection
from .cluster_wire import INSTANCE_SIZE, Beat
from .config import RelayConfig
from .control import create_app
from .h3 import Http3
from .hook import Hook, Question, Verdict
from .load import CpuLoad
from .observer import Observer
from .protocol import RelayCore
from .public import why_not_ready
from .reload import Admissions, ReloadReply
from .report import Report, Reporter
from .steering import open_steered, threads_for
from .websocket import Origins, WebSocketService

log = logging.getLogger("shadowmesh.relay")

DRAIN = 0.05
"""Seconds between the goodbyes and the end of the socket."""
SECOND_PORT_BATCH = 64
"""Datagrams of the second port served in one go: whoever floods it must not stop the rest."""


class ForwarderTables:
    """`tables.Tables` over a `Forwarder`: addresses become sockaddr, nothing else."""

    def __init__(self, forwarder: Forwarder, family: int) -> None:
        self._forwarder = forwarder
        self._family = family
        self.remove_client = forwarder.remove_client
        self.install_channel = forwarder.install_channel
        self.install_control = forwarder.install_control
        self.remove = forwarder.remove

    def add_client(self, client: int, address: Address, thread: int) -> None:
        self._forwarder.add_client(client, to_sockaddr(address, self._family), thread=thread)

    def new_send_keys(self, material: bytearray) -> Any:
        return SendKeys(material)

    def set_lane(self, client: int, keys: Any, lane: int, receiver_id: bytes) -> None:
        self._forwarder.set_lane(client, keys, lane, receiver_id)

    def install_receive(self, client: int, ids: Sequence[bytes], material: bytearray) -> None:
        self._forwarder.install_receive(client, ids, material)

    def last_bind(self, client: int) -> float:
        return float(self._forwarder.client_counters(client)["last_bind"])

    def received(self, client: int) -> int:
        return int(self._forwarder.client_counters(client)["rx_packets"])


class Server:
    """Moves datagrams between protocol and sockets, and wakes the protocol at its deadline.

    :param second: the socket of the second port, if there is one.
    :param hook: answers the questions of the protocol; without one every answer is no.
    :param websocket: where legs over TCP end, if there is such a service.
    :param tracing: where the stages of the protocol go.
    """

    def __init__(
        self,
        core: RelayCore,
        forwarder: Forwarder,
        udp: socket.socket,
        second: socket.socket | None = None,
        hook: Hook | None = None,
        websocket: WebSocketService | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._core = core
        self._tracing = tracing or Tracing()
        self._forwarder = forwarder
        self._udp = udp
        self._second = second
        self._websocket = websocket
        self._timer: asyncio.TimerHandle | None = None
        self.unsent = 0
        """Control datagrams that the system did not take."""
        self._hook = hook
        self._answers: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()

    async def serve(self, up: str, totals: Callable[[], str]) -> None:
        """Serve until SIGTERM or SIGINT, then say goodbye.

        :param up: the line that says that the relay serves.
        :param totals: makes the line that SIGUSR1 asks for.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, lambda: log.info("%s", totals()))
        loop.add_reader(self._forwarder.fileno(), self._serve_forwarder)
        if self._second is not None:
            loop.add_reader(self._second, self._serve_second, self._second)
        if self._websocket is not None:
            self._websocket.start()
        self._drive()
        log.info("%s", up, extra=OWN)
        notify.ready(up)
        await self._stop.wait()
        notify.stopping()
        loop.remove_reader(self._forwarder.fileno())
        if self._second is not None:
            loop.remove_reader(self._second)
        for task in self._answers:
            task.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        self._core.close(time.monotonic())
        self._flush()
        await asyncio.sleep(DRAIN)
        if self._websocket is not None:
            await self._websocket.stop()

    def drive(self) -> None:
        """The protocol was given something elsewhere: send what it wants sent."""
        self._drive()

    def drain(self, timeout: float) -> int:
        """Be left by all clients, then stop, after `timeout` seconds in any case; how many there are."""
        clients = len(self._core.clients)
        survives(self._core.drain, time.monotonic() + timeout, time.monotonic())
        self._drive()
        return clients

    def readmit(self, admission: Admission) -> int:
        """Others are admitted from now on; returns how many clients had to leave."""
        ended = self._core.readmit(admission, time.monotonic())
        self._drive()
        return ended

    async def _answer(self, question: Question) -> None:
        verdict = Verdict(False, failed=True)
        try:
            if self._hook is not None:
                verdict = await self._hook.ask(question)
        finally:
            survives(self._core.handle_verdict, question.number, verdict, time.monotonic())
            self._drive()

    def _serve_forwarder(self) -> None:
        now = time.monotonic()
        connections: dict[bytes, list[bytes]] = {}
        strangers = []
        for kind, handle, _, source, data in self._forwarder.poll():
            if kind == EVENT_ENDPOINT:
                survives(self._core.handle_endpoint, handle, from_sockaddr(source))
            elif kind == EVENT_CONTROL:
                connections.setdefault(destination_id(data), []).append(data)
            else:
                strangers.append((source, data))
        # Some take milliseconds, and answers should not wait for the last of them.
        for datagrams in connections.values():
            survives(self._core.handle_datagrams, datagrams, now)
            self._flush()
        for source, data in strangers:
            survives(self._core.handle_datagram, data, from_sockaddr(source), now)
            self._flush()
        self._drive()

    def _serve_second(self, second: socket.socket) -> None:
        now = time.monotonic()
        for _ in range(SECOND_PORT_BATCH):
            arrived = receive(second)
            if arrived is None:
                break
            survives(self._core.handle_second_datagram, *arrived, now)
        self._drive()

    def _serve_timer(self) -> None:
        healthy = survives(self._core.handle_timer, time.monotonic())
        self._drive(0.0 if healthy else PAUSE)

    def _drive(self, at_least: float = 0.0) -> None:
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        delay = max(at_least, self._core.deadline - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._serve_timer)

    def _flush(self) -> None:
        survives(self._send)

    def _send(self) -> None:
        for data, address in self._core.poll_transmit():
            self.unsent += not send(self._udp, data, address)
        if self._second is not None and self._core.observer is not None:
            for data, address in self._core.observer.poll_transmit():
                self.unsent += not send(self._second, data, address)
        for question in self._core.poll_questions():
            task = asyncio.create_task(self._answer(question))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
        for line in self._core.poll_events():
            log.info("%s", line)
        self._tracing.flush()
        if self._core.drained:
            self._stop.set()


def run(config: RelayConfig, path: Path) -> int:
    """Run a relay until it is told to stop; returns the exit code of the command.

    :param path: where `config` was read, and is read again.
    """
    identity = identities.load(config.relay.state_dir)
    admissions = Admissions(path, config)
    log_to(sys.stderr.fileno(), config.log)
    with contextlib.ExitStack() as stack:
        tracing = stack.enter_context(trace_to(config.tracing, "shadowmesh-relay", config.log.addresses))
        threads = threads_for(config.relay.threads)
        sockets = open_steered(config.relay.host, config.relay.port, threads)
        for one in sockets:
            stack.enter_context(one)
        udp = sockets[0]
        second, observer = None, None
        if config.relay.second_port is not None:
            second = stack.enter_context(open_udp(config.relay.host, config.relay.second_port))
            observer = Observer(config.relay.second_port)
        event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        stack.callback(os.close, event_fd)
        forwarder = Forwarder(udp.fileno(), event_fd, *(one.fileno() for one in sockets[1:]))
        origins = Origins()
        core = RelayCore(
            identity,
            admissions.now,
            ForwarderTables(forwarder, udp.family),
            secrets.token_bytes,
            time.monotonic(),
            observer,
            config.limits,
            time.time,
            origins,
            _http3(config),
            CpuLoad(),
            tracing.stages,
            threads,
        )
        forwarder.set_limits(
            packet_rate=config.limits.packets_per_second, byte_rate=config.limits.bytes_per_second
        )
        cluster = _cluster(config, identity.node_id, udp.family)
        if cluster is not None:
            core.join(cluster)
        websocket = _open_websocket(config, udp, origins, core)
        if websocket is not None:
            stack.callback(websocket.close)
        forwarder.start()
        stack.callback(forwarder.stop)
        hook = Hook(config.admission.hook, identity.node_id) if config.admission.hook else None
        server = Server(core, forwarder, udp, second, hook, websocket, tracing)
        reporter = Reporter(config, identity.node_id, core, forwarder, sockets, websocket, tracing, cluster)
        watch = watched(Pulse(forwarder.turns, [one.fileno() for one in sockets]))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, server, reporter, core, forwarder, admissions, cluster, watch))
        log.info(
            "stopped; %s", totals(len(core.clients), forwarder.counters(), reporter.drops(server.unsent))
        )
    return 0


async def _serve(
    config: RelayConfig,
    server: Server,
    reporter: Reporter,
    core: RelayCore,
    forwarder: Forwarder,
    admissions: Admissions,
    cluster: Cluster | None,
    watch: contextlib.AbstractContextManager[None],
) -> None:
    """Serve until told to stop, with the local API, the metrics and the watchdog beside."""
    began = time.monotonic()

    def report() -> Report:
        now = time.monotonic()
        return reporter.report(now - began, server.unsent, now)

    def line() -> str:
        return totals(len(core.clients), forwarder.counters(), reporter.drops(server.unsent))

    def metrics() -> Iterable[Metric]:
        return reporter.metrics(time.monotonic() - began, server.unsent, time.time())

    def reload() -> ReloadReply:
        return admissions.reload(server.readmit)

    def hang_up() -> None:
        with contextlib.suppress(ConfigError):  # the log has it
            reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    async with contextlib.AsyncExitStack() as stack:
        try:
            app = create_app(report, server.drain, reload)
            await stack.enter_async_context(serve_unix(config.relay.socket, app))
        except SocketInUse as error:
            raise CommandFailed(str(error), ExitCode.ALREADY_RUNNING, "relay.running") from error
        except OSError as error:
            where = config.relay.socket
            text = f"can't serve the local API on {where}: {error.strerror}"
            raise DeviceError(text, "device.socket") from error
        remove_drafts(config.relay.state_dir)  # not before: another relay may run in this folder
        scraped = metrics_app(metrics, lambda: why_not_ready(core.draining))
        await stack.enter_async_context(serve_metrics(config.metrics, scraped))
        if config.cluster is not None and cluster is not None:
            await stack.enter_async_context(_linked(config.cluster, cluster, server))
        stack.enter_context(watch)
        relay = report().relay
        await server.serve(
            f"{relay.name} ({relay.node_id}) serves on UDP {relay.listen}{_over_tcp(config)}, "
            f"{relay.admits}, ShadowMesh {relay.version}",
            line,
        )


def _cluster(config: RelayConfig, node: NodeId, family: int) -> Cluster | None:
    """This run of the relay as one of a cluster, if it is to be one."""
    if config.cluster is None:
        return None
    host, port = config.cluster.address
    beat = Beat(secrets.token_bytes(INSTANCE_SIZE), node, config.relay.name, host, port)

    def reaches(address: Address) -> bool:
        try:
            return bool(to_sockaddr(address, family))
        except (OSError, ValueError):
            return False

    return Cluster(config.cluster.name, beat, time.monotonic(), time.time, reaches)


@contextlib.asynccontextmanager
async def _linked(config: ClusterSection, cluster: Cluster, server: Server) -> AsyncIterator[None]:
    """With a connection to NATS, or one that is tried for again and again."""
    from .nats_link import NatsLink  # 9 MB that a relay by itself does without

    task = asyncio.create_task(NatsLink(config, cluster, server.drive).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _open_websocket(
    config: RelayConfig, udp: socket.socket, origins: Origins, core: RelayCore
) -> WebSocketService | None:
    if config.websocket is None:
        return None
    service = WebSocketService(
        config.websocket,
        local_address(udp),
        origins,
        lambda: {client.address for client in core.clients.values()},
        lambda: core.sources,
    )
    service.open()
    return service


def _http3(config: RelayConfig) -> Http3 | None:
    """What strangers may ask for. Raises ConfigError."""
    section = config.http3
    if section is None:
        return None
    certificate = Certificate(section.certificate, section.key, credentials)
    return Http3(certificate.latest, section.show_clients)


def _over_tcp(config: RelayConfig) -> str:
    websocket = config.websocket
    http3 = " with HTTP/3" if config.http3 is not None else ""
    if websocket is None:
        return http3
    plain = " without TLS" if websocket.certificate is None else ""
    return f"{http3} and TCP {Address(websocket.host, websocket.port)}{plain}"


def totals(clients: int, counters: Mapping[str, int], drops: Mapping[str, int]) -> str:
    """One line; drops that did not happen, and what only a client with its TAP counts, are left out."""
    counted = {name: count for name, count in counters.items() if not name.startswith("tap_")}
    dropped = {name: count for name, count in drops.items() if count}
    parts = [f"{name} {count}" for name, count in counted.items()]
    parts += [f"dropped {name} {count}" for name, count in dropped.items()]
    return ", ".join([f"clients {clients}", *parts])
