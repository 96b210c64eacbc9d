"""What `shadowmesh-relay status` and Prometheus are told of a running relay; changes nothing.

`Report` is versioned by its `schema`; docs/cli.md is the reference.  Times are seconds, sizes bytes.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from prometheus_client.core import Metric

from shadowmesh import __version__
from shadowmesh._ext.forward import Forwarder
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.io.tracing import Tracing
from shadowmesh.io.udp import local_address
from shadowmesh.web.metrics import Labels, counter, data_plane, gauge, program

from .clients import Client, Totals, VisitorTotals
from .cluster import Cluster, ClusterReport
from .config import RelayConfig, admits
from .protocol import RelayCore
from .websocket import WebSocketService

SCHEMA = "shadowmesh.relay-status/1"
PREFIX = "shadowmesh_relay"

_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")
_MEMINFO_DROPS = 8


class RelayNode(msgspec.Struct, frozen=True, kw_only=True):
    """The relay itself. `admits` is for people, `draining` says that it is being left."""

    name: str
    node_id: str
    version: str
    listen: str
    uptime: float
    admits: str
    draining: bool = False


class ClientReport(msgspec.Struct, frozen=True, kw_only=True):
    """One client. `name` is that in its certificate, if this relay serves its network."""

    node_id: str
    name: str | None
    network: str | None
    address: str
    connected: float
    idle: float
    channels: int
    rx_bytes: int
    tx_bytes: int
    refused: int


class ThreadReport(msgspec.Struct, frozen=True, kw_only=True):
    """One forwarder thread. `handed_over`: datagrams that it received for clients of another one."""

    clients: int
    rx_datagrams: int
    tx_datagrams: int
    handed_over: int
    socket_full: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to GET /v1/status of a relay."""

    schema: str = SCHEMA
    relay: RelayNode
    totals: Totals
    clients: list[ClientReport]
    threads: list[ThreadReport]
    counters: dict[str, int]
    drops: dict[str, int]
    cluster: ClusterReport | None = None


class Reporter:
    """Reads a running relay."""

    def __init__(
        self,
        config: RelayConfig,
        node_id: bytes,
        core: RelayCore,
        forwarder: Forwarder,
        sockets: Sequence[socket.socket],
        websocket: WebSocketService | None = None,
        tracing: Tracing | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self._config = config
        self._node_id = node_id
        self._core = core
        self._forwarder = forwarder
        self._sockets = sockets
        self._websocket = websocket
        self._tracing = tracing or Tracing()
        self._cluster = cluster

    def drops(self, unsent: int) -> Counter[str]:
        """All drops: of the forwarder, the kernel's queue before it, the control part, and legs over TCP."""
        drops = Counter(self._forwarder.drops())
        drops.update(self._core.drops)
        drops["control_send_failed"] += unsent
        drops["socket_full"] += sum(map(_queue_drops, self._sockets))
        if self._websocket is not None:
            drops.update(self._websocket.dropped())
        drops["spans_lost"] += self._tracing.lost
        if self._cluster is not None:
            drops.update(self._cluster.drops)
        return drops

    def report(self, uptime: float, unsent: int, now: float) -> Report:
        """Everything; reads the counters of every client."""
        relay = self._config.relay
        return Report(
            relay=RelayNode(
                name=relay.name,
                node_id=node_id_text(self._node_id),
                version=__version__,
                listen=str(local_address(self._sockets[0])),
                uptime=uptime,
                admits=admits(self._config.admission),
                draining=self._core.draining,
            ),
            totals=self._core.totals(),
            clients=[self._client(client, now) for client in self._core.clients.values()],
            threads=self._threads(),
            counters=self._forwarder.counters(),
            drops=dict(self.drops(unsent)),
            cluster=self._cluster.report(now) if self._cluster is not None else None,
        )

    def metrics(self, uptime: float, unsent: int, wall_clock: float) -> Iterable[Metric]:
        """What Prometheus reads: of no single client, since their number is not bounded."""
        totals = self._core.totals()
        yield from program(PREFIX, __version__, uptime, wall_clock)
        for name, text, value in (
            ("clients", "Clients with a session.", totals.clients),
            ("clients_limit", "Clients that there may be.", totals.clients_limit),
            ("channels", "Channels between clients.", totals.channels),
            ("handshakes_in_progress", "Handshakes under way.", totals.handshakes_under_way),
            ("load_percent", "How busy the relay is, 0 to 100, as clients are told.", totals.load),
            ("draining", "1 while the relay is being left.", int(self._core.draining)),
        ):
            yield gauge(f"{PREFIX}_{name}", text, {(): float(value)})
        text = "Handshakes that ended, by what came of them."
        ended: dict[Labels, float] = {(result,): float(count) for result, count in totals.handshakes.items()}
        yield counter(f"{PREFIX}_handshakes", text, ended, ("result",))
        opened: dict[Labels, float] = {(): float(totals.channels_opened)}
        yield counter(f"{PREFIX}_channels_opened", "Channels opened.", opened)
        refused: dict[Labels, float] = {
            (reason,): float(count) for reason, count in totals.openings_refused.items()
        }
        text = "Channels that were asked for and refused."
        yield counter(f"{PREFIX}_openings_refused", text, refused, ("reason",))
        if totals.http3 is not None:
            yield from _visitors(totals.http3)
        if self._cluster is not None:
            yield from cluster_metrics(self._cluster)
        yield from _thread_metrics(self._threads())
        yield from data_plane(PREFIX, self._forwarder.counters(), self.drops(unsent))

    def _threads(self) -> list[ThreadReport]:
        counted = zip(self._forwarder.thread_counters(), self._sockets, strict=True)
        return [ThreadReport(**counters, socket_full=_queue_drops(one)) for counters, one in counted]

    def _client(self, client: Client, now: float) -> ClientReport:
        counters = self._forwarder.client_counters(client.handle)
        belonging = client.belonging
        return ClientReport(
            node_id=node_id_text(client.node),
            name=belonging.standing.certificate.body.name if belonging is not None else None,
            network=belonging.guard.network.name if belonging is not None else None,
            address=client.place,
            connected=now - client.joined_at,
            idle=now - max(client.heard_at, counters["last_bind"]),
            channels=self._core.channels_of(client),
            rx_bytes=int(counters["rx_bytes"]),
            tx_bytes=int(counters["tx_bytes"]),
            refused=int(counters["refused"]),
        )


def _visitors(totals: VisitorTotals) -> Iterable[Metric]:
    yield gauge(f"{PREFIX}_http3_connections", "Connections by HTTP/3 now.", {(): float(totals.connections)})
    for name, text, label, values in (
        ("handshakes", "Completed handshakes of HTTP/3.", "key_exchange", totals.handshakes),
        ("requests", "Requests over HTTP/3, by the status that they got.", "status", totals.requests),
    ):
        counted: dict[Labels, float] = {(key,): float(count) for key, count in values.items()}
        yield counter(f"{PREFIX}_http3_{name}", text, counted, (label,))


def _thread_metrics(threads: Sequence[ThreadReport]) -> Iterable[Metric]:
    """How even the load of the threads is."""
    for name, text, values in (
        ("clients", "Clients of a forwarder thread.", [one.clients for one in threads]),
        ("rx_datagrams", "Datagrams that a thread received.", [one.rx_datagrams for one in threads]),
        ("tx_datagrams", "Datagrams that a thread sent.", [one.tx_datagrams for one in threads]),
        ("handed_over", "Of these received, those of another one.", [one.handed_over for one in threads]),
        ("socket_full", "Lost in the queue before a thread.", [one.socket_full for one in threads]),
    ):
        labelled: dict[Labels, float] = {(str(i),): float(value) for i, value in enumerate(values)}
        make = gauge if name == "clients" else counter
        yield make(f"{PREFIX}_thread_{name}", text, labelled, ("thread",))


def cluster_metrics(cluster: Cluster) -> Iterable[Metric]:
    """Of a relay in a cluster; one by itself has none of these."""
    report = cluster.report(0.0)
    for name, text, value in (
        ("connected", "1 while the directory of the cluster is connected.", int(report.connected)),
        ("relays", "Other relays of the cluster that live.", sum(relay.alive for relay in report.relays)),
        ("remote_clients", "Clients of other relays that are known.", report.remotes),
    ):
        yield gauge(f"{PREFIX}_cluster_{name}", text, {(): float(value)})
    text = "Connections to the directory of the cluster."
    yield counter(f"{PREFIX}_cluster_connections", text, {(): float(cluster.connections)})


def _queue_drops(udp: socket.socket) -> int:
    """Datagrams that did not fit into the kernel's queue before the socket. Source: sock_diag(7)."""
    try:
        return int(
            _MEMINFO.unpack(udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[_MEMINFO_DROPS]
        )
    except (OSError, struct.error):
        return 0
