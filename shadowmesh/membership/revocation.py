"""Revocation lists: numbered, signed, and only ever replaced by one with a higher number.

A list names NodeIDs (all certificates of a node) and serials (one certificate).  `valid_until` says by when
the authority means to have issued the next one; an older list still counts, and its age is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated

import msgspec

from shadowmesh.crypto.authority_key import AuthorityKey
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.certificate import Certificate, Serial
from shadowmesh.membership.network import Network
from shadowmesh.membership.signed import (
    Bytes32,
    Critical,
    Kind,
    Seconds,
    Signed,
    decode_body,
    refuse_critical,
)
from shadowmesh.units import NodeId

MAX_REVOKED = 1024
"""NodeIDs, and serials, of one list: it travels in one message."""


class _Body(msgspec.Struct, kw_only=True, frozen=True):
    network: Bytes32
    number: Serial
    issued: Seconds
    valid_until: Seconds
    nodes: Annotated[list[Bytes32], msgspec.Meta(max_length=MAX_REVOKED)] = []
    serials: Annotated[list[Serial], msgspec.Meta(max_length=MAX_REVOKED)] = []
    critical: Critical = []


@dataclass(frozen=True)
class RevocationList:
    """A list whose signature holds."""

    number: int
    issued: int
    valid_until: int
    nodes: frozenset[NodeId]
    serials: frozenset[int]
    document: bytes

    @classmethod
    def make(
        cls,
        network: Network,
        key: AuthorityKey,
        number: int,
        issued: int,
        valid_until: int,
        nodes: Collection[NodeId],
        serials: Collection[int],
    ) -> RevocationList:
        """Sign a list. Raises ValueError if it is too long."""
        body = _Body(
            network=network.id,
            number=number,
            issued=issued,
            valid_until=valid_until,
            nodes=sorted(nodes),
            serials=sorted(serials),
        )
        try:
            return cls.parse_untrusted(Signed.make(Kind.REVOCATIONS, body, key).encode(), network)
        except BadPacket:
            raise ValueError(
                f"a revocation list holds {MAX_REVOKED} NodeIDs and {MAX_REVOKED} serials"
            ) from None

    @staticmethod
    def number_untrusted(data: bytes, network: Network) -> int:
        """The number that a list claims to have. Raises BadPacket, NotMember("wrong_network")."""
        body = decode_body(Signed.parse_untrusted(data, Kind.REVOCATIONS), _Body)
        if body.network != network.id:
            raise NotMember("wrong_network", f"the revocation list is of another network than {network.name}")
        return body.number

    @classmethod
    def parse_untrusted(cls, data: bytes, network: Network) -> RevocationList:
        """Read and verify. Raises BadPacket, NotMember("wrong_network", "forged", "unknown_critical")."""
        cls.number_untrusted(data, network)
        signed = Signed.parse_untrusted(data, Kind.REVOCATIONS)
        body = decode_body(signed, _Body)
        network.verify_list(signed, body.number)
        refuse_critical(body.critical)
        return cls(
            body.number, body.issued, body.valid_until, frozenset(body.nodes), frozenset(body.serials), data
        )


class Revocations:
    """The newest list that this node has seen.

    :param kept: what `keep` was called with last, empty if never. Raises as `parse_untrusted` does.
    :param keep: writes a list down; called before the list is acted on, so that a restart can't roll it back.
    """

    def __init__(self, network: Network, kept: bytes, keep: Callable[[bytes], None]) -> None:
        self.current = RevocationList.parse_untrusted(kept, network) if kept else None
        self._network = network
        self._keep = keep

    def adopt(self, network: Network) -> None:
        """The authority has a new key, which says up to which number lists of the former one count.

        A list beyond that is of whoever stole the former key: it counts no longer.
        """
        self._network = network
        if self.current is not None:
            try:
                self.current = RevocationList.parse_untrusted(self.current.document, network)
            except NotMember:
                self.current = None

    @property
    def number(self) -> int:
        """Of the newest list; 0 while there is none."""
        return self.current.number if self.current else 0

    @property
    def revoked(self) -> str:
        """What whoever the list names is, for people."""
        return f"revoked (list {self.number} of {self._network.name})"

    def merge_untrusted(self, data: bytes) -> bool:
        """Take a list that somebody sent; returns whether it is newer. Raises BadPacket, NotMember."""
        # The number first: an old list, however often it comes, costs no signature check.
        if RevocationList.number_untrusted(data, self._network) <= self.number:
            return False
        offered = RevocationList.parse_untrusted(data, self._network)
        self._keep(data)
        self.current = offered
        return True

    def revokes(self, certificate: Certificate) -> bool:
        """Whether the list names this certificate or its node."""
        current, body = self.current, certificate.body
        return current is not None and (body.node in current.nodes or body.serial in current.serials)

    def refuse(self, certificate: Certificate) -> None:
        """Raises NotMember("revoked") if `revokes`."""
        if self.revokes(certificate):
            raise NotMember("revoked", f"{certificate.body.name} is {self.revoked}")
