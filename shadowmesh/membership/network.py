"""The public part of a network: its name, the authority's keys, its subnets, and where its relays are.

Signed by the authority itself.  What people compare is the network's id, the hash of both keys: whoever
holds the right id can take everything else from a copy that came over any way.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from shadowmesh.config import parse_host_port, parse_name
from shadowmesh.crypto.authority_key import AuthorityKey, AuthorityPublic, NetworkId
from shadowmesh.errors import BadPacket
from shadowmesh.membership.signed import (
    Bytes32,
    Critical,
    Kind,
    Seconds,
    Signed,
    Text,
    decode_body,
    refuse_critical,
)

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_SUBNETS = 8
MAX_RELAYS = 8


class NetworkRelay(msgspec.Struct, frozen=True):
    """A relay that serves the network."""

    address: Text
    """`host:port`."""
    id: Bytes32


class _Body(msgspec.Struct, kw_only=True, frozen=True):
    name: Text
    ed25519: Bytes32
    mldsa: Annotated[bytes, msgspec.Meta(min_length=2592, max_length=2592)]
    subnets: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=MAX_SUBNETS)]
    relays: Annotated[list[NetworkRelay], msgspec.Meta(max_length=MAX_RELAYS)] = []
    issued: Seconds
    critical: Critical = []


@dataclass(frozen=True)
class Network:
    """A network whose signature holds."""

    id: NetworkId
    name: str
    authority: AuthorityPublic
    subnets: tuple[Subnet, ...]
    relays: tuple[NetworkRelay, ...]
    document: bytes

    @classmethod
    def make(
        cls,
        name: str,
        subnets: Sequence[Subnet],
        relays: Sequence[NetworkRelay],
        key: AuthorityKey,
        issued: int,
    ) -> Network:
        """Sign a new public part. Raises ValueError for what `parse_untrusted` would not take."""
        if not subnets or any(
            a.overlaps(b) for i, a in enumerate(subnets) for b in subnets[:i] if _alike(a, b)
        ):
            raise ValueError("a network needs subnets, and they must not overlap")
        body = _Body(
            name=name,
            ed25519=key.public.ed25519,
            mldsa=key.public.mldsa,
            subnets=[str(subnet) for subnet in subnets],
            relays=list(relays),
            issued=issued,
        )
        try:
            return cls.parse_untrusted(Signed.make(Kind.NETWORK, body, key).encode())
        except BadPacket:
            raise ValueError("a name, subnet or relay of the network is not one") from None

    @classmethod
    def parse_untrusted(cls, data: bytes) -> Network:
        """Read and verify. Raises BadPacket, NotMember("forged", "unknown_critical")."""
        signed = Signed.parse_untrusted(data, Kind.NETWORK)
        body = decode_body(signed, _Body)
        authority = AuthorityPublic(body.ed25519, body.mldsa)
        signed.verify(authority)
        refuse_critical(body.critical)
        try:
            subnets = tuple(ipaddress.ip_network(text) for text in body.subnets)
            parse_name(body.name)
            for relay in body.relays:
                parse_host_port(relay.address)
        except ValueError:
            raise BadPacket("malformed_document") from None
        return cls(authority.network_id, body.name, authority, subnets, tuple(body.relays), data)

    def subnet_of(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Subnet | None:
        """The subnet that an address is in."""
        return next((subnet for subnet in self.subnets if address in subnet), None)


def _alike(one: Subnet, other: Subnet) -> bool:
    return one.version == other.version
