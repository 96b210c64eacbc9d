"""The rules of the firewall for the data plane: arrays of its structures, and each member's class.

Peers that the same rules name are one class, with its own order of entries, so that no thread ever looks at
names or groups. What depends on the rules alone is made once; a member that comes or changes costs its class,
and an order of entries only if no member was named by just these rules before. Decides nothing (firewall.py).
"""

from __future__ import annotations

import struct
from array import array
from typing import NamedTuple

from shadowmesh._ext.firewall import WallLayout
from shadowmesh.rules import ANY_PORT, Alternative, FirewallSection, Network, Rule, alternatives

MAX_PEERS = 4096
"""Peers are numbered below that in the data plane."""

SPARE_CLASSES = 64
"""Kinds of members beyond two for each member that are kept before those that nobody is of are forgotten."""

_ENTRY = struct.Struct("=8Q4H4HH6x")
_SPAN = struct.Struct("=4I")
_Label = tuple[str, str, frozenset[str]]


class Party(NamedTuple):
    """A member as rules name it. `number`: of the peer in the data plane."""

    name: str
    node_id: str
    groups: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    number: int = 0


class Compiled(NamedTuple):
    """The rules as arrays of the data plane's structures (ext/firewall.pyx), native byte order."""

    rules: int
    entries: bytes
    order: bytes
    spans: bytes
    classes: bytes
    inbound: bool
    outbound: bool


def names(rule: Rule, party: Party) -> bool:
    """Is the rule about this member?"""
    if not rule.peers and not rule.groups:
        return True
    return (
        party.name in rule.peers
        or party.node_id in rule.peers
        or not set(rule.groups).isdisjoint(party.groups)
    )


class Compiler:
    """The tables of these rules, for members that are put in one by one."""

    def __init__(self, section: FirewallSection) -> None:
        self._section = section
        self._named = {name for rule in section.rules for name in rule.peers}
        self._groups = {group for rule in section.rules for group in rule.groups}
        entries: list[bytes] = []
        self._of_rule: list[range] = []
        for number, rule in enumerate(section.rules):
            made = [_entry(number, rule, alternative) for alternative in alternatives(rule)]
            self._of_rule.append(range(len(entries), len(entries) + len(made)))
            entries += made
        self._entries = b"".join(entries)
        self._parties: dict[int, Party] = {}
        self._begin()

    def _begin(self) -> None:
        """Class 0 is of whom no rule names."""
        self._order = array("H")
        self._spans = bytearray()
        self._classes = array("H", bytes(2 * MAX_PEERS))
        self._of_label: dict[_Label, int] = {}
        self._known: dict[bytes, int] = {}
        self._add(bytes(not rule.peers and not rule.groups for rule in self._section.rules))

    def put(self, party: Party) -> bool:
        """A member, or what is known of one now; whether that changes the tables."""
        self._parties[party.number] = party
        before = self._classes[party.number]
        if len(self._of_label) >= min(2 * len(self._parties) + SPARE_CLASSES, MAX_PEERS - 1):
            self._begin()
            for one in self._parties.values():
                self._classes[one.number] = self._class_of(one)
            return True
        self._classes[party.number] = self._class_of(party)
        return self._classes[party.number] != before

    def compiled(self) -> Compiled:
        """For `Engine.set_firewall`."""
        return Compiled(
            rules=len(self._section.rules),
            entries=self._entries,
            order=self._order.tobytes(),
            spans=bytes(self._spans),
            classes=self._classes.tobytes(),
            inbound=self._section.inbound == "allow",
            outbound=self._section.outbound == "allow",
        )

    def _class_of(self, party: Party) -> int:
        label = (
            party.name if party.name in self._named else "",
            party.node_id if party.node_id in self._named else "",
            frozenset(self._groups.intersection(party.groups)),
        )
        found = self._of_label.get(label)
        if found is None:
            named = bytes(names(rule, party) for rule in self._section.rules)
            found = self._known[named] if named in self._known else self._add(named)
            self._of_label[label] = found
        return found

    def _add(self, named: bytes) -> int:
        """A new class, which is asked the rules where `named` is 1."""
        bounds = []
        for direction in ("in", "out"):
            first = len(self._order)
            for rule, asked, span in zip(self._section.rules, named, self._of_rule, strict=True):
                if asked and rule.direction == direction:
                    self._order.extend(span)
            bounds.append((first, len(self._order) - first))
        (first_in, count_in), (first_out, count_out) = bounds
        self._spans += _SPAN.pack(first_in, first_out, count_in, count_out)
        return self._known.setdefault(named, len(self._known))


def _entry(number: int, rule: Rule, one: Alternative) -> bytes:
    flags = WallLayout.FLAG_ALLOW if rule.action == "allow" else 0
    flags |= WallLayout.FLAG_ETHERTYPE if rule.ethertypes else 0
    flags |= WallLayout.FLAG_ADDRESSES if one.src or one.dst else 0
    flags |= WallLayout.FLAG_PORTS if one.src_ports or one.dst_ports else 0
    vlan = WallLayout.ANY_VLAN if one.vlan is None else one.vlan or WallLayout.UNTAGGED
    return _ENTRY.pack(
        *_prefix(one.src),
        *_prefix(one.dst),
        WallLayout.ANY_ETHERTYPE if one.ethertype is None else one.ethertype,
        vlan,
        WallLayout.ANY_PROTOCOL if one.protocol is None else one.protocol,
        flags,
        *(one.src_ports or ANY_PORT),
        *(one.dst_ports or ANY_PORT),
        number,
    )


def _prefix(network: Network | None) -> tuple[int, int, int, int]:
    """Address and mask, each as two words; IPv4 as ::ffff:a.b.c.d."""
    if network is None:
        return 0, 0, 0, 0
    address, mask = int(network.network_address), int(network.netmask)
    if network.version == 4:
        address |= 0xFFFF << 32
        mask |= (1 << 128) - (1 << 32)
    return address >> 64, address & (1 << 64) - 1, mask >> 64, mask & (1 << 64) - 1
