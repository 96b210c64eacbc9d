"""How the verbs of the client print: colours, round trips, and what `shadowmesh.output` has."""

from __future__ import annotations

import os
import sys

import click

from shadowmesh.output import duration, percent, size, table
from shadowmesh.values import printable

__all__ = ["coloured", "duration", "milliseconds", "percent", "size", "table"]

_COLOURS = {
    "connected": "green",
    "connecting": "yellow",
    "resolving": "yellow",
    "waiting": "yellow",
    "absent": "red",
}


def coloured(line: str) -> str:
    """The line with the states in it coloured, where a person at a terminal reads it."""
    line = printable(line)
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return line
    for state, colour in _COLOURS.items():
        if f"  {state}" in line:
            return line.replace(f"  {state}", "  " + click.style(state, fg=colour), 1)
    return line


def milliseconds(value: float | None) -> str:
    """A round trip time, or a dash where none is known."""
    return "-" if value is None else f"{value:.1f} ms"
