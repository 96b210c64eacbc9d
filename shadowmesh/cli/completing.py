"""What completes arguments of verbs: names of peers, keys of the configuration. Never raises, never waits."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

WAIT = 0.15
"""Seconds for the answer of the running client: a person waits for the next character."""


class _Peer(msgspec.Struct):
    name: str


class _Status(msgspec.Struct):
    peers: list[_Peer]


def peer_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The peers of the running client whose names begin so; none if it can't be asked."""
    from shadowmesh.cli.options import socket_path
    from shadowmesh.web.client import request

    try:
        path = socket_path(_path(context, "config"), _path(context, "socket"))
        status, data = request(path, "GET", "/v1/status", b"", WAIT)
        peers = msgspec.json.decode(data, type=_Status).peers if status == 200 else []
    except Exception:
        return []
    names = (peer.name for peer in peers)
    return [name for name in names if name.startswith(incomplete) and name.replace("-", "").isalnum()]


def keys(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The keys of the file that begin so; none if it can't be read."""
    from shadowmesh.cli.settings import find, settings
    from shadowmesh.config import read_client_config
    from shadowmesh.document import Document

    try:
        document = Document.load(find(_path(context, "config"), _path(context, "socket")).file)
        read_client_config(document)
    except Exception:
        return []
    return [one.key for one in settings(document) if one.key.startswith(incomplete)]


def pairs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """A key at every other place of `set`, and nothing for the values."""
    given = context.params.get("pairs") or ()
    return [] if len(given) % 2 else keys(context, parameter, incomplete)


def _path(context: click.Context, name: str) -> Path | None:
    value = context.params.get(name)
    return Path(value) if value else None
