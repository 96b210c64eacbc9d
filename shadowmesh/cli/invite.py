"""`shadowmesh-client invite …`: bring new machines in by a token, and see what became of it.

`create` needs the authority's folder and the running client on one machine; the authority signs, once,
what the client may then sign for whoever comes.  The other verbs only ask the client.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from shadowmesh.api.schema import InvitationReply, InvitationRequest, InvitationsReply, InvitationVerdict
from shadowmesh.cli.network import (
    authority_option,
    date_text,
    group_option,
    open_folder,
    parsed,
    passphrase_option,
    read_passphrase,
    right_option,
)
from shadowmesh.cli.options import ask, config_option, socket_option, socket_path, start_advice
from shadowmesh.cli.output import duration, table
from shadowmesh.cli.replies import Granted, InvitationMade, JudgedReply, PendingReply, Waiting
from shadowmesh.command import CommandFailed, ExitCode, VerbGroup, examples, json_option
from shadowmesh.replies import print_reply
from shadowmesh.values import parse_name

if TYPE_CHECKING:
    from shadowmesh.api.client import ApiClient
    from shadowmesh.io.authority import AuthorityFolder
    from shadowmesh.membership.authority import Invitee
    from shadowmesh.membership.delegation import Delegation

DEFAULT_DAYS = 90
EPHEMERAL_DAYS = 1
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
Verdict = Literal["approved", "refused", "revoked"]


def _parse_ttl(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise ValueError("it is a number with s, m, h or d, as 30m, 1h or 2d")
    seconds = int(found[1]) * _UNITS[found[2]]
    if not 1 <= seconds <= 7 * 86_400:
        raise ValueError("an invitation is open for 1 s to 7 d")
    return seconds


@click.group(
    cls=VerbGroup,
    verbs={
        "create": f"{__name__}:create",
        "list": f"{__name__}:list_invitations",
        "pending": f"{__name__}:pending",
        "approve": f"{__name__}:approve",
        "refuse": f"{__name__}:refuse",
        "revoke": f"{__name__}:revoke",
    },
    epilog=examples(
        "shadowmesh-client invite create --name bob",
        "shadowmesh-client invite create --name bob --approve --ttl 1d",
        "shadowmesh-client invite pending",
        "shadowmesh-client invite approve bob",
    ),
)
def invite() -> None:
    """Bring new machines in by a token that is pasted there.

    The running client signs for them, with what the authority has laid down; the authority's key is needed
    only by `create`, and may be away afterwards.
    """


@click.command(
    epilog=examples(
        "shadowmesh-client invite create --name bob --group admin --ttl 1h",
        "shadowmesh-client invite create --name sensor --uses 5 --json | jq -r .token",
        "shadowmesh-client invite create --name guest --ephemeral",
    )
)
@click.option(
    "--name", required=True, metavar="NAME", callback=parsed(parse_name), help="How the others call it."
)
@group_option
@right_option
@click.option(
    "--ttl",
    default="1h",
    show_default=True,
    metavar="TIME",
    callback=parsed(_parse_ttl),
    help="Open for so long: 30m, 1h, 2d; 7d at most.",
)
@click.option(
    "--uses",
    type=click.IntRange(1, 32),
    default=1,
    show_default=True,
    help="For so many machines: NAME, NAME-2, …",
)
@click.option("--days", type=click.IntRange(1, 3650), help=f"Certificates hold so long ({DEFAULT_DAYS}).")
@click.option(
    "--ephemeral", is_flag=True, help=f"Certificates hold {EPHEMERAL_DAYS} day; then all is free again."
)
@click.option("--approve", "by_hand", is_flag=True, help="A person has to let each machine in.")
@click.option("--replace", is_flag=True, help="Revoke what invitations under this name have given before.")
@authority_option
@passphrase_option
@config_option()
@socket_option
@json_option
def create(
    name: str,
    groups: tuple[str, ...],
    rights: tuple[str, ...],
    ttl: int,
    uses: int,
    days: int | None,
    ephemeral: bool,
    by_hand: bool,
    replace: bool,
    state_dir: Path,
    passphrase_file: Path | None,
    config: Path | None,
    socket: Path | None,
    as_json: bool,
) -> None:
    """Make an invitation and print the line to paste on the new machine.

    The line is as secret as a password until it is used: whoever has it first, joins. On a terminal it is
    shown as a QR code too.
    """
    from shadowmesh.membership.authority import Invitee

    if ephemeral and days is not None:
        raise click.UsageError("--ephemeral says how long certificates hold; leave --days out")
    holds = EPHEMERAL_DAYS if ephemeral else days or DEFAULT_DAYS
    asked = Invitee(
        name=name, groups=groups, rights=rights, uses=uses, days=holds, ephemeral=ephemeral, replace=replace
    )
    path = socket_path(config, socket)
    delegation = ask(
        path,
        lambda client: _delegated(client, open_folder(state_dir), asked, passphrase_file),
        start_advice(socket),
    )
    wanted = InvitationRequest(name=name, delegation=delegation.document, ttl=ttl, by_hand=by_hand)
    made = ask(path, lambda client: client.invite(wanted), start_advice(socket))
    if as_json:
        grants = [
            Granted(name=one.name, addresses=list(one.addresses), serial=one.serial)
            for one in delegation.body.grants
        ]
        print_reply(
            InvitationMade(
                token=made.token,
                relay=made.relay,
                expires=made.expires,
                by_hand=by_hand,
                not_after=delegation.body.not_after,
                grants=grants,
            )
        )
        return
    _show(made, asked, delegation, ttl)


def _delegated(
    client: ApiClient, folder: AuthorityFolder, asked: Invitee, passphrase_file: Path | None
) -> Delegation:
    """The authority lets the running client sign; what it remembers is on disk before."""
    from shadowmesh.crypto.identity import CompositePublic, node_id_text

    reply = client.delegate()
    network = folder.network()
    if node_id_text(network.id) != reply.network_id:
        text = f"the client that runs here is in another network than {network.name}"
        text += f", whose authority is in {folder.folder}"
        raise CommandFailed(text, ExitCode.REFUSED, "network.another")
    adopt_uses(client, folder)
    with folder.opened(read_passphrase(passphrase_file)) as authority:
        try:
            delegation, revoked = authority.invite(
                asked, CompositePublic(reply.ed25519, reply.mldsa), time.time()
            )
        except ValueError as error:
            raise CommandFailed(str(error)) from None
        if revoked is None:
            folder.keep_ledger(authority)
            return delegation
        path = folder.keep_list(authority, revoked)
    client.spread(path)
    return delegation


def adopt_uses(client: ApiClient, folder: AuthorityFolder) -> None:
    """Tell the ledger which nodes have joined."""
    reply = msgspec.json.decode(client.invitations_json(), type=InvitationsReply)
    folder.adopt({use.serial: use.node_id for one in reply.invitations for use in one.uses})


def _show(made: InvitationReply, asked: Invitee, delegation: Delegation, ttl: int) -> None:
    """The line alone on standard output; what is for people beside it on standard error."""
    click.echo(f"sudo shadowmesh-client join {made.token}")
    if not sys.stdout.isatty():
        return
    import segno

    segno.make_qr(made.token.upper(), error="l").terminal(compact=True)
    whom = f"{asked.uses} machines" if asked.uses > 1 else "one machine"
    until = date_text(delegation.body.not_after)
    click.echo(f"For {whom}, within {duration(ttl)}; certificates until {until}.", err=True)


@click.command(
    "list", epilog=examples("shadowmesh-client invite list", "shadowmesh-client invite list --json")
)
@authority_option
@config_option()
@socket_option
@json_option
def list_invitations(state_dir: Path, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Show the invitations of the running client, and who has used them.

    Where the authority's folder is, its ledger learns the NodeIDs of who has joined.
    """
    path = socket_path(config, socket)
    data = ask(path, lambda client: client.invitations_json(), start_advice(socket))
    if (state_dir / "ledger.json").exists():
        ask(path, lambda client: adopt_uses(client, open_folder(state_dir)))
    if as_json:
        click.echo(data)
        return
    reply = msgspec.json.decode(data, type=InvitationsReply)
    for relay, why in reply.refused.items():
        click.echo(f"warning: relay {relay} does not take them: {why}", err=True)
    rows = [
        (
            one.name,
            one.state,
            f"{len(one.uses)}/{one.grants}",
            _time_text(one.expires),
            "by hand" if one.by_hand else "at once",
            str(one.turned_away),
            " ".join(f"{use.name}={use.node_id[:10]}" for use in one.uses) or "-",
        )
        for one in reply.invitations
    ]
    head = ("name", "state", "used", "ends", "lets in", "in vain", "by")
    click.echo("\n".join(table(head, rows, frozenset(("used", "in vain")))) if rows else "no invitations")


@click.command(epilog=examples("shadowmesh-client invite pending", "shadowmesh-client invite pending --json"))
@config_option()
@socket_option
@json_option
def pending(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Show the machines that wait to be let in.

    Compare NODE with what `join` shows on the machine that waits.
    """
    data = ask(socket_path(config, socket), lambda client: client.invitations_json(), start_advice(socket))
    reply = msgspec.json.decode(data, type=InvitationsReply)
    waiting = [(one, node) for one in reply.invitations for node in one.waiting if not node.verdict]
    if as_json:
        shown = [
            Waiting(node_id=node.node_id, name=one.name, at=node.at, source=node.source)
            for one, node in waiting
        ]
        print_reply(PendingReply(waiting=shown))
        return
    rows = [(node.node_id[:10], one.name, _time_text(node.at), node.source) for one, node in waiting]
    click.echo("\n".join(table(("node", "name", "since", "from"), rows)) if rows else "nobody waits")


@click.command(epilog=examples("shadowmesh-client invite approve bob"))
@click.argument("node")
@config_option()
@socket_option
@json_option
def approve(node: str, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Let a machine in that waits.

    NODE is the name of its invitation, or how its NodeID begins.
    """
    _judge(node, "approved", config, socket, as_json)


@click.command(epilog=examples("shadowmesh-client invite refuse bob"))
@click.argument("node")
@config_option()
@socket_option
@json_option
def refuse(node: str, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Turn a machine away that waits.

    NODE is the name of its invitation, or how its NodeID begins. The invitation stays open for others.
    """
    _judge(node, "refused", config, socket, as_json)


@click.command(epilog=examples("shadowmesh-client invite revoke bob"))
@click.argument("name")
@config_option()
@socket_option
@json_option
def revoke(name: str, config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Close the open invitations of a name; who has joined stays (`network revoke` takes members out)."""
    _judge(name, "revoked", config, socket, as_json)


def _judge(label: str, verdict: Verdict, config: Path | None, socket: Path | None, as_json: bool) -> None:
    wanted = InvitationVerdict(label=label, verdict=verdict)
    reply = ask(socket_path(config, socket), lambda client: client.judge(wanted), start_advice(socket))
    if as_json:
        print_reply(JudgedReply(name=reply.name, node_id=reply.node_id, verdict=verdict))
    elif reply.node_id is None:
        click.echo(f"The invitation for {reply.name} is closed.")
    else:
        click.echo(f"{reply.node_id[:10]}, invited as {reply.name}, is {verdict}.")


def _time_text(seconds: int) -> str:
    """UTC, to the minute."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%MZ")
