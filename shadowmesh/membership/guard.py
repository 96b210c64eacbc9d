"""Who counts as a member just now: what the other side of a session shows, against network, lists and clock.

    membership field of HELLO and CHALLENGE    MessagePack map {certificate: bytes, revocations: int,
                                                                delegation: bytes, basis: bytes,
                                                                renews: int, links: int}

`revocations` is the number of the newest list that the sender has; `delegation` and `basis` are what the
certificate rests on if the authority has not signed it itself (`delegation.py`), else they are empty; until
`renews` (seconds since 1970) the sender renews certificates of others, as it says; `links` is how many new
keys of the authority it knows of. A client and a relay have a `Guard` for each network; a client's own
certificate is in its `Membership`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from shadowmesh.decoding import UNDECODABLE
from shadowmesh.errors import BadPacket, NotMember, RemoteProtocolError
from shadowmesh.membership.certificate import Certificate
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.delegation import Credentials
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import Revocations
from shadowmesh.membership.rotation import MAX_LINKS, Link, split_untrusted
from shadowmesh.membership.signed import Bytes32, Kind, Seconds, max_size
from shadowmesh.units import NodeId

MAX_SHOWN = 23_600
"""Bytes: HELLO has 24,576, and takes 700 for the rest. Certificate, basis and a delegation without grants
take 23,200."""
MAX_INVITED = 64
"""Bytes of a membership field that shows an invitation: 46, and a margin."""
MAX_REMEMBERED = 1024
"""Credentials of which a guard remembers which key signed them: twice the peers of a node."""
EXPIRY_GRACE = 86_400.0
"""Seconds that a session lives on after the certificate of its peer has expired: an authority that is away
must not stop traffic that runs, and whoever watches has a day. New sessions get none of it."""


class _Shown(msgspec.Struct, frozen=True, omit_defaults=True):
    certificate: Annotated[bytes, msgspec.Meta(max_length=max_size(Kind.CERTIFICATE))]
    revocations: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    delegation: Annotated[bytes, msgspec.Meta(max_length=max_size(Kind.DELEGATION))] = b""
    basis: Annotated[bytes, msgspec.Meta(max_length=max_size(Kind.CERTIFICATE))] = b""
    renews: Seconds = 0
    links: Annotated[int, msgspec.Meta(ge=0, le=MAX_LINKS)] = 0


@dataclass(frozen=True)
class Standing:
    """What somebody showed: credentials, and the number of the newest revocation list there."""

    credentials: Credentials
    revocations: int
    renews: int = 0
    """Until when it says that it renews certificates, in seconds since 1970: what it signs is checked."""
    links: int = 0
    """How many new keys of the authority it knows of."""

    @property
    def certificate(self) -> Certificate:
        """The certificate that was shown."""
        return self.credentials.certificate

    @classmethod
    def parse_untrusted(cls, shown: bytes) -> Standing:
        """Take the membership field apart. Raises BadPacket("malformed_document")."""
        if len(shown) > MAX_SHOWN:
            raise BadPacket("malformed_document")
        try:
            fields = msgspec.msgpack.decode(shown, type=_Shown)
        except UNDECODABLE:
            raise BadPacket("malformed_document") from None
        credentials = Credentials.parse_untrusted(fields.certificate, fields.delegation, fields.basis)
        return cls(credentials, fields.revocations, fields.renews, fields.links)


class _Invited(msgspec.Struct, frozen=True):
    invitation: Bytes32


def show_invitation(invitation_id: bytes) -> bytes:
    """The membership field of a node that has an invitation, and no certificate yet."""
    return msgspec.msgpack.encode(_Invited(invitation_id))


def invitation_untrusted(shown: bytes) -> bytes | None:
    """The id (32 bytes) that such a field shows; None if it is another field."""
    try:
        return msgspec.msgpack.decode(shown, type=_Invited).invitation if len(shown) <= MAX_INVITED else None
    except UNDECODABLE:
        return None


class Guard:
    """The door of one network.

    :param keep_network: writes a network down; called before it is used.
    """

    def __init__(
        self,
        network: Network,
        revocations: Revocations,
        clock: SteadyClock,
        keep_network: Callable[[Network], None] = lambda _: None,
    ) -> None:
        self.network = network
        self.revocations = revocations
        self.clock = clock
        self.keep_network = keep_network
        self._until: dict[int, tuple[Credentials, float]] = {}
        """By identity of the object: until when the keys count that signed these credentials."""

    def check_untrusted(self, node: NodeId, shown: bytes) -> Standing:
        """What `node`, which the session has authenticated, shows. Raises BadPacket, NotMember."""
        if not shown:
            raise NotMember("no_certificate", f"it shows no certificate of the network {self.network.name}")
        standing = Standing.parse_untrusted(shown)
        standing.credentials.admit(self.network, self.revocations, node, self.clock.now())
        return standing

    def recheck(self, standing: Standing) -> None:
        """Raises NotMember if a session with this member must end.

        That is: revoked, or expired for a day, or signed with a key of the authority that is no longer one.
        """
        now = self.clock.now()
        standing.credentials.refuse_revoked(self.revocations)
        standing.certificate.check_end(now - EXPIRY_GRACE)
        if self.network.former and now > self.signer_until(standing.credentials):
            text = f"the authority has a new key since it signed for {standing.certificate.body.name}"
            raise NotMember("former_authority", f"{text}; have it signed again")

    def signer_until(self, credentials: Credentials) -> float:
        """Until when the authority's keys count that signed these, in seconds since 1970."""
        known = self._until.get(id(credentials))
        if known is None:
            if len(self._until) >= MAX_REMEMBERED:
                self._until.clear()
            until = min(self.network.signer_until(one) for one in credentials.by_authority)
            known = self._until[id(credentials)] = (credentials, until)
        return known[1]

    def merge_network_untrusted(self, data: bytes) -> bool:
        """A network that somebody sent; returns whether the authority has a newer key there.

        Raises BadPacket, NotMember("forged", "wrong_network", "contradiction").
        """
        # First what costs no signature check (1 ms each): an old one, another network, another chain.
        known, offered_links = self.network.links, tuple(split_untrusted(data)[1:])
        if len(offered_links) <= len(known):
            return False
        if Link.parse_untrusted(offered_links[0]).body.network != self.network.id:
            raise NotMember("wrong_network", f"it is another network than {self.network.name}")
        if offered_links[: len(known)] != known:
            raise NotMember("contradiction", "the authority named another key before than it does there")
        # Every link says which network it is of, and the chain holds only if that is where it begins.
        offered = Network.parse_untrusted(data)
        self.keep_network(offered)
        self.network = offered
        self.revocations.adopt(offered)
        self._until.clear()
        return True


class ShowLimit:
    """How often the other side of a session may show another certificate: checking one takes 1 ms."""

    BURST = 8
    PAUSE = 10.0
    """Seconds after which one more is allowed."""

    def __init__(self) -> None:
        self._spent_until = 0.0

    def take(self, now: float) -> None:
        """Raises RemoteProtocolError if it is too often."""
        self._spent_until = max(self._spent_until, now) + self.PAUSE
        if self._spent_until > now + self.BURST * self.PAUSE:
            raise RemoteProtocolError("MEMBERSHIP came too often")


class Membership(Guard):
    """A guard that is a member itself.

    :param keep: writes credentials down; called before they are used.
    """

    def __init__(
        self,
        network: Network,
        revocations: Revocations,
        clock: SteadyClock,
        credentials: Credentials,
        keep: Callable[[Credentials], None] = lambda _: None,
        keep_network: Callable[[Network], None] = lambda _: None,
    ) -> None:
        super().__init__(network, revocations, clock, keep_network)
        self.credentials = credentials
        self.keep = keep
        self.renews = 0
        """Until when we renew the certificates of others, in seconds since 1970; 0: not at all."""

    @property
    def certificate(self) -> Certificate:
        """Ours."""
        return self.credentials.certificate

    def show(self) -> bytes:
        """Our membership field."""
        certificate, delegation, basis = self.credentials.documents
        number, links = self.revocations.number, len(self.network.links)
        return msgspec.msgpack.encode(_Shown(certificate, number, delegation, basis, self.renews, links))
