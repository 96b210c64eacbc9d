"""`shadowmesh-client up`: run the client. Checks here what can be told before anything is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from shadowmesh.cli.options import config_option
from shadowmesh.cli.replies import UpReply
from shadowmesh.command import CommandFailed, ExitCode, examples, json_option
from shadowmesh.config import ClientConfig, doubts, load_client_config, refuse_own_id
from shadowmesh.errors import IdentityError
from shadowmesh.replies import ValidReply, print_reply

_CAP_NET_ADMIN = 12
"""Bit of the capability that making an interface needs (capabilities(7))."""


@click.command(
    epilog=examples(
        "shadowmesh-client up -c client.yaml --check    only check the file",
        "shadowmesh-client up -c client.yaml            run here, Ctrl+C stops it",
        "shadowmesh-client up -c client.yaml --detach && shadowmesh-client status",
    )
)
@config_option(required=True)
@click.option("--detach", is_flag=True, help="Go to the background once the client is ready.")
@click.option("--check", is_flag=True, help="Check the configuration and do nothing else; needs no root.")
@json_option
def up(config: Path, detach: bool, check: bool, as_json: bool) -> int:
    """Join the network and stay until stopped.

    Makes the network interface, connects to the relays and meets the peers; keeps trying for ever.
    SIGTERM, Ctrl+C or the verb down stop it, and interface, addresses and routes go with it.
    """
    if as_json and not (check or detach):
        raise click.UsageError("--json is for --check and --detach; else there is `log: {format: json}`")
    settings = load_client_config(config)
    if check:
        _check(settings, config, as_json)
        return ExitCode.OK
    require_net_admin(f"run sudo shadowmesh-client up -c {config}")
    from shadowmesh import node

    return node.run(settings, teller(settings, as_json) if detach else None)


def teller(config: ClientConfig, as_json: bool) -> Callable[[int, Path], None]:
    """What `--detach` prints once the client is ready, by process and log."""

    def tell(pid: int, log: Path) -> None:
        name, interface = config.node.name, config.interface.name
        if as_json:
            print_reply(UpReply(name=name, interface=interface, pid=pid, log=str(log)))
        else:
            click.echo(f"{name} is up on {interface} (pid {pid}); log: {log}")

    return tell


def _check(settings: ClientConfig, file: Path, as_json: bool) -> None:
    identity_name = _check_identity(settings)
    _check_firewall(settings)
    _check_group(settings)
    warnings = [doubt.told for doubt in doubts(settings, identity_name)]
    if as_json:
        print_reply(ValidReply(file=str(file), summary=_summary(settings), warnings=warnings))
        return
    click.echo(f"{file} is valid\n{_summary(settings)}")
    for doubt in warnings:
        click.echo(f"warning: {doubt}", err=True)


def _check_identity(config: ClientConfig) -> str | None:
    """Name of the identity that the file belongs to, if it can be read by whoever checks the file."""
    from shadowmesh.crypto import identity as identities

    try:
        identity = identities.load(config.node.state_dir)
    except IdentityError:
        return None
    refuse_own_id(config, identity.node_id)
    if config.network is not None:
        from shadowmesh.io.membership import check_membership

        check_membership(config, identity)
    return identity.name


def _check_firewall(config: ClientConfig) -> None:
    """Run the tests in the file."""
    if config.firewall is not None:
        from shadowmesh.overlay.firewall import firewall_of

        firewall_of(config)


def _check_group(config: ClientConfig) -> None:
    if config.node.socket_group is not None:
        from shadowmesh.api.access import socket_group

        socket_group(config)


def _summary(config: ClientConfig) -> str:
    none = "no address" if config.network is None else "addresses of its certificate"
    addresses = ", ".join(config.interface.addresses) or none
    relays, peers = len(config.relays), len(config.peers)
    others = f"{relays} relay{'s' * (relays != 1)}, {peers} peer{'s' * (peers != 1)}"
    if config.network is not None:
        others = f"{others if relays or peers else 'relays'} and members of its network"
    firewall = ""
    bridge = "" if config.interface.bridge is None else f" in bridge {config.interface.bridge}"
    if config.firewall is not None:
        rules, tests = len(config.firewall.rules), len(config.firewall.tests)
        firewall = (
            f"\nfirewall: {rules} rule{'s' * (rules != 1)}, inbound {config.firewall.inbound}, outbound "
            f"{config.firewall.outbound}, {tests} test{'s' * (tests != 1)} passed"
        )
    return (
        f"{config.node.name} on {config.interface.name}{bridge} ({addresses}), MTU {config.interface.mtu}, "
        f"{others}{firewall}"
    )


def require_net_admin(remedy: str) -> None:
    """Say it before any work is done, and in words, rather than as EPERM from a system call."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff" and not int(value, 16) >> _CAP_NET_ADMIN & 1:
            text = f"making a network interface needs root (CAP_NET_ADMIN); {remedy}"
            raise CommandFailed(text, error_id="device.root")
