"""`shadowmesh-client network list | export | spread`: what needs no key of the authority."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from shadowmesh.cli.network import authority_option, date_text, open_folder
from shadowmesh.cli.options import (
    ask,
    config_option,
    socket_option,
    socket_path,
    start_advice,
)
from shadowmesh.cli.output import table
from shadowmesh.cli.replies import MemberEntry, MembersReply, NetworkReply
from shadowmesh.command import FILE, examples, json_option
from shadowmesh.replies import print_reply


@click.command(
    "list", epilog=examples("shadowmesh-client network list", "shadowmesh-client network list --json")
)
@authority_option
@json_option
def list_members(state_dir: Path, as_json: bool) -> None:
    """Show who was signed for; needs no passphrase."""
    from shadowmesh.membership.authority import Entry, Reserved

    folder = open_folder(state_dir)
    ledger, name = folder.ledger(), folder.network().name
    now = time.time()
    rows: list[tuple[Entry | Reserved, str]] = []
    for entry in ledger.entries:
        state = "revoked" if entry.revoked is not None else "expired" if entry.not_after < now else "valid"
        rows.append((entry, state))
    rows += [(one, "invited") for one in ledger.reserved if one.revoked is None and one.not_after >= now]
    if as_json:
        members = [
            msgspec.convert({**msgspec.to_builtins(entry), "state": state}, MemberEntry)
            for entry, state in rows
        ]
        print_reply(
            MembersReply(
                network=name, network_id=ledger.network, list_number=ledger.list_number, members=members
            )
        )
        return
    head = ("name", "node", "addresses", "groups", "serial", "until", "state")
    cells = [
        (
            entry.name,
            f"{entry.node[:10]}…" if isinstance(entry, Entry) else "-",
            " ".join(entry.addresses),
            " ".join(entry.groups) or "-",
            str(entry.serial),
            date_text(entry.not_after),
            state,
        )
        for entry, state in rows
    ]
    click.echo(f"{name}, id {ledger.network}, revocation list {ledger.list_number}\n")
    click.echo("\n".join(table(head, cells, frozenset(("serial",)))))


@click.command(
    epilog=examples(
        "shadowmesh-client network export > home.pem",
        "shadowmesh-client network export --json | jq -r .network_id",
    )
)
@authority_option
@json_option
def export(state_dir: Path, as_json: bool) -> None:
    """Print what members and relays need.

    That is the network's public part, and the newest revocation list if there is one.
    """
    from shadowmesh.crypto.identity import node_id_text

    folder = open_folder(state_dir)
    made = folder.network()
    if as_json:
        subnets = [str(one) for one in made.subnets]
        shown = NetworkReply(name=made.name, network_id=node_id_text(made.id), subnets=subnets)
        print_reply(msgspec.structs.replace(shown, text=folder.export()))
        return
    click.echo(folder.export(), nl=False)


@click.command(
    epilog=examples(
        "shadowmesh-client network spread revocations.pem",
        "shadowmesh-client network spread revocations.pem -c client.yaml --json",
    )
)
@click.argument("file", type=FILE)
@config_option()
@socket_option
@json_option
def spread(file: Path, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Give a revocation list to the running client.

    From there it goes from member to member, and to the relays. FILE is what
    `network revoke` wrote, or `network export` printed since.
    """
    reply = ask(socket_path(config, socket), lambda client: client.spread(file), start_advice(socket))
    if as_json:
        print_reply(reply)
    else:
        known = "" if reply.newer else ", and did before: nothing is new"
        click.echo(f"Revocation list {reply.number} counts{known}.")
