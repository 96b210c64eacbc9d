"""`shadowmesh-client firewall …`: what the rules decide, what they say, and what they have counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
import msgspec

from shadowmesh.api.client import ApiClient, ApiFailed, NotRunning
from shadowmesh.api.schema import FirewallStatus, Status
from shadowmesh.cli.completing import peer_names
from shadowmesh.cli.options import ask, config_option, socket_option, socket_path, start_advice
from shadowmesh.cli.output import table
from shadowmesh.cli.replies import CountersReply, RulesReply, VerdictReply
from shadowmesh.command import CommandFailed, ExitCode, VerbGroup, examples, json_option
from shadowmesh.config import ClientConfig, load_client_config
from shadowmesh.replies import print_reply
from shadowmesh.rules import (
    UNTAGGED,
    Action,
    Direction,
    Question,
    parse_address,
    parse_ethertype,
    parse_port,
    parse_protocol,
    parse_vlan,
)
from shadowmesh.spelling import did_you_mean

if TYPE_CHECKING:
    from shadowmesh.overlay.compilation import Party

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
@click.option(
    "--from",
    "sender",
    metavar="PEER",
    shell_complete=peer_names,
    help="Name or NodeID of the peer that it comes from.",
)
@click.option(
    "--to",
    "receiver",
    metavar="PEER",
    shell_complete=peer_names,
    help="Name or NodeID of the peer that it goes to.",
)
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="As if the peer were of this group.")
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
    groups: tuple[str, ...],
    **fields: Any,
) -> int:
    """Say what the rules in the file decide about one described packet, and which rule it is.

    It is the first packet of a connection: replies to what was allowed pass. No client has to run; if the
    one of this file does, the members that it has met are known with their groups and addresses. Exits with
    0 if it is allowed, with 10 if it is denied.
    """
    from shadowmesh.overlay.firewall import Firewall, Incomplete, words

    settings = load_client_config(config)
    known = _known(settings)
    question = _question(settings, known, direction, sender, receiver, fields)
    question = msgspec.structs.replace(question, groups=groups)
    if settings.firewall is None:
        return _tell(as_json, "allow", None, f"{config} has no firewall, so everything passes")
    wall = Firewall(settings.firewall, known.parties, known.own)
    try:
        decision = wall.answer(question)
    except Incomplete as error:
        raise click.UsageError(str(error).replace("_port", "-port")) from None
    said = decision.why
    if question.peer not in wall.parties:
        said = f"nobody called {question.peer} is known now; {said}"
    if decision.rule is not None:
        said += f": {words(wall.section.rules[decision.rule])}"
    return _tell(as_json, decision.action, decision.rule, said)


def _tell(as_json: bool, action: Action, rule: int | None, why: str) -> int:
    if as_json:
        print_reply(VerdictReply(action=action, rule=None if rule is None else rule + 1, why=why))
    else:
        click.echo(f"{action}: {why}")
    return ExitCode.OK if action == "allow" else ExitCode.DENIED


class _Known(NamedTuple):
    """Members, and this machine's own overlay addresses."""

    parties: list[Party]
    own: list[str]
    live: bool


def _known(config: ClientConfig) -> _Known:
    """What the running client of this file knows; without one, what the file says."""
    from shadowmesh.overlay.compilation import Party
    from shadowmesh.overlay.firewall import as_configured, parties_of

    own = [text.partition("/")[0] for text in config.interface.addresses]
    try:
        data = ApiClient(config.node.socket).status_json()
    except (NotRunning, ApiFailed):
        return _Known(parties_of(config), own, live=False)
    status = msgspec.json.decode(data, type=Status)
    met = [
        as_configured(Party(one.name, one.node_id, tuple(one.groups), tuple(one.addresses)), config.peers)
        for one in status.peers
    ]
    here = {party.node_id for party in met}
    absent = [party for party in parties_of(config) if party.node_id not in here]
    return _Known(
        [*absent, *(party._replace(name=party.name or party.node_id) for party in met)],
        own or [text.partition("/")[0] for text in status.node.addresses],
        live=True,
    )


def _question(
    config: ClientConfig,
    known: _Known,
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
        peer=_peer(config, known, peer),
        src=fields["src"],
        dst=fields["dst"],
        protocol=fields["proto"],
        src_port=fields["src_port"],
        dst_port=fields["dst_port"],
        ethertype=fields["ethertype"],
        vlan=fields["vlan"] or UNTAGGED,
    )


def _peer(config: ClientConfig, known: _Known, text: str) -> str:
    for party in known.parties:
        if text == party.name or text.lower() == party.node_id:
            return party.name
    if config.network is not None:
        return text.lower()
    advice = did_you_mean(text, [party.name for party in known.parties])
    problem = f"there is no peer {text!r} in {config.file}{'; ' if advice else ''}{advice}"
    raise CommandFailed(problem, ExitCode.NO_PEER, "peer.unknown")


@click.command(epilog=examples("shadowmesh-client firewall explain -c client.yaml"))
@config_option(required=True)
@json_option
def explain(config: Path, as_json: bool) -> None:
    """Print the rules in words, in the order in which they are asked, and run the tests of the file.

    Names and groups that nobody has are told: of the members whom the running client of this file has met,
    or without one of the peers in the file.
    """
    from shadowmesh.overlay.firewall import explain as in_words
    from shadowmesh.overlay.firewall import firewall_of, unknown, untested_firewall

    settings = load_client_config(config)
    wall = untested_firewall(settings)
    if wall is None:
        nothing = f"{config} has no firewall, so everything passes"
        print_reply(RulesReply(rules=[])) if as_json else click.echo(nothing)
        return
    known = _known(settings)
    missing = unknown(wall.section, known.parties)
    if not as_json:
        click.echo("\n".join([*in_words(wall.section), *missing]))
        if missing and not known.live:
            click.echo("No client of this file runs here, so only the peers in the file are known.")
    firewall_of(settings)
    tests = len(wall.section.tests)
    if as_json:
        print_reply(RulesReply(rules=in_words(wall.section), unknown=missing, tests=tests))
    elif tests:
        click.echo(f"{tests} test{'s' * (tests != 1)} in the file passed.")
    else:
        click.echo("There are no tests in the file.")


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
        print_reply(CountersReply(firewall=found))
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
