"""Options that several verbs take, and how those verbs reach the running client."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from shadowmesh.api.client import ApiClient, NoReply, NotRunning, UnknownPeer
from shadowmesh.command import FILE, CommandFailed, ExitCode
from shadowmesh.config import DEFAULT_SOCKET, DEFAULT_STATE_DIR, load_client_config

SOCKET_VARIABLE = "SHADOWMESH_SOCKET"
START = "start it with `shadowmesh-client up -c client.yaml`"

T = TypeVar("T")
Decorated = TypeVar("Decorated", bound=Callable[..., object])

DEFAULT_CONFIG = Path("/etc/shadowmesh/client.yaml")
"""Where `join` puts it and the unit looks for it."""


def config_option(*names: str, required: bool = False) -> Callable[[Decorated], Decorated]:
    """`-c FILE`; `names` replaces the names where -c means something else."""
    text = "Configuration of the client." if required else "Find the client by its configuration."
    return click.option(
        *(names or ("-c", "--config")), "config", type=FILE, metavar="FILE", required=required, help=text
    )


def new_config_option(text: str) -> Callable[[Decorated], Decorated]:
    """`-c FILE` of a verb that writes it; `text` says what becomes of it."""
    return click.option(
        "-c",
        "--config",
        type=FILE,
        metavar="FILE",
        default=DEFAULT_CONFIG,
        show_default=True,
        help=text,
    )


def socket_option(function: Decorated) -> Decorated:
    """`--socket PATH`; None if it isn't given."""
    text = f"Socket of the running client (default {SOCKET_VARIABLE}, else {DEFAULT_SOCKET})."
    return click.option("--socket", type=FILE, metavar="PATH", help=text)(function)


def state_dir_option(function: Decorated) -> Decorated:
    """`--state-dir DIR`."""
    return click.option(
        "--state-dir",
        type=FILE,
        metavar="DIR",
        help=f"Folder of the identity (default {DEFAULT_STATE_DIR}).",
    )(function)


def socket_path(config: Path | None, socket: Path | None) -> Path:
    """Where the client answers: --socket, else the configuration's, else the environment's or default."""
    if socket is not None:
        return socket
    if config is not None:
        return load_client_config(config).node.socket
    return usual_socket()


def usual_socket() -> Path:
    """Where a client answers of which nothing is said."""
    return Path(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)


def start_advice(socket: Path | None) -> str:
    """What to do if no client answers; whoever names a --socket knows that, and has likely misspelt it."""
    return "" if socket else START


def ask(path: Path, question: Callable[[ApiClient], T], remedy: str = "") -> T:
    """Put `question` to the client on `path`; its failures become exit codes.

    :param remedy: what to do if there is no client.
    """
    try:
        return question(ApiClient(path))
    except NotRunning as error:
        text = f"{error}; {remedy}" if remedy else str(error)
        raise CommandFailed(text, ExitCode.NOT_RUNNING, error.error_id) from error
    except (UnknownPeer, NoReply) as error:
        raise CommandFailed(str(error), ExitCode.NO_PEER, error.error_id) from error
