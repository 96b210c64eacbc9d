"""`shadowmesh-client network renew | delegate`: the next certificate, and who may give it besides."""

from __future__ import annotations

import time
from pathlib import Path

import click

from shadowmesh.cli.network import (
    authority_option,
    date_text,
    days_option,
    open_folder,
    output_option,
    passphrase_option,
    print_certificate,
    read_passphrase,
)
from shadowmesh.cli.replies import DelegatedReply, RotatedReply
from shadowmesh.command import FILE, CommandFailed, examples, json_option
from shadowmesh.replies import print_reply


@click.command(
    epilog=examples(
        "shadowmesh-client network renew bob", "shadowmesh-client network renew bob --days 365 -o bob.pem"
    )
)
@click.argument("node")
@days_option
@output_option
@authority_option
@passphrase_option
@json_option
def renew(
    node: str, days: int, output: Path | None, state_dir: Path, passphrase_file: Path | None, as_json: bool
) -> None:
    """Sign the next certificate of a member.

    NODE is its name or NodeID. It says what the latest one does, for --days from now. The member takes it at
    the next `reload`, without dropping a session.
    """
    folder = open_folder(state_dir)
    with folder.opened(read_passphrase(passphrase_file)) as authority:
        try:
            certificate = authority.renew(node, days, time.time())
        except ValueError as error:
            raise CommandFailed(str(error)) from None
        path = folder.keep_certificate(authority, certificate, output)
    print_certificate(certificate, path, as_json)


@click.command(
    epilog=examples(
        "shadowmesh-client id --public > bob.pub                   on the machine of bob",
        "shadowmesh-client network delegate bob.pub -o delegation.pem --days 30",
    )
)
@click.argument("file", type=FILE)
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="Allow it so long.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Write the delegation there.",
)
@authority_option
@passphrase_option
@json_option
def delegate(
    file: Path, days: int, output: Path, state_dir: Path, passphrase_file: Path | None, as_json: bool
) -> None:
    """Let a member renew the certificates of the others.

    FILE is what `id --public` printed on its machine. It may change nothing but dates, and only of members
    whose own certificate the authority has signed. Name the delegation as `network.delegation` in its file.
    """
    from shadowmesh.crypto.identity import node_id_text
    from shadowmesh.io.documents import load_public

    public, folder = load_public(file), open_folder(state_dir)
    with folder.opened(read_passphrase(passphrase_file)) as authority:
        try:
            made = authority.delegate_renewals(public, days, time.time())
        except ValueError as error:
            raise CommandFailed(str(error)) from None
        folder.keep_delegation(authority, made, output)
    if as_json:
        signer, body = node_id_text(public.node_id), made.body
        print_reply(
            DelegatedReply(node_id=signer, serial=body.serial, not_after=body.not_after, file=str(output))
        )
        return
    until = date_text(made.body.not_after)
    click.echo(
        f"{node_id_text(public.node_id)} may renew certificates until {until} (serial {made.body.serial})."
    )
    click.echo(
        f"Next, in its client.yaml: network: {{delegation: FILE}}, with {output} in FILE; then `reload`."
    )


@click.command(
    epilog=examples(
        "shadowmesh-client network rotate",
        "shadowmesh-client network rotate --overlap-days 0        the old key was stolen",
    )
)
@click.option(
    "--overlap-days",
    "days",
    type=click.IntRange(0, 3650),
    default=90,
    show_default=True,
    help="What the old key signed counts so long.",
)
@authority_option
@passphrase_option
@json_option
def rotate(days: int, state_dir: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Give the authority a new key; the old one is destroyed.

    The network keeps its id. Spread what `network export` prints then, and give every member its next
    certificate (`network renew`) within --overlap-days. At most three times in the life of a network.
    """
    folder, passphrase = open_folder(state_dir), read_passphrase(passphrase_file)
    with folder.opened(passphrase) as authority:
        try:
            made = authority.rotate(days, time.time())
        except ValueError as error:
            raise CommandFailed(str(error)) from None
        file = folder.keep_rotation(authority, made, passphrase)
    until = made.network.former[-1].until
    if as_json:
        print_reply(
            RotatedReply(
                name=made.network.name,
                network_id=folder.ledger().network,
                keys=len(made.network.links) + 1,
                old_key_until=until,
                number=made.revocations.number,
                file=str(file),
            )
        )
        return
    click.echo(f"The authority of {made.network.name} has a new key; the network's id is the same.")
    click.echo(f"What the old key signed counts until {date_text(until)}.")
    click.echo("Next: spread what `network export` prints, then `network renew` every member.")
