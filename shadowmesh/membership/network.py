"""The public part of a network: its name, the authority's keys, its subnets, and where its relays are.

Signed by the authority itself.  What people compare is the network's id, the hash of both keys: whoever
holds the right id can take everything else from a copy that came over any way. It stays when the authority
takes new keys: the links of `rotation.py` follow the document, and prove them.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from shadowmesh.crypto.authority_key import AuthorityKey, AuthorityPublic, NetworkId
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.rotation import Former, Link, check_chain, split_untrusted
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
from shadowmesh.values import parse_host_port, parse_name, parse_tcp

Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_SUBNETS = 8
MAX_RELAYS = 8


class NetworkRelay(msgspec.Struct, frozen=True, omit_defaults=True):
    """A relay that serves the network."""

    address: Text
    """`host:port`."""
    id: Bytes32
    tcp: Text = ""
    """`host:port` where it takes WebSockets over TLS; empty if it does not."""


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
    """With its links."""
    links: tuple[bytes, ...] = ()
    former: tuple[Former, ...] = ()
    """The keys that the authority had before, the first one first."""

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
        data = cls._signed(name, subnets, relays, key, issued)
        try:
            return cls.parse_untrusted(data)
        except BadPacket:
            raise ValueError("a name, subnet or relay of the network is not one") from None

    @staticmethod
    def _signed(
        name: str, subnets: Sequence[Subnet], relays: Sequence[NetworkRelay], key: AuthorityKey, issued: int
    ) -> bytes:
        body = _Body(
            name=name,
            ed25519=key.public.ed25519,
            mldsa=key.public.mldsa,
            subnets=[str(subnet) for subnet in subnets],
            relays=list(relays),
            issued=issued,
        )
        return Signed.make(Kind.NETWORK, body, key).encode()

    def rotated(self, old: AuthorityKey, new: AuthorityKey, issued: int, until: int, lists: int) -> Network:
        """The same network with a new key of its authority, by word of the old one. Raises ValueError.

        :param until: what the old key signed counts so long; seconds since 1970.
        :param lists: number of the old key's last revocation list.
        """
        link = Link.make(self.id, len(self.links) + 1, old, new.public, issued, until, lists)
        data = self._signed(self.name, self.subnets, self.relays, new, issued)
        return self.parse_untrusted(b"".join((data, *self.links, link.signed.encode())))

    @classmethod
    def parse_untrusted(cls, data: bytes) -> Network:
        """Read and verify. Raises BadPacket, NotMember("forged", "unknown_critical")."""
        document, *rest = split_untrusted(data) or [b""]
        signed = Signed.parse_untrusted(document, Kind.NETWORK)
        body = decode_body(signed, _Body)
        links = [Link.parse_untrusted(link) for link in rest]
        authority = AuthorityPublic(body.ed25519, body.mldsa)
        network_id = check_chain(links, authority)
        signed.verify(authority)
        refuse_critical(body.critical)
        try:
            subnets = tuple(ipaddress.ip_network(text) for text in body.subnets)
            parse_name(body.name)
            for relay in body.relays:
                parse_host_port(relay.address)
                if relay.tcp:
                    parse_tcp(relay.tcp)
        except ValueError:
            raise BadPacket("malformed_document") from None
        former = tuple(link.former for link in links)
        relays = tuple(body.relays)
        return cls(network_id, body.name, authority, subnets, relays, data, tuple(rest), former)

    def verify(self, signed: Signed, now: float) -> None:
        """Raises NotMember("forged", "former_authority") unless a key of the authority that counts signed."""
        if self.authority.verifies(signed.signature, signed.content):
            return
        if now > self.signer_until(signed):
            text = "the authority has a new key since it signed this; have it signed again"
            raise NotMember("former_authority", text)

    def signer_until(self, signed: Signed) -> float:
        """Until when the key counts that signed it, in seconds since 1970. Raises NotMember("forged")."""
        if self.authority.verifies(signed.signature, signed.content):
            return math.inf
        return self._former(signed).until

    def verify_list(self, signed: Signed, number: int) -> None:
        """Raises NotMember("forged", "former_authority") unless this is a list of the key of its time."""
        if self.authority.verifies(signed.signature, signed.content):
            return
        if number > self._former(signed).lists:
            raise NotMember("former_authority", "the authority had a new key when this list was signed")

    def _former(self, signed: Signed) -> Former:
        for former in self.former:
            if former.public.verifies(signed.signature, signed.content):
                return former
        raise NotMember("forged", "the authority of this network has not signed it")

    def subnet_of(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Subnet | None:
        """The subnet that an address is in."""
        return next((subnet for subnet in self.subnets if address in subnet), None)


def _alike(one: Subnet, other: Subnet) -> bool:
    return one.version == other.version
