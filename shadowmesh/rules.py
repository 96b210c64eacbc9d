"""The rules of the firewall: `firewall:` of `client.yaml` -> frozen structs, every mistake with its line.

Knows no peer, no frame and no table: `overlay.firewall` says what a rule decides. Reference for people:
docs/firewall.md.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar, cast

import msgspec

if TYPE_CHECKING:
    from shadowmesh.document import Section

Action = Literal["allow", "deny"]
Direction = Literal["in", "out"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
T = TypeVar("T")

MAX_RULES = 4000
"""As the data plane numbers them (WallLayout.RULE_LIMIT)."""

MAX_ALTERNATIVES = 60000
"""Combinations of all lists of all rules, each an entry of the compiled table (WallLayout.ENTRY_LIMIT)."""

MAX_TESTS = 1000

UNTAGGED = 0
"""Stands for `vlan: none`; no VLAN has this id (IEEE 802.1Q)."""

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
_ETHERTYPES = {"arp": ARP, "ipv4": IPV4, "ipv6": IPV6}

CONDITIONS = ("peers", "groups", "src", "dst", "proto", "src_port", "dst_port", "ethertype", "vlan")
_RULE_KEYS = ("action", "direction", *CONDITIONS, "name")
_TEST_KEYS = (
    "expect",
    "direction",
    "peer",
    "groups",
    "src",
    "dst",
    "proto",
    "src_port",
    "dst_port",
    "ethertype",
    "vlan",
)


class Protocol(NamedTuple):
    """An IP protocol; by its name, ICMP is of one version of IP only."""

    name: str
    number: int
    ethertype: int | None = None


class Ports(NamedTuple):
    """Port numbers, both ends included."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


ANY_PORT = Ports(0, 65535)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One of `firewall.rules`. An empty tuple asks for nothing; of several values any one matches.

    `peers` and `groups` together are one condition: one of these peers, or a member of one of these groups.
    """

    line: int
    action: Action
    direction: Direction
    name: str = ""
    peers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    src: tuple[Network, ...] = ()
    dst: tuple[Network, ...] = ()
    protocols: tuple[Protocol, ...] = ()
    src_ports: tuple[Ports, ...] = ()
    dst_ports: tuple[Ports, ...] = ()
    ethertypes: tuple[int, ...] = ()
    vlans: tuple[int, ...] = ()


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """A frame as the rules see it. `ethertype` behind VLAN tags; None of a port: there is none to be seen."""

    direction: Direction
    peer: str
    ethertype: int
    vlan: int = UNTAGGED
    src: IpAddress | None = None
    dst: IpAddress | None = None
    protocol: int | None = None
    src_port: int | None = None
    dst_port: int | None = None
    resolution: bool = False
    """ARP, or a neighbour solicitation or advertisement (RFC 4861)."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A frame as people describe it, with whatever they leave out."""

    direction: Direction
    peer: str
    groups: tuple[str, ...] = ()
    """Of the peer, beside those that are known."""
    src: IpAddress | None = None
    dst: IpAddress | None = None
    protocol: Protocol | None = None
    src_port: int | None = None
    dst_port: int | None = None
    ethertype: int | None = None
    vlan: int = UNTAGGED


class RuleTest(msgspec.Struct, frozen=True, kw_only=True):
    """One of `firewall.tests`."""

    line: int
    place: str
    expect: Action
    question: Question


class FirewallSection(msgspec.Struct, frozen=True, kw_only=True):
    """`firewall:` rules in the order of the file, and what happens where none matches."""

    inbound: Action
    outbound: Action
    rules: tuple[Rule, ...] = ()
    tests: tuple[RuleTest, ...] = ()


class Alternative(NamedTuple):
    """One combination of what a rule asks for; None asks for nothing."""

    ethertype: int | None
    vlan: int | None
    protocol: int | None
    src: Network | None
    dst: Network | None
    src_ports: Ports | None
    dst_ports: Ports | None


def alternatives(rule: Rule) -> Iterator[Alternative]:
    """Every combination of the rule's lists that a frame can meet."""
    for ethertype, vlan, protocol, src, dst, src_ports, dst_ports in itertools.product(
        rule.ethertypes or (None,),
        rule.vlans or (None,),
        rule.protocols or (None,),
        rule.src or (None,),
        rule.dst or (None,),
        rule.src_ports or (None,),
        rule.dst_ports or (None,),
    ):
        asked = {ethertype, protocol.ethertype if protocol else None, _ethertype_of(src), _ethertype_of(dst)}
        asked.discard(None)
        needs_ip = protocol is not None or src is not None or dst is not None
        if len(asked) <= 1 and (not needs_ip or asked <= {IPV4, IPV6}):
            number = protocol.number if protocol else None
            yield Alternative(next(iter(asked), None), vlan, number, src, dst, src_ports, dst_ports)


def _ethertype_of(network: Network | None) -> int | None:
    return None if network is None else IPV4 if network.version == 4 else IPV6


def read_firewall(section: Section, parse_peer: Callable[[str], str]) -> FirewallSection:
    """The section as it is written; mistakes are noted in its document.

    :param parse_peer: the name of the peer that a text means; ValueError if there is none.
    """
    example = "deny"
    rules = section.sections("rules", _RULE_KEYS)
    tests = section.sections("tests", _TEST_KEYS)
    found = FirewallSection(
        inbound=section.text("inbound", _action, example),
        outbound=section.text("outbound", _action, "allow", "allow"),
        rules=tuple(_rule(rule, parse_peer) for rule in rules),
        tests=tuple(_test(test, parse_peer) for test in tests),
    )
    if len(rules) > MAX_RULES:
        section.refuse("rules", f"has {len(rules)} rules, and {MAX_RULES} are the most")
    if len(tests) > MAX_TESTS:
        section.refuse("tests", f"has {len(tests)} tests, and {MAX_TESTS} are the most")
    return found


def check_rules(section: Section, firewall: FirewallSection) -> None:
    """What takes all values of a rule to see; only for a section that was read without a refusal."""
    total = 0
    for place, rule in zip(section.sections("rules", _RULE_KEYS), firewall.rules, strict=True):
        if rule.src_ports or rule.dst_ports:
            key = "dst_port" if rule.dst_ports else "src_port"
            _check_ports(place, key, rule.protocols)
        total += _product(rule)
        if total > MAX_ALTERNATIVES:
            place.refuse("name", f"the lists of the rules make more than {MAX_ALTERNATIVES} combinations")
            return
        if not any(alternatives(rule)):
            given = ", ".join(key for key in CONDITIONS if place.has(key))
            place.refuse("action", f"the rule can never match: no frame has all of {given}")


def _product(rule: Rule) -> int:
    total = 1
    for values in (
        rule.src,
        rule.dst,
        rule.protocols,
        rule.src_ports,
        rule.dst_ports,
        rule.ethertypes,
        rule.vlans,
    ):
        total *= max(1, len(values))
    return total


def _check_ports(place: Section, key: str, protocols: tuple[Protocol, ...]) -> None:
    if not protocols:
        place.refuse(key, "a port needs its protocol beside it; for example: proto: [tcp, udp]")
    elif any(protocol.number not in (TCP, UDP) for protocol in protocols):
        place.refuse(key, "only tcp and udp have ports; give the other protocols a rule of their own")


def _rule(section: Section, parse_peer: Callable[[str], str]) -> Rule:
    return Rule(
        line=section.line,
        action=section.text("action", _action, "allow"),
        direction=section.text("direction", parse_direction, "in"),
        name=section.text("name", _label, "ssh", ""),
        peers=section.words("peers", parse_peer, "[bob]"),
        groups=section.words("groups", parse_group, "[admin]"),
        src=section.words("src", parse_network, "[10.77.0.0/24]"),
        dst=section.words("dst", parse_network, "[10.77.0.1]"),
        protocols=section.words("proto", parse_protocol, "tcp"),
        src_ports=section.words("src_port", parse_ports, "1024-65535"),
        dst_ports=section.words("dst_port", parse_ports, "[22, 8000-8080]"),
        ethertypes=section.words("ethertype", parse_ethertype, "arp"),
        vlans=section.words("vlan", parse_vlan, "[10, none]"),
    )


def _test(section: Section, parse_peer: Callable[[str], str]) -> RuleTest:
    return RuleTest(
        line=section.line,
        place=section.path("expect").removesuffix(".expect"),
        expect=section.text("expect", _action, "allow"),
        question=Question(
            direction=section.text("direction", parse_direction, "in"),
            peer=section.text("peer", parse_peer, "bob"),
            groups=section.words("groups", parse_group, "[admin]"),
            src=_only(section, "src", parse_address, "10.77.0.2"),
            dst=_only(section, "dst", parse_address, "10.77.0.1"),
            protocol=_only(section, "proto", parse_protocol, "tcp"),
            src_port=_only(section, "src_port", parse_port, "50000"),
            dst_port=_only(section, "dst_port", parse_port, "22"),
            ethertype=_only(section, "ethertype", parse_ethertype, "arp"),
            vlan=_only(section, "vlan", parse_vlan, "10") or UNTAGGED,
        ),
    )


def _only(section: Section, key: str, parse: Callable[[str], T], example: str) -> T | None:
    values = section.words(key, parse, example)
    if len(values) > 1:
        section.refuse(key, "a test is one frame, so there is one value here", example)
    return values[0] if values else None


def _action(text: str) -> Action:
    if text not in ("allow", "deny"):
        raise ValueError(f"{text!r} is neither allow nor deny")
    return cast("Action", text)


def parse_direction(text: str) -> Direction:
    """`in` from peers to this machine, `out` from it to them."""
    if text not in ("in", "out"):
        raise ValueError(f"{text!r} is neither in nor out")
    return cast("Direction", text)


def _label(text: str) -> str:
    if not 1 <= len(text) <= 60 or not text.isprintable():
        raise ValueError("a rule's name has 1 to 60 printable characters")
    return text


def parse_group(text: str) -> str:
    """A group: letters as in a name, so that a membership certificate can hold it."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise ValueError(
            f"{text!r} is not a group; a group is 1 to 63 lower-case letters, digits and inner hyphens"
        )
    return text


def parse_network(text: str) -> Network:
    """An address or a prefix; bits behind the prefix length are a mistake."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        right = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is neither an address nor a prefix of IPv4 or IPv6") from None
    raise ValueError(f"{text} has bits behind its prefix length; the prefix is {right}")


def parse_address(text: str) -> IpAddress:
    """One address."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None


def parse_protocol(text: str) -> Protocol:
    """tcp, udp, icmp, icmpv6 or a number of IANA's list."""
    named = {
        "tcp": Protocol("tcp", TCP),
        "udp": Protocol("udp", UDP),
        "icmp": Protocol("icmp", ICMP, IPV4),
        "icmpv6": Protocol("icmpv6", ICMPV6, IPV6),
    }
    if text in named:
        return named[text]
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > 255:
        raise ValueError(f"{text!r} is none of tcp, udp, icmp, icmpv6 and no number from 0 to 255")
    return Protocol({TCP: "tcp", UDP: "udp"}.get(int(text), text), int(text))


def parse_port(text: str) -> int:
    """One port number."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def parse_ports(text: str) -> Ports:
    """A port, or a range LOW-HIGH."""
    low, dash, high = text.partition("-")
    ports = Ports(parse_port(low.strip()), parse_port(high.strip() if dash else low.strip()))
    if ports.low > ports.high:
        raise ValueError(f"the range {text} is empty; is it {ports.high}-{ports.low}?")
    return ports


def parse_ethertype(text: str) -> int:
    """arp, ipv4, ipv6, or a number, usually 0x and four digits."""
    if text in _ETHERTYPES:
        return _ETHERTYPES[text]
    number = int(text, 0) if re.fullmatch(r"0x[0-9a-fA-F]{1,4}|[1-9][0-9]{3,4}", text) else 0
    if number in (0x8100, 0x88A8):
        raise ValueError(f"{text} is a VLAN tag: say what is behind it, and the id with vlan:")
    if not 0x0600 <= number <= 0xFFFF:
        raise ValueError(f"{text!r} is none of arp, ipv4, ipv6 and no number from 0x0600 to 0xffff")
    return number


def parse_tag(text: str) -> int:
    """A VLAN id (IEEE 802.1Q-2018 table 9-2)."""
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 4094:
        raise ValueError(f"{text!r} is not a VLAN id, which is 1 to 4094")
    return int(text)


def parse_vlan(text: str) -> int:
    """An id from 1 to 4094, or `none` for frames without a tag."""
    if text == "none":
        return UNTAGGED
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 4094:
        raise ValueError(f"{text!r} is neither none nor a VLAN id from 1 to 4094")
    return int(text)
