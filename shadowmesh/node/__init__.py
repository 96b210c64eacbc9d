"""The running client: composition root, start and stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shadowmesh.config import ClientConfig


def run(config: ClientConfig, detached: Callable[[int, Path], None] | None = None) -> int:
    """Run the client until it is told to stop; returns the exit code of the command.

    :param detached: run in a child process, and call this with its id and its log when it is ready.
    """
    from shadowmesh.node.lifecycle import run_client

    return run_client(config, detached)
