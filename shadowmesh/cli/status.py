"""`shadowmesh-client status`: who is reachable, by which path, and how it is protected."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from shadowmesh.api.checks import CHECKS, CheckName
from shadowmesh.api.schema import (
    BridgeStatus,
    CarrierStatus,
    NamesStatus,
    NetworkStatus,
    PeerStatus,
    RelayStatus,
    RouteStatus,
    Status,
)
from shadowmesh.cli.check import wait_for
from shadowmesh.cli.options import (
    ask,
    config_option,
    socket_option,
    socket_path,
    start_advice,
)
from shadowmesh.cli.output import coloured, duration, milliseconds, percent, short_cipher, size, table
from shadowmesh.cli.peers import PATH_HEAD, PATH_RIGHT, path_cells
from shadowmesh.command import ExitCode, examples, json_option
from shadowmesh.values import printable

MAX_WAIT = 86_400.0
"""Seconds for --wait: a day is as good as for ever."""

SHORT_ID = 10
"""Characters of a NodeID in tables: enough to tell nodes apart; --json has all 52."""


@click.command(
    epilog=examples(
        "shadowmesh-client status",
        "shadowmesh-client status --json | jq '.peers[] | {name, path, rtt_ms}'",
        "watch shadowmesh-client status",
        "shadowmesh-client status --check ready --wait 30",
    )
)
@click.option(
    "--check",
    type=click.Choice(CHECKS),
    help="Say in one line whether it is so; exits with 0, 1, or 4 if no client runs.",
)
@click.option(
    "--wait",
    type=click.FloatRange(0, MAX_WAIT),
    metavar="SECONDS",
    help="With --check: wait so long until it is so, also for a client that does not run yet.",
)
@config_option()
@socket_option
@json_option
def status(
    check: CheckName | None, wait: float | None, config: Path | None, socket: Path | None, as_json: bool
) -> int:
    """Show peers, relays and what was dropped.

    For supervisors, --check asks one thing: live (the client answers), startup (it has been connected once
    since up), ready (its interface is up, and a relay or a peer is connected).
    """
    if check is not None:
        return _check(check, wait or 0.0, socket_path(config, socket), as_json)
    if wait is not None:
        raise click.UsageError("--wait is for --check")
    data = ask(socket_path(config, socket), lambda client: client.status_json(), start_advice(socket))
    if as_json:
        click.echo(data)
        return ExitCode.OK
    for line in render(msgspec.json.decode(data, type=Status)):
        click.echo(coloured(line))
    return ExitCode.OK


def _check(name: CheckName, wait: float, path: Path, as_json: bool) -> ExitCode:
    reply, code = wait_for(name, path, wait)
    if as_json:
        click.echo(msgspec.json.encode(reply))
    else:
        click.echo(f"{'' if reply.ok else 'not '}{name}: {printable(reply.reason)}")
    return code


def render(status: Status) -> list[str]:
    """The status as lines for people."""
    node = status.node
    addresses = ", ".join(node.addresses) or "no address"
    lines = [
        f"{node.name} ({node.node_id[:SHORT_ID]}…), ShadowMesh {node.version}, up {duration(node.uptime)}, "
        f"AEAD by {node.aead}",
        f"interface {node.interface}, {node.mac}, MTU {node.mtu}, {addresses}",
        f"listening on UDP {node.listen}",
        *_network(node.network),
        *_renewers(status.peers),
        *_bridge(node.bridge),
        *_names(status.names),
        "",
        *(_peers(status.peers) if status.peers else [_nobody(node.network)]),
        "",
        *_paths(status.peers),
        *_routes(status.routes),
        *_relays(status.relays),
    ]
    drops = {reason: count for reason, count in status.drops.items() if count}
    if drops:
        rows = [(reason, str(count)) for reason, count in drops.items()]
        lines += ["", *table(("dropped", "packets"), rows, frozenset(["packets"]))]
    return lines


def _network(network: NetworkStatus | None) -> list[str]:
    if network is None:
        return []
    groups = f", groups {' '.join(network.groups)}" if network.groups else ""
    line = (
        f"{network.member} of network {network.name}{groups}, certificate for {duration(network.expires_in)}"
    )
    if network.renews_for is not None:
        line += f", renews those of others for {duration(network.renews_for)}"
    return [line, *(f"  warning: {warning}" for warning in network.warnings)]


def _renewers(peers: list[PeerStatus]) -> list[str]:
    able = [peer.name for peer in peers if peer.renews]
    return [f"certificates are renewed by {', '.join(able)}"] if able else []


def _bridge(bridge: BridgeStatus | None) -> list[str]:
    if bridge is None:
        return []
    vlans = f", VLANs {' '.join(str(vlan) for vlan in bridge.vlans)}" if bridge.vlans else ""
    line = (
        f"bridge {bridge.name}: {bridge.state} for {duration(bridge.since)}, "
        f"{bridge.stations} stations here, {bridge.far_stations} behind members{vlans}"
    )
    if bridge.retry_in is None:
        return [line]
    return [line, f"  loop: {bridge.reason}; tried again in {duration(bridge.retry_in)}"]


def _nobody(network: NetworkStatus | None) -> str:
    if network is None:
        return "No peers are configured."
    return f"No other member of {network.name} is known yet; `shadowmesh-client invite create` makes one."


def _names(names: NamesStatus | None) -> list[str]:
    if names is None:
        return []
    if names.problem is not None:
        return [f"names below .{names.domain} are not resolved: {names.problem}"]
    who = {"resolved": "systemd-resolved asks it", "resolv.conf": "/etc/resolv.conf has it first"}
    asked = who.get(names.host, "nothing on this machine asks it by itself")
    line = f"names below .{names.domain} are resolved at {', '.join(names.listen)}; {asked}"
    return [line, *([f"  {names.advice}"] if names.advice else [])]


def _peers(peers: list[PeerStatus]) -> list[str]:
    head = ("peer", "nodeid", "addresses", "state", "path", "rtt", "sent", "received", "handshake", "epoch")
    rows = [
        (
            peer.name,
            peer.node_id[:SHORT_ID],
            ", ".join(peer.addresses) or "-",
            peer.state,
            peer.path or "-",
            milliseconds(peer.rtt_ms),
            size(peer.tx_bytes),
            size(peer.rx_bytes),
            "-" if peer.last_handshake is None else duration(peer.last_handshake),
            "-" if peer.epoch is None else str(peer.epoch),
            short_cipher(peer.cipher),
            peer.key_exchange or "-",
        )
        for peer in peers
    ]
    notes = [f"  {peer.name}: {peer.last_error}" for peer in peers if peer.last_error]
    notes += [f"  {peer.name}: {_refused(peer)}" for peer in peers if peer.refused]
    right = frozenset(["rtt", "sent", "received", "handshake", "epoch"])
    return table((*head, "cipher", "key exchange"), rows, right) + notes


def _refused(peer: PeerStatus) -> str:
    """What the guards kept out, and one example."""
    counted = ", ".join(f"{reason} {count}" for reason, count in peer.refused.items())
    return f"frames of it were refused: {counted}; for example {peer.refused_example}"


def _paths(peers: list[PeerStatus]) -> list[str]:
    """Every path that works or is being tried; those that failed are for `why` and --json."""
    rows = [(peer.name, *path_cells(path)) for peer in peers for path in peer.paths if path.state != "failed"]
    return [*table(("peer", *PATH_HEAD), rows, PATH_RIGHT), ""] if rows else []


def _routes(routes: list[RouteStatus]) -> list[str]:
    rows = [(route.to, route.via, str(route.metric), route.state) for route in routes]
    notes = [f"  {route.to} via {route.via}: {route.reason}" for route in routes if route.reason]
    return (
        [*table(("route to", "via", "metric", "state"), rows, frozenset(["metric"])), *notes, ""]
        if rows
        else []
    )


def _relays(relays: list[RelayStatus]) -> list[str]:
    rows = [
        (
            relay.address,
            relay.node_id[:SHORT_ID],
            f"{relay.state} over TCP" if relay.transport == "tcp" else relay.state,
            milliseconds(relay.rtt_ms),
            percent(relay.loss),
            "-" if relay.load is None else f"{relay.load}%",
            relay.observed_address or "-",
        )
        for relay in relays
    ]
    notes = [f"  {relay.address}: {relay.last_error}" for relay in relays if relay.last_error]
    notes += [f"  {relay.address} is home: {relay.home_reason}" for relay in relays if relay.home_reason]
    notes += [f"  {relay.address}: {_carrier(relay.carrier)}" for relay in relays if relay.carrier]
    head = ("relay", "nodeid", "state", "rtt", "loss", "load", "sees us at")
    return table(head, rows, frozenset(["rtt", "loss", "load"])) + notes


def _carrier(carrier: CarrierStatus) -> str:
    if carrier.tls is None:
        return f"connecting to {carrier.address} over TCP"
    return f"WebSocket to {carrier.address}, {carrier.tls}, key exchange {carrier.key_exchange}"
