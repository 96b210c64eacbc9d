"""What Prometheus reads of a client: its status, as metrics. Names end with their unit; peers go by name."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import Metric

from shadowmesh.api.checks import check
from shadowmesh.api.schema import FirewallStatus, NetworkStatus, PeerStatus, RelayStatus, Status
from shadowmesh.units import Address
from shadowmesh.web.metrics import Labels, counter, create_app, data_plane, gauge, program, serve_metrics

PREFIX = "shadowmesh_client"


def serve(
    where: Address | Path, status: Callable[[], Status]
) -> contextlib.AbstractAsyncContextManager[None]:
    """Answer Prometheus at an address or Unix socket. Raises DeviceError."""
    app = create_app(lambda: metrics(status(), time.time()), lambda: not_ready(status()))
    return serve_metrics(where, app)


def metrics(status: Status, now: float) -> Iterable[Metric]:
    """All metrics. `now`: seconds since 1970."""
    yield from program(PREFIX, status.node.version, status.node.uptime, now)
    yield from _relays(status.relays)
    yield from _peers(status.peers)
    if status.node.network is not None:
        yield from _network(status.node.network, now)
    if status.firewall is not None:
        yield from _firewall(status.firewall)
    yield from data_plane(PREFIX, status.counters, status.drops)


def not_ready(status: Status) -> str:
    """Why this client can't serve just now; empty if it can."""
    ready, reason = check("ready", status)
    return "" if ready else reason


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _relays(relays: list[RelayStatus]) -> Iterable[Metric]:
    values: dict[str, tuple[str, Callable[[RelayStatus], float | None]]] = {
        "relay_connected": ("1 while a relay is connected.", lambda one: float(one.state == "connected")),
        "relay_round_trip_seconds": ("Round trip to a relay.", lambda one: _seconds(one.rtt_ms)),
    }
    for name, (text, read) in values.items():
        yield gauge(f"{PREFIX}_{name}", text, {(one.address,): read(one) for one in relays}, ("relay",))


def _loss(peer: PeerStatus) -> float | None:
    return next((path.loss for path in peer.paths if path.in_use), None)


def _direct(peer: PeerStatus) -> float:
    return float(any(path.in_use and path.kind != "relay" for path in peer.paths))


def _peers(peers: list[PeerStatus]) -> Iterable[Metric]:
    gauges: dict[str, tuple[str, Callable[[PeerStatus], float | None]]] = {
        "peer_connected": ("1 while there is a session.", lambda one: float(one.state == "connected")),
        "peer_direct": ("1 while frames take a direct path.", _direct),
        "peer_round_trip_seconds": ("Round trip on the path in use.", lambda one: _seconds(one.rtt_ms)),
        "peer_loss_ratio": ("Share of probes lost on the path in use.", _loss),
        "peer_epoch_age_seconds": ("Age of the session's keys; they end at 300.", lambda one: one.epoch_age),
    }
    for name, (text, read) in gauges.items():
        yield gauge(f"{PREFIX}_{name}", text, {(one.name,): read(one) for one in peers}, ("peer",))
    counters: dict[str, tuple[str, Callable[[PeerStatus], int]]] = {
        "peer_transmitted_bytes": ("Bytes of frames sent.", lambda one: one.tx_bytes),
        "peer_received_bytes": ("Bytes of frames received.", lambda one: one.rx_bytes),
        "peer_transmitted_frames": ("Frames sent.", lambda one: one.tx_frames),
        "peer_received_frames": ("Frames received.", lambda one: one.rx_frames),
    }
    for name, (text, count) in counters.items():
        values: dict[Labels, float] = {(one.name,): float(count(one)) for one in peers}
        yield counter(f"{PREFIX}_{name}", text, values, ("peer",))


def _network(network: NetworkStatus, now: float) -> Iterable[Metric]:
    for name, text, value in (
        ("certificate_expiry_timestamp_seconds", "When it expires, since 1970.", now + network.expires_in),
        ("revocation_list_number", "Number of the newest list known here.", float(network.revocation_list)),
        ("clock_behind_seconds", "How far the machine's clock is behind.", network.clock_behind),
    ):
        yield gauge(f"{PREFIX}_{name}", text, {(): value})


def _firewall(firewall: FirewallStatus) -> Iterable[Metric]:
    yield gauge(f"{PREFIX}_firewall_flows", "Connections known now.", {(): float(firewall.flows)})
    decided: dict[Labels, float] = {
        (str(rule.number), rule.direction, rule.action): float(rule.decided) for rule in firewall.rules
    }
    decided["default", "in", firewall.inbound] = float(firewall.inbound_default)
    decided["default", "out", firewall.outbound] = float(firewall.outbound_default)
    text = "Frames decided, by rule of the firewall."
    yield counter(f"{PREFIX}_firewall_decided_frames", text, decided, ("rule", "direction", "action"))
