"""The authority at work: signs certificates, gives addresses out, revokes; sans-I/O.

What it must remember is the ledger: everybody who was ever signed for.  Whoever holds the key keeps the
ledger beside it, and writes it down before a certificate or list leaves the machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from shadowmesh.config import parse_node_id
from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.crypto.identity import node_id_text
from shadowmesh.membership.certificate import Certificate, CertificateBody
from shadowmesh.membership.network import Network, Subnet
from shadowmesh.membership.revocation import RevocationList
from shadowmesh.units import NodeId

DAY = 86_400
BACKDATE = 3600
"""Seconds that a certificate begins before it was signed: clocks of members may be behind."""
MAX_DAYS = 3650
LIST_DAYS = 30
"""Days that a revocation list calls itself fresh."""


class Entry(msgspec.Struct, kw_only=True):
    """One node that was signed for, and its latest certificate."""

    node: str
    """52 characters."""
    name: str
    addresses: list[str]
    routes: list[str] = []
    groups: list[str] = []
    rights: list[str] = []
    serial: int
    not_after: int
    revoked: int | None = None
    """When; seconds since 1970."""


class Ledger(msgspec.Struct, kw_only=True):
    """What the authority remembers."""

    schema: str = "shadowmesh.ledger/1"
    network: str
    """The network's id, 52 characters."""
    next_serial: int = 1
    list_number: int = 0
    entries: list[Entry] = []
    revoked_serials: list[int] = []


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a certificate is asked for."""

    node: NodeId
    name: str
    addresses: Sequence[str] = ()
    """Without prefix length; a subnet in which none is named gives the next free one."""
    routes: Sequence[str] = ()
    groups: Sequence[str] = ()
    rights: Sequence[str] = ()
    days: int = 90


class Authority:
    """Signs for one network. Errors are ValueError, with a text that says what to do.

    :param ledger: changed in place by every success, and by nothing else.
    """

    def __init__(self, key: AuthorityKey, network: Network, ledger: Ledger) -> None:
        if key.public != network.authority or ledger.network != node_id_text(network.id):
            raise ValueError("key, network and ledger are not of one authority")
        self.ledger = ledger
        self._key = key
        self._network = network

    def sign(self, request: Request, now: float) -> Certificate:
        """A certificate from an hour ago until `request.days` from now; of a known node, its next one."""
        known = self._entry_of(request.node)
        self._check(request, known)
        addresses = self._addresses(request, known, now)
        body = CertificateBody(
            network=self._network.id,
            node=request.node,
            name=request.name,
            addresses=addresses,
            routes=list(request.routes),
            groups=sorted(set(request.groups)),
            rights=sorted(set(request.rights)),
            not_before=int(now) - BACKDATE,
            not_after=int(now) + request.days * DAY,
            serial=self.ledger.next_serial,
        )
        certificate = Certificate.make(body, self._key)
        entry = Entry(
            node=node_id_text(request.node),
            name=body.name,
            addresses=body.addresses,
            routes=body.routes,
            groups=body.groups,
            rights=body.rights,
            serial=body.serial,
            not_after=max(body.not_after, known.not_after if known else 0),
        )
        others = [one for one in self.ledger.entries if one is not known]
        self.ledger.entries = [*others, entry]
        self.ledger.next_serial += 1
        return certificate

    def revoke(self, label: str, now: float) -> RevocationList:
        """Take a node out, by its NodeID or by the name of one that is not revoked; returns the new list."""
        entry = self.find(label)
        nodes = {one.node for one in self.ledger.entries if one.revoked is not None} | {entry.node}
        made = self._list(nodes, set(self.ledger.revoked_serials), now)
        entry.revoked = int(now)
        return made

    def revoke_serial(self, serial: int, now: float) -> RevocationList:
        """Take one certificate out, and leave its node's others; returns the new list."""
        if not 1 <= serial < self.ledger.next_serial:
            raise ValueError(f"no certificate has the serial {serial}")
        nodes = {one.node for one in self.ledger.entries if one.revoked is not None}
        made = self._list(nodes, {*self.ledger.revoked_serials, serial}, now)
        self.ledger.revoked_serials = sorted({*self.ledger.revoked_serials, serial})
        return made

    def find(self, label: str) -> Entry:
        """The entry with this NodeID, or the one not revoked with this name."""
        for entry in self.ledger.entries:
            if entry.node == label.lower() or (entry.name == label and entry.revoked is None):
                return entry
        raise ValueError(f"{label} is no member of {self._network.name}; the verb `network list` shows them")

    def _list(self, nodes: set[str], serials: set[int], now: float) -> RevocationList:
        made = RevocationList.make(
            self._network,
            self._key,
            self.ledger.list_number + 1,
            int(now),
            int(now) + LIST_DAYS * DAY,
            [parse_node_id(node) for node in nodes],
            serials,
        )
        self.ledger.list_number += 1
        return made

    def _entry_of(self, node: NodeId) -> Entry | None:
        text = node_id_text(node)
        return next((entry for entry in self.ledger.entries if entry.node == text), None)

    def _check(self, request: Request, known: Entry | None) -> None:
        if known is not None and known.revoked is not None:
            raise ValueError(f"{known.name} is revoked for good; it needs a new identity to come back")
        if not 1 <= request.days <= MAX_DAYS:
            raise ValueError(f"a certificate holds 1 to {MAX_DAYS} days, not {request.days}")
        for entry in self.ledger.entries:
            if entry.name == request.name and entry is not known and entry.revoked is None:
                raise ValueError(f"the name {request.name} is that of {entry.node}; take another")

    def _addresses(self, request: Request, known: Entry | None, now: float) -> list[str]:
        """One in each subnet at least: as asked, as before, or the next free one."""
        # A revoked member's addresses are given out again when its certificate could not be used any more.
        taken = {
            text.partition("/")[0]
            for entry in self.ledger.entries
            if entry is not known and (entry.revoked is None or entry.not_after >= now)
            for text in entry.addresses
        }
        wanted = [ipaddress.ip_address(text) for text in request.addresses]
        for address in wanted:
            subnet = self._network.subnet_of(address)
            if subnet is None:
                raise ValueError(f"{address} is in no subnet of {self._network.name}")
            if address in _reserved(subnet):
                raise ValueError(f"{address} names the subnet itself, not a node in it")
            if str(address) in taken:
                raise ValueError(f"{address} belongs to another member")
        before = [ipaddress.ip_interface(text).ip for text in (known.addresses if known else [])]
        found = []
        for subnet in self._network.subnets:
            asked = [address for address in wanted if address in subnet]
            kept = [address for address in before if address in subnet]
            found += [
                f"{address}/{subnet.prefixlen}"
                for address in dict.fromkeys(asked or kept or [next(_free(subnet, taken))])
            ]
        return found


def _reserved(subnet: Subnet) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    if subnet.prefixlen >= subnet.max_prefixlen - 1:
        return set()
    return {subnet.network_address} | ({subnet.broadcast_address} if subnet.version == 4 else set())


def _free(subnet: Subnet, taken: set[str]) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Free addresses from the lowest on. Raises ValueError when there are no more."""
    yield from (address for address in subnet.hosts() if str(address) not in taken)
    raise ValueError(f"no address is free in {subnet}")
