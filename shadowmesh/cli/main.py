"""Entry point of `shadowmesh-client`: its verbs by name. Does nothing itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from shadowmesh import __version__
from shadowmesh.command import VerbGroup, examples, run

NAME = "shadowmesh-client"


@click.group(
    cls=VerbGroup,
    verbs={
        "init": "shadowmesh.cli.init:init",
        "up": "shadowmesh.cli.up:up",
        "down": "shadowmesh.cli.down:down",
        "status": "shadowmesh.cli.status:status",
        "peers": "shadowmesh.cli.peers:peers",
        "ping": "shadowmesh.cli.ping:ping",
        "why": "shadowmesh.cli.why:why",
        "logs": "shadowmesh.cli.logs:logs",
        "top": "shadowmesh.cli.top:top",
        "netcheck": "shadowmesh.cli.netcheck:netcheck",
        "doctor": "shadowmesh.cli.doctor:doctor",
        "bugreport": "shadowmesh.cli.bugreport:bugreport",
        "dashboard": "shadowmesh.cli.dashboard:dashboard",
        "join": "shadowmesh.cli.join:join",
        "invite": "shadowmesh.cli.invite:invite",
        "network": "shadowmesh.cli.network:network",
        "firewall": "shadowmesh.cli.firewall:firewall",
        "get": "shadowmesh.cli.get:get",
        "set": "shadowmesh.cli.set:set_keys",
        "reload": "shadowmesh.cli.reload:reload",
        "id": "shadowmesh.cli.identity:show_id",
        "version": "shadowmesh.cli.version:version",
    },
    epilog=examples(
        "shadowmesh-client init --name alice       make this machine's identity",
        "shadowmesh-client join smesh1…            become a member by a token, and run",
        "shadowmesh-client up -c client.yaml       run, Ctrl+C leaves",
        "shadowmesh-client status                  who is reachable, and how",
        "shadowmesh-client ping bob -c 3           measure through the overlay",
        "shadowmesh-client why bob                 why this path and no better one",
        "shadowmesh-client logs -f                 what the client says as it happens",
        "shadowmesh-client top                     peers, paths and rates, live",
        "shadowmesh-client reload                  read the configuration again",
        "shadowmesh-client netcheck                what the network allows: NAT, IPv6, UDP",
    ),
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def client() -> None:
    """Join a ShadowMesh network: an Ethernet of your machines, sealed end to end.

    Run it as root: the interface, and by default the identity and the client's socket, belong to it.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (docs/cli.md lists them)."""
    return run(client, NAME, arguments)


if __name__ == "__main__":
    sys.exit(main())
