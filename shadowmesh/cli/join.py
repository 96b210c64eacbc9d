"""`shadowmesh-client join TOKEN`: from a token to a running member."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmesh.cli.network import date_text
from shadowmesh.cli.options import new_config_option
from shadowmesh.cli.replies import JoinReply
from shadowmesh.cli.up import require_net_admin, teller
from shadowmesh.command import FILE, CommandFailed, ExitCode, examples, json_option
from shadowmesh.config import DEFAULT_SOCKET, DEFAULT_STATE_DIR, load_client_config
from shadowmesh.replies import print_reply
from shadowmesh.values import parse_interface_name

if TYPE_CHECKING:
    from shadowmesh.crypto.identity import Identity
    from shadowmesh.membership.invitations import Admitted

TOKEN_VARIABLE = "SHADOWMESH_TOKEN"  # noqa: S105 - its name, not its value


def _interface(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    try:
        return parse_interface_name(value) if value is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    epilog=examples(
        "shadowmesh-client join smesh1…",
        "shadowmesh-client join smesh1… --detach",
        "shadowmesh-client join smesh1… --no-up && systemctl enable --now shadowmesh-client",
    )
)
@click.argument("token", required=False)
@new_config_option("Write the configuration there, and the network and the certificate beside it.")
@click.option("--state-dir", type=FILE, metavar="DIR", default=DEFAULT_STATE_DIR, show_default=True)
@click.option("--socket", type=FILE, metavar="PATH", default=DEFAULT_SOCKET, show_default=True)
@click.option("--interface", metavar="NAME", callback=_interface, help="Name of the network interface.")
@click.option("--no-up", is_flag=True, help="Only write the files.")
@click.option("--detach", is_flag=True, help="Go to the background once the client is ready.")
@click.option(
    "--timeout",
    type=click.FloatRange(1, 3600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to try to reach the inviter.",
)
@json_option
def join(
    token: str | None,
    config: Path,
    state_dir: Path,
    socket: Path,
    interface: str | None,
    no_up: bool,
    detach: bool,
    timeout: float,
    as_json: bool,
) -> int:
    """Become a member by an invitation, and run.

    Makes this machine's identity, gets its certificate from the inviting member through the relay, and writes
    the configuration. TOKEN is what `invite create` printed; if it isn't given, it is taken from
    SHADOWMESH_TOKEN, where other users of this machine can't read it.
    """
    from shadowmesh.io.joined import require_room, write_joined
    from shadowmesh.membership.token import BadToken, Token
    from shadowmesh.node.joining import join as join_network

    try:
        parsed = Token.parse(token if token is not None else os.environ.get(TOKEN_VARIABLE, ""))
    except BadToken as error:
        raise CommandFailed(str(error), ExitCode.USAGE, "join.token") from None
    if not no_up:
        require_net_admin("run it with sudo, or only write the files with --no-up")
    require_room(config)
    identity, admitted = join_network(parsed, state_dir, socket, timeout, _tell_waiting)
    write_joined(config, admitted, parsed, state_dir, socket, interface)
    settings = load_client_config(config)
    _tell(identity, admitted, config, as_json)
    if no_up:
        return ExitCode.OK
    from shadowmesh import node

    return node.run(settings, teller(settings, as_json) if detach else None)


def _tell_waiting(identity: Identity) -> None:
    from shadowmesh.crypto.identity import node_id_text

    short = node_id_text(identity.node_id)[:10]
    click.echo("Waiting until somebody lets this machine in, on the inviting one:", err=True)
    click.echo(f"  shadowmesh-client invite approve {short}", err=True)
    click.echo(f"Compare: this machine is {short}. Ctrl+C gives up.", err=True)


def _tell(identity: Identity, admitted: Admitted, config: Path, as_json: bool) -> None:
    from shadowmesh.crypto.identity import node_id_text

    body, network = admitted.credentials.certificate.body, admitted.network
    if as_json:
        print_reply(
            JoinReply(
                name=body.name,
                node_id=node_id_text(identity.node_id),
                network=network.name,
                network_id=node_id_text(network.id),
                addresses=list(body.addresses),
                groups=list(body.groups),
                not_after=body.not_after,
                config=str(config),
            )
        )
    else:
        addresses = ", ".join(body.addresses)
        click.echo(
            f"{body.name} is a member of {network.name}: {addresses}, until {date_text(body.not_after)}."
        )
        click.echo(f"Its configuration is {config}.")
    sys.stdout.flush()
