"""`shadowmesh-client init`: make this machine's identity, once."""

from __future__ import annotations

from pathlib import Path

import click

from shadowmesh.cli.options import state_dir_option
from shadowmesh.command import examples, json_option
from shadowmesh.config import DEFAULT_STATE_DIR
from shadowmesh.replies import IdentityReply, print_reply
from shadowmesh.values import parse_name

_NEXT = """
Next:
  In a network: let its authority sign the NodeID, on the machine that has its key:
       shadowmesh-client network sign {node_id} --name {name}
  Without one: give it to the relay's operator, who lists it under admission.nodes, and to each peer, whose
  client.yaml lists it under peers:
       - {{name: {name}, id: {node_id}, addresses: [ITS-OVERLAY-ADDRESS]}}
  Then write client.yaml (examples: configs/, or share/doc/shadowmesh/examples), check and start it:
       shadowmesh-client up -c client.yaml --check
       shadowmesh-client up -c client.yaml"""


def _name(_context: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        return parse_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    epilog=examples(
        "shadowmesh-client init --name alice",
        "shadowmesh-client init --name alice --state-dir ./alice --json",
    )
)
@click.option("--name", required=True, metavar="NAME", callback=_name, help="How the other members call it.")
@state_dir_option
@json_option
def init(name: str, state_dir: Path | None, as_json: bool) -> None:
    """Make this machine's identity and print its NodeID.

    An identity that exists is never replaced: a second call shows the same NodeID.
    """
    from shadowmesh.crypto import identity as identities

    folder = state_dir or Path(DEFAULT_STATE_DIR)
    known = identities.exists(folder)
    identity = identities.create(folder, name)
    node_id = identities.node_id_text(identity.node_id)
    if as_json:
        print_reply(IdentityReply(node_id=node_id, name=identity.name, state_dir=str(folder)))
        return
    was = " already, and was left as it is" if known else ""
    click.echo(f"The identity of {identity.name} is in {folder}{was}.\nNodeID: {node_id}")
    if not known:
        click.echo(_NEXT.format(name=identity.name, node_id=node_id))
