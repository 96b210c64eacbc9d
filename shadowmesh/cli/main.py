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
        "init": "shadowmesh.cli.init:init Make this machine's identity and print its NodeID.",
        "up": "shadowmesh.cli.up:up Join the network and stay until stopped.",
        "down": "shadowmesh.cli.down:down Stop the running client and wait for it.",
        "status": "shadowmesh.cli.status:status Show peers, relays and what was dropped.",
        "peers": "shadowmesh.cli.peers:peers Show the peers alone, or all about PEER.",
        "ping": "shadowmesh.cli.ping:ping Measure round trips to PEER through the overlay.",
        "why": "shadowmesh.cli.why:why Explain why frames to PEER take their path.",
        "netcheck": "shadowmesh.cli.netcheck:netcheck Show what the network around this machine allows.",
        "logs": "shadowmesh.cli.logs:logs Show the log of the running client.",
        "top": "shadowmesh.cli.top:top Show peers, paths, rates, drops and the log, live.",
        "doctor": "shadowmesh.cli.doctor:doctor Look for what may be wrong, and say what to do.",
        "bugreport": "shadowmesh.cli.bugreport:bugreport Write an archive with what helps to find a fault.",
        "dashboard": "shadowmesh.cli.dashboard:dashboard Serve a web page of the running client, live.",
        "join": "shadowmesh.cli.join:join Become a member by an invitation, and run.",
        "invite": "shadowmesh.cli.invite:invite Bring new machines in by a token that is pasted there.",
        "network": "shadowmesh.cli.network:network Be the authority of a network: sign its members.",
        "firewall": "shadowmesh.cli.firewall:firewall Try, explain and count the rules of the firewall.",
        "get": "shadowmesh.cli.get:get Show what the configuration says, or the value of KEY alone.",
        "set": "shadowmesh.cli.set:set_keys Give keys of the configuration other values.",
        "reload": "shadowmesh.cli.reload:reload Have the running client read its configuration again.",
        "id": "shadowmesh.cli.identity:show_id Print this machine's NodeID.",
        "version": "shadowmesh.cli.version:version Print the version and the protocols it speaks.",
        "completion": "shadowmesh.completion:completion Print a script by which a shell completes words.",
    },
    sections={
        "Everyday": ("init", "join", "up", "down", "status", "peers", "ping", "get", "set", "reload"),
        "Diagnosis": ("why", "netcheck", "doctor", "bugreport", "top", "logs", "dashboard"),
        "Network": ("invite", "network", "firewall", "id"),
        "This command": ("completion", "version"),
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
