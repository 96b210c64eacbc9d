"""`shadowmesh-client reload`: the running client reads its configuration again."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from shadowmesh.cli.options import ask, config_option, socket_option, socket_path, start_advice
from shadowmesh.command import examples, json_option


@click.command(
    epilog=examples(
        "shadowmesh-client reload", "shadowmesh-client up -c client.yaml --check && shadowmesh-client reload"
    )
)
@config_option()
@socket_option
@json_option
def reload(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Have the running client read its configuration again.

    The firewall, the groups of peers and the routes change at once, and no session is dropped; what needs a
    restart is named. A file with a mistake changes nothing: exit code 3. SIGHUP does the same and tells the
    log.
    """
    reply = ask(socket_path(config, socket), lambda client: client.reload(), start_advice(socket))
    if as_json:
        click.echo(msgspec.json.encode(reply))
        return
    click.echo(f"changed: {', '.join(reply.applied) or 'nothing'}")
    if reply.restart:
        waiting = ", ".join(reply.restart)
        click.echo(f"changed in the file, and needs a restart: {waiting} [config.pending]", err=True)
