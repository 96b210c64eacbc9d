"""Candidates: addresses at which a peer might be reached, and which addresses never are one.

Knows nothing of whether one answers; that is `paths.py`.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shadowmesh.units import Address
from shadowmesh.wire.messages import MAX_CANDIDATES, CandidateAddress
from shadowmesh.wire.payload import host_bytes, host_text

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network

PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
)
"""Addresses that are used inside one network only. Source: RFC 1918, RFC 3927, RFC 4193, RFC 4291."""


class CandidateKind(enum.Enum):
    """How an address became known; the value is what CANDIDATES and `status` say."""

    LOCAL = "local"
    """Of an interface of that machine."""
    OBSERVED = "observed"
    """Where a relay or a peer saw that machine's packets come from."""
    MAPPED = "mapped"
    """Asked for at that machine's router (PCP, NAT-PMP, UPnP)."""
    STATIC = "static"
    """From the configuration: `endpoint:`."""
    PEER = "peer"
    """Authentic packets of the peer came from there."""


class Candidate(NamedTuple):
    """One address, and where we have it from."""

    address: Address
    kind: CandidateKind


def usable(address: Address, own_prefixes: Iterable[Prefix]) -> bool:
    """Whether packets may be sent there at all.

    Never to loopback, multicast, broadcast, the unspecified or a reserved address, link-local without a
    zone, port 0, or into `own_prefixes`: the overlay's own, and whatever is routed through our own TAP.
    """
    host, _, zone = address.host.partition("%")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    refused = ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_reserved
    in_this_network = ip.version == 4 and ip.packed[0] == 0  # RFC 1122 section 3.2.1.3
    if refused or in_this_network or not 0 < address.port < 65536 or (ip.is_link_local and not zone):
        return False
    return not any(ip in prefix for prefix in own_prefixes)


def is_private(host: str) -> bool:
    """Whether an address without port (perhaps with a zone) is one of `PRIVATE`."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    return any(ip in network for network in PRIVATE)


def merge(
    lists: Sequence[Iterable[Candidate]], own_prefixes: Sequence[Prefix] = (), most: int = MAX_CANDIDATES
) -> list[Candidate]:
    """The usable candidates of all lists, each address once, earlier lists first, at most `most`."""
    merged: dict[Address, Candidate] = {}
    for candidates in lists:
        for candidate in candidates:
            if len(merged) < most and usable(candidate.address, own_prefixes):
                merged.setdefault(candidate.address, candidate)
    return list(merged.values())


def to_wire(candidates: Iterable[Candidate]) -> list[CandidateAddress]:
    """As CANDIDATES carries them; link-local ones stay here, their zone means nothing to the peer."""
    return [
        CandidateAddress(host=host_bytes(one.address.host), port=one.address.port, kind=one.kind.value)
        for one in candidates
        if "%" not in one.address.host
    ]


def from_wire(addresses: Iterable[CandidateAddress]) -> list[Candidate]:
    """The inverse; a kind that we do not know counts as observed."""
    known = {kind.value: kind for kind in CandidateKind}
    return [
        Candidate(Address(host_text(one.host), one.port), known.get(one.kind, CandidateKind.OBSERVED))
        for one in addresses
    ]
