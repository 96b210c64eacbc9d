"""Verbs that ask a running relay: status, drain, reload."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from shadowmesh.command import FILE, CommandFailed, ExitCode, examples, json_option
from shadowmesh.output import duration, size, table
from shadowmesh.replies import print_reply

from .clients import VisitorTotals
from .cluster import ClusterReport
from .config import DEFAULT_STATE_DIR, SOCKET_FILE, load_relay_config
from .control import MAX_DRAIN, ask_drain, ask_reload, ask_status
from .reload import ReloadReply
from .report import ClientReport, Report, ThreadReport

POLL = 0.5
"""Seconds between two looks at a relay that drains."""
GRACE = 10.0
"""Seconds that a relay has to end after its time is up."""
SHORT_ID = 10

DRAIN_SCHEMA = "shadowmesh.relay-drain/1"

Verb = Callable[..., Any]


class DrainReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `drain` prints: how many were there, and after how many seconds the relay had ended."""

    schema: str = DRAIN_SCHEMA
    clients: int
    seconds: float


def _socket_options(verb: Verb) -> Verb:
    config = click.option("-c", "--config", type=FILE, metavar="FILE", help="Configuration of the relay.")
    socket = click.option("--socket", type=FILE, metavar="PATH", help="The relay's local socket.")
    return config(socket(verb))


def _socket(config: Path | None, socket: Path | None) -> Path:
    if socket is not None:
        return socket
    if config is not None:
        return load_relay_config(config).relay.socket
    return Path(DEFAULT_STATE_DIR) / SOCKET_FILE


@click.command(
    epilog=examples(
        "shadowmesh-relay status -c relay.yaml",
        "shadowmesh-relay status --json | jq '.totals, .drops'",
    )
)
@_socket_options
@json_option
def status(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Show who is connected, and what was dropped."""
    data = ask_status(_socket(config, socket))
    if as_json:
        click.echo(data)
        return
    for line in render(msgspec.json.decode(data, type=Report)):
        click.echo(line)


@click.command(
    epilog=examples(
        "shadowmesh-relay drain -c relay.yaml",
        "shadowmesh-relay drain --timeout 60 --json",
    )
)
@_socket_options
@click.option(
    "--timeout",
    type=click.FloatRange(0, MAX_DRAIN),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="End after this time, whoever is there still.",
)
@json_option
def drain(config: Path | None, socket: Path | None, timeout: float, as_json: bool) -> None:
    """Have all clients go elsewhere, then end the relay.

    Returns when it has ended. Members that know no other relay lose their sessions through this one.
    """
    path = _socket(config, socket)
    began = time.monotonic()
    clients = ask_drain(path, timeout).clients
    while time.monotonic() < began + timeout + GRACE:
        try:
            ask_status(path)
        except CommandFailed as error:
            if error.code is not ExitCode.NOT_RUNNING:
                raise
            took = time.monotonic() - began
            if as_json:
                print_reply(DrainReply(clients=clients, seconds=round(took, 3)))
            else:
                click.echo(f"{clients} clients were sent away; the relay ended after {duration(took)}")
            return
        time.sleep(POLL)
    raise CommandFailed("the relay has not ended; its log says why", error_id="relay.stopping")


@click.command(
    epilog=examples(
        "shadowmesh-relay reload -c relay.yaml",
        "shadowmesh-relay serve -c relay.yaml --check && shadowmesh-relay reload -c relay.yaml --json",
    )
)
@_socket_options
@json_option
def reload(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Have the running relay read again whom it admits.

    NodeIDs, networks and tokens, of the file that it was started with. Whoever is admitted no more loses its
    session at once; what needs a restart is named. A file with a mistake changes nothing: exit code 3. SIGHUP
    does the same and tells the log.
    """
    data = ask_reload(_socket(config, socket))
    if as_json:
        click.echo(data)
        return
    reply = msgspec.json.decode(data, type=ReloadReply)
    click.echo(f"changed: {', '.join(reply.applied) or 'nothing'}; {reply.ended} sessions ended")
    if reply.restart:
        waiting = ", ".join(reply.restart)
        click.echo(f"changed in the file, and needs a restart: {waiting} [config.pending]", err=True)


def render(report: Report) -> list[str]:
    """The report as lines for people."""
    relay, totals = report.relay, report.totals
    ended = totals.handshakes
    lines = [
        f"{relay.name} ({relay.node_id[:SHORT_ID]}…), ShadowMesh {relay.version}, "
        f"up {duration(relay.uptime)}{', draining' if relay.draining else ''}",
        f"serves on UDP {relay.listen}, {relay.admits}",
        f"{totals.clients} of at most {totals.clients_limit} clients, {totals.channels} channels "
        f"({totals.channels_opened} opened since the start), load {totals.load}%",
        f"handshakes: {totals.handshakes_under_way} under way, {ended['completed']} completed, "
        f"{ended['refused']} refused, {ended['failed']} failed",
        *_visitors(totals.http3),
        *(_threads(report.threads) if len(report.threads) > 1 else []),
        *(_cluster(report.cluster) if report.cluster else []),
        "",
        *(_clients(report.clients) if report.clients else ["No clients are connected."]),
    ]
    drops = {reason: count for reason, count in report.drops.items() if count}
    for title, unit, counted in (
        ("channel refused", "times", totals.openings_refused),
        ("dropped", "packets", drops),
    ):
        if counted:
            rows = [(reason, str(count)) for reason, count in counted.items()]
            lines += ["", *table((title, unit), rows, frozenset([unit]))]
    return lines


def _visitors(http3: VisitorTotals | None) -> list[str]:
    if http3 is None:
        return []
    done, answers = http3.handshakes, http3.requests
    requests = ", ".join(f"{count} with {status}" for status, count in answers.items() if count)
    return [
        f"HTTP/3: {http3.connections} connections now, {sum(done.values())} handshakes completed "
        f"({done['hybrid']} post-quantum), {sum(answers.values())} requests"
        f"{f' ({requests})' if requests else ''}"
    ]


def _threads(threads: list[ThreadReport]) -> list[str]:
    head = ("thread", "clients", "received", "sent", "handed over", "queue full")
    rows = [
        tuple(
            map(str, (i, one.clients, one.rx_datagrams, one.tx_datagrams, one.handed_over, one.socket_full))
        )
        for i, one in enumerate(threads)
    ]
    return ["", *table(head, rows, frozenset(head))]


def _cluster(cluster: ClusterReport) -> list[str]:
    state = "connected" if cluster.connected else f"NOT CONNECTED ({cluster.reason})"
    rows = [
        (
            relay.name,
            f"{relay.node_id[:SHORT_ID]}…",
            relay.address,
            "alive" if relay.alive else "silent",
            duration(relay.heard),
            str(relay.clients),
        )
        for relay in cluster.relays
    ]
    head = ("relay", "nodeid", "address", "state", "heard", "clients")
    lines = [f"cluster {cluster.name}: {state} for {duration(cluster.since)}"]
    return lines + (["", *table(head, rows, frozenset(["heard", "clients"]))] if rows else [])


def _clients(clients: list[ClientReport]) -> list[str]:
    head = ("client", "nodeid", "address", "connected", "idle", "channels", "received", "sent", "refused")
    rows = [
        (
            f"{client.name} ({client.network})" if client.name else "-",
            f"{client.node_id[:SHORT_ID]}…",
            client.address,
            duration(client.connected),
            duration(client.idle),
            str(client.channels),
            size(client.rx_bytes),
            size(client.tx_bytes),
            str(client.refused),
        )
        for client in clients
    ]
    return table(head, rows, frozenset(["connected", "idle", "channels", "received", "sent", "refused"]))
