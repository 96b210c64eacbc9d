"""`shadowmesh-client ping PEER`: measure round trips through the session with a peer."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, Literal

import click

from shadowmesh.api.client import ApiClient, NoReply, UnknownPeer
from shadowmesh.api.schema import MAX_PING_TIMEOUT, PingReply
from shadowmesh.cli.completing import peer_names
from shadowmesh.cli.options import (
    ask,
    config_option,
    socket_option,
    socket_path,
    start_advice,
)
from shadowmesh.cli.replies import PingProblem
from shadowmesh.command import ExitCode, examples, json_option
from shadowmesh.errors import ShadowMeshError
from shadowmesh.replies import print_reply


class _Count(click.IntRange):
    """A number of probes. The other verbs have taught that -c takes the file, so say it where it doesn't."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            int(value)
        except ValueError:
            text = f"{value!r} is not a number; here -c is the count, the file is --config"
            self.fail(text, param, ctx)
        return int(super().convert(value, param, ctx))


@click.command(
    epilog=examples(
        "shadowmesh-client ping bob",
        "shadowmesh-client ping bob -c 10 -i 0.2",
        "shadowmesh-client ping bob --until-direct -c 20",
        "shadowmesh-client ping 10.77.0.2 -c 1 --json",
    )
)
@click.argument("peer", shell_complete=peer_names)
@click.option(
    "-c", "--count", type=_Count(1, 1_000_000), metavar="N", default=4, show_default=True, help="How many."
)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0, 3600),
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="Time between two.",
)
@click.option(
    "-W",
    "--timeout",
    type=click.FloatRange(0.001, MAX_PING_TIMEOUT),
    metavar="SECONDS",
    default=2.0,
    show_default=True,
    help="Time to wait for each reply.",
)
@click.option(
    "--until-direct",
    is_flag=True,
    help="Stop at the first reply over a direct path; exit with 9 if none came.",
)
@config_option("--config")
@socket_option
@json_option
def ping(  # one parameter for each option
    peer: str,
    count: int,
    interval: float,
    timeout: float,
    until_direct: bool,
    config: Path | None,
    socket: Path | None,
    as_json: bool,
) -> int:
    """Measure round trips to PEER through the overlay.

    PEER is a name, an overlay address, a NodeID or its first 10 or more characters. This is not ICMP:
    the session itself seals the probe, so it also works where ping(8) is filtered, and each line names
    the path that the probe took. Exits with 6 if no reply came at all.
    """
    path = socket_path(config, socket)
    replies: list[PingReply] = []
    sent = 0
    while sent < count and not (until_direct and replies and replies[-1].direct):
        if sent:
            time.sleep(interval)
        sent += 1
        replies += ask(path, lambda client: _ping_once(client, peer, timeout, as_json), start_advice(socket))
    if not as_json:
        click.echo(_summary(sent, [reply.rtt_ms for reply in replies]))
    if not replies:
        return ExitCode.NO_PEER
    return ExitCode.NOT_DIRECT if until_direct and not replies[-1].direct else ExitCode.OK


def _ping_once(client: ApiClient, peer: str, timeout: float, as_json: bool) -> list[PingReply]:
    """Print one line; the reply, if there was one."""

    def print_problem(kind: Literal["unknown-peer", "no-reply"], error: ShadowMeshError) -> None:
        print_reply(PingProblem(peer=peer, error=kind, message=error.told))

    try:
        reply = client.ping(peer, timeout)
    except NoReply as error:
        if as_json:
            print_problem("no-reply", error)
        else:
            click.echo(f"no reply from {peer}: {error.told}")
        return []
    except UnknownPeer as error:
        if as_json:
            print_problem("unknown-peer", error)
        raise
    if as_json:
        print_reply(reply)
    else:
        click.echo(f"reply from {reply.peer} ({reply.node_id[:10]}…) via {reply.path}: {reply.rtt_ms:.1f} ms")
    return [reply]


def _summary(sent: int, times: list[float]) -> str:
    text = f"{sent} sent, {len(times)} answered"
    if not times:
        return text
    middle = statistics.median(times)
    return f"{text}; fastest {min(times):.1f} ms, median {middle:.1f} ms, slowest {max(times):.1f} ms"
