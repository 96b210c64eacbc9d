"""`shadowmesh-client version`: what runs here and which protocols it speaks."""

from __future__ import annotations

import click

from shadowmesh.command import examples, json_option
from shadowmesh.replies import print_version


@click.command(epilog=examples("shadowmesh-client version", "shadowmesh-client version --json"))
@json_option
def version(as_json: bool) -> None:
    """Print the version and the protocols it speaks."""
    print_version("shadowmesh-client", as_json)
