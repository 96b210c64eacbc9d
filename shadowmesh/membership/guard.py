"""Who counts as a member just now: what the other side of a session shows, against network, lists and clock.

    membership field of HELLO and CHALLENGE    MessagePack map {certificate: bytes, revocations: int}

`revocations` is the number of the newest list that the sender has. A client and a relay have a `Guard` for
each network; a client's own certificate is in its `Membership`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from shadowmesh.errors import BadPacket, NotMember
from shadowmesh.membership.certificate import Certificate
from shadowmesh.membership.clock import SteadyClock
from shadowmesh.membership.network import Network
from shadowmesh.membership.revocation import Revocations
from shadowmesh.membership.signed import Kind, max_size
from shadowmesh.units import NodeId

MAX_SHOWN = max_size(Kind.CERTIFICATE) + 64
EXPIRY_GRACE = 86_400.0
"""Seconds that a session lives on after the certificate of its peer has expired: an authority that is away
must not stop traffic that runs, and whoever watches has a day. New sessions get none of it."""


class _Shown(msgspec.Struct, frozen=True):
    certificate: Annotated[bytes, msgspec.Meta(max_length=max_size(Kind.CERTIFICATE))]
    revocations: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0


@dataclass(frozen=True)
class Standing:
    """A certificate that somebody showed, and the number of the newest revocation list there."""

    certificate: Certificate
    revocations: int

    @classmethod
    def parse_untrusted(cls, shown: bytes) -> Standing:
        """Take the membership field apart. Raises BadPacket("malformed_document")."""
        if len(shown) > MAX_SHOWN:
            raise BadPacket("malformed_document")
        try:
            fields = msgspec.msgpack.decode(shown, type=_Shown)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadPacket("malformed_document") from None
        return cls(Certificate.parse_untrusted(fields.certificate), fields.revocations)


class Guard:
    """The door of one network."""

    def __init__(self, network: Network, revocations: Revocations, clock: SteadyClock) -> None:
        self.network = network
        self.revocations = revocations
        self.clock = clock

    def check_untrusted(self, node: NodeId, shown: bytes) -> Standing:
        """What `node`, which the session has authenticated, shows. Raises BadPacket, NotMember."""
        if not shown:
            raise NotMember("no_certificate", f"it shows no certificate of the network {self.network.name}")
        standing = Standing.parse_untrusted(shown)
        standing.certificate.admit(self.network, node, self.clock.now())
        self.revocations.refuse(standing.certificate)
        return standing

    def recheck(self, standing: Standing) -> None:
        """Raises NotMember if a session with this member must end: revoked, or expired for a day."""
        self.revocations.refuse(standing.certificate)
        standing.certificate.check_end(self.clock.now() - EXPIRY_GRACE)


class Membership(Guard):
    """A guard that is a member itself."""

    def __init__(
        self, network: Network, revocations: Revocations, clock: SteadyClock, certificate: Certificate
    ) -> None:
        super().__init__(network, revocations, clock)
        self.certificate = certificate

    def show(self) -> bytes:
        """Our membership field."""
        return msgspec.msgpack.encode(_Shown(self.certificate.document, self.revocations.number))
