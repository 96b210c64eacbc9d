"""`shadowmesh-client get [KEY]`: what client.yaml says, key by key."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from shadowmesh.cli.completing import keys
from shadowmesh.cli.options import config_option, socket_option
from shadowmesh.cli.output import table
from shadowmesh.cli.replies import GetReply
from shadowmesh.command import CommandFailed, examples, json_option
from shadowmesh.values import printable


@click.command(
    epilog=examples(
        "shadowmesh-client get                       all that differs from the defaults",
        "shadowmesh-client get paths.direct",
        "shadowmesh-client get peers.bob             all about one",
        "shadowmesh-client get --all",
    )
)
@click.argument("key", required=False, shell_complete=keys)
@click.option("--all", "everything", is_flag=True, help="Also what is as it is by default.")
@config_option()
@socket_option
@json_option
def get(key: str | None, everything: bool, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Show what the configuration says, or the value of KEY alone.

    It is read from the file of -c, else from that of the running client, else from
    /etc/shadowmesh/client.yaml. KEY is like listen.port or peers.bob.groups.
    """
    from shadowmesh.cli.settings import find, only, settings, text_of
    from shadowmesh.config import read_client_config
    from shadowmesh.document import Document

    file = find(config, socket).file
    document = Document.load(file)
    read_client_config(document)
    found = settings(document)
    single = False
    if key is not None:
        found, single = only(found, key, document)
    elif not everything:
        found = [one for one in found if one.given and one.value != one.default]
    if as_json:
        click.echo(msgspec.json.encode(GetReply(file=str(file), settings=found)))
    elif not single:
        rows = [(one.key, text_of(one.value), "" if one.given else "default") for one in found]
        click.echo("\n".join(table(("key", "value", ""), rows)))
    elif found[0].value is None:
        raise CommandFailed(f"{found[0].key} is not set, and has no default")
    else:
        click.echo(printable(text_of(found[0].value)))
