"""The running client: composition root, start and stop."""

from __future__ import annotations

from shadowmesh.config import ClientConfig


def run(config: ClientConfig, *, detach: bool) -> int:
    """Run the client until it is told to stop; returns the exit code of the command."""
    from shadowmesh.node.lifecycle import run_client

    return run_client(config, detach)
