"""Whose the overlay addresses are: what each peer may send from, by configuration and certificates.

Fills the tables of the data plane, which enforces it frame by frame (`ext/origin.pyx`), and sees that no two
peers own the same address: ours goes before those of the configuration, these before certificates, and of
certificates the one with the higher serial counts, since the authority gave the address out anew.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shadowmesh.membership.certificate import Certificate
from shadowmesh.overlay.ownership import link_local, packed_prefix
from shadowmesh.units import RIGHT_BRIDGE, RIGHT_DHCP, RIGHT_RA

OURSELVES = 0
"""Handle of this node, which no peer has."""


class OwnerTables(Protocol):
    """What the data plane has to know."""

    def set_own_addresses(self, addresses: Sequence[bytes]) -> None: ...
    def set_sources(
        self, peer: int, prefixes: Sequence[bytes], *, others: bool, dhcp: bool, router: bool
    ) -> None: ...
    def set_bridging(self, peer: int, allowed: bool) -> None: ...


@dataclass
class _Owner:
    hosts: frozenset[str]
    """By its MAC and the configuration."""
    rights: frozenset[str]
    unchecked: bool
    routes: frozenset[str]
    """Prefixes behind it, by the configuration."""
    certificate: Certificate | None = None
    gone: bool = False
    ranks: dict[str, float] = field(default_factory=dict)
    """What it claims: each address, and how much the claim counts."""

    def all_rights(self) -> frozenset[str]:
        """Of the configuration and the certificate."""
        if self.gone:
            return frozenset()
        return self.rights.union(self.certificate.body.rights if self.certificate is not None else ())

    def claims(self) -> dict[str, float]:
        """What it would own if nobody else claimed it."""
        if self.gone:
            return {}
        ranks = {}
        if self.certificate is not None:
            serial = float(self.certificate.body.serial)
            ranks = {str(ipaddress.ip_address(host)): serial for host in self.certificate.hosts}
        return ranks | dict.fromkeys(self.hosts, math.inf)


class Owners:
    """One per node.

    :param own: our addresses on the overlay, with or without prefix length.
    :param mac: ours.
    """

    def __init__(self, tables: OwnerTables, own: Iterable[str], mac: bytes) -> None:
        self._tables = tables
        self._peers: dict[int, _Owner] = {}
        self._claimants: dict[str, dict[int, float]] = {}
        addresses = {str(ipaddress.ip_interface(text).ip) for text in own} | {link_local(mac)}
        for address in addresses:
            self._claimants[address] = {OURSELVES: math.inf}
        tables.set_own_addresses([packed_prefix(address) for address in sorted(addresses)])

    def add(
        self,
        handle: int,
        mac: bytes,
        addresses: Iterable[str],
        rights: Iterable[str],
        unchecked: bool,
        routes: Iterable[str] = (),
    ) -> None:
        """A peer, before anything is received from it.

        :param addresses: that the configuration gives it; they are its own as soon as it is known.
        :param unchecked: it may send from whatever nobody else owns.
        :param routes: prefixes of hosts behind it, for which it sends too.
        """
        hosts = frozenset(str(ipaddress.ip_address(text)) for text in addresses)
        self._peers[handle] = _Owner(
            hosts | {link_local(mac)}, frozenset(rights), unchecked, frozenset(routes)
        )
        self._claim(handle)

    def certify(self, handle: int, certificate: Certificate) -> list[str]:
        """The certificate that counts for this peer now; returns what of its addresses is somebody else's."""
        owner = self._peers[handle]
        owner.certificate = certificate
        self._claim(handle)
        return sorted(host for host in owner.ranks if self._owner_of(host) != handle)

    def withdraw(self, handle: int) -> None:
        """It is revoked: it owns nothing any more."""
        if not self._peers[handle].gone:
            self._peers[handle].gone = True
            self._claim(handle)

    def hosts(self, handle: int) -> list[str]:
        """Addresses that are this peer's own now."""
        return sorted(host for host in self._peers[handle].ranks if self._owner_of(host) == handle)

    def is_owned(self, host: str) -> bool:
        """Whether this address (in its usual form) is ours or a peer's."""
        return self._owner_of(host) is not None

    def may_bridge(self, handle: int) -> bool:
        """Whether it may have stations behind it."""
        return RIGHT_BRIDGE in self._peers[handle].all_rights()

    def _owner_of(self, host: str) -> int | None:
        """Of equal claims the first."""
        claimants = self._claimants.get(host, {})
        return max(claimants, key=lambda handle: claimants[handle], default=None)

    def _claim(self, handle: int) -> None:
        """Install what has changed for everybody; who loses an address comes first, who gains one last."""
        owner = self._peers[handle]
        wanted = owner.claims()
        touched = wanted.keys() | owner.ranks.keys()
        before = {host: self._owner_of(host) for host in touched}
        for host in touched:
            claimants = self._claimants.setdefault(host, {})
            claimants.pop(handle, None)
            if host in wanted:
                claimants[handle] = wanted[host]
            if not claimants:
                del self._claimants[host]
        owner.ranks = wanted
        after = {host: self._owner_of(host) for host in touched}
        for other in {before[host] for host in touched if after[host] == handle} - {handle, None, OURSELVES}:
            self._install(other)
        self._install(handle)
        for other in {after[host] for host in touched if before[host] == handle} - {handle, None}:
            self._install(other)

    def _install(self, handle: int | None) -> None:
        assert handle is not None
        owner = self._peers[handle]
        granted = self.hosts(handle)
        rights = owner.all_rights()
        routes = [] if owner.gone else sorted(owner.routes)
        if owner.certificate is not None and not owner.gone:
            routes += [str(ipaddress.ip_network(text)) for text in owner.certificate.body.routes]
        self._tables.set_sources(
            handle,
            [packed_prefix(text) for text in granted + routes],
            others=(owner.unchecked and not owner.gone) or RIGHT_BRIDGE in rights,
            dhcp=RIGHT_DHCP in rights,
            router=RIGHT_RA in rights,
        )
        self._tables.set_bridging(handle, RIGHT_BRIDGE in rights)
