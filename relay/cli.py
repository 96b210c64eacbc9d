"""The command `shadowmesh-relay`: init, serve, status, drain, reload, id, version.

Heavy imports happen in the verb that needs them, so that --help and --check are quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from shadowmesh import __version__
from shadowmesh.command import FILE, VerbGroup, examples, json_option, run
from shadowmesh.replies import IdentityReply, ValidReply, print_reply, print_version
from shadowmesh.values import parse_name

from .config import DEFAULT_STATE_DIR, RelayConfig, admits, load_relay_config

NAME = "shadowmesh-relay"

_NEXT = """
Next:
  1. Write relay.yaml (examples: configs/, or share/doc/shadowmesh/examples) with the NodeIDs of the members,
     or with the file that `shadowmesh-client network create` made: admission: {{networks: [home.pem]}}
     Check and start it:
       shadowmesh-relay serve -c relay.yaml --check
       shadowmesh-relay serve -c relay.yaml
  2. Give the members this line for relays: in their client.yaml:
       - {{address: "THIS-HOST:4433", id: {node_id}}}"""

_state_dir_option = click.option(
    "--state-dir",
    type=FILE,
    metavar="DIR",
    default=DEFAULT_STATE_DIR,
    show_default=True,
    help="Folder of the identity.",
)


@click.group(
    cls=VerbGroup,
    verbs={
        "init": f"{__name__}:init Make the relay's identity and print its NodeID.",
        "serve": f"{__name__}:serve Serve until SIGTERM or SIGINT.",
        "status": "shadowmesh_relay.verbs:status Show who is connected, and what was dropped.",
        "drain": "shadowmesh_relay.verbs:drain Have all clients go elsewhere, then end the relay.",
        "reload": "shadowmesh_relay.verbs:reload Have the running relay read again whom it admits.",
        "id": f"{__name__}:show_id Print the relay's NodeID, read from its identity.",
        "version": f"{__name__}:version Print the version and the protocols it speaks.",
        "completion": "shadowmesh.completion:completion Print a script by which a shell completes words.",
    },
    epilog=examples(
        "shadowmesh-relay init --name relay1             make the relay's identity",
        "shadowmesh-relay serve -c relay.yaml --check    only check the file",
        "shadowmesh-relay serve -c relay.yaml            run, Ctrl+C stops it",
        "shadowmesh-relay status -c relay.yaml           who is connected, what was dropped",
    ),
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def relay() -> None:
    """Run a ShadowMesh relay: it forwards sealed packets between members and can open none of them.

    Run it as root, or as any user with a state_dir and --state-dir of its own.
    """


def _name(_context: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        return parse_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    epilog=examples(
        "shadowmesh-relay init --name relay1",
        "shadowmesh-relay init --name relay1 --state-dir ./relay --json",
    )
)
@click.option("--name", required=True, metavar="NAME", callback=_name, help="The relay's name.")
@_state_dir_option
@json_option
def init(name: str, state_dir: Path, as_json: bool) -> None:
    """Make the relay's identity and print its NodeID.

    An identity that exists is never replaced: a second call shows the same NodeID.
    """
    from shadowmesh.crypto import identity as identities

    known = identities.exists(state_dir)
    identity = identities.create(state_dir, name)
    node_id = identities.node_id_text(identity.node_id)
    if as_json:
        print_reply(IdentityReply(node_id=node_id, name=identity.name, state_dir=str(state_dir)))
        return
    was = " already, and was left as it is" if known else ""
    click.echo(f"The identity of {identity.name} is in {state_dir}{was}.\nNodeID: {node_id}")
    if not known:
        click.echo(_NEXT.format(node_id=node_id))


@click.command(
    epilog=examples("shadowmesh-relay serve -c relay.yaml --check", "shadowmesh-relay serve -c relay.yaml")
)
@click.option("-c", "--config", type=FILE, metavar="FILE", required=True, help="Configuration of the relay.")
@click.option("--check", is_flag=True, help="Check the configuration and do nothing else.")
@json_option
def serve(config: Path, check: bool, as_json: bool) -> int:
    """Serve until SIGTERM or SIGINT.

    Needs no root for ports from 1024. SIGUSR1 writes the totals of what was carried into the log.
    """
    if as_json and not check:
        raise click.UsageError("--json is for --check; a relay that serves has `log: {format: json}`")
    settings = load_relay_config(config)
    if check:
        from shadowmesh.io.documents import load_network
        from shadowmesh.io.tokens import load_tokens

        for file in settings.admission.networks:
            load_network(file)
        if settings.admission.token_file:
            load_tokens(settings.admission.token_file)
        if as_json:
            print_reply(ValidReply(file=str(config), summary=_summary(settings)))
        else:
            click.echo(f"{config} is valid\n{_summary(settings)}")
        return 0
    from .server import run as serve_relay

    return serve_relay(settings, config)


@click.command("id", epilog=examples("shadowmesh-relay id", "shadowmesh-relay id --state-dir ./relay --json"))
@click.option("-c", "--config", type=FILE, metavar="FILE", help="Take the folder from this configuration.")
@_state_dir_option
@json_option
def show_id(config: Path | None, state_dir: Path, as_json: bool) -> None:
    """Print the relay's NodeID, read from its identity."""
    from shadowmesh.crypto import identity as identities

    identity = identities.load(load_relay_config(config).relay.state_dir if config else state_dir)
    node_id = identities.node_id_text(identity.node_id)
    if as_json:
        print_reply(IdentityReply(node_id=node_id, name=identity.name))
    else:
        click.echo(node_id)


@click.command(epilog=examples("shadowmesh-relay version", "shadowmesh-relay version --json"))
@json_option
def version(as_json: bool) -> None:
    """Print the version and the protocols it speaks."""
    print_version(NAME, as_json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code (docs/cli.md lists them)."""
    return run(relay, NAME, arguments)


def _summary(config: RelayConfig) -> str:
    host = f"[{config.relay.host}]" if ":" in config.relay.host else config.relay.host
    return f"{config.relay.name} on UDP {host}:{config.relay.port}, {admits(config.admission)}"


if __name__ == "__main__":
    sys.exit(main())
