"""`shadowmesh-client why PEER`: why this path and no better one, as both sides see it."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from shadowmesh.api.schema import Side, WhyReply
from shadowmesh.cli.completing import peer_names
from shadowmesh.cli.options import ask, config_option, socket_option, socket_path, start_advice
from shadowmesh.cli.output import table
from shadowmesh.command import ExitCode, examples, json_option
from shadowmesh.values import printable


@click.command(
    epilog=examples("shadowmesh-client why bob", "shadowmesh-client why bob --json | jq -r '.advice[]'")
)
@click.argument("peer", shell_complete=peer_names)
@config_option()
@socket_option
@json_option
def why(peer: str, config: Path | None, socket: Path | None, as_json: bool) -> int:
    """Explain why frames to PEER take their path.

    Shows what both sides tried, what stands in the way of a direct path, and what to do about it.

    PEER is a name, an overlay address, a NodeID or its first 10 or more characters. Exits with 0 if frames
    take a direct path, else with 9.
    """
    data = ask(socket_path(config, socket), lambda client: client.why_json(peer), start_advice(socket))
    reply = msgspec.json.decode(data, type=WhyReply)
    if as_json:
        click.echo(data)
    else:
        click.echo("\n".join(printable(line) for line in render(reply)))
    return ExitCode.OK if reply.direct else ExitCode.NOT_DIRECT


def render(reply: WhyReply) -> list[str]:
    """The reply as lines for people."""
    lines = [f"{reply.peer} ({reply.node_id[:10]}…)", *_side("from here", reply.here)]
    if reply.there is not None:
        lines += ["", *_side(f"from {reply.peer}, as it last said", reply.there)]
    lines += ["", *(f"- {finding}" for finding in reply.findings)]
    return lines + [f"  what to do: {advice}" for advice in reply.advice]


def _side(title: str, side: Side) -> list[str]:
    lines = [f"{title}: {side.path} ({side.reason})"]
    if side.nat:
        lines.append(f"  NAT: {side.nat}")
    if side.tried:
        rows = [(one.address, one.state, one.detail or "-") for one in side.tried]
        lines += [f"  {line}" for line in table(("address", "state", "detail"), rows, frozenset())]
    return lines
