"""`shadowmesh-client top`: peers, paths and rates as they are now, on a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from shadowmesh.cli.options import ask, config_option, socket_option, socket_path, start_advice
from shadowmesh.command import CommandFailed, examples

if TYPE_CHECKING:
    from shadowmesh.cli.board import Order

MISSING = "top needs the library textual, which is not here; see Extras in docs/install.md"
NO_TERMINAL = "top needs a terminal; for programs there are status --json, and the events of the local API"


@click.command(
    epilog=examples(
        "shadowmesh-client top",
        "shadowmesh-client top --sort rtt",
        "NO_COLOR=1 shadowmesh-client top          without colours",
    )
)
@click.option(
    "--sort",
    type=click.Choice(["traffic", "sent", "received", "rtt", "name", "state"]),
    default="traffic",
    show_default=True,
    help="Order of the peers at the begin.",
)
@config_option()
@socket_option
def top(sort: str, config: Path | None, socket: Path | None) -> None:
    """Show peers, paths, rates, drops and the log, live.

    Keys: arrows choose a peer, whose paths are shown below; t s r l n p sort by traffic, sent, received,
    round trip, name, state, and i inverts; d changes between dark and light; q quits.
    """
    path = socket_path(config, socket)
    if not at_terminal():
        raise CommandFailed(NO_TERMINAL, error_id="command.terminal")
    ask(path, lambda client: client.status_json(), start_advice(socket))
    try:
        from shadowmesh.cli.top_app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise CommandFailed(MISSING, error_id="command.library") from None
    run(path, cast("Order", sort))


def at_terminal() -> bool:
    """Whether there is a terminal that can be drawn on."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
