"""`shadowmesh-client bugreport`: one archive for whoever is to help, without secrets."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmesh.cli.doctor import chosen_config, progress
from shadowmesh.cli.options import config_option, socket_option, usual_socket
from shadowmesh.command import CommandFailed, examples, json_option
from shadowmesh.output import size
from shadowmesh.values import printable

if TYPE_CHECKING:
    from shadowmesh.diagnosis.bundle import Bugreport


@click.command(
    epilog=examples(
        "shadowmesh-client bugreport                       addresses have stand-ins",
        "shadowmesh-client bugreport --anonymise strict    names, hosts and NodeIDs too",
        "shadowmesh-client bugreport -o report.tar.gz && tar -xzf report.tar.gz -O | less",
    )
)
@config_option()
@socket_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write it.",
)
@click.option(
    "--anonymise",
    type=click.Choice(["none", "addresses", "strict"]),
    default="addresses",
    show_default=True,
    help="What is taken out besides secrets.",
)
@json_option
def bugreport(
    config: Path | None, socket: Path | None, output: Path | None, anonymise: str, as_json: bool
) -> None:
    """Write an archive with what helps to find a fault.

    Status, doctor, netcheck, configuration, versions, log, drops, interfaces and routes. Keys, tokens and
    passwords never get into it, and addresses only with --anonymise none. It is written here and sent
    nowhere: look through it first.
    """
    name = time.strftime("shadowmesh-bugreport-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime())
    report = _make(config, socket, output or Path(name), anonymise)
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(report))
    else:
        click.echo("\n".join(printable(line) for line in render(report)))


def _make(config: Path | None, socket: Path | None, output: Path, anonymise: str) -> Bugreport:
    from shadowmesh.diagnosis import collect
    from shadowmesh.diagnosis.bundle import write_report
    from shadowmesh.diagnosis.gather import client_socket, gather, read_config
    from shadowmesh.diagnosis.redact import Level, Redactor

    if os.path.lexists(output):
        raise CommandFailed(f"{output} exists already; name another file with -o")
    file = chosen_config(config, socket)
    with progress() as tell:
        facts = gather(file, socket, usual_socket(), tell)
        tell("logs, versions and routes")
        path = client_socket(read_config(file)[0], socket, usual_socket())
        values = collect.read_values(file)
        redactor = Redactor(
            Level(anonymise),
            collect.known_secrets(values, path),
            collect.names_of(facts, values),
            collect.node_ids_of(facts, values),
        )
        try:
            return write_report(output, collect.parts(facts, values, path), redactor)
        except OSError as error:
            raise CommandFailed(
                f"{output} can't be written: {error.strerror}; name another file with -o"
            ) from error


def render(report: Bugreport) -> list[str]:
    """What is in it, for people."""
    width = max(len(one.name) for one in report.files)
    taken = ", ".join(f"{count} × {kind}" for kind, count in report.removed.items() if count)
    return [
        f"{report.file}: {size(report.size)}, for you alone (mode 0600), sent nowhere",
        *(f"  {one.name.ljust(width)}  {size(one.size).rjust(8)}  {one.what}" for one in report.files),
        *(f"  not there: {name}: {why}" for name, why in report.left_out.items()),
        f"taken out (--anonymise {report.level.value}): {taken or 'nothing had to be'}",
        f"look through it before you send it: tar -xzf {report.file} -O | less",
    ]
