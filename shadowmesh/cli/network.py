"""`shadowmesh-client network …`: the authority of a network, on the machine that holds its key.

Works on files; no client has to run.  How a network is made is in `network_create.py`; what needs no key, in
`network_show.py`.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import msgspec

from shadowmesh.cli.replies import RevokedReply, SignedReply
from shadowmesh.command import FILE, CommandFailed, ExitCode, VerbGroup, examples, json_option
from shadowmesh.replies import print_reply
from shadowmesh.values import parse_name, parse_node_id

if TYPE_CHECKING:
    from shadowmesh.io.authority import AuthorityFolder
    from shadowmesh.membership.certificate import Certificate

DEFAULT_AUTHORITY_DIR = "/var/lib/shadowmesh-authority"
PASSPHRASE_VARIABLE = "SHADOWMESH_PASSPHRASE"  # noqa: S105 - its name, not its value
MAX_PASSPHRASE = 1024

T = TypeVar("T")
Decorated = TypeVar("Decorated", bound=Callable[..., object])

authority_option = click.option(
    "--state-dir",
    type=FILE,
    default=DEFAULT_AUTHORITY_DIR,
    show_default=True,
    metavar="DIR",
    help="Folder of the authority.",
)
passphrase_option = click.option(
    "--passphrase-file",
    type=FILE,
    metavar="FILE",
    help=f"Take the passphrase from FILE, else from {PASSPHRASE_VARIABLE}, else ask.",
)


def parsed(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str], T]:
    """A click callback that turns ValueError into a usage error."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: str) -> T:
        try:
            return parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def optional(parse: Callable[[str], T]) -> Callable[..., T | None]:
    one = parsed(parse)
    return lambda context, parameter, value: None if value is None else one(context, parameter, value)


def each(parse: Callable[[str], T]) -> Callable[..., tuple[T, ...]]:
    one = parsed(parse)
    return lambda context, parameter, values: tuple(one(context, parameter, value) for value in values)


days_option = click.option(
    "--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="Valid for so long."
)
output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the certificate there."
)
group_option = click.option(
    "--group", "groups", multiple=True, metavar="NAME", callback=each(parse_name), help="In this group."
)
right_option = click.option(
    "--right", "rights", multiple=True, metavar="NAME", callback=each(parse_name), help="With this right."
)


@click.group(
    cls=VerbGroup,
    verbs={
        "create": "shadowmesh.cli.network_create:create",
        "sign": f"{__name__}:sign",
        "revoke": f"{__name__}:revoke",
        "renew": "shadowmesh.cli.network_life:renew",
        "rotate": "shadowmesh.cli.network_life:rotate",
        "delegate": "shadowmesh.cli.network_life:delegate",
        "list": "shadowmesh.cli.network_show:list_members",
        "export": "shadowmesh.cli.network_show:export",
        "spread": "shadowmesh.cli.network_show:spread",
    },
    epilog=examples(
        "shadowmesh-client network create home --subnet 10.77.0.0/16",
        "shadowmesh-client network sign NODE_ID --name bob",
        "shadowmesh-client network export > home.pem",
        "shadowmesh-client network revoke bob",
    ),
)
def network() -> None:
    """Be the authority of a network: sign its members.

    The key may stay on a machine that is never online: members need the exported network and their own
    certificate, and nobody asks the authority while they run.
    """


@click.command(
    epilog=examples(
        "shadowmesh-client network sign NODE_ID --name bob",
        "shadowmesh-client network sign NODE_ID --name bob --group admin --address 10.77.0.9 --days 365",
        "shadowmesh-client network sign NEW_NODE_ID --replaces bob",
    )
)
@click.argument("node_id", callback=parsed(parse_node_id))
@click.option("--name", metavar="NAME", callback=optional(parse_name), help="How others call it.")
@click.option(
    "--replaces",
    metavar="NODE",
    help="Take over name, addresses, groups, rights and routes of this member, and revoke it.",
)
@group_option
@right_option
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="IP",
    callback=each(lambda text: str(ipaddress.ip_address(text))),
    help="This overlay address instead of the next free one.",
)
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar="PREFIX",
    callback=each(lambda text: str(ipaddress.ip_network(text))),
    help="May carry frames for this prefix behind it.",
)
@days_option
@output_option
@authority_option
@passphrase_option
@json_option
def sign(
    node_id: bytes,
    name: str | None,
    replaces: str | None,
    groups: tuple[str, ...],
    rights: tuple[str, ...],
    addresses: tuple[str, ...],
    routes: tuple[str, ...],
    days: int,
    output: Path | None,
    state_dir: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Sign a member in, or its next certificate.

    NODE_ID is what `init` printed on its machine. A known member keeps its addresses. Give it the
    certificate and what `network export` prints. With --replaces, the next revocation list names the old
    NodeID: `spread` it when the new identity is up.
    """
    if replaces is not None:
        if name or groups or rights or addresses or routes:
            raise click.UsageError("--replaces takes everything over; give --days and --output at most")
        replace_member(node_id, replaces, days, output, state_dir, passphrase_file, as_json)
        return
    if name is None:
        raise click.UsageError("give --name, or --replaces for a new identity of a known member")
    from shadowmesh.membership.authority import Request

    request = Request(
        node=node_id, name=name, addresses=addresses, routes=routes, groups=groups, rights=rights, days=days
    )
    folder = open_folder(state_dir)
    with folder.opened(read_passphrase(passphrase_file)) as authority:
        try:
            certificate = authority.sign(request, time.time())
        except ValueError as error:
            raise CommandFailed(str(error)) from None
        path = folder.keep_certificate(authority, certificate, output)
    print_certificate(certificate, path, as_json)


def print_certificate(
    certificate: Certificate, path: Path, as_json: bool, listed: tuple[Path, int] | None = None
) -> None:
    """What was signed, and where it is; `listed`: the revocation list with the old NodeID, and its number."""
    from shadowmesh.crypto.identity import node_id_text

    body = certificate.body
    if as_json:
        print_reply(
            SignedReply(
                name=body.name,
                node_id=node_id_text(body.node),
                addresses=list(body.addresses),
                groups=list(body.groups),
                rights=list(body.rights),
                routes=list(body.routes),
                serial=body.serial,
                not_after=body.not_after,
                fingerprint=certificate.fingerprint.hex(),
                file=str(path),
                revocations=str(listed[0]) if listed else msgspec.UNSET,
                number=listed[1] if listed else msgspec.UNSET,
            )
        )
        return
    click.echo(
        f"{body.name} has {', '.join(body.addresses)}, until {date_text(body.not_after)} "
        f"(serial {body.serial})."
    )
    click.echo(f"Its certificate is in {path}.")


def replace_member(
    node_id: bytes,
    old: str,
    days: int,
    output: Path | None,
    state_dir: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """`sign --replaces`."""
    folder = open_folder(state_dir)
    with folder.opened(read_passphrase(passphrase_file)) as authority:
        try:
            certificate, made = authority.replace(node_id, old, days, time.time())
        except ValueError as error:
            raise CommandFailed(str(error)) from None
        path = folder.keep_certificate(authority, certificate, output)
        file = folder.keep_list(authority, made)
    print_certificate(certificate, path, as_json, (file, made.number))
    if not as_json:
        click.echo(f"Its old NodeID is on revocation list {made.number}, in {file}.")
        click.echo("Next, when the new identity is up: shadowmesh-client network spread FILE")


@click.command(
    epilog=examples("shadowmesh-client network revoke bob", "shadowmesh-client network revoke --serial 7")
)
@click.argument("node", required=False)
@click.option(
    "--serial", type=click.IntRange(min=1), help="Take this one certificate out, not a whole member."
)
@authority_option
@passphrase_option
@json_option
def revoke(
    node: str | None, serial: int | None, state_dir: Path, passphrase_file: Path | None, as_json: bool
) -> None:
    """Take a member out for good.

    NODE is its name or NodeID. Writes the next revocation list, which `spread` hands to the members.
    """
    if (node is None) == (serial is None):
        raise click.UsageError("name a member, or a certificate with --serial")
    folder = open_folder(state_dir)
    with folder.opened(read_passphrase(passphrase_file)) as authority:
        try:
            if serial is not None:
                made = authority.revoke_serial(serial, time.time())
            else:
                made = authority.revoke(node or "", time.time())
        except ValueError as error:
            raise CommandFailed(str(error)) from None
        path = folder.keep_list(authority, made)
    if as_json:
        print_reply(RevokedReply(number=made.number, valid_until=made.valid_until, file=str(path)))
        return
    what = f"The certificate {serial}" if serial is not None else node
    click.echo(f"{what} is on revocation list {made.number}, in {path}.")
    click.echo("Next, on any member that is up: shadowmesh-client network spread FILE")


def open_folder(state_dir: Path) -> AuthorityFolder:
    """The authority in a folder, without the imports that only its verbs need."""
    from shadowmesh.io.authority import AuthorityFolder

    return AuthorityFolder(state_dir)


def read_passphrase(file: Path | None, twice: bool = False) -> bytes:
    """From the file, the environment or the terminal; never from the command line, where all can read it."""
    if file is not None:
        try:
            with file.open("rb") as stream:
                return stream.readline(MAX_PASSPHRASE).rstrip(b"\r\n")
        except OSError as error:
            text = f"{file}: can't be read: {error.strerror}"
            raise CommandFailed(text, ExitCode.REFUSED, "config.unreadable") from error
    if PASSPHRASE_VARIABLE in os.environ:
        return os.environ[PASSPHRASE_VARIABLE].encode()
    if not sys.stdin.isatty():
        text = f"no passphrase: give --passphrase-file FILE, or set {PASSPHRASE_VARIABLE}"
        raise CommandFailed(text, ExitCode.REFUSED, "authority.passphrase")
    asked: str = click.prompt("Passphrase of the authority", hide_input=True, confirmation_prompt=twice)
    return asked.encode()


def date_text(seconds: int) -> str:
    """A day, UTC."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d")
