"""`shadowmesh-client firewall …`: what the rules decide, what they say, and what they have counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from shadowmesh.api.schema import FirewallStatus, Status
from shadowmesh.cli.options import ask, config_option, json_option, socket_option, socket_path, start_advice
from shadowmesh.cli.output import table
from shadowmesh.command import CommandFailed, ExitCode, VerbGroup, examples, print_json
from shadowmesh.config import ClientConfig, load_client_config
from shadowmesh.rules import (
    UNTAGGED,
    Direction,
    Question,
    parse_address,
    parse_ethertype,
    parse_port,
    parse_protocol,
    parse_vlan,
)

T = TypeVar("T")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@click.group(
    cls=VerbGroup,
    verbs={
        "test": "shadowmesh.cli.firewall:test",
        "explain": "shadowmesh.cli.firewall:explain",
        "counters": "shadowmesh.cli.firewall:counters",
    },
    epilog=examples(
        "shadowmesh-client firewall explain -c client.yaml",
        "shadowmesh-client firewall test -c client.yaml --from bob --proto tcp --dst-port 22",
        "shadowmesh-client firewall counters",
    ),
)
def firewall() -> None:
    """Try, explain and count the rules of the firewall."""


def _parsed(parse: Callable[[str], T]) -> Callable[[click.Context, click.Parameter, str | None], T | None]:
    def callback(_context: click.Context, _option: click.Parameter, value: str | None) -> T | None:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _field(name: str, parse: Callable[[str], object], metavar: str, text: str) -> Decorator:
    return click.option(name, callback=_parsed(parse), metavar=metavar, help=text)


@click.command(
    epilog=examples(
        "shadowmesh-client firewall test -c client.yaml --from bob --proto tcp --dst-port 22",
        "shadowmesh-client firewall test -c client.yaml --out --to bob --proto icmpv6",
        "shadowmesh-client firewall test -c client.yaml --from bob --ethertype arp --vlan 10",
    )
)
@config_option(required=True)
@click.option("--in", "direction", flag_value="in", help="From a peer to this machine; --from says it too.")
@click.option("--out", "direction", flag_value="out", help="From this machine to a peer; --to says it too.")
@click.option("--from", "sender", metavar="PEER", help="Name or NodeID of the peer that it comes from.")
@click.option("--to", "receiver", metavar="PEER", help="Name or NodeID of the peer that it goes to.")
@_field("--proto", parse_protocol, "PROTOCOL", "tcp, udp, icmp, icmpv6 or a number.")
@_field("--src", parse_address, "ADDRESS", "Where it comes from; the sender's first address if left out.")
@_field("--dst", parse_address, "ADDRESS", "Where it goes; the receiver's first address if left out.")
@_field("--src-port", parse_port, "PORT", "Its source port; 49152 if left out.")
@_field("--dst-port", parse_port, "PORT", "Its destination port.")
@_field("--ethertype", parse_ethertype, "TYPE", "arp, ipv4, ipv6 or a number such as 0x88b5.")
@_field("--vlan", parse_vlan, "ID", "Its VLAN; untagged if left out.")
@json_option
def test(
    config: Path,
    direction: Direction | None,
    sender: str | None,
    receiver: str | None,
    as_json: bool,
    **fields: Any,
) -> int:
    """Say what the rules in the file decide about one described packet, and which rule it is.

    It is the first packet of a connection: replies to what was allowed pass. No client has to run. Exits
    with 0 if it is allowed, with 10 if it is denied.
    """
    from shadowmesh.overlay.firewall import Incomplete, untested_firewall, words

    settings = load_client_config(config)
    question = _question(settings, direction, sender, receiver, fields)
    wall = untested_firewall(settings)
    if wall is None:
        return _tell(as_json, "allow", None, f"{config} has no firewall, so everything passes")
    try:
        decision = wall.decide(wall.describe(question))
    except Incomplete as error:
        raise click.UsageError(str(error).replace("_port", "-port")) from None
    said = decision.why
    if decision.rule is not None:
        said += f": {words(wall.section.rules[decision.rule])}"
    return _tell(as_json, decision.action, decision.rule, said)


def _tell(as_json: bool, action: str, rule: int | None, why: str) -> int:
    if as_json:
        print_json({"action": action, "rule": None if rule is None else rule + 1, "why": why})
    else:
        click.echo(f"{action}: {why}")
    return ExitCode.OK if action == "allow" else ExitCode.DENIED


def _question(
    config: ClientConfig,
    direction: Direction | None,
    sender: str | None,
    receiver: str | None,
    fields: dict[str, Any],
) -> Question:
    peer = sender or receiver
    implied: Direction = "in" if sender else "out"
    if peer is None or (sender and receiver):
        raise click.UsageError("say from which peer it comes (--from) or to which it goes (--to)")
    if direction not in (None, implied):
        raise click.UsageError("--in goes with --from, and --out with --to")
    return Question(
        direction=implied,
        peer=_peer(config, peer),
        src=fields["src"],
        dst=fields["dst"],
        protocol=fields["proto"],
        src_port=fields["src_port"],
        dst_port=fields["dst_port"],
        ethertype=fields["ethertype"],
        vlan=fields["vlan"] or UNTAGGED,
    )


def _peer(config: ClientConfig, text: str) -> str:
    from shadowmesh.crypto.identity import node_id_text

    for peer in config.peers:
        if text == peer.name or text.lower() == node_id_text(peer.id):
            return peer.name
    raise CommandFailed(f"there is no peer {text!r} in {config.file}", ExitCode.NO_PEER)


@click.command(epilog=examples("shadowmesh-client firewall explain -c client.yaml"))
@config_option(required=True)
def explain(config: Path) -> None:
    """Print the rules in words, in the order in which they are asked, and run the tests of the file."""
    from shadowmesh.overlay.firewall import explain as in_words
    from shadowmesh.overlay.firewall import firewall_of, untested_firewall

    settings = load_client_config(config)
    wall = untested_firewall(settings)
    if wall is None:
        click.echo(f"{config} has no firewall, so everything passes")
        return
    for line in in_words(wall.section):
        click.echo(line)
    firewall_of(settings)
    tests = len(wall.section.tests)
    click.echo(
        f"{tests} test{'s' * (tests != 1)} in the file passed."
        if tests
        else "There are no tests in the file."
    )


@click.command(
    epilog=examples("shadowmesh-client firewall counters", "watch shadowmesh-client firewall counters")
)
@config_option()
@socket_option
@json_option
def counters(config: Path | None, socket: Path | None, as_json: bool) -> None:
    """Show how many frames each rule of the running client has decided since the rules were read."""
    data = ask(socket_path(config, socket), lambda client: client.status_json(), start_advice(socket))
    found = msgspec.json.decode(data, type=Status).firewall
    if as_json:
        click.echo(msgspec.json.encode(found))
    elif found is None:
        click.echo("This client has no firewall, so everything passes.")
    else:
        click.echo("\n".join(render(found)))


def render(found: FirewallStatus) -> list[str]:
    """The counters as lines for people."""
    rows: list[tuple[str, ...]] = [
        (str(rule.number), rule.direction, str(rule.decided), str(rule.replies), rule.text)
        for rule in found.rules
    ]
    rows += [
        ("-", "in", str(found.inbound_default), "-", f"else {found.inbound}"),
        ("-", "out", str(found.outbound_default), str(found.default_replies), f"else {found.outbound}"),
        ("-", "both", str(found.resolution), "-", "ARP and neighbour discovery that no rule names"),
    ]
    lines = table(
        ("rule", "way", "frames", "replies", "says"), rows, frozenset(["rule", "frames", "replies"])
    )
    lines += ["", f"{found.flows} connections are known"]
    if found.untracked:
        lines.append(
            f"{found.untracked} found no place in the table: they passed, and replies to them may not"
        )
    return lines
