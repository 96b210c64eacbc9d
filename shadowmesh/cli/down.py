"""`shadowmesh-client down`: stop the running client and wait until it has stopped."""

from __future__ import annotations

from pathlib import Path

import click

from shadowmesh.cli.options import ask, config_option, socket_option, socket_path
from shadowmesh.cli.replies import DownReply
from shadowmesh.command import examples, json_option
from shadowmesh.replies import print_reply


@click.command(epilog=examples("shadowmesh-client down", "shadowmesh-client down -c client.yaml"))
@config_option()
@socket_option
@click.option(
    "--timeout", default=15.0, show_default=True, metavar="SECONDS", help="How long to wait for it."
)
@json_option
def down(config: Path | None, socket: Path | None, timeout: float, as_json: bool) -> None:
    """Stop the running client and wait for it."""
    ask(socket_path(config, socket), lambda client: client.down(timeout))
    if as_json:
        print_reply(DownReply())
    else:
        click.echo("stopped")
