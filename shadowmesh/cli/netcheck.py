"""`shadowmesh-client netcheck`: what the network around this machine allows, in words to act on."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from shadowmesh.api.client import ApiClient, NotRunning
from shadowmesh.api.schema import Netcheck, RelayCheck
from shadowmesh.cli.options import ask, config_option, socket_option, socket_path, start_advice
from shadowmesh.cli.output import coloured, milliseconds, percent, table
from shadowmesh.command import ExitCode, examples, json_option

_MAPPINGS = {
    "no NAT": "none: relays see an address of this machine itself",
    "endpoint-independent": "one outside port for everybody",
    "address-dependent": "another outside port for each machine",
    "address-and-port-dependent": "another outside port for each connection (symmetric)",
    "endpoint-independent or address-dependent": "one outside port, at least for all ports of one machine",
    "address-dependent or address-and-port-dependent": "another outside port for each machine (symmetric)",
    "unknown": "not known; it takes two relays, or one with a second_port",
}
_FILTERINGS = {
    "endpoint-independent or address-dependent": "open at least to every machine that was written to",
    "address-and-port-dependent": "open only to exactly whom was written to",
    "unknown": "not known; it takes a relay with a second_port",
}
_TCP = {
    "works": "a relay is reached by a WebSocket",
    "fails": "no relay is reached by a WebSocket either; the relays' entries say why",
}
_SECOND_PORTS = {
    "silent": "its second port does not answer: a firewall there, or on the way",
    "none": "",
    "answers": "",
    "unknown": "",
}


@click.command(
    epilog=examples(
        "shadowmesh-client netcheck",
        "shadowmesh-client netcheck -c client.yaml         works without a running client too",
        "shadowmesh-client netcheck --json | jq .nat",
    )
)
@config_option()
@socket_option
@json_option
def netcheck(config: Path | None, socket: Path | None, as_json: bool) -> int:
    """Show what the network around this machine allows.

    Which NAT it is behind, whether the router maps a port, which relays answer and how fast, IPv6. Asks
    through the running client; where none runs, -c lets the verb ask by itself. Exits with 8 if no relay
    answered.
    """
    found = _check(config, socket)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        for line in render(found):
            click.echo(coloured(line))
    reached = found.udp == "works" or any(relay.transport == "tcp" for relay in found.relays)
    return ExitCode.OK if reached else ExitCode.NO_RELAY


def _check(config: Path | None, socket: Path | None) -> Netcheck:
    path = socket_path(config, socket)
    if config is not None:
        try:
            return ApiClient(path).netcheck()
        except NotRunning:
            from shadowmesh.config import load_client_config
            from shadowmesh.node.alone import netcheck_alone

            return netcheck_alone(load_client_config(config))
    advice = start_advice(socket)
    return ask(
        path, lambda client: client.netcheck(), f"{advice}, or name its file with -c" if advice else ""
    )


def render(found: Netcheck) -> list[str]:
    """The findings as lines for people."""
    nat = found.nat
    rows = [
        ("UDP", _udp(found)),
        *([("TCP", _TCP[found.tcp])] if found.tcp != "not tried" else []),
        ("IPv4", found.ipv4),
        ("IPv6", found.ipv6),
        ("NAT mapping", _explained(nat.mapping, _MAPPINGS)),
        ("NAT filtering", _explained(nat.filtering, _FILTERINGS)),
        ("direct paths", _outlook(found)),
        ("seen at", ", ".join(nat.observed) or "-"),
        ("mapped address", nat.mapped or "-"),
        *((f"router, {name}", said) for name, said in nat.port_mapping.items()),
        ("local addresses", ", ".join(nat.local) or "-"),
        ("datagrams", f"{found.datagram} bytes pass" if found.datagram else "-"),
        ("clock", found.clock or "-"),
    ]
    width = max(len(name) for name, _ in rows)
    return [*(f"{name.ljust(width)}  {text}" for name, text in rows), "", *_relays(found.relays)]


def _udp(found: Netcheck) -> str:
    if found.udp == "blocked" and any(relay.transport == "tcp" for relay in found.relays):
        return "blocked: relays answer over TCP only"
    if found.udp == "blocked":
        return "no relay answers: UDP is blocked here, or all relays are down"
    return "this machine has no network" if found.udp == "no network" else "works"


def _explained(value: str, words: dict[str, str]) -> str:
    text = words.get(value, "")
    return text if value == "unknown" else f"{value}: {text}" if text else value


def _outlook(found: Netcheck) -> str:
    nat = found.nat
    if found.udp != "works":
        return "none as long as UDP does not work"
    if nat.mapped:
        return "likely with everybody: the router maps a port"
    if nat.mapping == "no NAT":
        return "likely with everybody"
    if nat.mapping in ("endpoint-independent", "endpoint-independent or address-dependent"):
        return "likely, but with peers behind a symmetric NAT only where this one filters loosely"
    if nat.mapping == "unknown":
        return "not known"
    return "only with peers that have no NAT, or one that filters loosely; a port mapping would help"


def _relays(relays: list[RelayCheck]) -> list[str]:
    rows = [
        (
            relay.address,
            f"{relay.state} over TCP" if relay.transport == "tcp" else relay.state,
            milliseconds(relay.rtt_ms),
            percent(relay.loss),
            "-" if relay.load is None else f"{relay.load}%",
            relay.observed_address or "-",
            relay.second_port,
        )
        for relay in relays
    ]
    notes = [
        f"  {relay.address}: {text}"
        for relay in relays
        for text in (relay.last_error, _SECOND_PORTS[relay.second_port])
        if text
    ]
    notes += [f"  {relay.address} is home: {relay.home_reason}" for relay in relays if relay.home_reason]
    head = ("relay", "state", "rtt", "loss", "load", "sees us at", "second port")
    return table(head, rows, frozenset(["rtt", "loss", "load"])) + notes
