"""What the firewall's rules decide, in plain Python and in words.

Sees no frame and keeps no connections: what is said here holds for the first packet of a connection,
and replies to what was allowed pass (docs/firewall.md). `Firewall.decide` is the reference that tests hold
the compiled rules to; compilation.py shares no code with it but who is named.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shadowmesh.config import ClientConfig, Peer
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.errors import ConfigError
from shadowmesh.overlay.compilation import Compiled, Compiler, Party, names
from shadowmesh.rules import (
    ARP,
    IPV4,
    IPV6,
    TCP,
    UDP,
    UNTAGGED,
    Action,
    FirewallSection,
    IpAddress,
    Network,
    Packet,
    Question,
    Rule,
    RuleTest,
)

EPHEMERAL = 49152
"""Source port of a described packet that has none: the first of RFC 6335's dynamic ports."""


class Decision(NamedTuple):
    """`rule` counts from 0, None where no rule matches; `why` is for people."""

    action: Action
    rule: int | None
    why: str


class Incomplete(ValueError):
    """A described packet lacks something without which nothing can be decided; the text says what."""


class Firewall:
    """Rules with the members that they are about.

    :param own: this machine's overlay addresses, without prefix length.
    """

    def __init__(self, section: FirewallSection, parties: Iterable[Party], own: Sequence[str] = ()) -> None:
        self.section = section
        self.parties = {party.name: party for party in parties}
        self._own = tuple(own)

    def party_of(self, question: Question) -> Party:
        """Whom a question is about; somebody of whom nothing else is known may be a member of the network."""
        party = self.parties.get(question.peer) or Party(question.peer, question.peer)
        return party._replace(groups=(*party.groups, *question.groups))

    def answer(self, question: Question) -> Decision:
        """What is decided about a described packet. Raises Incomplete."""
        party = self.party_of(question)
        return self.decide(self.describe(question), party)

    def decide(self, packet: Packet, party: Party | None = None) -> Decision:
        """Which rule decides this packet, and why. KeyError if its peer is nobody."""
        party = party or self.parties[packet.peer]
        for index, rule in enumerate(self.section.rules):
            if matches(rule, packet, party):
                return Decision(rule.action, index, f"{label(index, rule)} is the first that matches")
        if packet.resolution:
            return Decision(
                "allow", None, "ARP and neighbour discovery pass unless a rule with ethertype denies"
            )
        inbound = packet.direction == "in"
        action = self.section.inbound if inbound else self.section.outbound
        return Decision(action, None, f"no rule matches, and firewall.{_bound(inbound)} is {action}")

    def describe(self, question: Question) -> Packet:
        """A packet from what was said of it: what was left out is filled in. Raises Incomplete."""
        party = self.party_of(question)
        version = _version(question)
        far, here = _address(party.addresses, version), _address(self._own, version)
        inbound = question.direction == "in"
        src = question.src or (far if inbound else here)
        dst = question.dst or (here if inbound else far)
        if question.ethertype not in (None, IPV4, IPV6):
            if question.protocol or question.src or question.dst:
                raise Incomplete("only ethertype ipv4 and ipv6 have addresses and a protocol")
            return Packet(
                direction=question.direction,
                peer=question.peer,
                ethertype=question.ethertype or 0,
                vlan=question.vlan,
                resolution=question.ethertype == ARP,
            )
        if src is None or dst is None:
            raise Incomplete("there is no address to fill in: give src and dst")
        if src.version != dst.version or version not in (None, src.version):
            raise Incomplete("src, dst, ethertype and proto are not of one version of IP")
        ports = question.protocol is not None and question.protocol.number in (TCP, UDP)
        if ports and question.dst_port is None:
            raise Incomplete("a packet of tcp or udp has a destination port: give dst_port")
        if not ports and (question.dst_port is not None or question.src_port is not None):
            raise Incomplete("only tcp and udp have ports: give proto")
        return Packet(
            direction=question.direction,
            peer=question.peer,
            ethertype=IPV4 if src.version == 4 else IPV6,
            vlan=question.vlan,
            src=src,
            dst=dst,
            protocol=question.protocol.number if question.protocol else None,
            src_port=(EPHEMERAL if question.src_port is None else question.src_port) if ports else None,
            dst_port=question.dst_port,
        )

    def failures(self) -> list[tuple[RuleTest, str]]:
        """The tests of the file that fail, each with what came out instead."""
        found = []
        for test in self.section.tests:
            try:
                decision = self.answer(test.question)
            except Incomplete as error:
                found.append((test, str(error)))
            else:
                if decision.action != test.expect:
                    found.append(
                        (test, f"expected {test.expect}, but it is {decision.action}: {decision.why}")
                    )
        return found

    def compiled(self) -> Compiled:
        """For `Engine.set_firewall`."""
        compiler = Compiler(self.section)
        for party in self.parties.values():
            compiler.put(party)
        return compiler.compiled()


def matches(rule: Rule, packet: Packet, party: Party) -> bool:
    """Does the rule speak of this packet?"""
    return (
        rule.direction == packet.direction
        and names(rule, party)
        and (not packet.resolution or bool(rule.ethertypes))
        and (not rule.ethertypes or packet.ethertype in rule.ethertypes)
        and (not rule.vlans or packet.vlan in rule.vlans)
        and _within(rule.src, packet.src)
        and _within(rule.dst, packet.dst)
        and (
            not rule.protocols
            or any(
                packet.protocol == protocol.number and protocol.ethertype in (None, packet.ethertype)
                for protocol in rule.protocols
            )
        )
        and _has_port(rule.src_ports, packet.src_port)
        and _has_port(rule.dst_ports, packet.dst_port)
    )


def _within(networks: tuple[Network, ...], address: IpAddress | None) -> bool:
    if not networks:
        return True
    return address is not None and any(
        address.version == network.version and address in network for network in networks
    )


def _has_port(ranges: Sequence[tuple[int, int]], port: int | None) -> bool:
    return not ranges or (port is not None and any(low <= port <= high for low, high in ranges))


def _version(question: Question) -> int | None:
    """The version of IP that the question is about, if it says so anywhere."""
    for address in (question.src, question.dst):
        if address is not None:
            return address.version
    ethertype = question.ethertype or (question.protocol.ethertype if question.protocol else None)
    return {IPV4: 4, IPV6: 6}.get(ethertype or 0)


def _address(texts: Iterable[str], version: int | None) -> IpAddress | None:
    found = (ipaddress.ip_address(text) for text in texts)
    return next((address for address in found if version in (None, address.version)), None)


# ---- words ---------------------------------------------------------------------------------------


def _bound(inbound: bool) -> str:
    return "inbound" if inbound else "outbound"


def label(index: int, rule: Rule) -> str:
    """How a rule is called: by number, name if it has one, and line."""
    name = f" ({rule.name})" if rule.name else ""
    return f"rule {index + 1}{name}, line {rule.line},"


def words(rule: Rule) -> str:
    """The rule as a sentence."""
    inbound = rule.direction == "in"
    whom = [*rule.peers, *(f"group {group}" for group in rule.groups)]
    parts = [f"{rule.action} what {'comes from' if inbound else 'goes to'} {_either(whom) or 'any peer'}"]
    if rule.ethertypes:
        named = {ARP: "ARP", IPV4: "IPv4", IPV6: "IPv6"}
        parts.append(f"as {_either([named.get(one, f'ethertype 0x{one:04x}') for one in rule.ethertypes])}")
    if rule.vlans:
        parts.append(_either(["untagged" if one == UNTAGGED else f"in VLAN {one}" for one in rule.vlans]))
    if rule.protocols:
        known = {"tcp": "TCP", "udp": "UDP", "icmp": "ICMP", "icmpv6": "ICMPv6"}
        parts.append(
            f"by {_either([known.get(one.name, f'IP protocol {one.number}') for one in rule.protocols])}"
        )
    for word, networks, ports in (("from", rule.src, rule.src_ports), ("to", rule.dst, rule.dst_ports)):
        if networks:
            parts.append(f"{word} {_either([_network(one) for one in networks])}")
        if ports:
            parts.append(f"{word} port {_either([str(one) for one in ports])}")
    return " ".join(parts)


def explain(section: FirewallSection) -> list[str]:
    """All rules in the order in which they are asked, and what comes after them."""
    lines = []
    for inbound in (True, False):
        direction = "in" if inbound else "out"
        about = "from peers to this machine" if inbound else "from this machine to peers"
        lines.append(f"Frames {about}; the first rule that matches decides:")
        lines += [
            f"  {index + 1}. {words(rule)}{f' ({rule.name})' if rule.name else ''}, line {rule.line}"
            for index, rule in enumerate(section.rules)
            if rule.direction == direction
        ]
        action = section.inbound if inbound else section.outbound
        lines.append(f"  else {action}")
    lines.append("Replies to what was allowed pass, and ICMP errors about it.")
    lines.append(
        "ARP and neighbour discovery meet only rules with ethertype, and pass if none of them matches."
    )
    return lines


def unknown(section: FirewallSection, parties: Iterable[Party]) -> list[str]:
    """The names and groups in rules that nobody among `parties` has, each a line for people."""
    parties = list(parties)
    known = {label for party in parties for label in (party.name, party.node_id)}
    groups = {group for party in parties for group in party.groups}
    found: dict[str, list[str]] = {}
    for index, rule in enumerate(section.rules):
        for name in rule.peers:
            if name not in known:
                found.setdefault(f"Nobody called {name} is known now", []).append(str(index + 1))
        for group in rule.groups:
            if group not in groups:
                found.setdefault(f"Nobody of group {group} is known now", []).append(str(index + 1))
    return [f"{text}: rule {', '.join(numbers)}" for text, numbers in found.items()]


def _either(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}" if texts else ""


def _network(network: Network) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


# ---- of a configuration --------------------------------------------------------------------------


def parties_of(config: ClientConfig) -> list[Party]:
    """The peers of a configuration, numbered as the core numbers them."""
    return [
        Party(peer.name, node_id_text(peer.id), peer.groups, peer.addresses, number)
        for number, peer in enumerate(config.peers, start=1)
    ]


def as_configured(party: Party, peers: Iterable[Peer]) -> Party:
    """A member as rules name it. A name that the configuration gives to one NodeID is no other's."""
    by_id = {node_id_text(peer.id): peer for peer in peers}
    peer = by_id.get(party.node_id)
    if peer is not None:
        groups = tuple(dict.fromkeys((*peer.groups, *party.groups)))
        return party._replace(name=peer.name, groups=groups, addresses=peer.addresses or party.addresses)
    taken = any(peer.name == party.name for peer in by_id.values())
    return party._replace(name="") if taken else party


def untested_firewall(config: ClientConfig) -> Firewall | None:
    """The firewall of a configuration, None without one; the tests of the file are not run."""
    if config.firewall is None:
        return None
    own = [text.partition("/")[0] for text in config.interface.addresses]
    return Firewall(config.firewall, parties_of(config), own)


def firewall_of(config: ClientConfig) -> Firewall | None:
    """The firewall of a configuration, None without one. Raises ConfigError if a test of the file fails."""
    firewall = untested_firewall(config)
    failures = firewall.failures() if firewall else []
    if failures:
        raise ConfigError(
            "\n".join(f"{config.file}:{test.line}: {test.place}: {what}" for test, what in failures),
            "config.firewall-test",
        )
    return firewall
