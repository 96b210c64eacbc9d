"""`shadowmesh-client set KEY VALUE …`: change single keys of client.yaml, and nothing else in it."""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path

import click
import msgspec

from shadowmesh.api.client import ApiClient
from shadowmesh.cli.completing import keys
from shadowmesh.cli.completing import pairs as pair_words
from shadowmesh.cli.options import ask, config_option, socket_option
from shadowmesh.cli.replies import Change, SetReply
from shadowmesh.command import CommandFailed, examples, json_option
from shadowmesh.errors import ConfigError
from shadowmesh.values import printable


@click.command(
    "set",
    epilog=examples(
        "shadowmesh-client set paths.direct never",
        "shadowmesh-client set listen.port 4400 interface.mtu 1380",
        "shadowmesh-client set peers.bob.groups admin,home --dry-run",
        "shadowmesh-client set --unset interface.mtu",
    ),
)
@click.argument("pairs", nargs=-1, metavar="[KEY VALUE]...", shell_complete=pair_words)
@click.option(
    "--unset",
    multiple=True,
    metavar="KEY",
    shell_complete=keys,
    help="Take KEY out; its default counts again.",
)
@click.option("--dry-run", is_flag=True, help="Show what would change in the file, and change nothing.")
@config_option()
@socket_option
@json_option
def set_keys(
    pairs: tuple[str, ...],
    unset: tuple[str, ...],
    dry_run: bool,
    config: Path | None,
    socket: Path | None,
    as_json: bool,
) -> None:
    """Give keys of the configuration other values.

    All of the new file is checked before it replaces the old one, so a mistake changes nothing; comments
    stay. The running client takes over at once what it can, and the verb names what needs a restart. KEY is
    as `get` shows it; lists are separated by commas. The file is found as by `get`.
    """
    from shadowmesh.cli.settings import change, checked, differences, find
    from shadowmesh.document import load_text

    if len(pairs) % 2 or not (pairs or unset):
        raise click.UsageError("takes a VALUE for each KEY, or --unset KEY")
    file, client = find(config, socket)
    old = load_text(file)
    try:
        new = change(old, str(file), list(zip(pairs[::2], pairs[1::2], strict=True)), unset)
        checked(new, str(file))
    except ConfigError as error:
        raise _with_line(error, "nothing was changed") from None
    reply = SetReply(
        file=str(file),
        changes=differences(old, new, str(file)),
        diff=_diff(old, new, str(file)),
        written=not dry_run and new != old,
        running=client is not None,
    )
    if reply.written:
        _write(file, new)
        if client is not None:
            reply = _reload(client, reply)
    if as_json:
        click.echo(msgspec.json.encode(reply))
    else:
        _tell(reply, dry_run)


def _with_line(error: ConfigError, line: str) -> ConfigError:
    return ConfigError(f"{error}\n{line}", mistakes=[*error.lines(), (line, "")])


def _write(file: Path, text: str) -> None:
    """In its place, with its owner and mode; behind a link, the file that it points to."""
    from shadowmesh.io.documents import replace_file

    real = Path(os.path.realpath(file))
    try:
        known = real.stat()
        replace_file(real, text.encode(), stat.S_IMODE(known.st_mode), (known.st_uid, known.st_gid))
    except OSError as error:
        raise CommandFailed(
            f"{real}: can't be written: {error.strerror}; nothing was changed", error_id="machine.resource"
        ) from None


def _reload(client: ApiClient, reply: SetReply) -> SetReply:
    try:
        done = ask(client.path, lambda api: api.reload())
    except ConfigError as error:
        raise _with_line(error, f"{reply.file} was changed, and the running client refuses it") from None
    return msgspec.structs.replace(reply, applied=done.applied, restart=done.restart)


def _diff(old: str, new: str, file: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), file, f"{file} (new)"
    )
    return "".join(lines)


def _tell(reply: SetReply, dry_run: bool) -> None:
    if dry_run:
        click.echo("\n".join(printable(line) for line in reply.diff.splitlines()) or "nothing would change")
        return
    if not reply.written:
        click.echo("nothing to change")
        return
    for one in reply.changes:
        click.echo(printable(_words(one)))
    if not reply.running:
        click.echo("no client runs by this file; it counts from the next start")
        return
    click.echo(f"counts at once: {', '.join(reply.applied) or 'nothing'}")
    if reply.restart:
        waiting = ", ".join(reply.restart)
        click.echo(f"changed in the file, and needs a restart: {waiting} [config.pending]", err=True)


def _words(change: Change) -> str:
    from shadowmesh.cli.settings import text_of

    return f"{change.key}: {text_of(change.old)} -> {text_of(change.new)}"
