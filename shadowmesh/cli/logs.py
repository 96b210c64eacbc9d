"""`shadowmesh-client logs`: the latest lines of the running client's log, and those that follow."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from typing import cast, get_args

import click
import msgspec

from shadowmesh.api.client import ApiClient
from shadowmesh.api.live import LOG_LINES, Level, LogLine
from shadowmesh.cli.options import ask, config_option, socket_option, socket_path
from shadowmesh.cli.output import colours
from shadowmesh.command import examples, json_option
from shadowmesh.config import DEFAULT_STATE_DIR, load_client_config
from shadowmesh.values import printable

LEVELS: tuple[Level, ...] = get_args(Level)
"""From the least to the gravest."""
_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}


@click.command(
    epilog=examples(
        "shadowmesh-client logs -f",
        "shadowmesh-client logs -n 1000 --level warning",
        "shadowmesh-client logs --json | jq -r '.lines[].text'",
    )
)
@click.option("-f", "--follow", is_flag=True, help="Show new lines as they come, until Ctrl+C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, LOG_LINES),
    default=100,
    show_default=True,
    help="So many at most.",
)
@click.option(
    "--level", type=click.Choice(LEVELS), default="debug", show_default=True, help="This and what is graver."
)
@config_option()
@socket_option
@json_option
def logs(
    follow: bool, lines: int, level: str, config: Path | None, socket: Path | None, as_json: bool
) -> None:
    """Show the log of the running client.

    It has the latest 1000 lines in memory; where else its log is, and that of a client that has stopped, is
    said where none runs. With -f, --json prints a JSON object for each line.
    """
    path = socket_path(config, socket)
    least = cast("Level", level)
    elsewhere = _elsewhere(config)
    if as_json and not follow:
        click.echo(ask(path, lambda client: client.log_json(lines, least), elsewhere))
        return
    first = ask(path, lambda client: client.log(lines, least), elsewhere)
    for line in first.lines:
        _show(line, as_json)
    last = first.last
    while follow:
        # The end of a stream is that of the client, or we were too slow; which, the next question tells.
        last = ask(path, lambda client: _follow(client, last, least, as_json), elsewhere)  # noqa: B023


def _follow(client: ApiClient, last: int, least: Level, as_json: bool) -> int:
    """Show what comes after the line of that number; returns the number of the last one."""
    for line in client.events("log", after=last):
        assert isinstance(line, LogLine)
        last = line.number
        if LEVELS.index(line.level) >= LEVELS.index(least):
            _show(line, as_json)
    return last


def _elsewhere(config: Path | None) -> str:
    """Where the log is of a client that can't be asked."""
    state_dir = load_client_config(config).node.state_dir if config is not None else Path(DEFAULT_STATE_DIR)
    return (
        f"its log is in the journal (journalctl -u shadowmesh-client), or of `up --detach` in "
        f"{state_dir / 'client.log'}"
    )


def _show(line: LogLine, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(line))
        return
    for text in render(line):
        colour = _COLOURS.get(line.level) if colours(sys.stdout) else None
        click.echo(click.style(text, fg=colour) if colour else text)


def render(line: LogLine) -> list[str]:
    """The entry as the log itself has it, in local time with its zone."""
    when = dt.datetime.fromtimestamp(line.at).astimezone().isoformat(timespec="milliseconds")
    first, *rest = line.text.splitlines() or [""]
    return [f"{when} {line.level.upper()} {printable(first)}", *(f"  {printable(text)}" for text in rest)]
