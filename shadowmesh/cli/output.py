"""How the verbs of the client print: colours, round trips, and what `shadowmesh.output` has."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click

from shadowmesh.output import duration, percent, size, table
from shadowmesh.values import printable

__all__ = ["coloured", "colours", "duration", "milliseconds", "percent", "short_cipher", "size", "table"]

_COLOURS = {
    "connected": "green",
    "connecting": "yellow",
    "resolving": "yellow",
    "waiting": "yellow",
    "absent": "red",
}


def colours(stream: TextIO) -> bool:
    """Whether what is written to `stream` may have colours: for people at a terminal who want them."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(line: str) -> str:
    """The line with the states in it coloured, where a person at a terminal reads it."""
    line = printable(line)
    if not colours(sys.stdout):
        return line
    for state, colour in _COLOURS.items():
        if f"  {state}" in line:
            return line.replace(f"  {state}", "  " + click.style(state, fg=colour), 1)
    return line


def milliseconds(value: float | None) -> str:
    """A round trip time, or a dash where none is known."""
    return "-" if value is None else f"{value:.1f} ms"


def short_cipher(name: str | None) -> str:
    """The cipher of a suite of TLS 1.3 as people know it; --json has the suite's own name."""
    if name is None:
        return "-"
    short = name.removeprefix("TLS_").removesuffix("_SHA256").replace("_", "-")
    return "ChaCha20-Poly1305" if short.upper() == "CHACHA20-POLY1305" else short
