"""The members that a node knows, by its configuration or by their certificates: NodeIDs, names, addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from shadowmesh.crypto.identity import node_id_text
from shadowmesh.units import Address, NodeId

MIN_PREFIX = 10
"""Characters of a NodeID that are enough to name a member, if no other begins with them: what tables show."""


@dataclass(frozen=True)
class Member:
    """One member: its name, NodeID and overlay addresses (textual, without prefix length)."""

    name: str
    node_id: NodeId
    addresses: tuple[str, ...]
    endpoint: Address | None = None
    """Underlay address where it can be reached directly, if the configuration says so."""
    groups: tuple[str, ...] = ()
    """Of its certificate."""


class Roster:
    """Looks members up by what people and packets call them."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._by_node: dict[NodeId, Member] = {}
        self._by_label: dict[str, Member] = {}
        for member in members:
            self.put(member)

    @property
    def members(self) -> tuple[Member, ...]:
        """All of them, in the order in which they came."""
        return tuple(self._by_node.values())

    def put(self, member: Member) -> None:
        """A new member, or what is known of one now. A name or address that it takes over is its own."""
        known = self._by_node.get(member.node_id)
        self._by_label = {label: one for label, one in self._by_label.items() if one is not known}
        self._by_node[member.node_id] = member
        self._by_label[member.name] = member
        for address in member.addresses:
            self._by_label[_canonical(address)] = member

    def __contains__(self, node_id: object) -> bool:
        return node_id in self._by_node

    def find(self, label: str) -> Member | None:
        """The member with this name, overlay address or NodeID (in either case, or how only one begins)."""
        return self._by_label.get(label) or self._by_label.get(_canonical(label)) or self._of_id(label)

    def _of_id(self, text: str) -> Member | None:
        if len(text) < MIN_PREFIX:
            return None
        matching = [one for one in self.members if node_id_text(one.node_id).startswith(text.lower())]
        return matching[0] if len(matching) == 1 else None


def _canonical(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address
