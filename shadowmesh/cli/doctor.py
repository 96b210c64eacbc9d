"""`shadowmesh-client doctor`: looks at everything that may be wrong, and says what to do."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from shadowmesh.cli.options import DEFAULT_CONFIG, config_option, socket_option, usual_socket
from shadowmesh.command import ExitCode, examples, json_option
from shadowmesh.values import printable

if TYPE_CHECKING:
    from shadowmesh.diagnosis.facts import Facts
    from shadowmesh.diagnosis.findings import Doctor
    from shadowmesh.diagnosis.gather import Progress

PATIENCE = 1.0
"""Seconds without a word: what takes longer tells what it is at."""
_COLOURS = {"ok": "green", "skipped": "bright_black", "note": "cyan", "warning": "yellow", "problem": "red"}
_EXIT = {"warning": ExitCode.WARNING, "problem": ExitCode.PROBLEM}


@click.command(
    epilog=examples(
        "shadowmesh-client doctor -c client.yaml       everything, also where no client runs",
        "shadowmesh-client doctor --all                what is as it should be, too",
        "shadowmesh-client doctor --json | jq '.checks[] | select(.result == \"problem\")'",
    )
)
@config_option()
@socket_option
@click.option("--all", "everything", is_flag=True, help="Show what is ok or was skipped, too.")
@json_option
def doctor(config: Path | None, socket: Path | None, everything: bool, as_json: bool) -> int:
    """Look for what may be wrong, and say what to do.

    Machine, kernel, permissions, configuration, clock, names, relays, UDP, MTU, routes, firewall, membership
    and versions. Asks the running client; where none runs, the network itself. -c is
    /etc/shadowmesh/client.yaml if there is one. Exits with 12 where the worst is a warning, with 13
    where it is a problem.
    """
    from shadowmesh.diagnosis.doctor import examine

    report = examine(look(config, socket))
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        for line in render(report, everything):
            click.echo(line)
    return _EXIT.get(report.result.value, ExitCode.OK)


def look(config: Path | None, socket: Path | None) -> Facts:
    """Gather the facts, telling a person at a terminal what takes long."""
    from shadowmesh.diagnosis.gather import gather

    with progress() as tell:
        return gather(chosen_config(config, socket), socket, usual_socket(), tell)


def chosen_config(config: Path | None, socket: Path | None) -> Path | None:
    """The file that is meant: -c, else the usual one if it is there and no client is named by --socket."""
    return config or (DEFAULT_CONFIG if socket is None and DEFAULT_CONFIG.exists() else None)


def render(report: Doctor, everything: bool) -> list[str]:
    """The findings as lines for people: the worst last, next to the prompt."""
    shown = [one for one in report.checks if everything or one.result not in ("ok", "skipped")]
    width = max((len(one.id) for one in shown), default=0)
    lines = []
    for one in sorted(shown, key=lambda one: one.result.weight):
        mark = _styled(one.result.value.ljust(7), _COLOURS[one.result.value])
        lines.append(f"{mark}  {one.id.ljust(width)}  {printable(one.found)}")
        if one.remedy:
            lines.append(f"{' ' * 9}{' ' * width}  -> {printable(one.remedy)}")
    counted = [(kind, sum(one.result == kind for one in report.checks)) for kind in _COLOURS]
    return [*lines, ", ".join(f"{number} {kind}" for kind, number in counted if number)]


def _styled(text: str, colour: str) -> str:
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return click.style(text, fg=colour)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A function that is told what is being done; shown on a terminal's stderr once it takes `PATIENCE`."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    doing, done, shown = [""], threading.Event(), threading.Event()

    def show() -> None:
        while not done.wait(PATIENCE):
            shown.set()
            click.echo(f"\r\033[Klooking at {doing[0]} …", err=True, nl=False)

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield lambda what: doing.__setitem__(0, what)
    finally:
        done.set()
        thread.join()
        if shown.is_set():
            click.echo("\r\033[K", err=True, nl=False)
