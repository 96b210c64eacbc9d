"""New keys of an authority: links, by which each key names the next one, from the first on.

    network document | link 1 | link 2 | ...        all together are what a network is known by

The network's id stays that of its first key; the links lead from it to the key that has signed the network
document. A former key counts until a date, and for lists up to a number, that its own link names. Whether a
chain is newer than the one that is known is decided in `guard.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from shadowmesh.crypto.authority_key import AuthorityKey, AuthorityPublic, NetworkId
from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.signed import (
    HEADER_SIZE,
    SIGNATURE_SIZE,
    Bytes32,
    Critical,
    Kind,
    Seconds,
    Signed,
    decode_body,
    refuse_critical,
)

MAX_LINKS = 3
"""Rotations of one network: its documents have to fit one message. After them it takes a new network."""
MlDsaKey = Annotated[bytes, msgspec.Meta(min_length=2592, max_length=2592)]


class _Body(msgspec.Struct, kw_only=True, frozen=True):
    network: Bytes32
    number: Annotated[int, msgspec.Meta(ge=1, le=MAX_LINKS)]
    """1 for the link from the first key."""
    old_ed25519: Bytes32
    old_mldsa: MlDsaKey
    new_ed25519: Bytes32
    new_mldsa: MlDsaKey
    issued: Seconds
    until: Seconds
    """Until when what the old key signed counts."""
    lists: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    """Number of the last revocation list of the old key; one with a higher number is not its."""
    critical: Critical = []


@dataclass(frozen=True)
class Former:
    """A key that an authority had, and how far it still counts."""

    public: AuthorityPublic
    until: int
    lists: int


@dataclass(frozen=True)
class Link:
    """One link taken apart; `check_chain` says whether it holds."""

    body: _Body
    signed: Signed

    @classmethod
    def make(
        cls,
        network: NetworkId,
        number: int,
        old: AuthorityKey,
        new: AuthorityPublic,
        issued: int,
        until: int,
        lists: int,
    ) -> Link:
        """Let the old key name the new one. Raises ValueError if there are too many already."""
        if number > MAX_LINKS:
            text = f"the authority had {MAX_LINKS} new keys already; make a new network, and move the members"
            raise ValueError(text)
        body = _Body(
            network=network,
            number=number,
            old_ed25519=old.public.ed25519,
            old_mldsa=old.public.mldsa,
            new_ed25519=new.ed25519,
            new_mldsa=new.mldsa,
            issued=issued,
            until=until,
            lists=lists,
        )
        return cls(body, Signed.make(Kind.ROTATION, body, old))

    @classmethod
    def parse_untrusted(cls, data: bytes) -> Link:
        """Raises BadPacket("malformed_document"), NotMember("unknown_critical")."""
        signed = Signed.parse_untrusted(data, Kind.ROTATION)
        body = decode_body(signed, _Body)
        refuse_critical(body.critical)
        return cls(body, signed)

    @property
    def old(self) -> AuthorityPublic:
        """The key that signs the link."""
        return AuthorityPublic(self.body.old_ed25519, self.body.old_mldsa)

    @property
    def new(self) -> AuthorityPublic:
        """The key that it names."""
        return AuthorityPublic(self.body.new_ed25519, self.body.new_mldsa)

    @property
    def former(self) -> Former:
        """How far the old key still counts."""
        return Former(self.old, self.body.until, self.body.lists)


def split_untrusted(data: bytes) -> list[bytes]:
    """The network document and its links, not looked at yet. Raises BadPacket("malformed_document")."""
    found: list[bytes] = []
    while data:
        end = HEADER_SIZE + int.from_bytes(data[2:HEADER_SIZE], "big") + SIGNATURE_SIZE
        if end > len(data) or len(found) > MAX_LINKS:
            raise BadPacket("malformed_document")
        found.append(data[:end])
        data = data[end:]
    return found


def check_chain(links: list[Link], authority: AuthorityPublic) -> NetworkId:
    """The id of the network to whose first key the links lead. Raises NotMember("forged")."""
    first = links[0].old if links else authority
    keys = [*(link.old for link in links), authority]
    for number, link in enumerate(links, 1):
        body = link.body
        fits = (body.network, body.number, link.new) == (first.network_id, number, keys[number])
        if not fits or not link.old.verifies(link.signed.signature, link.signed.content):
            raise NotMember("forged", "the chain of the authority's keys does not hold")
    return first.network_id
