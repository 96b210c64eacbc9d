"""What verbs of both programs print with --json. Data, and how it is printed.

The rules of `shadowmesh.api.schema` hold here too; docs/schemas has the JSON Schema of each.
"""

from __future__ import annotations

import sys

import click
import msgspec

from shadowmesh import __version__
from shadowmesh.units import PROTOCOL_VERSIONS

IDENTITY_SCHEMA = "shadowmesh.identity/1"
VERSION_SCHEMA = "shadowmesh.version/1"
VALID_SCHEMA = "shadowmesh.valid/1"


class IdentityReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `init` and `id` print; `id` leaves out the folder."""

    schema: str = IDENTITY_SCHEMA
    node_id: str
    name: str
    state_dir: str | msgspec.UnsetType = msgspec.UNSET


class VersionReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `version` prints. `protocols`: numbers of the session protocol."""

    schema: str = VERSION_SCHEMA
    program: str
    version: str = __version__
    protocols: list[int]
    python: str


class ValidReply(msgspec.Struct, frozen=True, kw_only=True):
    """What `--check` of a configuration prints. `summary` and `warnings` are for people."""

    schema: str = VALID_SCHEMA
    file: str
    summary: str
    warnings: list[str] = []


def print_reply(reply: msgspec.Struct) -> None:
    """One JSON object on one line."""
    click.echo(msgspec.json.encode(reply))


def print_version(program: str, as_json: bool) -> None:
    """The verb `version` of both programs."""
    reply = VersionReply(
        program=program, protocols=list(PROTOCOL_VERSIONS), python=".".join(map(str, sys.version_info[:3]))
    )
    if as_json:
        print_reply(reply)
        return
    protocols = ", ".join(map(str, reply.protocols))
    click.echo(f"{program} {reply.version} (session protocol {protocols}; Python {reply.python})")
