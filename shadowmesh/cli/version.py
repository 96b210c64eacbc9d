"""`shadowmesh-client version`: what runs here and which protocols it speaks."""

from __future__ import annotations

import platform

import click

from shadowmesh import __version__
from shadowmesh.command import examples
from shadowmesh.units import PROTOCOL_VERSIONS


@click.command(epilog=examples("shadowmesh-client version", "shadowmesh-client --version"))
def version() -> None:
    """Print the version and the protocols it speaks."""
    protocols = ", ".join(map(str, PROTOCOL_VERSIONS))
    click.echo(
        f"shadowmesh-client {__version__} (session protocol {protocols}; Python {platform.python_version()})"
    )
