"""`shadowmesh-client id`: the NodeID of this machine, from its files or from the running client."""

from __future__ import annotations

from pathlib import Path

import click

from shadowmesh.cli.options import ask, config_option, socket_option, state_dir_option
from shadowmesh.command import examples, json_option
from shadowmesh.config import DEFAULT_STATE_DIR, load_client_config
from shadowmesh.replies import IdentityReply, print_reply


@click.command(
    "id",
    epilog=examples("shadowmesh-client id", "shadowmesh-client id --state-dir ./alice --json"),
)
@config_option()
@state_dir_option
@socket_option
@click.option("--public", is_flag=True, help="Print both public keys, for `network delegate`.")
@json_option
def show_id(
    config: Path | None, state_dir: Path | None, socket: Path | None, public: bool, as_json: bool
) -> None:
    """Print this machine's NodeID.

    It is read from the identity's files, or with --socket asked of the running client.
    """
    if public and (socket is not None or as_json):
        raise click.UsageError("--public reads the identity's files, and prints text")
    if socket is not None:
        name, node_id = _of_client(socket)
    else:
        folder = state_dir or (
            load_client_config(config).node.state_dir if config else Path(DEFAULT_STATE_DIR)
        )
        if public:
            click.echo(_public_of(folder), nl=False)
            return
        name, node_id = _of_files(folder)
    if as_json:
        print_reply(IdentityReply(node_id=node_id, name=name))
    else:
        click.echo(node_id)


def _public_of(state_dir: Path) -> str:
    from shadowmesh.crypto import identity as identities
    from shadowmesh.io.documents import public_text

    identity = identities.load(state_dir)
    return public_text(identity.public, identity.name)


def _of_client(socket: Path) -> tuple[str, str]:
    import msgspec

    from shadowmesh.api.schema import Status

    node = msgspec.json.decode(ask(socket, lambda client: client.status_json()), type=Status).node
    return node.name, node.node_id


def _of_files(state_dir: Path) -> tuple[str, str]:
    from shadowmesh.crypto import identity as identities

    identity = identities.load(state_dir)
    return identity.name, identities.node_id_text(identity.node_id)
