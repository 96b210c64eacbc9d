"""`shadowmesh-client network create`: a network, and on request its first member on this machine."""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from shadowmesh.cli.network import (
    authority_option,
    date_text,
    each,
    open_folder,
    optional,
    parsed,
    passphrase_option,
    read_passphrase,
)
from shadowmesh.cli.options import new_config_option
from shadowmesh.cli.replies import FirstMember, NetworkReply
from shadowmesh.command import FILE, CommandFailed, examples, json_option
from shadowmesh.config import DEFAULT_SOCKET, DEFAULT_STATE_DIR
from shadowmesh.replies import print_reply
from shadowmesh.values import parse_host_port, parse_name, parse_node_id, parse_tcp

if TYPE_CHECKING:
    from shadowmesh.io.authority import AuthorityFolder
    from shadowmesh.membership.network import Network, NetworkRelay


def _parse_relay(text: str) -> NetworkRelay:
    from shadowmesh.membership.network import NetworkRelay

    address, _, rest = text.partition(",")
    node, _, tcp = rest.partition(",")
    parse_host_port(address)
    if tcp:
        parse_tcp(tcp)
    return NetworkRelay(address, parse_node_id(node), tcp)


@click.command(
    epilog=examples(
        "shadowmesh-client network create home --subnet 10.77.0.0/16 --subnet6 fd77::/64",
        "shadowmesh-client network create home --subnet 10.77.0.0/16 --relay relay.example.net:4433,NODE_ID"
        " --member alice",
    )
)
@click.argument("name", callback=parsed(parse_name))
@click.option(
    "--subnet",
    required=True,
    multiple=True,
    metavar="PREFIX",
    callback=each(ipaddress.IPv4Network),
    help="IPv4 addresses that members get; may be given again.",
)
@click.option(
    "--subnet6",
    multiple=True,
    metavar="PREFIX",
    callback=each(ipaddress.IPv6Network),
    help="IPv6 addresses, as well.",
)
@click.option(
    "--relay",
    "relays",
    multiple=True,
    metavar="HOST:PORT,NODE_ID[,TCP_HOST:PORT]",
    callback=each(_parse_relay),
    help="A relay of the network, and where it is reached by TCP when UDP is blocked.",
)
@click.option(
    "--member",
    metavar="NAME",
    callback=optional(parse_name),
    help="Make this machine the first member, of this name, and write its configuration.",
)
@new_config_option("The member's configuration; one that exists is never replaced.")
@click.option(
    "--member-dir",
    type=FILE,
    metavar="DIR",
    default=DEFAULT_STATE_DIR,
    show_default=True,
    help="The member's state directory.",
)
@authority_option
@passphrase_option
@json_option
def create(
    name: str,
    subnet: tuple[ipaddress.IPv4Network, ...],
    subnet6: tuple[ipaddress.IPv6Network, ...],
    relays: tuple[NetworkRelay, ...],
    member: str | None,
    config: Path,
    member_dir: Path,
    state_dir: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make a network and its authority's key.

    The key is kept encrypted with a passphrase; without it nobody, you included, can sign or revoke again.
    With --member this machine becomes a member too: identity, certificate and configuration are written.
    """
    from shadowmesh.crypto import identity as identities
    from shadowmesh.io.joined import require_room

    if member is not None and not relays:
        raise click.UsageError("--member needs --relay: without one no member meets another")
    folder = open_folder(state_dir)
    folder.require_room()
    if member is not None:
        require_room(config)
    passphrase = read_passphrase(passphrase_file, twice=True)
    if member is not None:  # before the network, which can't be made again if this fails
        identities.create(member_dir, member)
    try:
        made = folder.create(name, (*subnet, *subnet6), relays, passphrase, time.time())
    except ValueError as error:
        raise CommandFailed(str(error)) from None
    first = _first(folder, made, passphrase, member, member_dir, config) if member is not None else None
    shown = NetworkReply(
        name=name,
        network_id=identities.node_id_text(made.id),
        subnets=[str(one) for one in made.subnets],
        state_dir=str(state_dir),
        member=first or msgspec.UNSET,
    )
    if as_json:
        print_reply(shown)
        return
    click.echo(f"The authority of {name} is in {state_dir}.\nNetwork id: {shown.network_id}")
    if first is None:
        click.echo("Next: sign members with `shadowmesh-client network sign NODE_ID --name NAME`.")
        return
    until = date_text(first.not_after)
    click.echo(f"{first.name} is a member of {name}: {', '.join(first.addresses)}, until {until}.")
    click.echo(f"Its configuration is {config}.")
    click.echo(f"Next: give {first.network_file} to the relay, and start this client.")


def _first(
    folder: AuthorityFolder, network: Network, passphrase: bytes, name: str, state_dir: Path, config: Path
) -> FirstMember:
    """This machine as a member, with files as `join` would leave them."""
    from shadowmesh.crypto import identity as identities
    from shadowmesh.io.joined import write_member
    from shadowmesh.membership.authority import Request
    from shadowmesh.membership.delegation import Credentials
    from shadowmesh.membership.invitations import Admitted

    identity = identities.load(state_dir)
    with folder.opened(passphrase) as authority:
        try:
            certificate = authority.sign(Request(node=identity.node_id, name=name), time.time())
        except ValueError as error:
            raise CommandFailed(str(error)) from None
        folder.keep_certificate(authority, certificate, None)
    admitted = Admitted(network, b"", Credentials(certificate))
    public = write_member(config, admitted, [], state_dir, Path(DEFAULT_SOCKET), None)
    return FirstMember(
        name=name,
        node_id=identities.node_id_text(identity.node_id),
        addresses=list(certificate.body.addresses),
        not_after=certificate.body.not_after,
        config=str(config),
        network_file=str(public),
    )
